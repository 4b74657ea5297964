"""The transports of httpx and httpx2, which are two libraries of one shape.

Neither is imported: the type of the first request tells of which one it is, and what really sends is made of that. So
`pool.transport()` serves clients of both, and has no base class of either.

- The request is copied. Clients build redirects from the one that they gave.
- What sends speaks HTTP/1 unless it is told otherwise: hpack logs header fields at DEBUG.
- A body passes chunk for chunk as it comes. Only that of an error is read before, and a stream up to its first event,
  which may be an error too; its caller reads all of it afterwards.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, NoReturn, Self

from keyguard.upstream.transports.driving import adrive, drive
from keyguard.upstream.transports.httpx.body import AsyncBody, SyncBody
from keyguard.upstream.transports.httpx.call import AsyncCall, SyncCall
from keyguard.upstream.transports.httpx.connections import Shared

_FAMILIES = ("httpx", "httpx2")
_AWAITS = "a client that awaits is given pool.async_transport(), and not pool.transport()"
_AWAITS_NOT = "a client that does not await is given pool.transport(), and not pool.async_transport()"


class PoolTransport(Shared):
    """Sends the requests of an `httpx.Client`, or one of httpx2, with the keys of a pool: its `transport=`.

    One that the pool gives up is answered: by the provider's last refusal, or by a 429 of the same shape. Only what
    goes to an origin of the pool is given a key.
    """

    _kind = "HTTPTransport"

    def handle_request(self, request: Any) -> Any:
        """Send one request."""
        family = family_of(request)
        call = SyncCall(self._pool, family, request)
        call.inner = self._inner(family, call.origin)
        if not call.is_ours:
            return call.inner.handle_request(call.copy(None))
        return call.returned(drive(self._pool, call.asked(), call), SyncBody)

    async def handle_async_request(self, request: Any) -> NoReturn:
        raise TypeError(_AWAITS)

    async def __aenter__(self) -> NoReturn:
        raise TypeError(_AWAITS)

    def close(self) -> None:
        """Close all connections. It can be used again."""
        for inner in self._forget():
            inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncPoolTransport(Shared):
    """Does the same for an `httpx.AsyncClient`, or one of httpx2, on asyncio or trio."""

    _kind = "AsyncHTTPTransport"

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request."""
        family = family_of(request)
        call = AsyncCall(self._pool, family, request)
        call.inner = self._inner(family, call.origin)
        if not call.is_ours:
            return await call.inner.handle_async_request(call.copy(None))
        return call.returned(await adrive(self._pool, call.asked(), call), AsyncBody)

    def handle_request(self, request: Any) -> NoReturn:
        raise TypeError(_AWAITS_NOT)

    def __enter__(self) -> NoReturn:
        raise TypeError(_AWAITS_NOT)

    async def aclose(self) -> None:
        """Close all connections. It can be used again."""
        for inner in self._forget():
            await inner.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def family_of(request: Any) -> ModuleType:
    """Return the library that a request is of: `httpx` or `httpx2`."""
    for kind in type(request).__mro__:
        name = kind.__module__.partition(".")[0]
        if name in _FAMILIES:
            return sys.modules[name]
    raise TypeError(f"a request of httpx or httpx2 is sent here, not {type(request).__name__}")
