"""The input and the result of the flow of one request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from keyguard.upstream.causes import UpstreamCause, Verdict


class Fields(Protocol):
    """The header fields of a message, as far as they are read: names are looked up in any case."""

    def get(self, name: str, /) -> str | None:
        """Return the value of a field, or `None`."""
        ...


class UpstreamRequest(NamedTuple):
    """A request to a provider, as it is shown to a function that estimates what it costs."""

    method: str
    url: str
    headers: Fields | Mapping[str, str]
    body: bytes | None
    """The whole body; `None` if it is made while it is sent."""


class Asked(NamedTuple):
    """A request, as far as the flow must know it."""

    model: str = ""
    affinity: str = ""
    """Requests with one text prefer one key, whose prompt cache knows them. Empty: any key."""
    cost: Mapping[str, int] = {"requests": 1}
    """The units that it will cost, by unit, as far as can be estimated."""
    max_wait: float = 20.0
    """Seconds that it may wait for room, in all."""
    replayable: bool = True
    """Whether it can be sent again: a body that is made while it is sent cannot."""


class Fault(NamedTuple):
    """A connection that failed."""

    exception: Exception
    sent: bool
    """Whether the request may have reached the provider."""


class Answer(NamedTuple):
    """The head of a provider's answer, or the fault in its place."""

    status: int
    """Its status; 0 for a fault."""
    headers: Fields
    native: Any = None
    """The response as the HTTP library has it."""
    error: Fault | None = None
    event: tuple[str, bytes] | None = None
    """The name and the data of an error that came as the first event of a stream, though the status says nothing of it.
    """


class UpstreamOutcome(NamedTuple):
    """The work of a pool for one request."""

    key: str | None
    """The id of the key that the answer came by; `None` if nothing was sent."""
    group: str | None
    attempts: int
    """The number of times that it was sent."""
    waited: float
    """Seconds that it waited for room."""
    cause: UpstreamCause
    """`ok`, or why the pool gave it up."""
    until: datetime | None = None
    """The moment from which on it is worth to try again; `None` if it was answered, or waiting does not help."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        told = self._asdict()
        told["cause"] = str(self.cause)
        told["until"] = self.until.isoformat() if self.until else None
        return told


class Synthetic(NamedTuple):
    """A response of the pool's own, where no provider was asked."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes


class Result(NamedTuple):
    """The end of a request: a native response, a fault to raise, or a response of the pool's own."""

    answer: Answer | None
    outcome: UpstreamOutcome
    synthetic: Synthetic | None = None
    """The response if `answer` is `None`."""
    fields: tuple[tuple[str, str], ...] = ()
    """Header fields to be set on the native response before its caller sees it."""
    settle: Callable[[Mapping[str, int] | None, Verdict | None], None] | None = None
    """What a transport calls once when the body has ended: with the units that were spent, if the body tells, and with
    what an error means that came as an event behind content. It does no I/O. `None` for what was not a success."""
