"""The bodies of WSGI responses: the app's iterables, with what must happen while they are sent and at their end."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from types import FrameType
from typing import Protocol, cast

from keyguard.drivers.bodies import passed
from keyguard.response import BodyFilter

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


class Watcher(Protocol):
    """Something that is told of a body's parts and of its end."""

    @property
    def copying(self) -> bool:
        """Whether it wants the parts."""
        ...

    def feed(self, part: bytes, *, last: bool = False) -> None:
        """A part is about to leave."""
        ...

    def end(self, *, whole: bool = False) -> None:
        """Nothing more comes. Called at least once. `whole`: the last part has been asked for."""
        ...

    def failed(self, error: BaseException) -> None:
        """An error has come in the place of a part."""
        ...

    def closed(self, *, failed: bool) -> None:
        """The app has done all that it does for this request, or has failed at the last of it."""
        ...


class Body:
    """The app's iterable, with deferred work at its end."""

    __slots__ = ("closed", "failed", "iterable", "iterator", "lone", "watcher")

    def __init__(self, iterable: Iterable[bytes], watcher: Watcher) -> None:
        self.closed = False
        self.failed = False
        self.iterable = iterable
        self.watcher = watcher
        self.lone = False
        """Whether there is one item: the client may have all of it, and ask again, before the next is asked for."""
        self.iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self.iterator is None:
                self.iterator = iter(self.iterable)
            part = next(self.iterator)
            if self.watcher.copying:
                self.watcher.feed(part, last=self.lone)
            return part
        except StopIteration:
            if self.watcher.copying:
                self.watcher.feed(b"", last=True)
            self.watcher.end(whole=True)
            raise
        except BaseException as error:
            self.failed = True
            self.watcher.failed(error)
            raise

    def close(self) -> None:
        again, self.closed = self.closed, True
        failed, self.failed = self.failed, True
        try:
            close(self.iterable)
            self.failed = failed
        finally:
            self.watcher.end(whole=self.lone and self.iterator is not None)
            if not again:
                self.watcher.closed(failed=self.failed)

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

    def __init__(self, iterable: Iterable[bytes], watcher: Watcher) -> None:
        super().__init__(iterable, watcher)
        self.lone = len(self) == 1

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
