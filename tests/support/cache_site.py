"""An app behind a cache, the same in both worlds, that says what a test tells it to and notes what it is asked."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from keyguard import Keyguard, ResponseCache
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, aask, ask_wsgi

WORLDS = ("asgi", "wsgi")

# What the WSGI linter takes for faults, and RFC 9110 does not (sections 8.6, 8.8.2, 9.3.2 and 15.4.5), or for the
# cache's where the app said it.
_NO_FAULTS = ("Entity header 'last-modified'", "204 responses must have", "Unquoted etag")


class Broken(Exception):
    """What the app raises where it is told to."""


@dataclass(frozen=True)
class Reply:
    """What the app says."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    parts: tuple[bytes, ...] = (b"hello",)
    breaks: bool = False
    """Raise after the parts; where there are none, before the head."""

    @property
    def body(self) -> bytes:
        return b"".join(self.parts)


def ok(control: str | None = None, *headers: tuple[str, str], body: bytes | tuple[bytes, ...] = b"hello", **more: Any) -> Reply:  # fmt: skip # noqa: E501
    """A 200 with a `Cache-Control`, other fields, and a body that has a length unless it comes in parts."""
    fields = list(headers) if control is None else [("Cache-Control", control), *headers]
    if isinstance(body, bytes):
        fields.append(("Content-Length", str(len(body))))
        body = (body,)
    return Reply(headers=tuple(fields), parts=body, **more)


def status(code: int, control: str | None = None, *headers: tuple[str, str], body: bytes = b"hello") -> Reply:
    """The same with another status."""
    made = ok(control, *headers, body=b"" if code in (204, 304) else body)
    if code in (204, 304):
        made = replace(made, headers=tuple(pair for pair in made.headers if pair[0] != "Content-Length"), parts=(b"",))
    return replace(made, status=code)


@dataclass
class Seen:
    """One request as the app got it."""

    method: str
    target: str
    headers: dict[str, str]
    scope: Any = field(repr=False)


class Site:
    """An app behind a stack. `reply` is what the app says: a `Reply`, or a function of `Seen`."""

    def __init__(
        self,
        world: str,
        *,
        stack: Callable[[ResponseCache], list[Any]] = lambda cache: [cache],
        inside: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        self.world = world
        self.clock = ManualClock()
        self.cache = ResponseCache(**options)
        self.stack = Keyguard(*stack(self.cache), store=MemoryStore(clock=self.clock), clock=self.clock)
        self.reply: Reply | Callable[[Seen], Reply] = ok()
        self.seen: list[Seen] = []
        self.closed = 0
        app: Any = self._asgi if world == "asgi" else self._wsgi
        if inside is not None:
            app = inside(app)
        self.app = self.stack.asgi(app) if world == "asgi" else self.stack.wsgi(app)
        self.runner = asyncio.Runner()

    @property
    def calls(self) -> int:
        return len(self.seen)

    # -- the app ------------------------------------------------------------------------------------------------

    def _reply(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        reply = self.reply(seen) if callable(self.reply) else self.reply
        if reply.breaks and not reply.parts:
            raise Broken("before the head")
        return reply

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        seen = Seen(scope["method"], scope["path"] + ("?" + query if query else ""), headers, scope)
        reply = self._reply(seen)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        if seen.method != "HEAD":
            for part in reply.parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        if reply.breaks:
            raise Broken("after half a body")
        await send({"type": "http.response.body", "body": b""})

    def _wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        headers = {name[5:].lower().replace("_", "-"): text for name, text in environ.items() if name[:5] == "HTTP_"}
        query = environ["QUERY_STRING"]
        seen = Seen(environ["REQUEST_METHOD"], environ["PATH_INFO"] + ("?" + query if query else ""), headers, environ)
        reply = self._reply(seen)
        start_response(f"{reply.status} Said", list(reply.headers))
        return _Body(self, () if seen.method == "HEAD" or reply.status == 304 else reply.parts, reply.breaks)

    # -- asking it ----------------------------------------------------------------------------------------------

    def ask(self, ask: Ask, *, lint: bool = True) -> Answer:
        if self.world == "asgi":
            return self.runner.run(aask(self.app, ask, lint=lint))
        with warnings.catch_warnings():
            for text in _NO_FAULTS if ask.method != "HEAD" else (*_NO_FAULTS, "Content-Length and the number"):
                warnings.filterwarnings("ignore", text)
            return ask_wsgi(self.app, ask, lint=lint)

    def get(self, target: str = "/", *headers: tuple[str, str], **more: Any) -> Answer:
        return self.ask(Ask(target, headers, **more))

    def settle(self) -> None:
        """Until nothing runs in the background any more."""

        async def tasks() -> None:
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.gather(*others, return_exceptions=True)

        self.runner.run(tasks())
        for thread in threading.enumerate():
            if thread.name == "keyguard-detached":
                thread.join(10)

    def close(self) -> None:
        self.runner.close()

    # -- stories ------------------------------------------------------------------------------------------------

    def play(self, *turns: Turn) -> Answer:
        """Play the turns of a story, and look at each answer."""
        answer: Any = None
        for number, turn in enumerate(turns, 1):
            self.clock.advance(turn.wait)
            self.reply, before = turn.reply or ok("no-store", body=b"not to be asked"), self.calls
            answer = self.ask(turn.ask)
            told = f"turn {number}: {answer}"
            assert self.calls - before == (turn.reply is not None), (
                f"the app was asked {self.calls - before} times, {told}"
            )
            if turn.status is not None:
                assert answer.status == turn.status, told
            if turn.body is not None:
                assert answer.body == turn.body, told
            for name, value in turn.has.items():
                assert answer.get(name.replace("_", "-")) == value, f"{name}, {told}"
            if turn.sent is not None:
                got = self.seen[-1].headers
                assert {name: got.get(name) for name in turn.sent} == turn.sent, f"the app was sent {got}"
            self.settle()
        return answer


class _Body:
    def __init__(self, site: Site, parts: Iterable[bytes], breaks: bool) -> None:
        self.site = site
        self.parts = iter(parts)
        self.breaks = breaks

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        for part in self.parts:
            return part
        if self.breaks:
            raise Broken("after half a body")
        raise StopIteration

    def close(self) -> None:
        self.site.closed += 1


@dataclass(frozen=True)
class Turn:
    """One request of a story. `reply` is what the app says; `None`: it must not be asked."""

    ask: Ask
    reply: Reply | None
    status: int | None = 200
    body: bytes | None = None
    wait: float = 0
    """Seconds that pass before it."""
    sent: dict[str, str | None] | None = None
    """Fields that the app must have been sent; `None` for one that it must not."""
    has: dict[str, str | None] = field(default_factory=dict)


def get(target: str = "/", *headers: tuple[str, str], **more: Any) -> Ask:
    return Ask(target, headers, **more)


PAGE = get()


def asks(ask: Ask, reply: Reply, *, wait: float = 0, status: int | None = 0, body: bytes | None = None, sent: Any = None, **has: str | None) -> Turn:  # fmt: skip # noqa: E501
    """The app must be asked, and says this."""
    return Turn(ask, reply, reply.status if status == 0 else status, body, wait, sent, has)


def served(ask: Ask, body: bytes | None = b"hello", *, wait: float = 0, status: int = 200, **has: str | None) -> Turn:
    """It must be answered without the app."""
    return Turn(ask, None, status, body, wait, None, has)
