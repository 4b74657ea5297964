"""Answers that a test prescribes: what the provider does with the next requests of a key, whatever its limits say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from keyguard.upstream.causes import UpstreamCause


@dataclass(frozen=True)
class Answer:
    """Prescribes a whole response. A mapping as the body is sent as JSON; `gzipped` compresses the body."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str | Mapping[str, Any] = b""
    gzipped: bool = False

    def encoded(self) -> tuple[list[tuple[str, str]], bytes]:
        """Return the header fields and the body as they are sent."""
        fields = {name.lower(): value for name, value in self.headers.items()}
        body = self.body
        if isinstance(body, Mapping):
            body = json.dumps(body)
            fields.setdefault("content-type", "application/json")
        data = body.encode() if isinstance(body, str) else body
        if self.gzipped:
            data = gzip.compress(data)
            fields["content-encoding"] = "gzip"
        return [*fields.items()], data


@dataclass(frozen=True)
class Stall:
    """Prescribes that the answer stands still for some seconds: before its head, or after so many pieces of content."""

    seconds: float = 60.0
    after: int | None = None


@dataclass(frozen=True)
class Reset:
    """Prescribes that the connection is reset: before the head, or after so many pieces of content.

    The body of an answer that is not a stream has two pieces.
    """

    after: int | None = None


@dataclass(frozen=True)
class ErrorEvent:
    """Prescribes an error as an event of a stream that began with 200: after so many pieces of content.

    With `after=0` it is the first event. A request for no stream gets the same error as a response.
    """

    cause: UpstreamCause = UpstreamCause.OVERLOAD
    after: int = 0


Step: TypeAlias = Answer | Stall | Reset | ErrorEvent | None
"""What is done with one request; `None`: what would be done without a script."""
