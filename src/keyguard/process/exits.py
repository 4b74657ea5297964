"""Stores that are closed when the process ends: a script, a test or a WSGI server does not say so.

It is for stores whose connections live in a thread of their own. Connections in the app's event loop end with that
(`keyguard.process.event_loops.keep`).
"""

from __future__ import annotations

import atexit
import contextlib
import weakref
from typing import Protocol

from keyguard.process.fork import check_process


class Closable(Protocol):
    """Something that is closed for good, or until it is used again."""

    def close(self) -> None:
        """Close it, within a bounded time."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_at_exit(store: Closable) -> None:
    """Have the store closed when the process ends, if it lives until then."""
    _open.add(store)


@atexit.register
def _close_all() -> None:
    check_process()  # what a child has of its parent's connections is not the child's to close
    for store in list(_open):
        with contextlib.suppress(Exception):
            store.close()
