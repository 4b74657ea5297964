"""OpenAI's models on Azure."""

from __future__ import annotations

import re
from dataclasses import replace

from keyguard.upstream.profiles.openai import BILLING, OPENAI_SIZES
from keyguard.upstream.profiles.profile import Cause, Credential, Profile, limit_fields, rule

_EXCEEDED = "Requests to the .{1,300} have exceeded "

AZURE = Profile(
    name="azure",
    credential=Credential("api-key", ""),
    takes_off_query=("api-key", "subscription-key"),
    fields=(
        # The resets are whole seconds. The limit of tokens may be lower than the one that was configured.
        limit_fields("rpm", "x-ratelimit-{}-requests"),
        limit_fields("tpm", "x-ratelimit-{}-tokens"),
    ),
    rules=(
        rule(Cause.BILLING, 403, 429, when={"code": BILLING}),
        rule(Cause.INVALID, 401),
        rule(Cause.QUOTA, 403, when={"code": "403|QuotaExceeded", "message": "Out of call volume quota.*"}),
        rule(
            Cause.EXHAUSTED,
            429,
            when={"code": "429|RateLimitReached", "message": f"{_EXCEEDED}(?:the )?(?:call|request) rate limit.*"},
            dimension="rpm",
        ),
        rule(
            Cause.EXHAUSTED,
            429,
            when={"code": "429|RateLimitReached", "message": f"{_EXCEEDED}(?:the )?token rate limit.*"},
            dimension="tpm",
        ),
        rule(Cause.OVERLOAD, 429, when={"code": "NoCapacity|EngineOverloaded|server_is_overloaded"}),
        rule(
            Cause.EXHAUSTED,
            429,
            when={"code": "429|RateLimitReached|TooManyRequests|too_many_requests|rate_limit_exceeded"},
        ),
        rule(Cause.UNSUPPORTED, 404, when={"code": "DeploymentNotFound|model_not_found"}),
        rule(Cause.UNSUPPORTED, 403, when={"code": "403|Forbidden|PermissionDenied|AccessDenied"}),
        rule(Cause.OVERLOAD, 503, when={"code": "503|ServiceUnavailable|server_is_overloaded|InternalServerError"}),
        rule(Cause.SYSTEM, 408, 424, 500, 502, 504),
        rule(Cause.REQUEST, 400, 404, 409, 413, 422),
    ),
    waits=(("message", "sentence"),),
    sizes=replace(OPENAI_SIZES, model_paths=(re.compile(r"/openai/deployments/([^/?]{1,256})"),)),
)
