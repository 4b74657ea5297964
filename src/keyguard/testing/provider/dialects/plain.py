"""APIs that are not for models: GitHub, Stripe, and one with the fields of a draft. Any path will do."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.clock import SECOND
from keyguard.testing.provider.dialects.dialect import Dialect, Fields, Refused
from keyguard.testing.provider.meters import Meter
from keyguard.testing.provider.scripted import Answer
from keyguard.upstream.causes import UpstreamCause as Cause

_LIMITED = (Cause.EXHAUSTED, Cause.QUOTA, Cause.RAMP)
_STATUS = {
    Cause.INVALID: 401,
    Cause.BILLING: 402,
    Cause.UNSUPPORTED: 403,
    Cause.TOO_LARGE: 413,
    Cause.OVERLOAD: 503,
    Cause.REQUEST: 422,
}


class GitHub(Dialect):
    """GitHub: a refusal is a 403 with nothing left, or one of a secondary limit."""

    credentials = (("authorization", "bearer "), ("authorization", "token "))

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        if not meters:
            return {}
        meter = meters[0]
        left = meter.remaining(now)
        end = -(-(now + meter.reset(now)) // SECOND)
        told = {"limit": meter.limit, "remaining": left, "used": meter.limit - left, "reset": end}
        return {**{f"x-ratelimit-{name}": str(value) for name, value in told.items()}, "x-ratelimit-resource": "core"}

    def refused(self, refused: Refused) -> Answer:
        if refused.cause not in _LIMITED:
            text = {Cause.INVALID: "Bad credentials", Cause.UNSUPPORTED: "Resource not accessible"}
            return Answer(_STATUS.get(refused.cause, 500), {}, _told(text.get(refused.cause, "Server Error")))
        if refused.meter is not None:
            return Answer(403, {}, _told("API rate limit exceeded for this account."))
        text_of_second = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
        return Answer(403, {"retry-after": str(refused.seconds)}, _told(text_of_second))


class Stripe(Dialect):
    """Stripe: no fields and no time to wait."""

    def refused(self, refused: Refused) -> Answer:
        if refused.cause in _LIMITED:
            error = {"type": "invalid_request_error", "code": "rate_limit", "message": "Request rate limit exceeded."}
            return Answer(429, {}, {"error": error})
        kind = "invalid_request_error" if refused.cause is not Cause.SYSTEM else "api_error"
        text = "Invalid API Key provided" if refused.cause is Cause.INVALID else "The request failed"
        return Answer(_STATUS.get(refused.cause, 500), {}, {"error": {"type": kind, "message": text}})


class Generic(Dialect):
    """An API with `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11), and problem details."""

    credentials = (("authorization", "bearer "), ("x-api-key", ""))

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        if not meters:
            return {}
        policies = [f'"{m.dimension}";q={m.limit};w={m.dimension.period // SECOND}' for m in meters]
        left = [f'"{m.dimension}";r={m.remaining(now)};t={-(-m.reset(now) // SECOND)}' for m in meters]
        return {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}

    def refused(self, refused: Refused) -> Answer:
        sent = {"content-type": "application/problem+json"}
        if refused.cause not in _LIMITED:
            status = _STATUS.get(refused.cause, 500)
            return Answer(status, sent, {"type": "about:blank", "title": refused.cause.value, "status": status})
        violated = [str(refused.meter.dimension)] if refused.meter else []
        kind = "https://iana.org/assignments/http-problem-types#quota-exceeded"
        body = {"type": kind, "title": "Too many requests", "status": 429, "violated-policies": violated}
        return Answer(429, {**sent, "retry-after": str(refused.seconds)}, body)


def _told(message: str) -> dict[str, str]:
    return {"message": message, "documentation_url": "https://docs.github.com/rest"}
