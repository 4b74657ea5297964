"""Anthropic."""

from __future__ import annotations

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Credential, Profile, Sizes, limit_fields, patterns, rule

_EXCEEDED = r"This request would exceed .{0,200}rate limit.{0,200} of [0-9,]+ "
"""The beginning of messages that tell of the limit; no member does."""

ANTHROPIC = Profile(
    name="anthropic",
    origins=("https://api.anthropic.com",),
    # Clients send a key as `x-api-key` or, newer ones, as a bearer: the API takes both, and the first is what its
    # reference describes for keys.
    credential=Credential("x-api-key", ""),
    fields=(
        # "The time when the ... rate limit will be fully replenished" (the reference, rate limits, response headers).
        limit_fields("rpm", "anthropic-ratelimit-requests-{}", reads="instant", full=True),
        limit_fields("itpm", "anthropic-ratelimit-input-tokens-{}", reads="instant", full=True),
        limit_fields("otpm", "anthropic-ratelimit-output-tokens-{}", reads="instant", full=True),
        limit_fields("tpm", "anthropic-ratelimit-tokens-{}", reads="instant", full=True),
    ),
    rules=(
        rule(Cause.BILLING, when={"details.error_code": "(?:enforced|contract)_spend_limit_reached"}),
        rule(Cause.BILLING, when={"details.error_code": "linked_organization_.*"}),
        rule(Cause.INVALID, when={"details.error_code": "organization_on_hold"}, scope=Scope.GROUP),
        rule(Cause.BILLING, when={"type": "billing_error"}),
        # These have the type of a bad request and no code: the opening words are all that tells.
        rule(
            Cause.BILLING,
            *(400, 403),
            when={
                "type": "invalid_request_error",
                "message": "You have reached your specified (?:workspace )?API usage limits.*|"
                "Your credit balance is too low.*",
            },
        ),
        rule(Cause.INVALID, 401),
        rule(Cause.UNSUPPORTED, 403, when={"type": "permission_error"}),
        rule(Cause.UNSUPPORTED, 404, when={"type": "not_found_error", "message": "model: .*"}),
        rule(Cause.RAMP, when={"details.error_code": "ramp_limit_exceeded"}),
        *(
            rule(Cause.EXHAUSTED, 429, when={"type": "rate_limit_error", "message": _EXCEEDED + words}, dimension=word)
            for words, word in (
                ("input tokens per minute.*", "itpm"),
                ("output tokens per minute.*", "otpm"),
                ("requests per minute.*", "rpm"),
                ("tokens per minute.*", "tpm"),
            )
        ),
        rule(Cause.EXHAUSTED, 429, when={"type": "rate_limit_error"}),
        rule(Cause.OVERLOAD, 429, 500, 503, 529, when={"type": "overloaded_error"}),
        rule(Cause.SYSTEM, 500, 502, 504, when={"type": "api_error|timeout_error"}),
        rule(Cause.REQUEST, 400, 404, 409, 413, 422, when={"type": "invalid_request_error|not_found_error"}),
        rule(Cause.REQUEST, 409, 413, when={"type": "conflict_error|request_too_large"}),
    ),
    known=patterns(
        {
            "type": "invalid_request_error|authentication_error|billing_error|permission_error|not_found_error|"
            "conflict_error|request_too_large|rate_limit_error|timeout_error|api_error|overloaded_error",
            "details.error_code": "(?:enforced|contract)_spend_limit_reached|linked_organization_.*|"
            "organization_on_hold|ramp_limit_exceeded",
        }
    ),
    waits=(("message", "sentence"),),
    sizes=Sizes(
        counts="apart",
        inputs=("messages", "system", "tools"),
        outputs=("max_tokens",),
        usage=("usage", "message.usage"),
        # What is read from the cache does not count to the limits of most models.
        used_input=("input_tokens", "cache_creation_input_tokens"),
        used_output=("output_tokens",),
    ),
)
