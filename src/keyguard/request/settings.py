"""The settings that all requests to one app have in common, as a request asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from keyguard.request.request import Deferred

if TYPE_CHECKING:
    from keyguard.clock import Clock
    from keyguard.http.forwarding import ClientAddress
    from keyguard.http.spelling import Inside
    from keyguard.overrides import Overrides
    from keyguard.refusal import Refusal
    from keyguard.response import Response


class RequestSettings(Protocol):
    """The facts that all requests to one app have in common."""

    source: ClientAddress
    """Finds the caller's address."""
    clock: Clock
    inside: Inside
    """The app and all that stands in front of it, as far as it can be seen."""
    underscores: frozenset[bytes]
    """The names, in lower case, of fields that are kept though their name has an underscore."""
    overrides: Overrides
    """Other limits for some subjects."""
    handlers: bool
    """Whether handlers are known to turn to guards while the app runs, and may be refused what they ask for."""

    @property
    def sinks(self) -> Sequence[Callable[..., None]]:
        """The functions that are told of each request."""
        ...

    @property
    def late(self) -> Callable[[Deferred], None] | None:
        """Runs what is deferred after the end."""
        ...

    def render(self, response: Response) -> None:
        """Write the body of a refusal that a framework is to send."""
        ...

    def refused(self, refusal: Refusal, response: Response) -> None:
        """Tell of a refusal: the log, whoever listens, and the caller its id in a header field."""
        ...
