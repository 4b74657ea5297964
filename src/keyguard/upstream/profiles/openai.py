"""OpenAI."""

from __future__ import annotations

from keyguard.upstream.profiles.profile import Cause, Profile, Sizes, limit_fields, patterns, rule

LIMIT = r"Rate limit reached for .{1,300} on (?:[a-z ]{1,30}) per (?:min|minute|hour|day) \((?P<dimension>[A-Z]{2,4})\)"
"""The beginning of messages that tell of the limit; the code beside it is the same for all limits."""

BILLING = (
    "insufficient_quota|credit_balance_exhausted|organization_usage_limit_exceeded|"
    "organization_spend_limit_exceeded|project_spend_limit_exceeded|billing_hard_limit_reached|billing_not_active"
)
TYPES = (
    "error|invalid_request_error|authentication_error|permission_error|not_found_error|conflict_error|"
    "request_forbidden|image_generation_user_error|server_error|api_error|service_unavailable_error|overloaded_error|"
    "requests|tokens|images|rate_limit_error|rate_limit_exceeded|slow_down|insufficient_quota|billing_not_active"
)
INVALID = "invalid_api_key|account_deactivated|invalid_organization"

OPENAI_RULES = (
    rule(Cause.BILLING, 400, 402, 403, 429, when={"code": BILLING}),
    rule(Cause.BILLING, 402, 403, 429, when={"type": "insufficient_quota|billing_not_active"}),
    rule(Cause.INVALID, 401, 403, when={"code": INVALID}),
    rule(Cause.UNSUPPORTED, 401, 403, when={"code": "missing_scope|insufficient_permissions"}),
    rule(Cause.INVALID, 401),
    rule(Cause.RAMP, 429, 503, when={"code": "slow_down"}),
    rule(Cause.RAMP, 429, 503, when={"type": "slow_down"}),
    # Its type and code are those of a limit that is used up: the opening words alone tell that it never succeeds.
    rule(Cause.TOO_LARGE, 413, 429, when={"message": r"Request too large for (?:.*\((?P<dimension>[A-Z]{2,4})\))?.*"}),
    rule(Cause.EXHAUSTED, 429, when={"code": "rate_limit_exceeded", "message": LIMIT + ".*"}),
    rule(Cause.EXHAUSTED, 429, when={"code": "rate_limit_exceeded"}),
    rule(Cause.EXHAUSTED, 429, when={"type": "rate_limit_error|rate_limit_exceeded|requests|tokens"}),
    rule(Cause.OVERLOAD, 500, 503, when={"code": "server_is_overloaded|server_overloaded"}),
    rule(Cause.SYSTEM, 500, 502, 504, when={"type": "server_error|api_error"}),
    rule(Cause.OVERLOAD, 503, when={"type": "service_unavailable_error|overloaded_error|server_error"}),
    rule(Cause.UNSUPPORTED, 403, 404, when={"code": "model_not_found"}),
    # It is about where the request comes from: another key is refused as well.
    rule(Cause.REQUEST, 403, when={"code": "unsupported_country_region_territory"}),
    rule(Cause.UNSUPPORTED, 403, when={"type": "permission_error|invalid_request_error|request_forbidden"}),
    rule(
        Cause.REQUEST,
        *(400, 404, 409, 413, 422),
        when={"type": "invalid_request_error|image_generation_user_error|not_found_error|conflict_error"},
    ),
    rule(Cause.SYSTEM, when={"code": "server_error"}),
)

OPENAI_SIZES = Sizes(
    counts="most",
    inputs=("messages", "input", "prompt", "instructions", "tools"),
    outputs=("max_completion_tokens", "max_output_tokens", "max_tokens"),
    usage=("usage", "response.usage"),
    used_input=("prompt_tokens", "input_tokens"),
    used_output=("completion_tokens", "output_tokens"),
    used_total="total_tokens",
)

OPENAI = Profile(
    name="openai",
    origins=("https://api.openai.com",),
    fields=(
        # Models of the lower tiers have a limit of requests in a day, and it is told under the same names: with 10000
        # of them one request resets in 8.64s.
        limit_fields("rpm", "x-ratelimit-{}-requests", full=True, longer="rpd"),
        limit_fields("tpm", "x-ratelimit-{}-tokens", full=True),
    ),
    rules=OPENAI_RULES,
    known=patterns({"type": TYPES}),
    waits=(("message", "sentence"),),
    sizes=OPENAI_SIZES,
)
