"""Server-sent events on their way (HTML standard, section 9.2): parsed line by line, within bounds, and some held back.

A line ends with CR LF, LF or CR, and may come in any number of parts. A line or an event that is longer than `LONGEST`
is passed on and not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

LONGEST = 256 * 1024
"""Bytes of a line, and of an event, that are kept to be read."""

_END = re.compile(rb"\r\n|\n|\r(?=[^\n])", re.DOTALL)
_END_AT_LAST = re.compile(rb"\r\n|\n|\r")


class Lines:
    """Makes lines of parts."""

    __slots__ = ("_long", "_rest", "_searched")

    def __init__(self) -> None:
        self._rest = bytearray()
        self._searched = 0
        self._long = False
        """Whether the beginning of the line has been handed out already."""

    def feed(self, part: bytes, *, last: bool) -> Iterator[tuple[bytes, bool]]:
        """Yield lines with their ends, and whether each is a whole one: of one that is too long, pieces come."""
        rest, end = self._rest, _END_AT_LAST if last else _END
        rest += part
        begin = 0
        while (found := end.search(rest, max(begin, self._searched))) is not None:
            yield bytes(rest[begin : found.end()]), not self._long
            begin, self._long = found.end(), False
        del rest[:begin]
        self._searched = max(0, len(rest) - 1)
        if rest and (last or len(rest) > LONGEST):
            self._long = not last or self._long
            yield bytes(rest), last and not self._long
            rest.clear()
            self._searched = 0


class Events:
    """Reads the events of a stream on its way.

    `read(data)` is called with the data of each event, and says whether the event is to be held back, if `hides`.
    `unread(size)` is told the bytes of what is too long to be read.
    """

    def __init__(self, read: Callable[[bytes], bool], unread: Callable[[int], None], *, hides: bool) -> None:
        self._read = read
        self._unread = unread
        self._hides = hides
        self._lines = Lines()
        self._data: list[bytes] = []
        self._size = 0
        """The bytes of the event so far."""
        self._held: list[bytes] = []
        """The event so far, as it came, if it may be held back."""

    def feed(self, part: bytes, *, last: bool) -> bytes:
        """Return what goes on of a part. What may have to be held back goes on when its event is whole."""
        out: list[bytes] = []
        for line, whole in self._lines.feed(part, last=last):
            self._hold(line, out)
            if not whole:
                self._unread(len(line))
                self._release(out)
            elif line.strip(b"\r\n"):
                self._note(line.strip(b"\r\n"))
            else:
                self._end(out)
        if last:
            self._end(out)
        return b"".join(out) if self._hides else part

    def _hold(self, line: bytes, out: list[bytes]) -> None:
        if self._hides:
            self._held.append(line)
        self._size += len(line)
        if self._size > LONGEST:  # not to be read any more, nor to be held back
            self._unread(sum(map(len, self._data)))
            self._data = []
            self._release(out)

    def _note(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data" and self._size <= LONGEST:
            self._data.append(value[1:] if value.startswith(b" ") else value)

    def _end(self, out: list[bytes]) -> None:
        hidden = bool(self._data) and self._read(b"\n".join(self._data)) and self._hides
        if not hidden:
            self._release(out)
        self._held, self._data, self._size = [], [], 0

    def _release(self, out: list[bytes]) -> None:
        out += self._held
        self._held = []
