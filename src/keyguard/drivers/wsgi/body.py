"""The bodies of WSGI responses: the app's iterables, with what must happen while they are sent and at their end."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from types import FrameType
from typing import Any, Protocol, cast

from keyguard.drivers.bodies import passed
from keyguard.drivers.interpreter import Engine
from keyguard.drivers.wsgi.driving import settle_all
from keyguard.request import CarriedRequest
from keyguard.response import BodyFilter


class Feed(Protocol):
    """Takes the parts of a body that are about to leave."""

    def __call__(self, part: bytes, *, last: bool = False) -> None: ...


_OVER: Any = object()
"""Stands for the part behind the last one."""

left: deque[Body] = deque()
"""Bodies that are to be closed before the next request."""

_AROUND_APPS = ("keyguard.asgi", "keyguard.django.", "keyguard.drivers.", "keyguard.testing.", "keyguard.wsgi")


def in_own_work(frame: FrameType | None) -> bool:
    """Tell whether a frame, or one that it works for, is of keyguard's own work, and not just around an app."""
    while frame is not None:
        name = frame.f_globals.get("__name__")
        if isinstance(name, str) and name.startswith("keyguard.") and not name.startswith(_AROUND_APPS):
            return True
        frame = frame.f_back
    return False


def close_left() -> None:
    """Close what could not be closed when it was left."""
    while left:
        body = left.popleft()
        if not body.closed:
            body.close()


class Ending:
    """The end of a request: runs what was put off until its response ends, and until the app has done all.

    Its body tells it of that, or the call of the app if that has failed.
    """

    __slots__ = ("engine", "request")

    engine: Engine
    request: CarriedRequest

    def until_its_end(self, body: Iterable[bytes], feed: Feed | None = None) -> Iterable[bytes]:
        """Return the body, with all that is run at its end. `feed` is given its parts."""
        if not hasattr(body, "__len__"):
            return Body(body, self, feed)
        sized: Any = body
        return SizedBody(body, self, feed, lone=len(sized) == 1)

    def end(self, *, whole: bool = False) -> None:
        """Run what was deferred. Called at the last byte, at `close()`, or if there was neither: at least once.

        `whole`: the last part has been asked for.
        """
        request = self.request
        state = request.state
        if whole:
            state.whole = True
        if request.deferred:
            settle_all(self.engine, request.deferred)
        state.failure = None  # its frames hold the request
        request.late = self.engine.late

    def failed(self, error: BaseException) -> None:
        """Note that the app has failed in the midst of its body."""
        self.request.state.broken = True
        self.request.state.failure = error
        self.end()

    def closed(self, *, failed: bool) -> None:
        """Note that the app's iterable was closed, or failed at that, or that there was none.

        The app has done all then that it does for this request.
        """
        if self.request.afterwards:
            settle_all(self.engine, self.request.afterwards)


class Body:
    """The app's iterable, with deferred work at its end."""

    __slots__ = ("closed", "ending", "failed", "feed", "iterable", "iterator", "lone")

    def __init__(
        self, iterable: Iterable[bytes], ending: Ending, feed: Feed | None = None, *, lone: bool = False
    ) -> None:
        self.closed = False
        self.failed = False
        self.iterable = iterable
        self.ending = ending
        self.feed = feed
        self.lone = lone
        """Whether there is one item: the client may have all of it, and ask again, before the next is asked for."""
        self.iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self.iterator is None:
                self.iterator = iter(self.iterable)
            part = next(self.iterator, _OVER)  # which costs no exception, if the iterator needs none
            if self.feed is not None and part is not _OVER:
                self.feed(part, last=self.lone)
        except BaseException as error:
            self.failed = True
            self.ending.failed(error)
            raise
        if part is not _OVER:
            return part
        if self.feed is not None:
            self.feed(b"", last=True)
        self.ending.end(whole=True)
        raise StopIteration

    def close(self) -> None:
        again, self.closed = self.closed, True
        failed, self.failed = self.failed, True
        try:
            close(self.iterable)
            self.failed = failed
        finally:
            try:
                self.ending.end(whole=self.lone and self.iterator is not None)
            finally:  # also if whoever runs this is ended in the midst, as a greenlet may be
                if not again:
                    self.ending.closed(failed=self.failed)

    def __del__(self) -> None:
        """Some bridges do not close a body: asgiref leaves it once it has what `Content-Length` says.

        So do test clients. If it is part of a circle, it ends wherever Python happens to search for garbage, in the
        midst of an operation on a store, say, which holds its lock: it is closed before the next request then.
        """
        if self.closed:
            return
        if in_own_work(sys._getframe()):
            left.append(self)
        else:
            self.close()


class SizedBody(Body):
    """A body whose number of items is known: servers derive `Content-Length` from a length of 1."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(cast(Sized, self.iterable))


class Peeked:
    """An iterable of which the first item was already asked for."""

    __slots__ = ("first", "iterable", "iterator", "watcher")

    def __init__(self, iterable: Iterable[bytes]) -> None:
        self.iterable = iterable
        self.iterator = iter(iterable)
        self.first = list(islice(self.iterator, 1))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self.first.pop() if self.first else next(self.iterator)

    def close(self) -> None:
        close(self.iterable)


class Filtered:
    """An iterable whose parts go through filters. Its number of parts is not known any more."""

    __slots__ = ("_ended", "filters", "iterable", "iterator")

    def __init__(self, iterable: Iterable[bytes], filters: Sequence[BodyFilter]) -> None:
        self.iterable = iterable
        self.filters = filters
        self.iterator: Iterator[bytes] | None = None
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        if self.iterator is None:
            self.iterator = iter(self.iterable)
        try:
            part = next(self.iterator)
        except StopIteration:
            self._ended = True
            left = passed(self.filters, b"", last=True)
            if not left:
                raise
            return left
        return passed(self.filters, part, last=False)

    def close(self) -> None:
        close(self.iterable)


def close(iterable: Iterable[bytes]) -> None:
    """Close an iterable, if it can be."""
    method = getattr(iterable, "close", None)
    if method is not None:
        method()
