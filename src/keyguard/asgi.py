"""The guards as single ASGI middleware classes, to stack one by one.

    app.add_middleware(keyguard.asgi.RateLimit, "100/minute", by="ip")

Each takes the arguments of its guard and, by keyword, those of `Keyguard` (`store`, `trusted_proxies`, ...). Layers
share one state of the request, the identity above all, through the scope. Starlette puts the middleware added last
outermost, so what finds the identity is added after what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack

from keyguard import guards
from keyguard.drivers.asgi.driver import ASGIApp, ASGIDriver
from keyguard.stack.layers import stack_of

if TYPE_CHECKING:
    from keyguard.guards.rate_limit.guard import Rates
    from keyguard.request import Request
    from keyguard.stack.options import (
        APIKeysOptions,
        BanOptions,
        ConcurrencyOptions,
        IPFilterOptions,
        OverloadOptions,
        RateLimitOptions,
        ResponseCacheOptions,
        TokenBudgetOptions,
        UpstreamCausesOptions,
    )

__all__ = [
    "APIKeys",
    "Ban",
    "Concurrency",
    "IPFilter",
    "Overload",
    "RateLimit",
    "ResponseCache",
    "TokenBudget",
    "UpstreamCauses",
]


class APIKeys(ASGIDriver):
    """`keyguard.APIKeys` around an ASGI app."""

    def __init__(self, app: ASGIApp, **options: Unpack[APIKeysOptions]) -> None:
        self.guard, self.stack = stack_of(guards.APIKeys, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class Ban(ASGIDriver):
    """`keyguard.Ban` around an ASGI app."""

    def __init__(self, app: ASGIApp, **options: Unpack[BanOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Ban, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class Concurrency(ASGIDriver):
    """`keyguard.Concurrency` around an ASGI app."""

    def __init__(self, app: ASGIApp, limit: int, **options: Unpack[ConcurrencyOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Concurrency, (limit,), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class IPFilter(ASGIDriver):
    """`keyguard.IPFilter` around an ASGI app."""

    def __init__(
        self,
        app: ASGIApp,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        **options: Unpack[IPFilterOptions],
    ) -> None:
        self.guard, self.stack = stack_of(guards.IPFilter, (allow, deny), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class Overload(ASGIDriver):
    """`keyguard.Overload` around an ASGI app."""

    def __init__(self, app: ASGIApp, **options: Unpack[OverloadOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Overload, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class RateLimit(ASGIDriver):
    """`keyguard.RateLimit` around an ASGI app."""

    def __init__(
        self, app: ASGIApp, *rates: Rates | Callable[[Request], Any], **options: Unpack[RateLimitOptions]
    ) -> None:
        self.guard, self.stack = stack_of(guards.RateLimit, rates, options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class ResponseCache(ASGIDriver):
    """`keyguard.ResponseCache` around an ASGI app."""

    def __init__(self, app: ASGIApp, **options: Unpack[ResponseCacheOptions]) -> None:
        self.guard, self.stack = stack_of(guards.ResponseCache, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class TokenBudget(ASGIDriver):
    """`keyguard.TokenBudget` around an ASGI app."""

    def __init__(
        self, app: ASGIApp, *rates: Rates | Callable[[Request], Any], **options: Unpack[TokenBudgetOptions]
    ) -> None:
        self.guard, self.stack = stack_of(guards.TokenBudget, rates, options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))


class UpstreamCauses(ASGIDriver):
    """`keyguard.UpstreamCauses` around an ASGI app."""

    def __init__(self, app: ASGIApp, **options: Unpack[UpstreamCausesOptions]) -> None:
        self.guard, self.stack = stack_of(guards.UpstreamCauses, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=True))
