"""The body of a request under WSGI, read before the app does: the app reads the same bytes, and goes on behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyguard.drivers.wsgi.request import Environ
from keyguard.http.fields import length_of
from keyguard.steps import Unread


class InputAhead:
    """Stands in front of a server's `wsgi.input`. Nothing is read, and nothing kept, before somebody asks for a body.

    It has the methods that PEP 3333 lists.
    """

    def __init__(self, environ: Environ) -> None:
        self._environ = environ
        self._stream: Any = environ.get("wsgi.input")
        self._kept = b""
        """Bytes that were read, and that the app has not got yet."""
        self._failure: Exception | None = None
        """The exception of the stream, which the app is to hear in its turn."""
        self._whole = False
        """Whether nothing stands behind what was read."""
        self._replaced = False

    # -- for guards -----------------------------------------------------------------------------------------

    def read_ahead(self, most: int) -> tuple[bytes, Unread | None]:
        """Return the body, if it has no more than `most` bytes, and why it could not be read."""
        if self._replaced:
            return (b"", Unread.TOO_LONG) if len(self._kept) > most else (self._kept, None)
        environ = self._environ
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        length = None if chunked else length_of(environ.get("CONTENT_LENGTH") or None)
        if length is not None and length < 0:
            return b"", Unread.INCOMPLETE
        if length is not None and length > most:  # a client that waits to be asked for it is not asked
            return b"", Unread.TOO_LONG
        if length is None and not environ.get("wsgi.input_terminated"):
            # Without a length there is no body (PEP 3333, "Input and Error Streams"), or none whose end can be told.
            return b"", Unread.INCOMPLETE
        self._fill(most + 1 if length is None else length)
        if length is None and len(self._kept) > most:
            return b"", Unread.TOO_LONG
        if not self._whole or (length is not None and len(self._kept) < length):
            return b"", Unread.INCOMPLETE
        return self._kept, None

    def replace(self, body: bytes) -> None:
        """Have the app get another body in the place of the one that was read."""
        self._kept, self._whole, self._replaced = body, True, True

    def _fill(self, wanted: int) -> None:
        """Read until so many bytes are there, or no more come."""
        parts = [self._kept]
        left = wanted - len(self._kept)
        terminated = bool(self._environ.get("wsgi.input_terminated"))
        try:
            while left > 0 and not self._whole:
                part = self._stream.read(left)
                parts.append(part)
                left -= len(part)
                self._whole = not part
        except Exception as failure:
            self._failure = failure
        self._kept = b"".join(parts)
        if left <= 0 and self._failure is None and not (terminated and "HTTP_TRANSFER_ENCODING" in self._environ):
            self._whole = True  # the length was said

    # -- for the app ------------------------------------------------------------------------------------------

    def read(self, size: int | None = -1) -> bytes:
        """Read so many bytes, or all."""
        if not self._kept:
            return self._behind("read", size)
        if size is None or size < 0:
            kept, self._kept = self._kept, b""
            return kept + self._behind("read", size)
        kept, self._kept = self._kept[:size], self._kept[size:]
        return kept + self._behind("read", size - len(kept)) if len(kept) < size and not self._failure else kept

    def readline(self, size: int | None = -1) -> bytes:
        """Read a line."""
        if not self._kept:
            return self._behind("readline", size)
        most = len(self._kept) if size is None or size < 0 else size
        end = self._kept.find(b"\n", 0, most) + 1 or min(most, len(self._kept))
        kept, self._kept = self._kept[:end], self._kept[end:]
        if kept.endswith(b"\n") or len(kept) == size or self._failure:
            return kept
        return kept + self._behind("readline", -1 if size is None or size < 0 else size - len(kept))

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Read all lines, or some that have about so many bytes together."""
        lines: list[bytes] = []
        size = 0
        while line := self.readline():
            lines.append(line)
            size += len(line)
            if hint is not None and 0 < hint <= size:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _behind(self, method: str, size: int | None) -> bytes:
        """Read what stands behind what was read ahead."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._whole or self._stream is None:
            return b""
        stream = getattr(self._stream, method)
        data: bytes = stream() if size is None or size < 0 else stream(size)
        return data
