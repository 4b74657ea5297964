"""OpenRouter."""

from __future__ import annotations

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Profile, Sizes, patterns, rule

_SOURCE = "metadata.limit_source"

OPENROUTER = Profile(
    name="openrouter",
    origins=("https://openrouter.ai",),
    rules=(
        rule(Cause.TOO_LARGE, 402, when={"metadata.reason": "weight_exceeds_budget"}),
        rule(Cause.EXHAUSTED, 402, when={"metadata.reason": "in_flight_budget_exhausted"}, scope=Scope.GROUP),
        rule(Cause.BILLING, 402, 403, when={_SOURCE: "openrouter_key_limit"}, scope=Scope.KEY),
        rule(Cause.BILLING, 402, 403, when={_SOURCE: "openrouter_(?:guardrail|workspace)_budget|openrouter_credits"}),
        rule(Cause.BILLING, 402),
        rule(Cause.INVALID, 401),
        rule(Cause.QUOTA, 429, when={_SOURCE: ".*_daily"}, dimension="rpd", until="x-ratelimit-reset"),
        # The opening words are all that older answers have.
        rule(
            Cause.QUOTA,
            429,
            when={"message": "Rate limit exceeded: free-models-per-day.*"},
            dimension="rpd",
            until="x-ratelimit-reset",
        ),
        rule(
            Cause.EXHAUSTED,
            429,
            when={"message": "Rate limit exceeded: free-models-per-min.*"},
            dimension="rpm",
            until="x-ratelimit-reset",
        ),
        # A provider behind it refuses: one's own key there, or else all of OpenRouter's, whatever the key is.
        rule(Cause.EXHAUSTED, 429, when={"metadata.is_byok": "true"}),
        rule(Cause.OVERLOAD, 429, when={"metadata.provider_name": ".+"}),
        rule(Cause.OVERLOAD, 429, when={"metadata.provider_code": ".+"}),
        rule(Cause.OVERLOAD, 429, when={"message": "Provider returned error"}),
        rule(Cause.EXHAUSTED, 429, until="x-ratelimit-reset"),
        rule(Cause.REQUEST, 403, when={"metadata.reasons": ".+"}),  # flagged by moderation, whatever the key
        rule(Cause.UNSUPPORTED, 403, when={"code": "403"}),
        # No provider is left that the request allows, or the one behind it is down.
        rule(Cause.OVERLOAD, 503, 529),
        rule(Cause.SYSTEM, 408, 500, 502, 504, 524),
        rule(Cause.REQUEST, 400, 404, 409, 413, 422),
    ),
    known=patterns({_SOURCE: "openrouter_(?:key_limit|credits|.*_budget|free_tier_.*)"}),
    waits=(
        ("metadata.resets_at", "moment"),
        ("metadata.headers.X-RateLimit-Reset", "moment"),
        ("metadata.retry_after_seconds", "seconds"),
        ("message", "sentence"),
    ),
    day="UTC",
    sizes=Sizes(
        counts="sum",
        inputs=("messages", "input", "prompt", "tools", "system"),
        outputs=("max_completion_tokens", "max_output_tokens", "max_tokens"),
        usage=("usage", "response.usage"),
        used_input=("prompt_tokens", "input_tokens"),
        used_output=("completion_tokens", "output_tokens"),
        used_total="total_tokens",
    ),
)
