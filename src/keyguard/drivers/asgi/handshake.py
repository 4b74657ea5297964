"""A websocket handshake under ASGI: guarded as a request is, before it is accepted."""

from __future__ import annotations

from keyguard.drivers.asgi.exchange import IDLE, Exchange
from keyguard.drivers.asgi.messages import Message
from keyguard.drivers.asgi.request import ByteHeaders


class Handshake(Exchange):
    """A websocket handshake. Accepting is its head; refused, it gets a denial response or a close, which means 403."""

    def _head(self, message: Message) -> tuple[int, ByteHeaders] | None:
        kind = message["type"]
        if kind == "websocket.accept":
            return 101, ByteHeaders(message.get("headers") or ())
        if kind == "websocket.http.response.start":
            return message["status"], ByteHeaders(message.get("headers") or ())
        return (403, ByteHeaders(())) if kind == "websocket.close" else None

    def _is_last(self, message: Message) -> bool:
        return bool(message["type"] == "websocket.close")

    def _with_head(self, message: Message, status: int, raw: list[tuple[bytes, bytes]]) -> Message:
        if message["type"] == "websocket.accept":
            return {**message, "headers": raw}
        if message["type"] == "websocket.close":
            return message
        return super()._with_head(message, status, raw)

    async def _send_whole(self, status: int, raw: list[tuple[bytes, bytes]], body: bytes) -> None:
        if self.state == IDLE:
            await self.receive()  # the server's "websocket.connect"
        if "websocket.http.response" in (self.request.scope.get("extensions") or {}):
            await self.send_on({"type": "websocket.http.response.start", "status": status, "headers": raw})
            await self.send_on({"type": "websocket.http.response.body", "body": body})
        else:
            # 1008 policy violation, 1013 try again later (IANA WebSocket Close Code Number Registry).
            await self.send_on({"type": "websocket.close", "code": 1013 if status in (429, 503) else 1008})
