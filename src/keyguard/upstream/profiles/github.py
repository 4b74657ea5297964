"""GitHub's API."""

from __future__ import annotations

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Profile, limit_fields, patterns, rule

GITHUB = Profile(
    name="github",
    origins=("https://api.github.com",),
    takes_off_query=("access_token",),
    error_at=("",),
    fields=(
        # Searches have fields of the same names and a limit of their own, and would make this one look smaller.
        limit_fields("rph", "x-ratelimit-{}", reads="moment", only=("x-ratelimit-resource", frozenset({"core"}))),
    ),
    rules=(
        rule(Cause.INVALID, 401),
        # Going on may have a caller banned: "wait for at least one minute", and longer each time.
        rule(
            Cause.EXHAUSTED,
            *(403, 429),
            when={"documentation_url": ".{0,300}#(?:about-)?(?:secondary|abuse)-rate-limits"},
            scope=Scope.GROUP,
            otherwise=60,
        ),
        rule(
            Cause.EXHAUSTED,
            *(403, 429),
            when={"message": "You have (?:exceeded a secondary rate limit|triggered an abuse detection mechanism).*"},
            scope=Scope.GROUP,
            otherwise=60,
        ),
        rule(Cause.EXHAUSTED, 403, 429, fields={"x-ratelimit-remaining": "0"}, until="x-ratelimit-reset"),
        rule(Cause.EXHAUSTED, 403, fields={"retry-after": ".+"}, scope=Scope.GROUP),
        rule(Cause.EXHAUSTED, 429, scope=Scope.GROUP, otherwise=60),
        # It has no code: the opening words are all that tells.
        rule(Cause.INVALID, 403, when={"message": "Sorry. Your account was suspended.*"}),
        rule(Cause.UNSUPPORTED, 403, when={"message": ".+"}),
    ),
    known=patterns({"status": "[0-9]{3}"}),
)
