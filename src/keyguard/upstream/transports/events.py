"""Server-sent events of an answer, read without holding up anybody (WHATWG HTML, section 9.2.6).

A stream may be refused after its head: the first event of a 200 is an error then, or one in the midst of it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST = 16384
"""Bytes up to the end of the first event, at most: a longer one is not waited for."""

_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\r\n\n|\n\r\n")
_LINE = re.compile(rb"\r\n|\n|\r")


class Event(NamedTuple):
    """One event."""

    name: str
    data: bytes


def events(text: bytes, *, ended: bool = False) -> tuple[list[Event], bytes]:
    """Return the events that are whole, without comments alone, and what follows the last of them.

    `ended`: nothing comes any more, so the rest counts as an event too.
    """
    found = []
    start = 0
    for end in _END.finditer(text):
        event = _read(text[start : end.start()])
        start = end.end()
        if event is not None:
            found.append(event)
    rest = text[start:]
    if ended and (last := _read(rest)) is not None:
        return [*found, last], b""
    return found, rest


def _read(block: bytes) -> Event | None:
    name, data = "", []
    for line in _LINE.split(block.removeprefix(b"\xef\xbb\xbf")):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
    return Event(name, b"\n".join(data)) if data else None
