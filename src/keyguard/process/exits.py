"""Stores that are closed when the process ends: a script, a test or a WSGI server does not say so.

It is for stores whose connections live in a thread of their own. Connections in the app's event loop end with that
(`keyguard.process.event_loops.keep`).

Whoever comes to such a store after that would open it again, and nobody would close it: work in the background, on a
busy machine. Threads that are still there are daemons, and end with the process whatever they do: so they wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Protocol

from keyguard.process.fork import check_process


class Closable(Protocol):
    """Something that is closed for good, or until it is used again."""

    def close(self) -> None:
        """Close it, within a bounded time."""
        ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_over = 0
"""The process whose stores have been closed at its end."""


def close_at_exit(store: Closable) -> None:
    """Have the store closed when the process ends, if it lives until then."""
    _open.add(store)


def await_the_end() -> None:
    """Hold up a thread that would use a store after the end. The main one goes on: others have things to end, too."""
    if _over and _over == os.getpid() and threading.current_thread() is not threading.main_thread():
        threading.Event().wait()


@atexit.register
def _close_all() -> None:
    global _over
    check_process()  # what a child has of its parent's connections is not the child's to close
    _over = os.getpid()
    for store in list(_open):
        with contextlib.suppress(Exception):
            store.close()
