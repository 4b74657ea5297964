"""The ASGI driver: an ASGI app that stands around another one. A request's way is in `asgi_exchange.py`."""

from __future__ import annotations

from typing import Any

from keyguard.drivers.asgi_detached import call, detach, end_detached, wait
from keyguard.drivers.asgi_exchange import ASGIApp as ASGIApp
from keyguard.drivers.asgi_exchange import Exchange, Message, Receive, Send, start_settling
from keyguard.drivers.asgi_handshake import Handshake
from keyguard.drivers.asgi_request import ASGIRequest, Scope, WebSocketRequest
from keyguard.drivers.engine import Engine
from keyguard.flow import Detach
from keyguard.request import SHARED, Deferred
from keyguard.stores.fork import check_process


class ASGIDriver:
    """An ASGI app: guards around another ASGI app."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine
        engine.late = self._settle_late
        engine.wait = wait
        engine.detach = self._detach
        engine.call = call

    def _settle_late(self, work: Deferred) -> None:
        start_settling(self.engine, [work])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_process()
        kind = scope["type"]
        if kind == "http":
            instant = self.engine.instant
            messages = None if instant is None else instant(scope)
            if messages is not None:
                head, body = messages
                await send(head)
                await send(body)
                return
            await Exchange(self.app, self.engine, ASGIRequest(scope, self.engine), receive, send).run()
        elif kind == "websocket":
            await Handshake(self.app, self.engine, WebSocketRequest(scope, self.engine), receive, send).run()
        elif kind == "lifespan":
            await self._lifespan(scope, receive, send)
        else:
            # What is not known cannot be guarded, so it does not reach the app.
            raise RuntimeError(f"keyguard does not know the ASGI scope type {kind!r}")

    def _detach(self, step: Detach) -> bool:
        return detach(self.app, self.engine, step)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the app's lifespan on; close the store after it. Refuse to start a stack that lacks a layer."""
        engine = self.engine
        outer: frozenset[str] = scope.get(SHARED, frozenset())
        missing = engine.needs - outer
        if missing:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": missing_layer(missing)})
            return
        scope[SHARED] = outer | engine.provides

        async def ending() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await end_detached()  # while the app still has what they need
            return message

        async def closing(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await close_store(engine.store)
            await send(message)

        await self.app(scope, ending, closing)


async def close_store(store: Any) -> None:
    """Close a store, if it can be, with what it holds of this event loop."""
    close = getattr(store, "aclose", None) or getattr(store, "close", None)
    closing = None if close is None else close()
    if closing is not None:
        await closing


def missing_layer(missing: frozenset[str]) -> str:
    """What to tell the developer whose stack lacks a layer further out."""
    return (
        f"keyguard: a guard needs {', '.join(sorted(missing))}; put APIKeys outside it (added later, in add_middleware)"
    )
