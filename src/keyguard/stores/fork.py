"""What a store must renew in a forked child: locks that another thread held in the parent are held for ever there."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something with a state that does not survive a fork."""

    def after_fork(self) -> None:
        """Called in the child, before any other code of it runs."""
        ...


_stores: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(store: Renewable) -> None:
    """Have `store.after_fork()` called in every child of this process, as long as the store lives."""
    _stores.add(store)


def _renew() -> None:
    for store in _stores:
        store.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
