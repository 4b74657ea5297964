"""Refusals of keys: what their callers are told."""

from __future__ import annotations

from keyguard.clock import whole_seconds
from keyguard.ops import Taken
from keyguard.problem import refuse_for
from keyguard.rates import NEVER
from keyguard.refusal import Cause
from keyguard.request import Request
from keyguard.response import Response


class KeyRefusals:
    """Makes the refusals of one guard, whose challenges name its realm."""

    def __init__(self, realm: str) -> None:
        self._challenge = f'Bearer realm="{realm}"'

    def key(
        self,
        request: Request,
        reason: str,
        detail: str = "The API key is not valid.",
        *,
        sent: bool = True,
        key_id: str = "",
        subject: str = "",
    ) -> Response:
        """Refuse a request for its key, or for having none."""
        # error="invalid_token" only if a key was sent (RFC 6750, section 3.1).
        challenge = self._challenge + ', error="invalid_token"' if sent else self._challenge
        headers = [("WWW-Authenticate", challenge)]
        return refuse_for(
            request, Cause.CREDENTIALS, detail, reason=reason, headers=headers, key_id=key_id, subject=subject
        )

    def scopes(self, request: Request, missing: list[str]) -> Response:
        """Refuse a request whose key lacks scopes."""
        scope = " ".join(missing)
        challenge = f'{self._challenge}, error="insufficient_scope", scope="{scope}"'
        detail = f"The API key is valid, but lacks the scope {scope}."
        return refuse_for(request, Cause.PERMISSION, detail, reason="scope", headers=[("WWW-Authenticate", challenge)])

    def guessing(self, request: Request, taken: Taken, key_id: str = "", subject: str = "") -> Response:
        """Refuse a request from an address that has sent too many wrong keys."""
        seconds = whole_seconds(taken.wait)
        detail = f"Too many wrong API keys came from this address. It may send another one in {seconds} seconds."
        return refuse_for(
            request,
            Cause.ADDRESS,
            detail,
            reason="guessing",
            status=429,
            wait=None if taken.wait == NEVER else taken.wait,
            at=taken.at,
            policies=[demand.name for demand in taken.refusing],
            key_id=key_id,
            subject=subject,
        )
