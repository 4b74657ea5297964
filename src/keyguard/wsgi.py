"""The guards as single WSGI middleware classes, to stack one by one.

    app.wsgi_app = keyguard.wsgi.RateLimit(app.wsgi_app, "100/minute", by="ip")

Each takes the arguments of its guard and, by keyword, those of `Keyguard` (`store`, `trusted_proxies`, ...). Layers
share one state of the request, the identity above all, through the environ. The wrapper put on last is outermost, so
what finds the identity is put on after what needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Unpack

from keyguard import guards
from keyguard.drivers.wsgi.driver import WSGIApp, WSGIDriver
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


class APIKeys(WSGIDriver):
    """`keyguard.APIKeys` around a WSGI app."""

    def __init__(self, app: WSGIApp, **options: Unpack[APIKeysOptions]) -> None:
        self.guard, self.stack = stack_of(guards.APIKeys, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class Ban(WSGIDriver):
    """`keyguard.Ban` around a WSGI app."""

    def __init__(self, app: WSGIApp, **options: Unpack[BanOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Ban, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class Concurrency(WSGIDriver):
    """`keyguard.Concurrency` around a WSGI app."""

    def __init__(self, app: WSGIApp, limit: int, **options: Unpack[ConcurrencyOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Concurrency, (limit,), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class IPFilter(WSGIDriver):
    """`keyguard.IPFilter` around a WSGI app."""

    def __init__(
        self,
        app: WSGIApp,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        **options: Unpack[IPFilterOptions],
    ) -> None:
        self.guard, self.stack = stack_of(guards.IPFilter, (allow, deny), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class Overload(WSGIDriver):
    """`keyguard.Overload` around a WSGI app."""

    def __init__(self, app: WSGIApp, **options: Unpack[OverloadOptions]) -> None:
        self.guard, self.stack = stack_of(guards.Overload, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class RateLimit(WSGIDriver):
    """`keyguard.RateLimit` around a WSGI app."""

    def __init__(
        self, app: WSGIApp, *rates: Rates | Callable[[Request], Any], **options: Unpack[RateLimitOptions]
    ) -> None:
        self.guard, self.stack = stack_of(guards.RateLimit, rates, options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class ResponseCache(WSGIDriver):
    """`keyguard.ResponseCache` around a WSGI app."""

    def __init__(self, app: WSGIApp, **options: Unpack[ResponseCacheOptions]) -> None:
        self.guard, self.stack = stack_of(guards.ResponseCache, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class TokenBudget(WSGIDriver):
    """`keyguard.TokenBudget` around a WSGI app."""

    def __init__(
        self, app: WSGIApp, *rates: Rates | Callable[[Request], Any], **options: Unpack[TokenBudgetOptions]
    ) -> None:
        self.guard, self.stack = stack_of(guards.TokenBudget, rates, options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))


class UpstreamCauses(WSGIDriver):
    """`keyguard.UpstreamCauses` around a WSGI app."""

    def __init__(self, app: WSGIApp, **options: Unpack[UpstreamCausesOptions]) -> None:
        self.guard, self.stack = stack_of(guards.UpstreamCauses, (), options)
        super().__init__(app, self.stack.engine(app, asynchronous=False))
