"""Gemini: no fields; what there is to know of limits stands in the bodies of errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from keyguard.clock import SECOND
from keyguard.testing.provider.dialects.dialect import JSON, Asked, Dialect, Refused, event, most_of, tokens_in
from keyguard.testing.provider.scripted import Answer
from keyguard.upstream.causes import UpstreamCause as Cause

_CALL = re.compile(r"/models/([^/:]+):(\w+)$")
_TYPE = "type.googleapis.com/google.rpc."
_ERRORS: dict[Cause, tuple[int, str, str]] = {
    Cause.INVALID: (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    Cause.UNSUPPORTED: (404, "NOT_FOUND", "The model is not found for this API version."),
    Cause.TOO_LARGE: (400, "INVALID_ARGUMENT", "The input token count exceeds the maximum number of tokens allowed."),
    Cause.OVERLOAD: (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    Cause.REQUEST: (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    Cause.BILLING: (402, "RESOURCE_EXHAUSTED", "Your prepayment credits are depleted."),
}


class Gemini(Dialect):
    """Google's Gemini API."""

    credentials = (("x-goog-api-key", ""), ("authorization", "bearer "))
    key_parameter = "key"

    def asked(self, path: str, body: JSON) -> Asked | None:
        if path.endswith("/models"):
            return Asked("models", free=True)
        call = _CALL.search(path)
        if call is None or call[2] not in ("generateContent", "streamGenerateContent", "embedContent"):
            return None
        settings = body.get("generationConfig")
        return Asked(
            "embeddings" if call[2] == "embedContent" else "generate",
            call[1],
            stream=call[2] == "streamGenerateContent",
            input_tokens=tokens_in(body.get("contents", body.get("content", ""))),
            most_output=most_of(dict(settings), "maxOutputTokens") if isinstance(settings, Mapping) else None,
        )

    def answer(self, asked: Asked, words: Sequence[str], path: str) -> JSON:
        if asked.endpoint == "models":
            return {"models": [{"name": "models/m", "displayName": "m"}]}
        if asked.endpoint == "embeddings":
            return {"embedding": {"values": [0.25, -0.5, 0.125]}}
        return _chunk(asked, " ".join(words), len(words), "STOP")

    def events(self, asked: Asked, words: Sequence[str]) -> tuple[list[bytes], int]:
        last = len(words) - 1
        return [
            event(_chunk(asked, word if place == 0 else f" {word}", place + 1, "STOP" if place == last else None))
            for place, word in enumerate(words)
        ], 0

    def refused(self, refused: Refused) -> Answer:
        if refused.cause in (Cause.EXHAUSTED, Cause.QUOTA, Cause.RAMP):
            return _limited(refused)
        status, name, message = _ERRORS.get(refused.cause, (500, "INTERNAL", "An internal error has occurred."))
        error: JSON = {"code": status, "message": message, "status": name}
        if refused.cause is Cause.INVALID:
            reason = {"@type": _TYPE + "ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}
            error["details"] = [reason]
        return Answer(status, {}, {"error": error})


def _limited(refused: Refused) -> Answer:
    seconds = refused.wait / SECOND
    unit = "InputTokens" if refused.meter and "tokens" in refused.meter.dimension.unit else "Requests"
    day = refused.cause is Cause.QUOTA or (refused.meter and refused.meter.dimension.period >= 86400 * SECOND)
    limit = str(refused.meter.limit) if refused.meter else "0"
    quota = f"Generate{unit}Per{'Day' if day else 'Minute'}PerProjectPerModel"
    text = "You exceeded your current quota, please check your plan and billing details. "
    text += f"Please retry in {seconds:.9f}s."
    details = [
        {"@type": _TYPE + "QuotaFailure", "violations": [{"quotaId": quota, "quotaValue": limit}]},
        {"@type": _TYPE + "RetryInfo", "retryDelay": f"{refused.seconds}s"},
    ]
    error = {"code": 429, "message": text, "status": "RESOURCE_EXHAUSTED", "details": details}
    return Answer(429, {}, {"error": error})


def _chunk(asked: Asked, text: str, output: int, end: str | None) -> JSON:
    candidate: JSON = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
    if end is not None:
        candidate["finishReason"] = end
    usage = {"promptTokenCount": asked.input_tokens, "candidatesTokenCount": output}
    usage["totalTokenCount"] = sum(usage.values())
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": asked.model}
