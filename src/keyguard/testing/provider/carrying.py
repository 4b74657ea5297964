"""How a response is sent: over ASGI, where clients may leave, or collected in one go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from keyguard.testing.play import Played
from keyguard.testing.provider.plan import Plan
from keyguard.testing.provider.received import Record
from keyguard.testing.provider.scripted import Reset, Stall

Pairs: TypeAlias = tuple[tuple[str, str], ...]
Planner: TypeAlias = Callable[[str, str, str, Pairs, bytes], Plan]

_MOST_BODY = 1 << 20
RESET = "keyguard.reset"
"""The extension by which a server lets an app reset the connection."""


def collected(
    planner: Planner, record: Record, method: str, path: str, query: str, headers: Pairs, body: bytes
) -> Played:
    """Return the response, or raise what a client would see."""
    end = record.begin()
    try:
        plan = planner(method, path, query, headers, body)
        for each in (plan.before, *plan.pieces):
            if isinstance(each, Reset):
                raise ConnectionResetError("the script has the connection reset")
            if isinstance(each, Stall):
                raise TimeoutError(f"the script stalls for {each.seconds} s")
        return Played(plan.status, list(plan.headers), b"".join([p for p in plan.pieces if isinstance(p, bytes)]))
    finally:
        end()


async def carry(
    planner: Planner, record: Record, scope: Any, receive: Any, send: Any, *, latency: float, pace: float
) -> None:
    """Answer what a server asks."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
    elif scope["type"] == "http":
        end = record.begin()
        try:
            await _Sending(record, scope, receive, send).answer(planner, latency, pace)
        finally:
            end()


class _Left(Exception):
    """The client has left."""


class _Sending:
    def __init__(self, record: Record, scope: Any, receive: Any, send: Any) -> None:
        self.record = record
        self.scope = scope
        self.receive = receive
        self.send = send

    async def answer(self, planner: Planner, latency: float, pace: float) -> None:
        try:
            body = await self._body()
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"])
            query = self.scope["query_string"].decode("latin-1")
            plan = planner(self.scope["method"], self.scope["path"], query, headers, body)
            await self._stand_still(latency)
            await self._sent(plan, pace)
        except _Left:
            self.record.left += 1

    async def _sent(self, plan: Plan, pace: float) -> None:
        if plan.before is not None and await self._disturbed(plan.before):
            return
        fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in plan.headers]
        await self.send({"type": "http.response.start", "status": plan.status, "headers": fields})
        streams = plan.status == 200 and not any(name == "content-length" for name, _ in plan.headers)
        for piece in plan.pieces:
            if not isinstance(piece, bytes):
                if await self._disturbed(piece):
                    return
                continue
            await self.send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._stand_still(pace if streams else 0)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _disturbed(self, by: Stall | Reset) -> bool:
        """Do it, and return whether the connection is gone."""
        if isinstance(by, Stall):
            await self._stand_still(by.seconds)
            return False
        reset = self.scope.get("extensions", {}).get(RESET)
        if reset is None:
            raise ConnectionResetError("the script has the connection reset")
        reset()
        await self._gone(5.0)
        return True

    async def _stand_still(self, seconds: float) -> None:
        if seconds and await self._gone(seconds):
            raise _Left

    async def _gone(self, seconds: float) -> bool:
        """Wait, and return whether the client has left meanwhile."""
        import asyncio

        try:
            async with asyncio.timeout(seconds):
                while (await self.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        return True

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise _Left
            more = message.get("more_body", False)
            size += len(message.get("body", b""))
            if size <= _MOST_BODY:
                parts.append(message.get("body", b""))
        return b"".join(parts)


async def _live(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
