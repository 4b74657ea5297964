"""What the tests of the shared cache have in common: processes with stores of their own, in front of one server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.ops import Op
from keyguard.stores import open_store
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, aask, ask_wsgi

SHARED = ("sqlite", "valkey", "redis6", "cluster", "postgres")
HOST = "http://example.test"

_numbers = itertools.count()

Fields = list[tuple[str, str]]


@contextlib.contextmanager
def store_url(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A store that nobody else uses, with time enough for a machine that is busy."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/cache{next(_numbers)}.db?timeout=1"
        return
    server = request.getfixturevalue(kind)
    name = f"cache_{os.getpid()}_{next(_numbers)}"
    if kind != "postgres":
        yield f"{server.url}?namespace={name}&timeout=1"
        return
    store = PostgresStore(server.url, schema=name)
    store.migrate()
    try:
        yield f"{server.url}?schema={name}&timeout=1"
    finally:
        server.query(f"DROP SCHEMA {name} CASCADE")


class Node:
    """One process of an app: a stack and a store of its own. `answer` is what its app says."""

    def __init__(self, url: str, world: str, runner: asyncio.Runner, clock: ManualClock, **options: Any) -> None:
        self.store: Any = open_store(url)
        self.world = world
        self.runner = runner
        self.guards = [ResponseCache(**options)]
        self.stack = Keyguard(*self.guards, store=self.store, clock=clock)
        self.calls = 0
        self.status = 200
        self.fields: Fields = [("Cache-Control", "max-age=600")]
        self.body: Callable[[Node], bytes] = lambda node: b"%s %d" % (node.store_name, node.calls)
        self.store_name = b"n%d" % next(_numbers)
        self.meanwhile: Callable[[], None] = lambda: None
        """Called while the app runs."""

    @cached_property
    def asgi(self) -> Any:
        """Its app. What an app refers to is looked through when a stack is put around it: of two that is not needed."""
        return self.stack.asgi(self._asgi)

    @cached_property
    def wsgi(self) -> Any:
        return self.stack.wsgi(self._wsgi)

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        await asyncio.to_thread(self.meanwhile)
        headers = [(name.lower().encode(), value.encode()) for name, value in self._fields()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body(self)})

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.calls += 1
        self.meanwhile()
        start_response(f"{self.status} Whatever", self._fields())
        return [self.body(self)]

    def _fields(self) -> Fields:
        return [("Content-Type", "text/plain"), ("Content-Length", str(len(self.body(self)))), *self.fields]

    def ask(self, target: str = "/x", method: str = "GET", **headers: str) -> Answer:
        ask = Ask(target, tuple((name.replace("_", "-"), value) for name, value in headers.items()), method)
        if self.world == "wsgi":
            return ask_wsgi(self.wsgi, ask)
        return self.runner.run(aask(self.asgi, ask))

    def get(self, target: str = "/x", **headers: str) -> tuple[bytes, str]:
        """The body, and whether it was a hit."""
        answer = self.ask(target, **headers)
        assert answer.status == 200, answer
        return answer.body, (answer.get("cache-status") or "").split("; ")[1]

    def close(self) -> None:
        if hasattr(self.store, "aclose"):
            self.runner.run(self.store.aclose())
        self.store.close()


class Nodes:
    """Nodes on one store."""

    def __init__(self, kind: str, world: str, url: str, runner: asyncio.Runner) -> None:
        self.kind, self.world, self.url, self.runner = kind, world, url, runner
        self.clock = ManualClock()
        self.made: list[Node] = []

    def node(self, **options: Any) -> Node:
        made = Node(self.url, self.world, self.runner, self.clock, **options)
        self.made.append(made)
        return made

    def pair(self, **options: Any) -> tuple[Node, Node]:
        return self.node(**options), self.node(**options)

    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)

    def close(self) -> None:
        for node in self.made:
            node.close()


class Trips:
    """Counts what is sent to stores of any kind: a trip is what must come back before the next thing can be asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        self.count = 0
        if kind in ("valkey", "redis6", "cluster"):
            from keyguard.stores.redis.async_connection import LoopLink
            from keyguard.stores.redis.sync_connection import ThreadLink

            for link in (LoopLink, ThreadLink):
                self._count(monkeypatch, link, "ask")
        elif kind == "postgres":
            self._count(monkeypatch, PostgresStore, "_submit")
        else:
            self._count(monkeypatch, SQLiteStore, "_at_once")

    def _count(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        original = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    def of(self, work: Callable[[], Any]) -> int:
        before = self.count
        work()
        return self.count - before


def everything(store: Any) -> list[tuple[str, bytes, int | None]]:
    """All that stands in a store."""
    return list(store.dump(""))


def run_op(node: Node, *ops: Op[Any]) -> list[Any]:
    found: list[Any] = node.store.execute(list(ops))
    return found
