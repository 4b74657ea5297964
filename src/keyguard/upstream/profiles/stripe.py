"""Stripe's API."""

from __future__ import annotations

from keyguard.upstream.causes import Scope
from keyguard.upstream.profiles.profile import Cause, Profile, patterns, rule

STRIPE = Profile(
    name="stripe",
    origins=("https://api.stripe.com",),
    rules=(
        rule(Cause.INVALID, 401),
        # An object is locked by another request, or has a limit of its own: that is nothing of the key.
        rule(Cause.REQUEST, 429, when={"code": "lock_timeout"}),
        # Not verified: the reasons that this field may tell.
        rule(Cause.REQUEST, 429, fields={"stripe-rate-limited-reason": "resource-specific"}),
        rule(Cause.EXHAUSTED, 429, scope=Scope.GROUP),
        # A card was declined: no money of ours is meant.
        rule(Cause.REQUEST, 402),
        rule(Cause.UNSUPPORTED, 403),
        rule(Cause.REQUEST, 400, 404, 409, 424),
        rule(Cause.SYSTEM, 500, 502, 503, 504, when={"type": "api_error"}),
    ),
    known=patterns({"type": "(?:api|card|idempotency|invalid_request|rate_limit|authentication)_error"}),
)
