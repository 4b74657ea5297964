"""Providers that speak as OpenAI does, with fields and errors of their own: Azure, Mistral, OpenRouter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from keyguard.clock import SECOND
from keyguard.testing.provider.dialects.dialect import JSON, Asked, Fields, Refused, event, meter_of
from keyguard.testing.provider.dialects.openai import OpenAI
from keyguard.testing.provider.meters import Meter
from keyguard.testing.provider.scripted import Answer
from keyguard.upstream.causes import UpstreamCause as Cause

_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)/")
_AZURE = {
    Cause.INVALID: (401, "401", "Access denied due to invalid subscription key or wrong API endpoint."),
    Cause.UNSUPPORTED: (404, "DeploymentNotFound", "The API deployment for this resource does not exist."),
    Cause.OVERLOAD: (503, "503", "The service is temporarily unable to process the request."),
    Cause.REQUEST: (400, "BadRequest", "The request is not valid."),
    Cause.BILLING: (429, "insufficient_quota", "The quota of the subscription is used up."),
}


class Azure(OpenAI):
    """OpenAI's models on Azure: the deployment stands in the path, the key in a field of its own."""

    credentials = (("api-key", ""), ("authorization", "bearer "))

    def asked(self, path: str, body: JSON) -> Asked | None:
        asked = super().asked(path, body)
        named = _DEPLOYMENT.search(path)
        return asked._replace(model=named[1]) if asked and named else asked

    def limited(self, refused: Refused) -> Answer:
        told = {"retry-after": str(refused.seconds), "retry-after-ms": str(-(-refused.wait // 1000))}
        unit = "token" if refused.meter and "tokens" in refused.meter.dimension.unit else "call"
        text = f"Requests have exceeded the {unit} rate limit of the current pricing tier. "
        text += f"Please retry after {refused.seconds} seconds."
        return Answer(429, told, {"error": {"code": "429", "message": text}})

    def refused(self, refused: Refused) -> Answer:
        if refused.cause not in _AZURE:
            return super().refused(refused)
        status, code, message = _AZURE[refused.cause]
        return Answer(status, {}, {"error": {"code": code, "message": message}})


_MISTRAL = {
    Cause.INVALID: (401, "unauthorized", "Unauthorized", "1401"),
    Cause.BILLING: (402, "payment_required", "The plan of this workspace is used up", "1402"),
    Cause.UNSUPPORTED: (404, "invalid_model", "Invalid model", "1500"),
    Cause.OVERLOAD: (503, "unavailable", "Service unavailable", "3000"),
    Cause.REQUEST: (422, "invalid_request", "A value in the request is not valid", "1000"),
    Cause.TOO_LARGE: (400, "invalid_request", "The prompt is too large", "3051"),
}


class Mistral(OpenAI):
    """Mistral: fields by the minute, with no reset and no time to wait."""

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        found: Fields = {}
        for word, name in (("rpm", "req-minute"), ("tpm", "tokens-minute")):
            if meter := meter_of(meters, word):
                found[f"x-ratelimit-limit-{name}"] = str(meter.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(meter.remaining(now))
        return found

    def refused(self, refused: Refused) -> Answer:
        limited = (429, "rate_limited", "Rate limit exceeded", "1300")
        if refused.cause in (Cause.EXHAUSTED, Cause.QUOTA, Cause.RAMP):
            status, kind, message, code = limited
        else:
            status, kind, message, code = _MISTRAL.get(refused.cause, (500, "internal", "Internal error", "3100"))
        return Answer(status, {}, {"object": "error", "message": message, "type": kind, "param": None, "code": code})


_OPENROUTER = {
    Cause.INVALID: (401, "No auth credentials found"),
    Cause.BILLING: (402, "Insufficient credits"),
    Cause.TOO_LARGE: (402, "This request requires more credits than the key can ever spend"),
    Cause.UNSUPPORTED: (404, "No endpoints found for this model"),
    Cause.OVERLOAD: (503, "No instances available"),
    Cause.REQUEST: (400, "The request is not valid"),
    Cause.EXHAUSTED: (429, "Rate limit exceeded"),
    Cause.QUOTA: (429, "Rate limit exceeded: free models per day"),
    Cause.RAMP: (429, "Rate limit exceeded"),
}
_OPENROUTER_TYPES = {
    Cause.BILLING: "payment_required",
    Cause.TOO_LARGE: "weight_exceeds_budget",
}


class OpenRouter(OpenAI):
    """OpenRouter: limits are told by refusals alone, and errors may come as the last event of a stream."""

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        return {}

    def refused(self, refused: Refused) -> Answer:
        status, message = _OPENROUTER.get(refused.cause, (502, "The provider of the model failed"))
        error: JSON = {"code": status, "message": message}
        if kind := _OPENROUTER_TYPES.get(refused.cause):
            error["metadata"] = {"error_type": kind}
        if status != 429:
            return Answer(status, {}, {"error": error})
        limit = str(refused.meter.limit) if refused.meter else "0"
        end = str((refused.at + refused.wait) // (SECOND // 1000))
        told = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": end}
        return Answer(429, told, {"error": {**error, "metadata": {"headers": told}}})

    def error_event(self, refused: Refused, asked: Asked) -> bytes:
        body = self.refused(refused).body
        assert isinstance(body, Mapping)
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        kind = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": asked.model}
        return event({**kind, "error": body["error"], "choices": [choice]})
