"""The guards as ASGI middleware classes of their own, to stack one by one.

    app.add_middleware(keyguard.asgi.RateLimit, "100/minute", by="ip")

Each takes the arguments of its guard and, by keyword, those of `Keyguard` (`store`, `trusted_proxies`, ...). Layers
see each other's findings, the identity above all, through the scope. Starlette puts the middleware added last
outermost, so what finds the identity is added after what needs it.
"""

from __future__ import annotations

from typing import Any

from keyguard import guards
from keyguard.drivers.asgi.driver import ASGIApp, ASGIDriver
from keyguard.stack.layers import stack_of

__all__ = ["APIKeys", "IPFilter", "RateLimit", "ResponseCache"]


class APIKeys(ASGIDriver):
    """`keyguard.APIKeys` around an ASGI app."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        self.guard, stack = stack_of(guards.APIKeys, args, options)
        super().__init__(app, stack.engine(app, asynchronous=True))


class IPFilter(ASGIDriver):
    """`keyguard.IPFilter` around an ASGI app."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        self.guard, stack = stack_of(guards.IPFilter, args, options)
        super().__init__(app, stack.engine(app, asynchronous=True))


class RateLimit(ASGIDriver):
    """`keyguard.RateLimit` around an ASGI app."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        self.guard, stack = stack_of(guards.RateLimit, args, options)
        super().__init__(app, stack.engine(app, asynchronous=True))


class ResponseCache(ASGIDriver):
    """`keyguard.ResponseCache` around an ASGI app."""

    def __init__(self, app: ASGIApp, *args: Any, **options: Any) -> None:
        self.guard, stack = stack_of(guards.ResponseCache, args, options)
        super().__init__(app, stack.engine(app, asynchronous=True))
