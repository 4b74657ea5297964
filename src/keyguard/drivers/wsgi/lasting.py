"""Bodies under WSGI that are read on after the client has left, so that a guard hears the app's answer to the end.

A server closes a body that its client has left. What is still to come is read by a thread then, for so many seconds or
bytes: between two parts, since nobody can stop an app in the midst of one. The app and its body run in one context of
their own: what an app has set there, as Flask does with its request, can be set back from that thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextvars import Context, copy_context
from typing import Any

from keyguard.clock import monotonic
from keyguard.drivers.wsgi.body import Body, Ending, Feed, close
from keyguard.logs import logger
from keyguard.process.fork import renew_after_fork, run_aside
from keyguard.request import Lasting

log = logger("keyguard")

MOST = 64
"""Bodies of one process that are read on at a time. Further ones are closed as without all this."""


class _Room:
    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self.places = threading.BoundedSemaphore(MOST)


_room = _Room()


class LastingBody(Body):
    """A body that is read on if it is closed before its end."""

    __slots__ = ("_lasting", "_over")

    def __init__(self, iterable: Iterable[bytes], ending: Ending, feed: Feed | None, lasting: Lasting) -> None:
        super().__init__(iterable, ending, feed)
        self._lasting: Lasting | None = lasting
        self._over = False

    def __next__(self) -> bytes:
        try:
            return super().__next__()
        except BaseException:  # its end, or an error
            self._over = True
            raise

    def close(self) -> None:
        """Close it, or have it read on and closed after that."""
        lasting, self._lasting = self._lasting, None
        if lasting is None or self.closed or self._over or not _room.places.acquire(blocking=False):
            super().close()
            return
        places = _room.places
        try:
            run_aside("keyguard-lasting", copy_context().run, self._read_on, lasting, places)
        except RuntimeError:  # there is no room for a thread
            places.release()
            super().close()

    def _read_on(self, lasting: Lasting, places: threading.BoundedSemaphore) -> None:
        ends, left = monotonic() + lasting.seconds, lasting.most
        try:
            while left >= 0 and monotonic() < ends:
                left -= len(next(self))
        except StopIteration:
            pass
        except Exception:
            log.warning("the app failed in the midst of an answer whose client had left", exc_info=True)
        finally:
            try:
                super().close()
            except Exception:
                log.warning("the app failed while an answer was closed whose client had left", exc_info=True)
            finally:
                places.release()

    def __del__(self) -> None:
        self._lasting = None  # nobody has closed it: its server has all that it wants of it
        super().__del__()


def in_one_context(app: Any, environ: Any, start_response: Any) -> Iterable[bytes]:
    """Call an app in a context of its own, in which its body is made and closed as well, in whichever thread."""
    context = copy_context()
    body: Iterable[bytes] = context.run(app, environ, start_response)
    return body if body is None or isinstance(body, (list, tuple)) else _InContext(body, context)


class _InContext:
    """An iterable whose parts are made in a context."""

    __slots__ = ("_body", "_context", "_iterator")

    def __init__(self, body: Iterable[bytes], context: Context) -> None:
        self._body = body
        self._context = context
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self._context.run(self._next)

    def _next(self) -> bytes:
        if self._iterator is None:
            self._iterator = iter(self._body)
        return next(self._iterator)

    def close(self) -> None:
        """Close the body, if it can be."""
        self._context.run(close, self._body)
