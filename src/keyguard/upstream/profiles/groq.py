"""Groq: OpenAI's words, of which some mean something else."""

from __future__ import annotations

from dataclasses import replace

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.openai import OPENAI_RULES, OPENAI_SIZES, TYPES
from keyguard.upstream.profiles.profile import Cause, Profile, limit_fields, patterns, rule

GROQ = Profile(
    name="groq",
    origins=("https://api.groq.com",),
    fields=(
        # "x-ratelimit-limit-requests: Always refers to Requests Per Day", and the tokens to those of a minute (its
        # reference, rate limits). Of 14400 requests one comes back in 6 s: the reset is when all of them are back.
        limit_fields("rpd", "x-ratelimit-{}-requests", full=True),
        limit_fields("tpm", "x-ratelimit-{}-tokens", full=True),
    ),
    rules=(
        rule(Cause.INVALID, 400, 401, 403, when={"code": "organization_restricted"}, scope=Scope.GROUP),
        # Not verified: what its page on spending limits says of a limit that is reached.
        rule(Cause.BILLING, 400, 403, when={"code": "blocked_api_access"}),
        rule(Cause.UNSUPPORTED, 403, when={"code": "model_permission_blocked_(?:org|project)"}),
        rule(Cause.EXHAUSTED, 498),
        rule(Cause.OVERLOAD, 503, when={"code": "over_capacity|service_unavailable"}),
        rule(Cause.REQUEST, 413, when={"code": "request_too_large"}),
        *OPENAI_RULES,
    ),
    known=patterns({"type": f"{TYPES}|seconds|permissions_error|internal_server_error|service_unavailable"}),
    waits=(("message", "sentence"),),
    sizes=replace(OPENAI_SIZES, counts="sum", usage=("usage", "x_groq.usage")),
)
