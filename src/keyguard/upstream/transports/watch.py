"""What an answer's body tells while it passes: what the request cost, and whether it failed after its head.

Chunks pass as they come. Their bytes are kept only as far as they are looked at in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from keyguard.upstream.answers import Fields
from keyguard.upstream.causes import UpstreamCause, Verdict
from keyguard.upstream.profiles.profile import Profile
from keyguard.upstream.sizes import MOST, used
from keyguard.upstream.transports.events import Event, events

_HEAD = 16 * 1024
_TAIL = 128 * 1024
Decode = Callable[[bytes, str, int], bytes]
"""Undo a content coding: the bytes, the value of `content-encoding`, and how many bytes are wanted at most."""
Judge = Callable[[Event], Verdict]
"""Tell what an event means: `ok` if it is no error."""
Settle = Callable[[Mapping[str, int] | None, Verdict | None], None]
"""Be told, once, of the units that a request cost, and of what an error means that came as an event."""


def is_stream(headers: Fields) -> bool:
    """Tell whether a body is a stream of events that can be read as it comes."""
    return _kind(headers) == "text/event-stream" and not _encoding(headers)


def refusal(judge: Judge, text: bytes) -> Event | None:
    """Return the error with which a stream begins; `None` if it begins with another event."""
    found, _ = events(text)
    return found[0] if found and judge(found[0]).cause != UpstreamCause.OK else None


class Watch:
    """One body on its way."""

    def __init__(self, profile: Profile, headers: Fields, *, decode: Decode, judge: Judge, settle: Settle) -> None:
        """`settle` is called at most once, when the body has ended, if it told anything."""
        self._profile = profile
        self._encoding = _encoding(headers)
        self._streams = is_stream(headers)
        self._looks = self._streams or _kind(headers).endswith("json")
        self._decode = decode
        self._judge = judge
        self._settle = settle
        self._head: list[bytes] = []
        self._tail: deque[bytes] = deque()
        self._size = self._tail_size = 0

    def feed(self, chunk: bytes) -> None:
        """Look at a chunk that passes."""
        if not self._looks:
            return
        self._size += len(chunk)
        if not self._streams:
            self._head.append(chunk)
            if self._size > MOST:
                self._looks, self._head = False, []
        elif self._size <= _HEAD:
            self._head.append(chunk)
        else:
            self._tail.append(chunk)
            self._tail_size += len(chunk)
            while self._tail_size - len(self._tail[0]) > _TAIL:
                self._tail_size -= len(self._tail.popleft())

    def end(self) -> None:
        """Take what was seen for the whole of it."""
        if not self._looks:
            return
        self._looks = False
        spent, error = self._of_events() if self._streams else (self._of_document(), None)
        if spent or error is not None:
            self._settle(spent or None, error)

    def _of_document(self) -> dict[str, int]:
        body = b"".join(self._head)
        if self._encoding:
            body = self._decode(body, self._encoding, MOST)
        return used(self._profile, body) if b'"usage' in body else {}

    def _of_events(self) -> tuple[dict[str, int], Verdict | None]:
        found, _ = events(b"".join([*self._head, *self._tail]), ended=True)
        spent: dict[str, int] = {}
        error: Verdict | None = None
        for event in found:
            if event.name == "error" or b'"error"' in event.data:
                verdict = self._judge(event)
                error = error if verdict.cause == UpstreamCause.OK else verdict
            if b'"usage' in event.data:
                spent |= used(self._profile, event.data)
        return spent, error


def _kind(headers: Fields) -> str:
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()


def _encoding(headers: Fields) -> str:
    encoding = (headers.get("content-encoding") or "").strip().lower()
    return "" if encoding == "identity" else encoding
