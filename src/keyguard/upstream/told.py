"""The note by which callers are told that upstream keys are used up: a guard lays it down, a transport writes it.

It travels in a context variable, and is mutable: what runs in a thread or a task of the request writes onto the same.
"""

from __future__ import annotations

from contextvars import ContextVar
from datetime import datetime
from typing import NamedTuple

from keyguard.upstream.causes import UpstreamCause


class Exhaustion(NamedTuple):
    """Why a pool gave a request up."""

    pool: str
    cause: UpstreamCause
    recovers_at: datetime | None = None
    """When it is worth to try again; `None` if waiting does not help."""
    attempts: int = 0
    id: str = ""
    """The field `x-keyguard-exhaustion` of the response with which it gave up: exceptions that stem from it are known
    by that."""


class Note:
    """What became of the upstream calls of one request."""

    __slots__ = ("exhaustion",)

    def __init__(self) -> None:
        self.exhaustion: Exhaustion | None = None
        """The last exhaustion; `None` if there was none, or a later call was a success."""


_note: ContextVar[Note | None] = ContextVar("keyguard_upstream", default=None)


def listen() -> Note:
    """Lay down a note for what runs in this context from now on, and return it."""
    note = Note()
    _note.set(note)
    return note


def tell(exhaustion: Exhaustion | None) -> None:
    """Write onto the note of this request, if somebody listens; `None` for a success."""
    note = _note.get()
    if note is not None:
        note.exhaustion = exhaustion
