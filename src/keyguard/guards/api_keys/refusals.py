"""Refusals of keys: what their callers are told."""

from __future__ import annotations

from keyguard.clock import whole_seconds
from keyguard.keys.credentials import Sources
from keyguard.ops import Taken
from keyguard.problem import refuse_for
from keyguard.rates import NEVER
from keyguard.refusal import Cause
from keyguard.request import Request
from keyguard.response import Response


class KeyRefusals:
    """Makes the refusals of one guard, whose challenges name its realm."""

    def __init__(self, realm: str, sources: Sources) -> None:
        # A 401 has a challenge (RFC 9110, section 15.5.2), also if keys do not stand in Authorization at all.
        self.challenges = [f'{scheme} realm="{realm}"' for scheme in sources.schemes or ("ApiKey",)]
        self._forms = " or ".join(f"'{form}'" for form in sources.forms)

    def _told(self, more: str) -> list[tuple[str, str]]:
        """Return the challenges; what is more is for the Bearer scheme, which alone has words for it (RFC 6750)."""
        told = [one + more if one.startswith("Bearer ") else one for one in self.challenges]
        return [("WWW-Authenticate", one) for one in told]

    def without_key(self, request: Request, *, mistaken: bool) -> Response:
        """Refuse a request that has no key; `mistaken` if it has something else in the place of one.

        That is not repeated: it may be a key, with no scheme before it.
        """
        if mistaken:
            detail = f"Send an API key as {self._forms}. What stands in Authorization has another form."
            return self.key(request, "other-scheme", detail, sent=False)
        return self.key(request, "no-key", "Send an API key.", sent=False)

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
        headers = self._told(', error="invalid_token"' if sent else "")
        return refuse_for(
            request, Cause.CREDENTIALS, detail, reason=reason, headers=headers, key_id=key_id, subject=subject
        )

    def scopes(self, request: Request, missing: list[str]) -> Response:
        """Refuse a request whose key lacks scopes."""
        scope = " ".join(missing)
        told = self._told(f', error="insufficient_scope", scope="{scope}"')
        challenge = [field for field in told if "error=" in field[1]]
        detail = f"The API key is valid, but lacks the scope {scope}."
        return refuse_for(request, Cause.PERMISSION, detail, reason="scope", headers=challenge)

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
