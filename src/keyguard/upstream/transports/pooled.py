"""A pool, as transports see it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, Protocol

from keyguard.upstream.answers import Asked, UpstreamRequest
from keyguard.upstream.origins import Origin
from keyguard.upstream.profiles.profile import Profile
from keyguard.upstream.transports.driving import Driven


class Pooled(Driven, Protocol):
    """A pool, as far as a transport must know it."""

    @property
    def profile(self) -> Profile:
        """The profile of the provider."""
        ...

    @property
    def origins(self) -> Set[Origin]:
        """The origins that get a key."""
        ...

    def asked(self, request: UpstreamRequest, options: Mapping[str, Any] | None) -> Asked:
        """Return what the flow must know of a request; `options` are its own wishes, such as `max_wait`."""
        ...
