"""Mistral."""

from __future__ import annotations

from keyguard.clock import SECOND
from keyguard.learnt import Dimension
from keyguard.upstream.profiles.profile import Cause, Profile, Sizes, limit_fields, rule

_MONTH = 31 * 86400 * SECOND

MISTRAL = Profile(
    name="mistral",
    origins=("https://api.mistral.ai",),
    error_at=("error", ""),
    fields=(
        limit_fields("rpm", "x-ratelimit-{}-req-minute", reset=False),
        limit_fields("tpm", "x-ratelimit-{}-tokens-minute", reset=False),
        limit_fields(Dimension("tokens", _MONTH), "x-ratelimit-{}-tokens-month", reset=False),
        limit_fields(Dimension("requests", _MONTH), "x-ratelimit-{}-req-month", reset=False),
    ),
    rules=(
        rule(Cause.INVALID, 401),
        # Not verified, but told of by many: a 429 for want of capacity, with a code of its own.
        rule(Cause.OVERLOAD, 429, 503, when={"code": "3505"}),
        # The same words stand beside the type of a bad request, and without a code.
        rule(Cause.OVERLOAD, 429, 503, when={"message": "Service tier capacity exceeded.*"}),
        rule(Cause.EXHAUSTED, 429, when={"code": "1300"}),
        rule(Cause.EXHAUSTED, 429, when={"message": "Requests rate limit exceeded.*"}, dimension="rpm"),
        rule(Cause.UNSUPPORTED, 400, 403, 404, when={"type": "invalid_model"}),
        rule(Cause.REQUEST, 400, 404, 409, 413, 422, when={"type": "invalid_.*|.*_not_found|not_found"}),
        rule(Cause.SYSTEM, 500, 502, 504, when={"type": "internal_server_error|unreachable_backend|server_error"}),
        rule(Cause.OVERLOAD, 503),
    ),
    waits=(("message", "sentence"),),
    sizes=Sizes(
        counts="sum",
        inputs=("messages", "prompt", "suffix", "input", "inputs", "tools"),
        outputs=("max_tokens",),
        used_input=("prompt_tokens",),
        used_output=("completion_tokens",),
        used_total="total_tokens",
    ),
)
