"""Anthropic: messages, their streams, fields and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keyguard.testing.provider.dialects.dialect import (
    JSON,
    Asked,
    Dialect,
    Fields,
    Refused,
    event,
    meter_of,
    most_of,
    name_of_limit,
    tokens_in,
)
from keyguard.testing.provider.meters import Meter
from keyguard.testing.provider.scripted import Answer
from keyguard.units import as_datetime
from keyguard.upstream.causes import UpstreamCause as Cause

_COUNTED = {"requests": "rpm", "tokens": "tpm", "input-tokens": "itpm", "output-tokens": "otpm"}
_ERRORS: dict[Cause, tuple[int, str, str]] = {
    Cause.INVALID: (401, "authentication_error", "invalid x-api-key"),
    Cause.UNSUPPORTED: (404, "not_found_error", "model: not found"),
    Cause.TOO_LARGE: (413, "request_too_large", "The request is larger than allowed."),
    Cause.OVERLOAD: (529, "overloaded_error", "Overloaded"),
    Cause.REQUEST: (400, "invalid_request_error", "max_tokens: a value is not valid"),
    Cause.BILLING: (400, "invalid_request_error", "Your credit balance is too low to access the API."),
}


class Anthropic(Dialect):
    """Anthropic itself."""

    credentials = (("x-api-key", ""), ("authorization", "bearer "))

    def asked(self, path: str, body: JSON) -> Asked | None:
        if "/models" in path:
            return Asked("models", free=True)
        if not path.endswith("/messages"):
            return None
        return Asked(
            "messages",
            str(body.get("model", "")),
            stream=body.get("stream") is True,
            input_tokens=tokens_in([body.get("system", ""), body.get("messages", "")]),
            most_output=most_of(body, "max_tokens"),
        )

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        found: Fields = {"request-id": "req_1"}
        for name, word in _COUNTED.items():
            if meter := meter_of(meters, word):
                end = as_datetime(now + meter.reset(now)).strftime("%Y-%m-%dT%H:%M:%SZ")
                found[f"anthropic-ratelimit-{name}-limit"] = str(meter.limit)
                found[f"anthropic-ratelimit-{name}-remaining"] = str(meter.remaining(now))
                found[f"anthropic-ratelimit-{name}-reset"] = end
        return found

    def answer(self, asked: Asked, words: Sequence[str], path: str) -> JSON:
        if asked.endpoint == "models":
            model = {"type": "model", "id": "m", "display_name": "m", "created_at": "2027-01-01T00:00:00Z"}
            return {"data": [model], "has_more": False, "first_id": "m", "last_id": "m"}
        return _message(asked, [{"type": "text", "text": " ".join(words)}], len(words), "end_turn")

    def events(self, asked: Asked, words: Sequence[str]) -> tuple[list[bytes], int]:
        block = {"type": "text", "text": ""}
        told: list[tuple[str, JSON]] = [
            ("message_start", {"message": _message(asked, [], 1, None)}),
            ("content_block_start", {"index": 0, "content_block": block}),
            ("ping", {}),
        ]
        before = len(told)
        for place, word in enumerate(words):
            delta = {"type": "text_delta", "text": word if place == 0 else f" {word}"}
            told.append(("content_block_delta", {"index": 0, "delta": delta}))
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        told.append(("content_block_stop", {"index": 0}))
        told.append(("message_delta", {"delta": end, "usage": {"output_tokens": len(words)}}))
        told.append(("message_stop", {}))
        return [event({"type": name, **more}, name) for name, more in told], before

    def refused(self, refused: Refused) -> Answer:
        headers: dict[str, str] = {}
        if refused.cause in (Cause.EXHAUSTED, Cause.QUOTA, Cause.RAMP):
            status, kind = 429, "rate_limit_error"
            message = f"This request would exceed the rate limit of your organization: {name_of_limit(refused)}."
            headers["retry-after"] = str(refused.seconds)
        else:
            status, kind, message = _ERRORS.get(refused.cause, (500, "api_error", "Internal server error"))
        error: dict[str, Any] = {"type": kind, "message": message}
        if refused.cause is Cause.RAMP:
            error["details"] = {"error_code": "ramp_limit_exceeded"}
        return Answer(status, headers, {"type": "error", "error": error, "request_id": "req_1"})

    def error_event(self, refused: Refused, asked: Asked) -> bytes:
        body = self.refused(refused).body
        assert isinstance(body, Mapping)
        return event(body, "error")


def _message(asked: Asked, content: list[JSON], output: int, end: str | None) -> JSON:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_reason": end,
        "stop_sequence": None,
        "usage": {"input_tokens": asked.input_tokens, "output_tokens": output},
    }
