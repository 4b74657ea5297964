"""Any API: HTTP's own words, and the fields of the drafts on rate limits."""

from __future__ import annotations

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Profile, patterns, rule

_PROBLEM = r"https?://(?:www\.)?iana\.org/assignments/http-problem-types/?#"
"""Problem types of draft-ietf-httpapi-ratelimit-headers-11, section 6."""

GENERIC = Profile(
    name="generic",
    draft_fields=True,
    rules=(
        rule(Cause.EXHAUSTED, 429, 403, 503, when={"type": f"{_PROBLEM}quota-exceeded"}),
        rule(Cause.OVERLOAD, 429, 503, when={"type": f"{_PROBLEM}temporary-reduced-capacity"}),
        rule(Cause.EXHAUSTED, 429, 403, when={"type": f"{_PROBLEM}abnormal-usage-detected"}, scope=Scope.GROUP),
        # A way of many APIs, GitHub's among them, to say what 429 says.
        rule(Cause.EXHAUSTED, 403, fields={"x-ratelimit-remaining": "0"}),
        rule(Cause.EXHAUSTED, 403, fields={"ratelimit-remaining": "0"}),
        rule(Cause.EXHAUSTED, 403, fields={"retry-after": ".+"}),
        rule(Cause.BILLING, 402),
    ),
    # Codes of an API of which nothing is known tell nothing: its statuses do.
    known=patterns({"type": ".*", "code": ".*", "status": ".*"}),
    waits=(("retry_after", "moment"), ("retryAfter", "moment")),
)
