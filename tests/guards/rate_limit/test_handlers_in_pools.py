"""What handlers charge and reserve, in a store's pools and by operations: the same comes of both, in both worlds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit, Refused, smooth
from keyguard.guards.rate_limit import counters
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_asgi, ask_wsgi

ASK: dict[str, Callable[..., Any]] = {"asgi": ask_asgi, "wsgi": ask_wsgi}


@pytest.fixture(params=ASK)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asked(MemoryStore):
    """A store that wants to be asked by operations, as others do."""

    def execute(self, ops: Any) -> list[Any]:
        return super().execute(ops)


LIMITS: dict[str, Callable[[], list[RateLimit]]] = {
    "one": lambda: [RateLimit("40/minute", by="ip", name="tokens", cost=0)],
    "two rates": lambda: [RateLimit("30/minute; 90/hour", by="ip", name="tokens", cost=0)],
    "evenly paced": lambda: [RateLimit(smooth("40/minute", burst=25), by="ip", name="tokens", cost=0)],
    "beside requests": lambda: [
        RateLimit("12/minute", by="ip", name="requests"),
        RateLimit("40/minute", by="ip", name="tokens", cost=0),
    ],
    "of which requests take units": lambda: [RateLimit("40/minute", by="ip", name="tokens", cost=2)],
    "chosen by a function": lambda: [
        RateLimit(lambda request: "40/minute", by="ip", name="tokens", cost=0),
        RateLimit("1/minute", by="ip", name="paid", paths=["/paid"]),
    ],
}


class Site:
    def __init__(self, kind: type[MemoryStore], limits: list[RateLimit], clock: ManualClock, world: str) -> None:
        self.clock = clock
        self.store = kind(clock=clock)
        self.guard = Keyguard(*limits, store=self.store, clock=clock, handlers=True)
        self.world = world
        self.script: list[Any] = []
        self.app = getattr(self.guard, world)({"asgi": self.asgi, "wsgi": self.wsgi}[world])

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": await self._awaited([*self.script]), "headers": []})
        await send({"type": "http.response.body", "body": b"served"})

    def wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(f"{self._called([*self.script])} Any", [])
        return [b"served"]

    async def _awaited(self, script: list[Any]) -> int:
        status = 200
        for what, units, cost in script:
            if what == "charge":
                self.guard.charge(units, "tokens")
            elif what == "pause":
                self.clock.advance(units / 10)
            elif what == "status":
                status = units
            else:
                try:
                    async with self.guard.reserve(units, "tokens") as hold:
                        self._inside(what, cost, hold)
                except LookupError:
                    pass
                except Refused:
                    if what == "insist":
                        raise
        return status

    def _called(self, script: list[Any]) -> int:
        status = 200
        for what, units, cost in script:
            if what == "charge":
                self.guard.charge(units, "tokens")
            elif what == "pause":
                self.clock.advance(units / 10)
            elif what == "status":
                status = units
            else:
                try:
                    with self.guard.reserve(units, "tokens") as hold:
                        self._inside(what, cost, hold)
                except LookupError:
                    pass
                except Refused:
                    if what == "insist":
                        raise
        return status

    def _inside(self, what: str, cost: int, hold: Any) -> None:
        self.clock.advance(0.01)
        if what == "fail":
            raise LookupError
        if what in ("settle", "insist"):
            hold.settle(cost)

    def ask(self, script: list[Any], path: str) -> Any:
        self.script = script
        answer = ASK[self.world](self.app, Ask(path, (("X-Request-ID", "one"),)), lint=False)
        return answer.status, sorted(answer.headers), answer.body

    def counted(self) -> list[tuple[str, bytes]]:
        return [pair for pair in self.store.scan("rl:") if not pair[0].startswith("rl:settled|")]


def random_script(random: Random) -> list[Any]:
    kinds = ["charge", "charge", "settle", "settle", "settle", "estimate", "fail", "insist", "pause", "status"]
    script = []
    for _ in range(random.choice([0, 1, 1, 2, 3])):
        what = random.choice(kinds)
        units = random.choice([200, 429, 503]) if what == "status" else random.choice([0, 1, 2, 5, 9, 30, 41])
        script.append((what, units, random.choice([0, 1, 4, 9, 60])))
    return script


@pytest.mark.parametrize("name", LIMITS)
def test_pools_and_operations_answer_and_count_alike(name: str, world: str) -> None:
    """One after the other: how the clock goes is the same for both, too."""
    clocks = ManualClock(), ManualClock()
    pooled = Site(MemoryStore, LIMITS[name](), clocks[0], world)
    asked = Site(Asked, LIMITS[name](), clocks[1], world)
    for seed in range(150):
        random = Random(f"{name} {seed}")
        script, path = random_script(random), random.choice(["/", "/", "/paid"])
        assert pooled.ask(script, path) == asked.ask(script, path), (seed, script)
        assert pooled.counted() == asked.counted(), (seed, script)
        step = random.choice([0, 0, 0.1, 1.9, 7, 70])
        for clock in clocks:
            clock.advance(step)


def test_requests_at_one_time_hold_beside_each_other_both_ways() -> None:
    """Under ASGI: each handler holds units while others of the same caller come, and what is left is told alike."""
    counted: list[Any] = []
    for kind in (MemoryStore, Asked):
        clock = ManualClock()
        limit = RateLimit("40/minute", by="ip", name="tokens", cost=0)
        guard = Keyguard(limit, store=kind(clock=clock), clock=clock)
        statuses: list[int] = []

        async def app(scope: Any, receive: Any, send: Any, guard: Keyguard = guard) -> None:
            async with guard.reserve(9) as hold:
                await asyncio.sleep(0)
                guard.charge(1)
                hold.settle(4)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def play(guard: Keyguard = guard, app: Any = app, statuses: list[int] = statuses) -> None:
            layer = guard.asgi(app)

            async def one() -> None:
                scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b""}
                scope |= {"headers": [], "client": ("198.51.100.1", 1), "http_version": "1.1", "scheme": "http"}

                async def send(message: Any) -> None:
                    if message["type"] == "http.response.start":
                        statuses.append(message["status"])

                async def receive() -> Any:
                    return {"type": "http.request", "body": b"", "more_body": False}

                await layer(scope, receive, send)

            await asyncio.gather(*[one() for _ in range(6)])

        asyncio.run(play())
        states = [pair for pair in guard.store.scan("rl:") if not pair[0].startswith("rl:settled|")]
        counted.append((sorted(statuses), states))
    assert counted[0] == counted[1]
    assert counted[0][0] == [200, 200, 200, 200, 429, 429]


def test_a_state_that_a_pool_cannot_read_is_left_to_the_operation_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(MemoryStore, LIMITS["one"](), ManualClock(), "wsgi")
    left_out: list[Any] = []

    def refuse(self: Any, *given: Any) -> bool:
        left_out.append(given)
        return False

    monkeypatch.setattr(counters.PooledCounters, "settled", refuse)
    monkeypatch.setattr(counters.PooledHold, "settled", refuse)
    reference = Site(Asked, LIMITS["one"](), ManualClock(), "wsgi")
    for script in ([("charge", 3, 0)], [("settle", 9, 4), ("charge", 2, 0)], [("fail", 5, 0)], [("settle", 5, 60)]):
        assert site.ask(script, "/") == reference.ask(script, "/")
        assert site.counted() == reference.counted()
    assert left_out == [(3,), (4,), (0,), (60,)]  # what is charged beside a hold goes with it


def test_what_is_settled_in_a_pool_needs_no_operation_and_so_no_token_against_a_second_one(world: str) -> None:
    for kind, tokens in ((MemoryStore, 0), (Asked, 1)):
        site = Site(kind, LIMITS["one"](), ManualClock(), world)
        for script in ([("charge", 3, 0)], [("settle", 9, 4), ("charge", 2, 0)], [("estimate", 5, 0)]):
            assert site.ask(script, "/")[0] == 200
        assert len([key for key, _ in site.store.scan("rl:settled|")]) == tokens


class Nested:
    """One limit in two stacks, the handler inside of both using that of the inner one."""

    def __init__(self, kind: type[MemoryStore], limit: RateLimit, world: str, *, one_store: bool) -> None:
        clock = ManualClock()
        self.inner = Site(kind, [limit], clock, world)
        self.outer = self.inner.store if one_store else kind(clock=clock)
        outer = Keyguard(limit, store=self.outer, clock=clock)
        self.inner.app = getattr(outer, world)(self.inner.app)

    def counted(self) -> list[Any]:
        return [store.scan("rl:tokens:") for store in (self.inner.store, self.outer)]


USED = [("charge", 3, 0), ("settle", 9, 4), ("charge", 2, 0)]


@pytest.mark.parametrize("one_store", [True, False])
def test_one_limit_in_two_stacks_counts_its_callers_alike_both_ways(one_store: bool, world: str) -> None:
    """The stacks know the caller by other names, and what the handler uses is charged to the same ones of them."""
    counted = []
    for kind in (MemoryStore, Asked):
        names = iter(["outside", "inside"] * 2)
        limit = RateLimit("40/minute", by=lambda request, names=names: next(names), name="tokens", cost=1)
        nested = Nested(kind, limit, world, one_store=one_store)
        for script in (USED, USED[1:]):
            assert nested.inner.ask(script, "/")[0] == 200
        assert next(names, None) is None
        counted.append(nested.counted())
    assert counted[0] == counted[1]


def test_what_the_stack_outside_has_decided_is_not_charged_in_its_store(world: str) -> None:
    """The limit concerns the request there alone: a handler uses the counters of the stack that it was asked of."""
    counted = []
    for kind in (MemoryStore, Asked):
        says = iter([True, False])
        limit = RateLimit("40/minute", by="ip", name="tokens", cost=0, when=lambda request, says=says: next(says))
        nested = Nested(kind, limit, world, one_store=False)
        assert nested.inner.ask(USED, "/")[0] == 200
        assert next(says, None) is None
        counted.append(nested.counted())
    assert counted[0] == counted[1]
    inside, outside = counted[0]
    assert inside
    assert not outside
