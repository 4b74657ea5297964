"""Tokens: what makes one operation happen once, wherever it is sent again."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count

from keyguard.process.fork import renew_after_fork


class _Tokens:
    """Numbers that begin at random, so that no two processes meet; each next one is one more."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self.next: Callable[[], int] = count(int.from_bytes(os.urandom(8), "little")).__next__


_tokens = _Tokens()
_ALL = 2**64 - 1


def new_token() -> bytes:
    """Return eight bytes that no other operation has, in any process."""
    return (_tokens.next() & _ALL).to_bytes(8, "little")
