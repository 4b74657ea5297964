"""The facts that the guards around one request have found out about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.http.fields import LIMIT_FIELDS
from keyguard.identity import ANONYMOUS, Identity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from keyguard.http.addresses import Address
    from keyguard.refusal import Refusal


class RequestState:
    """The facts that the guards around one request have found out, shared by all keyguard layers it passes.

    It stands in the ASGI scope as `scope["keyguard"]` and in the WSGI environ as `environ["keyguard.request"]`, so an
    app reads `scope["keyguard"].identity`, and middleware stacked one by one see each other's work.
    """

    # Class attributes: each request makes one of these, and most of them are never set.
    broken = False
    """Whether the app failed after its head, or somebody was told before its end that the client has gone. Layers
    further out may see a body that ends well: what stands between them and the app may have ended it."""
    failure: BaseException | None = None
    """What has ended the request before its time, while the work for its end is done."""
    whole = False
    """Whether the last of the response has left."""
    identity: Identity | None = None
    """The caller; `None` if no `APIKeys` has looked for it."""
    preflight = False
    """Whether it is a CORS preflight that `APIKeys` has let pass, which no limit further in counts."""
    client: Address | None = None
    client_known = False
    request_id: str | None = None
    refusal: Refusal | None = None
    """Why keyguard refused the request, once it has."""
    waited = 0.0
    """Seconds that the request has waited for stores."""
    sources: tuple[Any, ...] = ()
    """Where the guards that found the identity look for credentials."""
    own_limits: tuple[tuple[str, str], ...] | None = None
    """The fields about limits that the app itself set, if a guard has changed them and a cache stands outside."""
    caches: tuple[object, ...] = ()
    """The response caches it is passing: one that is mounted twice acts once."""

    def note_own_limits(self, headers: Iterable[tuple[str, str]]) -> None:
        """Note the fields about limits that the app itself set, before the first guard changes them."""
        if self.own_limits is None:
            self.own_limits = tuple([pair for pair in headers if pair[0].lower() in LIMIT_FIELDS])

    @property
    def caller(self) -> Identity:
        """The identity, and `ANONYMOUS` if nothing is known of it: for those who decide nothing by it."""
        return self.identity or ANONYMOUS
