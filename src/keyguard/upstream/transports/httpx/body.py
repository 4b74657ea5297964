"""The body of an answer: read ahead as far as the flow must know it, and whole for its caller all the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import cache
from types import ModuleType
from typing import Any

from keyguard.upstream.answers import Answer
from keyguard.upstream.transports.events import MOST, events
from keyguard.upstream.transports.watch import Judge, Watch, is_stream, refusal

_SLICE = 1024  # bytes that are decoded at a time


class Opened:
    """An answer that came, and what has been read of its body."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.stream = response.stream
        self.chunks: Any = None
        """The rest of the body, once it has been begun."""
        self.read: list[bytes] = []
        self.size = 0
        self.failure: Exception | None = None
        """The error that ended the body too early, while it was read ahead."""
        self.ended = False
        self.watch: Watch | None = None

    @property
    def may_be_refused(self) -> bool:
        """Whether the first event tells more than the head."""
        return 200 <= self.response.status_code < 300 and is_stream(self.response.headers)

    def keep(self, chunk: bytes) -> None:
        self.read.append(chunk)
        self.size += len(chunk)

    def has_event(self) -> bool:
        """Tell whether the first event is whole, or too long to be waited for."""
        if not self.read or (b"\n" not in self.read[-1] and b"\r" not in self.read[-1]):
            return self.size >= MOST
        return self.size >= MOST or bool(events(b"".join(self.read))[0])

    def answer(self, judge: Judge) -> Answer:
        """Return its head for the flow, with the error if a stream begins with one."""
        event = refusal(judge, b"".join(self.read)) if self.read else None
        return Answer(self.response.status_code, self.response.headers, self, event=event)


class Body:
    """The body of an answer, from its start: what was read ahead, and what is still to come."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def _ahead(self) -> Iterator[bytes]:
        opened = self._opened
        read, opened.read = opened.read, []
        for chunk in read:
            self._passes(chunk)
            yield chunk
        if opened.failure is not None:
            raise opened.failure

    def _passes(self, chunk: bytes) -> None:
        if self._opened.watch is not None:
            self._opened.watch.feed(chunk)

    def _end(self) -> None:
        if self._opened.watch is not None:
            self._opened.watch.end()


class SyncBody(Body):
    def __iter__(self) -> Iterator[bytes]:
        opened = self._opened
        yield from self._ahead()
        if not opened.ended:
            for chunk in opened.stream if opened.chunks is None else opened.chunks:
                self._passes(chunk)
                yield chunk
        self._end()

    def close(self) -> None:
        self._opened.stream.close()


class AsyncBody(Body):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        opened = self._opened
        for chunk in self._ahead():
            yield chunk
        if not opened.ended:
            async for chunk in opened.stream if opened.chunks is None else opened.chunks:
                self._passes(chunk)
                yield chunk
        self._end()

    async def aclose(self) -> None:
        await self._opened.stream.aclose()


class Slices:
    """A body in memory, in slices."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _SLICE):
            yield self._body[start : start + _SLICE]


@cache
def of_family(kind: Any, family: ModuleType) -> Any:
    """Return a class of bodies or streams that the library takes for one of its own."""
    return type(kind.__name__, (kind, family.SyncByteStream, family.AsyncByteStream), {})
