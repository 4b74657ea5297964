"""One trip for a route's limits and those outside: the same answers as without, on a store that must be awaited."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient

from keyguard import APIKeys, Concurrency, Keyguard, RateLimit, StoreError
from keyguard.stack.expected_routes import Routes
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock


class Counting:
    """A store that must be awaited, and counts how often it is asked."""

    timeout = 1.0

    def __init__(self, clock: ManualClock) -> None:
        self._values = MemoryStore(clock=clock)
        self.trips = 0
        self.broken = False

    def execute(self, ops: Sequence[Any]) -> list[Any]:
        if self.broken:
            raise StoreError("broken")
        return self._values.execute(ops)

    async def aexecute(self, ops: Sequence[Any]) -> list[Any]:
        self.trips += 1
        return self.execute(ops)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return self._values.scan(prefix)


class Site:
    """An app with limits in its stack, at a router and at routes; `expecting` says whether these are asked together."""

    def __init__(self, *outer: Any, expecting: bool = True) -> None:
        self.clock = ManualClock()
        self.store = Counting(self.clock)
        self.guard = guard = Keyguard(
            *(outer or [RateLimit("30/minute", by="ip", name="outer")]), store=self.store, clock=self.clock
        )
        app = FastAPI()

        def fail() -> None:
            raise HTTPException(418)

        @app.get("/plain")
        async def plain() -> None: ...

        @app.get("/decorated")
        @guard.limit("3/minute")
        async def decorated(number: int = 0) -> None: ...

        @app.get("/items/special", dependencies=[Depends(guard.limit("2/minute", name="special"))])
        def special() -> None: ...

        router = APIRouter(prefix="/items", dependencies=[Depends(guard.limit("7/minute"))])

        @router.get("/{item}", dependencies=[Depends(guard.limit("4/minute", name="item"))])
        def item(item: str) -> None: ...

        @router.post("/{item}", dependencies=[Depends(fail), Depends(guard.limit("5/minute", name="never"))])
        def never(item: str) -> None: ...

        @app.get("/crash", dependencies=[Depends(self.crash), Depends(guard.limit("2/minute", name="crash"))])
        def crash() -> None: ...

        self.seen: list[list[str]] = []

        @app.get("/seen")
        @guard.limit("1/minute")
        async def see() -> None:
            self.seen.append([limit.name for limit in guard.here().limits])

        app.include_router(router)
        app.add_middleware(guard.asgi)
        self.app = app
        self.client = TestClient(app, client=("192.0.2.1", 1), raise_server_exceptions=False)
        with self.client:
            pass
        if not expecting:
            guard._innermost.routes = None
        self.store.trips = 0

    def crash(self) -> None:
        raise ValueError("crash")

    def ask(self, path: str, method: str = "GET", **headers: str) -> int:
        return self.client.request(method, path, headers=headers).status_code

    def trips(self, path: str, method: str = "GET") -> int:
        before = self.store.trips
        self.ask(path, method)
        return self.store.trips - before

    @property
    def spent(self) -> dict[str, int]:
        return {use.name: use.spent for use in self.guard.limits.peek("192.0.2.1") if use.spent}


PATHS = ["/plain", "/decorated", "/decorated?number=x", "/items/special", "/items/a", "/items/b", "/nothing", "/crash"]


def test_one_trip_for_an_outer_limit_and_all_limits_of_a_route() -> None:
    site, apart = Site(), Site(expecting=False)
    assert [site.trips(path) for path in ("/plain", "/decorated", "/items/a", "/items/special")] == [1, 1, 1, 1]
    assert [apart.trips(path) for path in ("/plain", "/decorated", "/items/a", "/items/special")] == [1, 2, 3, 2]
    assert (
        site.spent
        == apart.spent
        == {
            "outer:30/minute": 4,
            "decorated:3/minute": 1,
            "/items:7/minute": 1,
            "item:4/minute": 1,
            "special:2/minute": 1,
        }
    )


def test_fields_tell_the_same() -> None:
    answers = [site.client.get("/items/a").headers for site in (Site(), Site(expecting=False))]
    assert answers[0] == answers[1]
    assert answers[0]["RateLimit"].count("r=") == 3


@pytest.mark.parametrize(("path", "method"), [("/decorated?number=x", "GET"), ("/items/a", "POST"), ("/crash", "GET")])
def test_what_was_taken_for_a_rule_that_was_not_asked_is_given_back(path: str, method: str) -> None:
    site, apart = Site(), Site(expecting=False)
    assert site.ask(path, method) == apart.ask(path, method) >= 400
    assert site.spent == apart.spent


@pytest.mark.parametrize("seed", range(6))
def test_many_requests_get_the_same_answers_as_without(seed: int) -> None:
    draw = random.Random(seed)
    site, apart = Site(), Site(expecting=False)
    for _ in range(60):
        path, method = draw.choice(PATHS), draw.choice(["GET", "GET", "GET", "POST"])
        assert site.ask(path, method) == apart.ask(path, method), (path, method)
        assert site.spent == apart.spent, (path, method)
        assert site.spent.get("never:5/minute") is None
        if draw.random() < 0.1:
            for one in (site, apart):
                one.clock.advance("25 seconds")


def test_other_guards_beside_and_between() -> None:
    site, apart = (
        Site(RateLimit("20/minute", name="a"), Concurrency(1, by="ip"), RateLimit("9/minute", name="b"), expecting=one)
        for one in (True, False)
    )
    for path in ["/decorated"] * 5 + ["/items/a"] * 6:
        assert site.ask(path) == apart.ask(path)
        assert site.spent == apart.spent
    assert site.trips("/plain") <= apart.trips("/plain")


def test_callers_by_key() -> None:
    sites = [Site(APIKeys(optional=True), RateLimit("5/minute", by="key"), expecting=one) for one in (True, False)]
    keys = [[site.guard.keys.issue(name).key.reveal() for name in ("ann", "bob")] for site in sites]
    for number, status in ((0, 200), (1, 200), (0, 200), (0, 200), (0, 429), (1, 200), (1, 200), (1, 429)):
        for site, its in zip(sites, keys, strict=True):
            assert site.ask("/decorated", **{"X-API-Key": its[number]}) == status


def test_handlers_see_each_limit_once() -> None:
    site = Site()
    assert [site.ask("/seen"), site.ask("/seen")] == [200, 429]
    assert site.seen == [["outer:30/minute", "see:1/minute"]]


def test_an_outage_is_decided_by_each_limit() -> None:
    site = Site()
    site.store.broken = True
    assert [site.ask("/decorated") for _ in range(4)] == [200, 200, 200, 503]


def test_the_first_route_that_fits_is_expected() -> None:
    get = frozenset(["GET"])
    routes = Routes(
        [
            ("/items/special", get, ("special",)),
            ("/items/{item}", get, ("item",)),
            ("/items/later", get, ("later",)),
            ("/files/{path:path}", get, ("files",)),
            ("/{a}/{b}", frozenset(["POST"]), ("post",)),
        ]
    )
    found = [routes.rules_for("GET", f"/{path}") for path in ("items/special", "items/later", "files/a/b", "x/y", "")]
    assert found == [("special",), ("item",), ("files",), (), ()]
    assert routes.rules_for("POST", "/items/special") == ("post",)
