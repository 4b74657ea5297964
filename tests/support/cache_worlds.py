"""One app and one way of asking it for both worlds, for tests of what stands between several requests: the cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from keyguard import Keyguard, asgi, wsgi
from keyguard.drivers.asgi import background as asgi_detached
from keyguard.drivers.asgi.driver import close_store
from tests.support.harness import Answer, Ask, aask, ask_wsgi


@dataclass(frozen=True)
class Seen:
    """A request as the app sees it."""

    method: str
    path: str
    query: str
    fields: dict[str, str]
    scope: Any = field(repr=False, compare=False)
    """The ASGI scope or the WSGI environ."""


Reply = tuple[int, list[tuple[str, str]], bytes]


class Origin:
    """An app for both worlds: `reply` makes the answer, and the requests that reached it are noted."""

    def __init__(self, reply: Callable[[Seen], Any]) -> None:
        self.reply = reply
        """Under ASGI it may be a coroutine function."""
        self.seen: list[Seen] = []

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        seen = Seen(scope["method"], scope["path"], scope["query_string"].decode(), fields, scope)
        self.seen.append(seen)
        reply = self.reply(seen)
        if asyncio.iscoroutine(reply):
            reply = await reply
        status, headers, body = reply
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b"" if seen.method == "HEAD" else body})

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        fields = {name[5:].lower().replace("_", "-"): text for name, text in environ.items() if name[:5] == "HTTP_"}
        seen = Seen(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], fields, environ)
        self.seen.append(seen)
        status, headers, body = self.reply(seen)
        start_response(f"{status} Status", headers)
        return [] if seen.method == "HEAD" or status == 304 else [body]


class World:
    """ASGI or WSGI: how guards are put around an app there, and how it is asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._runner = asyncio.Runner()

    def app(self, origin: Origin) -> Any:
        return origin.asgi if self.name == "asgi" else origin.wsgi

    def wrap(self, guard: Keyguard, app: Any) -> Any:
        return guard.asgi(app) if self.name == "asgi" else guard.wsgi(app)

    def layer(self, name: str, app: Any, *args: Any, **options: Any) -> Any:
        """One guard as a middleware class of its own."""
        return getattr(asgi if self.name == "asgi" else wsgi, name)(app, *args, **options)

    def ask(self, app: Any, ask: Ask, *, lint: bool = True) -> Answer:
        if self.name == "asgi":
            return self._runner.run(aask(app, ask, lint=lint))
        # The linter takes a HEAD for a GET when it compares Content-Length with the body.
        return ask_wsgi(app, ask, lint=lint and ask.method != "HEAD")

    def ask_in_turn(self, asks: Iterable[tuple[Any, Ask]]) -> list[Answer]:
        """Many requests, one after the other, quickly."""
        if self.name == "wsgi":
            return [ask_wsgi(app, ask, lint=False) for app, ask in asks]

        async def in_turn() -> list[Answer]:
            return [await aask(app, ask, lint=False) for app, ask in asks]

        return self._runner.run(in_turn())

    def ask_together(self, app: Any, asks: list[Ask], meanwhile: Callable[[], Any] = lambda: None) -> list[Answer]:
        """Several requests at the same time; `meanwhile` runs in another thread."""
        if self.name == "wsgi":
            answers: list[Any] = [None] * len(asks)

            def one(place: int) -> None:
                answers[place] = ask_wsgi(app, asks[place])

            threads = [threading.Thread(target=one, args=(place,)) for place in range(len(asks))]
            for thread in threads:
                thread.start()
            meanwhile()
            for thread in threads:
                thread.join(20)
            return answers

        async def all_of_them() -> list[Answer]:
            beside = asyncio.get_running_loop().run_in_executor(None, meanwhile)
            try:
                return await asyncio.gather(*[aask(app, ask) for ask in asks])
            finally:
                await beside

        return self._runner.run(all_of_them())

    def settle(self) -> None:
        """Until nothing runs in the background any more."""

        async def tasks() -> None:
            while asgi_detached._detached:
                await asyncio.gather(*asgi_detached._detached)

        if self.name == "asgi":
            self._runner.run(tasks())
        for thread in threading.enumerate():
            if thread.name == "keyguard-detached":
                thread.join(10)

    def close_stores(self, *stores: Any) -> None:
        for store in stores:
            if self.name == "asgi":
                self._runner.run(close_store(store))
            elif hasattr(store, "close"):
                store.close()

    def close(self, *stores: Any) -> None:
        self.close_stores(*stores)
        self._runner.close()


@contextmanager
def world(name: str, *stores: Any) -> Iterator[World]:
    """A world, and its end with that of the stores that were used in it."""
    made = World(name)
    try:
        yield made
    finally:
        made.close(*stores)
