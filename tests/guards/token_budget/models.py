"""A model behind an app, in two worlds: it answers as it is told to, and keeps what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keyguard import Keyguard, TokenBudget
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_asgi, ask_wsgi

CALLER = "198.51.100.1"
ASK: dict[str, Callable[..., Any]] = {"asgi": ask_asgi, "wsgi": ask_wsgi}


class Reply:
    """An answer of a model: its status, type and parts. One that is an exception is raised in its turn."""

    def __init__(self, *parts: bytes | Exception, status: int = 200, kind: str = "application/json", **more: str):
        self.parts = parts
        self.status = status
        self.headers = {"content-type": kind, **{name.replace("_", "-"): value for name, value in more.items()}}


def whole(answer: Any, status: int = 200) -> Reply:
    """One object."""
    return Reply(json.dumps(answer).encode(), status=status)


def stream(*events: Any, end: str = "\n\n") -> Reply:
    """A stream of events, each of which is data, or a name and data."""
    parts = []
    for event in events:
        name, data = event if isinstance(event, tuple) else ("", event)
        text = data if isinstance(data, str) else json.dumps(data)
        line = end[: len(end) // 2]
        parts.append(((f"event: {name}{line}" if name else "") + f"data: {text}{end}").encode())
    return Reply(*parts, kind="text/event-stream; charset=utf-8")


def said(text: str) -> dict[str, Any]:
    """A piece of OpenAI's stream."""
    return {"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}}]}


def used(sent: Any, answered: Any, **more: Any) -> dict[str, Any]:
    """The last piece of it, with its usage."""
    return {"choices": [], "usage": {"prompt_tokens": sent, "completion_tokens": answered, **more}}


CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Model:
    """Answers one reply after the other, the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = [*replies]
        self.asked: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.closed = 0

    def take(self, body: bytes, head: dict[str, str]) -> Reply:
        self.asked.append(body)
        self.heads.append(head)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @property
    def last(self) -> Any:
        return json.loads(self.asked[-1])

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        head = {name.decode(): value.decode() for name, value in scope["headers"]}
        reply = self.take(body, head)
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for part in reply.parts:
            await asyncio.sleep(0)
            if isinstance(part, Exception):
                raise part
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        length = environ.get("CONTENT_LENGTH")
        body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read()
        head = {name.removeprefix("HTTP_").lower().replace("_", "-"): str(value) for name, value in environ.items()}
        reply = self.take(body, head)
        start_response(f"{reply.status} Any", [*reply.headers.items()])
        return Parts(self, reply)


class Parts:
    """The body of a reply under WSGI, which is closed once."""

    def __init__(self, model: Model, reply: Reply) -> None:
        self._model = model
        self._parts = self._made(reply)

    def _made(self, reply: Reply) -> Iterator[bytes]:
        for part in reply.parts:
            if isinstance(part, Exception):
                raise part
            yield part

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        self._model.closed += 1


class Site:
    """A budget around a model."""

    def __init__(self, world: str, model: Model, *rates: Any, around: Any = (), inside: Any = (), **settings: Any):
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.model = model
        self.budget = TokenBudget(*(rates or ("10000/day",)), **{"by": "ip", "name": "tokens", **settings})
        self.guard = Keyguard(*around, self.budget, *inside, store=self.store, clock=self.clock)
        self.app = getattr(self.guard, world)(getattr(model, world))
        self.world = world

    def ask(self, body: Any = CHAT, path: str = "/v1/chat/completions", **headers: str) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"content-type": "application/json", "content-length": str(len(data))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        ask = Ask(path, tuple(fields.items()), method="POST", body=data)
        try:
            return ASK[self.world](self.app, ask, lint=False)
        except (ValueError, AssertionError):
            return None

    @property
    def use(self) -> tuple[int, int]:
        """The units that are spent, and those that are held, as operators see it."""
        (use,) = self.guard.limits.peek(CALLER, by="ip")
        return use.spent, use.held
