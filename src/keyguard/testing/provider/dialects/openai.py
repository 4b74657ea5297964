"""OpenAI: its endpoints, streams, fields and errors, which several other providers have taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from keyguard.testing.provider.dialects.dialect import (
    JSON,
    Asked,
    Dialect,
    Fields,
    Refused,
    event,
    go_duration,
    meter_of,
    most_of,
    name_of_limit,
    tokens_in,
)
from keyguard.testing.provider.dialects.responses import response_body, response_events
from keyguard.testing.provider.meters import Meter
from keyguard.testing.provider.scripted import Answer
from keyguard.upstream.causes import UpstreamCause as Cause

_ENDPOINTS = {
    "/chat/completions": "chat",
    "/responses": "responses",
    "/embeddings": "embeddings",
    "/models": "models",
}
_PLAIN: dict[Cause, tuple[int, str, str, str]] = {
    Cause.RAMP: (429, "rate_limit_error", "slow_down", "Requests grow too fast. Please slow down."),
    Cause.BILLING: (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    Cause.INVALID: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    Cause.UNSUPPORTED: (404, "invalid_request_error", "model_not_found", "The model does not exist for this key."),
    Cause.OVERLOAD: (503, "service_unavailable_error", "server_is_overloaded", "The server is overloaded."),
    Cause.REQUEST: (400, "invalid_request_error", "invalid_value", "A value in the request is not valid."),
}
_BROKEN = (500, "server_error", "server_error", "The server had an error while processing the request.")


class OpenAI(Dialect):
    """OpenAI itself."""

    counted: ClassVar[dict[str, str]] = {"requests": "rpm", "tokens": "tpm"}
    """Which limits the fields of these names tell of."""

    def asked(self, path: str, body: JSON) -> Asked | None:
        found = next((name for end, name in _ENDPOINTS.items() if path.endswith(end)), None)
        if found is None:
            return Asked("models", free=True) if "/models/" in path else None
        options = body.get("stream_options")
        return Asked(
            found,
            str(body.get("model", "")),
            stream=body.get("stream") is True and found in ("chat", "responses"),
            with_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
            input_tokens=tokens_in(body.get("messages", body.get("input", ""))),
            most_output=0
            if found == "embeddings"
            else most_of(body, "max_completion_tokens", "max_output_tokens", "max_tokens"),
            free=found == "models",
        )

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        found: Fields = {}
        for name, word in self.counted.items():
            if meter := meter_of(meters, word):
                found[f"x-ratelimit-limit-{name}"] = str(meter.limit)
                found[f"x-ratelimit-remaining-{name}"] = str(meter.remaining(now))
                found[f"x-ratelimit-reset-{name}"] = go_duration(meter.reset(now))
        return found

    def answer(self, asked: Asked, words: Sequence[str], path: str) -> JSON:
        if asked.endpoint == "responses":
            return response_body(asked, words)
        if asked.endpoint == "models":
            return {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "fake"}]}
        if asked.endpoint == "embeddings":
            usage = {"prompt_tokens": asked.input_tokens, "total_tokens": asked.input_tokens}
            data = [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 0.125]}]
            return {"object": "list", "model": asked.model, "data": data, "usage": usage}
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return _chat(asked, "chat.completion", choices=[choice], usage=usage_of(asked, words))

    def events(self, asked: Asked, words: Sequence[str]) -> tuple[list[bytes], int]:
        if asked.endpoint == "responses":
            return response_events(asked, words)
        deltas: list[tuple[JSON, str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": word if place == 0 else f" {word}"}, None) for place, word in enumerate(words)]
        deltas.append(({}, "stop"))
        more: JSON = {"usage": None} if asked.with_usage else {}
        chunks = [
            _chat(asked, "chat.completion.chunk", choices=[{"index": 0, "delta": delta, "finish_reason": end}], **more)
            for delta, end in deltas
        ]
        if asked.with_usage:
            chunks.append(_chat(asked, "chat.completion.chunk", choices=[], usage=usage_of(asked, words)))
        return [*map(event, chunks), event("[DONE]")], 1

    def refused(self, refused: Refused) -> Answer:
        if refused.cause in (Cause.EXHAUSTED, Cause.QUOTA):
            return self.limited(refused)
        if refused.cause is Cause.TOO_LARGE:
            return self.too_large(refused)
        status, kind, code, message = _PLAIN.get(refused.cause, _BROKEN)
        again = {"retry-after": str(refused.seconds)} if refused.cause is Cause.RAMP and refused.wait else {}
        return Answer(status, again, _error(message, kind, code))

    def limited(self, refused: Refused) -> Answer:
        """Return the response for a limit that is used up."""
        told = {"retry-after": str(refused.seconds), "retry-after-ms": str(-(-refused.wait // 1000))}
        text = f"Rate limit reached for {refused.model} on {name_of_limit(refused)}: {_figures(refused)}. "
        text += f"Please try again in {go_duration(refused.wait)}."
        return Answer(429, told, _error(text, _unit(refused), "rate_limit_exceeded"))

    def too_large(self, refused: Refused) -> Answer:
        """Return the response for a request that no wait helps."""
        text = f"Request too large for {refused.model} on {name_of_limit(refused)}: {_figures(refused, used=False)}. "
        text += "The input or output tokens must be reduced in order to run successfully."
        return Answer(429, {}, _error(text, _unit(refused), "rate_limit_exceeded"))

    def error_event(self, refused: Refused, asked: Asked) -> bytes:
        body = self.refused(refused).body
        assert isinstance(body, Mapping)
        if asked.endpoint != "responses":
            return event(body)
        error = body["error"]
        told = {"type": "error", "code": error.get("code"), "message": error["message"], "param": None}
        return event({**told, "sequence_number": 0}, "error")


class Groq(OpenAI):
    """Groq: fields of the same names, which count requests by the day."""

    counted: ClassVar[dict[str, str]] = {"requests": "rpd", "tokens": "tpm"}

    def limited(self, refused: Refused) -> Answer:
        answer = super().limited(refused)
        return Answer(429, {"retry-after": answer.headers["retry-after"]}, answer.body)

    def too_large(self, refused: Refused) -> Answer:
        return Answer(413, {}, super().too_large(refused).body)

    def refused(self, refused: Refused) -> Answer:
        if refused.cause is Cause.OVERLOAD:
            return Answer(498, {}, _error("Flex tier capacity exceeded.", "capacity", "capacity_exceeded"))
        return super().refused(refused)


def usage_of(asked: Asked, words: Sequence[str]) -> JSON:
    """Return what an answer cost, as chat completions tell it."""
    total = asked.input_tokens + len(words)
    return {"prompt_tokens": asked.input_tokens, "completion_tokens": len(words), "total_tokens": total}


def _chat(asked: Asked, kind: str, **members: Any) -> JSON:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_800_000_000, "model": asked.model, **members}


def _error(message: str, kind: str, code: str) -> JSON:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _unit(refused: Refused) -> str:
    return "requests" if refused.meter is None or refused.meter.dimension.unit == "requests" else "tokens"


def _figures(refused: Refused, *, used: bool = True) -> str:
    limit = refused.meter.limit if refused.meter else 0
    spent = limit - refused.meter.remaining(refused.at) if refused.meter else 0
    return f"Limit {limit}, " + (f"Used {spent}, " if used else "") + f"Requested {refused.units}"
