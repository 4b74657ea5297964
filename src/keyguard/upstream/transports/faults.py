"""Exceptions of connections, without what must not be shown."""

from __future__ import annotations


def forget_frames(error: BaseException) -> None:
    """Drop the tracebacks of an exception and of those behind it.

    Frames of a library that sends a request hold its header fields, and reports of errors show what frames hold.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
