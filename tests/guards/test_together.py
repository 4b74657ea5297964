"""Neighbours that only count are asked in one operation: the same answers, charges and holds as one after the other."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    Keyguard,
    Overload,
    RateLimit,
    Request,
    RequestState,
    Response,
    path,
    quota,
)
from keyguard.guard import counting
from keyguard.ops import SETTLED, Demand, Op, Put, Take, is_counter
from keyguard.ops.holds import Holds
from keyguard.rates import window
from keyguard.stores.leased import Leased
from keyguard.testing import ManualClock
from tests.support.distant import BUSY, FAILS, FINE, STUMBLES, DistantStore
from tests.support.every_store import SHARED, store_of
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Site:
    """A stack whose app asks itself again, as often as the request says: so several are under way at once."""

    def __init__(self, world: str, *guards: Any, store: Any, clock: Any = None) -> None:
        self.world = world
        self.stack = Keyguard(*guards, store=store, clock=clock)
        self.answers: list[tuple[Answer, tuple[Any, ...]]] = []
        """Those of one request and the ones inside of it, the innermost first; with what limits told the app."""
        self.before: Callable[[], None] = lambda: None
        app = self.stack.asgi(self._asgi) if world == "asgi" else self.stack.wsgi(self._wsgi)
        self.app: Any = app

    def ask(self, *asks: Ask) -> list[Answer]:
        """Ask the last one, inside of it the one before, and so on. Return all answers, the innermost first."""
        self.inner, self.answers, self.told = list(asks[:-1]), [], ()
        answer = (ask_asgi if self.world == "asgi" else ask_wsgi)(self.app, asks[-1], lint=False)
        return [*[answer for answer, _ in self.answers], answer]

    def _note(self, state: RequestState) -> tuple[Any, ...]:
        self.before()
        self.told = (*self.told, tuple((each.name, each.cost, each.remaining) for each in state.limits))
        return self.told

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        told = self._note(scope["keyguard"])
        if self.inner:
            self.answers.append((await aask(self.app, self.inner.pop(), lint=False), told))
        await send({"type": "http.response.start", "status": _status(scope["path"]), "headers": []})
        await send({"type": "http.response.body", "body": b"app"})

    def _wsgi(self, environ: Any, start_response: Any) -> Any:
        told = self._note(environ["keyguard.request"])
        if self.inner:
            self.answers.append((ask_wsgi(self.app, self.inner.pop(), lint=False), told))
        start_response(f"{_status(environ['PATH_INFO'])} Answer", [])
        return [b"app"]


def _status(path: str) -> int:
    return {"/missing": 404, "/busy": 429}.get(path, 200)


def kinds(store: DistantStore) -> list[str]:
    """What the store was asked, and forget it."""
    asked = [f"{word} {len(rest)}" for word, _, *rest in map(str.split, store.asked)]
    store.asked.clear()
    return asked


# -- trips ------------------------------------------------------------------------------------------------------


def test_one_operation_goes_in_and_one_out_for_a_ban_slots_and_limits(world: str) -> None:
    """Of what stands together: a key is looked up between, and that ends a group."""
    clock = ManualClock()
    store = DistantStore(clock)
    guards = [Concurrency(10, by="key"), RateLimit("9/second; 99/day", by="key"), RateLimit("50/minute", by="ip")]
    site = Site(world, Ban(after="5/minute"), APIKeys(), Ban(by="key"), *guards, store=store, clock=clock)
    ask = Ask("/", (("X-API-Key", site.stack.keys.issue("acme").key.reveal()),))
    site.ask(ask)
    kinds(store)
    (answer,) = site.ask(ask)
    asked = kinds(store)
    assert answer.status == 200
    assert asked == ["Take 1", "Take 7", "Settle 2"]  # the key was looked up a moment ago
    fields = '"key:10 at a time";r=9'
    assert fields in answer.all("ratelimit")[0]


def test_nothing_is_settled_for_who_is_refused_by_one_of_them(world: str) -> None:
    store = DistantStore(ManualClock())
    site = Site(world, RateLimit("9/minute", by="ip"), Concurrency(1), RateLimit("2/hour", name="few"), store=store)
    assert [site.ask(Ask())[0].status for _ in range(3)] == [200, 200, 429]
    assert kinds(store) == ["Take 4", "Settle 2"] * 2 + ["Take 4"]
    assert [answer.status for answer in site.ask(Ask(), Ask())] == [429]


def test_the_operation_of_a_caller_is_kept_for_the_next_request(world: str) -> None:
    taken: list[Any] = []
    store = DistantStore(ManualClock())
    store.plan = lambda op: taken.append(op) or FINE  # type: ignore[func-returns-value]
    site = Site(world, Concurrency(3), RateLimit("9/minute"), Ban(), store=store)
    for _ in range(2):
        site.ask(Ask())
    takes = [op for op in taken if isinstance(op, Take) and len(op.demands) == 2]
    assert len(takes) == 2
    assert takes[0] is takes[1]


# -- as one after the other -------------------------------------------------------------------------------------


def tenant(request: Request) -> Any:
    if request.method == "BREW":
        raise LookupError("tenant")
    return {"/missing": None, "/items/1": 1}.get(request.path, "everybody")


def cost(request: Request) -> Any:
    return {"/items/1": 3, "/items/own": 0, "/busy": 100}.get(request.path, 1)


def gate(request: Request) -> Response | None:
    return Response(403) if request.path == "/forbidden" else None


STACKS: dict[str, Callable[[], list[Any]]] = {
    "slots and limits": lambda: [
        Concurrency(2, by="ip"),
        RateLimit("4/second; 20/minute", by="ip", headers=["draft-11", "x-ratelimit"], if_store_fails="allow"),
        Concurrency(3, by=lambda request: "all", name="all", if_store_fails="refuse"),
        gate,
        RateLimit("15/minute", by="ip", name="inside"),
    ],
    "limits outside of slots": lambda: [
        RateLimit("12/minute", by="ip"),
        RateLimit(quota("40/day"), by=tenant, cost=cost, name="tenants"),
        Concurrency(1, by=tenant, name="slots", exempt=path("/items/*"), if_store_fails="allow"),
        Concurrency(2, by="ip", paths=["/items/{id}"], methods=["GET"], headers=None),
    ],
    "bans": lambda: [
        Ban(after="6/minute", of=(404, 429), for_="9 seconds", growing=True, exempt=["10.0.0.0/8"]),
        Ban(after="3/minute", of=429, by=tenant, for_="20 seconds", name="tenants", if_store_fails="refuse"),
        Concurrency(2, by="ip"),
        RateLimit("8/minute", by="ip", settle=lambda outcome: 2 if outcome.status == 404 else 1),
        Ban(after="4/minute", of=404, by="ip", for_=3, name="inside"),
        RateLimit("30/hour", by="ip", name="hour", refund_on=404),
    ],
    "by key": lambda: [
        Ban(after="9/minute", of=(401, 429), for_="5 seconds"),
        RateLimit("60/minute", by="ip"),
        APIKeys(optional=True),
        Concurrency(2, by="key"),
        RateLimit(plans={"free": "6/minute", "pro": None}, default="free"),
        RateLimit("20/minute", by="ip", name="address", cost=0),
        Concurrency(3, by="subject", name="subjects"),
    ],
}


def counted(store: DistantStore, now: int) -> dict[str, bytes | int]:
    """Return what counts: units that are held, whatever they are known by, and not who was settled."""
    states: dict[str, bytes | int] = {}
    for key, state in store.scan(""):
        if is_counter(key) and not key.startswith(SETTLED):
            states[key] = Holds(state, now).units if ":held|" in key else state
    return {key: state for key, state in states.items() if state != 0}


PATHS = "/ / /items/1 /items/own /missing /busy /forbidden //items/1 /items/%2e%2e"


def random_ask(random: Random, keys: list[str]) -> Ask:
    fields = random.choice([(), (("X-API-Key", random.choice(keys)),), (("X-API-Key", "kg_wrong"),)])
    preflight = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "PUT"))
    return Ask(
        random.choice(PATHS.split()),
        (("X-Request-ID", "one"), *fields, *random.choice([(), (), preflight])),
        random.choice(["GET", "GET", "GET", "POST", "OPTIONS", "BREW"]),
        random.choice(["198.51.100.1", "198.51.100.1", "198.51.100.2", "10.1.1.1", None]),
    )


@pytest.mark.parametrize("name", STACKS)
def test_they_answer_as_one_after_the_other(name: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they admit or refuse, alone or beside other requests, and if the store fails or is busy."""
    clock = ManualClock()
    stores = [DistantStore(clock), DistantStore(clock)]
    together = Site(world, *STACKS[name](), store=stores[0], clock=clock)
    monkeypatch.setattr("keyguard.chain.neighbours", lambda guards, *_: [()] * len(guards))
    sites = [together, Site(world, *STACKS[name](), store=stores[1], clock=clock)]
    registry = Keyguard(APIKeys(), store=stores[0], clock=clock).keys
    issued = [registry.issue("acme", plan="free"), registry.issue("else", plan="pro")]
    stores[1].execute([Put(key, value) for key, value in stores[0].scan("")])
    keys = [each.key.reveal() for each in issued]
    statuses: set[int] = set()
    trips = [0, 0]
    for seed in range(120):
        random = Random(f"{name} {seed}")
        asks = [random_ask(random, keys) for _ in range(random.choice([1, 1, 2, 4]))]
        plan = random.choice([FINE] * 9 + [BUSY, FAILS, STUMBLES])
        found = []
        for place, (store, site) in enumerate(zip(stores, sites, strict=True)):
            monkeypatch.setattr("keyguard.drivers.interpreter.monotonic", store.monotonic)
            store.plan = lambda op, plan=plan: plan  # type: ignore[misc]
            store.asked.clear()
            answers = site.ask(*asks)
            statuses.update(answer.status for answer in answers)
            trips[place] += len(store.asked)
            found.append(
                (
                    [(each.status, sorted(each.headers), each.body) for each in answers],
                    site.told,
                    counted(store, clock()),
                )
            )
        assert found[0] == found[1], (seed, asks, plan)
        clock.advance(random.choice([0, 0, 0, 0.3, 4, 30]))
    assert sites[0].stack.health.degraded == sites[1].stack.health.degraded
    assert sites[0].stack.health.degraded
    assert statuses >= {200, 429, 503}
    assert trips[0] < trips[1]


def any_stack(random: Random) -> list[Any]:
    """Guards of all kinds in any order, each with any way to go on without the store."""
    modes: list[Any] = ["local", "allow", "refuse"]
    bans: list[Any] = modes[1:]
    guards: list[Callable[[], Any]] = [
        lambda: Ban(after="4/minute", of=(403, 404, 429), for_=9, growing=True, if_store_fails=random.choice(bans)),
        lambda: Ban(after="3/minute", of=429, by=tenant, for_=20, name="b", if_store_fails=random.choice(bans)),
        lambda: Concurrency(2, headers=random.choice(HEADERS), if_store_fails=random.choice(modes)),
        lambda: Concurrency(1, by=tenant, name="c", if_store_fails=random.choice(modes)),
        lambda: RateLimit("8/minute", settle=lambda outcome: 2 if outcome.status == 404 else 1),
        lambda: RateLimit("5/second; 30/hour", by=tenant, cost=cost, name="d", if_store_fails=random.choice(modes)),
        lambda: RateLimit(quota("20/day"), name="e", refund_on=404, if_store_fails=random.choice(modes)),
        lambda: RateLimit("5/minute", name="f", count="failures", if_store_fails=random.choice(modes)),
        lambda: Overload(min_in_flight=1, max_in_flight=random.choice([2, 3]), random=lambda: 0.0),
        lambda: gate,
    ]
    random.shuffle(guards)
    return [make() for make in guards[: random.randint(4, 8)]]


HEADERS: list[Any] = ["draft-11", None]


@pytest.mark.parametrize("number", range(10))
def test_they_do_so_in_any_order_beside_other_guards_and_if_a_store_fails_to_take(
    number: int, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    stores = [DistantStore(clock), DistantStore(clock)]
    guards = [any_stack(Random(number)) for _ in stores]
    together = Site(world, *guards[0], store=stores[0], clock=clock)
    monkeypatch.setattr("keyguard.chain.neighbours", lambda guards, *_: [()] * len(guards))
    sites = [together, Site(world, *guards[1], store=stores[1], clock=clock)]
    for seed in range(30):  # within less than a minute: what has expired is cleared away now or later
        random = Random(f"{number} {seed}")
        asks = [random_ask(random, ["kg_other"]) for _ in range(random.choice([1, 1, 2, 4]))]
        outcome = random.choice([FINE] * 9 + [BUSY, FAILS, STUMBLES])
        # If only settling fails, more is charged one after the other: what is refused further in was taken by then.
        failing = random.choice([Op, Take])
        found = []
        for store, site, own in zip(stores, sites, guards, strict=True):
            monkeypatch.setattr("keyguard.drivers.interpreter.monotonic", store.monotonic)
            store.plan = lambda op, outcome=outcome, failing=failing: (  # type: ignore[misc]
                outcome if isinstance(op, failing) else FINE
            )
            answers = [(each.status, sorted(each.headers), each.body) for each in site.ask(*asks)]
            overload = [
                (stats.in_flight, stats.shed)
                for guard in own
                if isinstance(guard, Overload) and (stats := guard.stats())
            ]
            found.append((answers, site.told, counted(store, clock()), overload, site.stack.health.degraded))
        assert found[0] == found[1], (guards[0], seed, asks, outcome, failing)
        assert not any(in_flight for in_flight, _ in found[0][3])
        clock.advance(random.choice([0, 0, 0, 0.3, 2]))


def test_functions_are_called_once_a_request_whatever_comes_of_it(world: str) -> None:
    """One that fails is called again when it is its guard's turn, and then the request fails."""
    called: list[str] = []

    def note(word: str) -> Any:
        return lambda request: called.append(word) or "all"  # type: ignore[func-returns-value]

    def third(request: Request) -> str:
        called.append("third")
        if request.path == "/fails":
            raise LookupError("third")
        return "all"

    store = DistantStore(ManualClock())
    guards = [
        Concurrency(1, by=note("slots"), name="slots"),
        RateLimit("9/minute", by=note("limit"), name="limit"),
        Concurrency(9, by=third, name="third"),
        Concurrency(9, by="ip", paths=["/items"]),
    ]
    site = Site(world, *guards, store=store)
    expected = ["slots", "limit", "third"]
    assert [answer.status for answer in site.ask(Ask(), Ask())] == [429, 200]
    assert called == expected * 2
    for plan in (FINE, FAILS):
        store.plan = lambda op, plan=plan: plan  # type: ignore[misc]
        for target, status in (("/items", 200), ("//items", 400), ("/fails", 503)):
            called.clear()
            assert [answer.status for answer in site.ask(Ask(target))] == [status]
            assert called == expected + ["third"] * (target == "/fails")


# -- who is asked by itself ---------------------------------------------------------------------------------------


def test_a_ban_is_asked_after_limits_outside_of_it_which_may_keep_what_they_took(world: str) -> None:
    """Its refusal is for the address, and such a request stays charged to limits by address."""
    store = DistantStore(ManualClock())
    site = Site(world, RateLimit("9/minute", by="ip"), Ban(after="1/minute", of=404), Concurrency(1), store=store)
    for _ in range(3):
        site.ask(Ask("/missing"))
    assert kinds(store)[:2] == ["Take 1", "Take 3"]
    store.plan = lambda op: FINE
    (answer,) = site.ask(Ask())
    assert b"Banned for a while" in answer.body
    assert kinds(store) == ["Take 1", "Take 3"]


def test_tiers_that_answer_with_no_trip_are_asked_for_each(world: str) -> None:
    store = DistantStore(ManualClock())
    tier = Leased(store, workers=1)
    site = Site(world, Concurrency(5), RateLimit("1000/minute"), Concurrency(9, by="ip", name="other"), store=tier)
    for _ in range(3):
        site.ask(Ask())
        asked = kinds(store)
    assert asked == ["Take 2", "Take 2", "Settle 2", "Settle 2"]


def test_who_changes_what_a_guard_asks_is_asked_in_turn(world: str) -> None:
    class Own(Concurrency):
        def decider(self, store: Any) -> Any:
            return super().decider(store)

    assert counting(Concurrency(3)) == "charges"
    assert counting(Own(3)) is None
    assert counting(lambda request: None) is None
    store = DistantStore(ManualClock())
    site = Site(world, RateLimit("9/minute"), Own(3), RateLimit("9/minute", name="b"), store=store)
    assert site.ask(Ask())[0].status == 200
    assert kinds(store) == ["Take 1", "Take 2", "Take 1", "Settle 2"]


def test_operations_on_one_counter_are_not_joined() -> None:
    """Guards of one stack share none; it would be charged once for both."""
    limit = window(9, 60 * 10**6, "9/minute")
    one, same, other = (Take([Demand("one", key, limit)]) for key in ("rl:a|1", "rl:a|1", "rl:b|1"))
    assert one.joined_with(same) is None
    joined = one.joined_with(other)
    assert joined is not None
    assert joined.keys == ("rl:a|1", "rl:b|1")
    assert one.joined_with(other) is joined


def test_callers_of_a_store_on_several_servers_are_asked_about_by_themselves(world: str) -> None:
    class Spread(DistantStore):
        spread = True

    store = Spread(ManualClock())
    guards = [Concurrency(3), RateLimit("9/minute"), Concurrency(9, by=lambda request: "all", name="all")]
    site = Site(world, *guards, RateLimit("9/minute", by="ip", name="last"), store=store)
    assert site.ask(Ask())[0].status == 200
    assert kinds(store) == ["Take 3", "Take 2", "Take 1", "Settle 2", "Settle 2"]


# -- when it ends early -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2])
def test_a_client_that_leaves_while_the_store_is_asked_leaves_nothing_behind(asked: int) -> None:
    store = DistantStore(ManualClock())
    guards = [Concurrency(1), RateLimit("9/minute"), gate, Concurrency(2, name="b"), RateLimit("9/minute", name="c")]
    guard = Keyguard(*guards, store=store)

    async def never(*message: Any) -> Any:
        raise AssertionError("nobody listens, and nobody sends")

    async def leave() -> None:
        store.hangs_at = asked - 1
        task = asyncio.create_task(guard.asgi(asgi_app)(Ask().scope(), never, never))
        for _ in range(50):
            await asyncio.sleep(0)
        assert store.hanging
        store.hangs_at = None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(50):
            await asyncio.sleep(0)

    asyncio.run(leave())
    assert [word.split()[0] for word in store.asked] == ["Take"] * (asked - 1) + ["Settle"] * 2 * (asked - 1)
    answer = ask_asgi(guard.asgi(asgi_app), Ask())
    told = '"c:9/minute";r=8;t=60, "b:2 at a time";r=1, "ip:9/minute";r=8;t=60, "ip:1 at a time";r=0'
    assert answer.all("ratelimit") == [told]


@pytest.mark.parametrize("ends", [FINE, BUSY, FAILS, STUMBLES])
@pytest.mark.parametrize("target", ["/", "//items", "/fails"])
def test_a_request_leaves_nothing_to_the_garbage_collector(world: str, target: str, ends: str) -> None:
    """Also if a guard fails before its turn has come, and if it never comes."""
    logging.disable(logging.CRITICAL)  # or pytest keeps the errors, with their frames
    seen: list[Any] = []

    def note(request: Request) -> None:
        seen.append(weakref.ref(request.state))

    def fails(request: Request) -> str:
        if request.path == "/fails":
            raise LookupError("by")
        return "all"

    store = DistantStore(ManualClock())
    guards = [
        RateLimit("2/minute"),
        Concurrency(2),
        Concurrency(3, by=fails, name="fails"),
        Concurrency(4, name="last"),
    ]
    site = Site(world, note, *guards, RateLimit("9/minute", paths=["/items"]), store=store)
    site.ask(Ask())
    gc.collect()
    gc.disable()
    try:
        for plan in (ends, FINE, FINE):
            store.plan = lambda op, plan=plan: plan  # type: ignore[misc]
            site.ask(Ask(target))
        assert [state() for state in seen] == [None] * 4
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


# -- real stores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHARED)
def test_every_store_that_is_shared_takes_from_all_or_from_none(
    kind: str, world: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By one caller, and by two that are counted elsewhere."""
    store = store_of(kind, request, tmp_path)
    guards = [
        Ban(after="1/minute", of=404),
        RateLimit("6/hour; 100/day"),
        Concurrency(2),
        Concurrency(1, by=lambda request: "all" if request.method == "POST" else None, name="all"),
        RateLimit("50/hour", by=lambda request: "all", name="together"),
    ]
    site = Site(world, *guards, store=store)
    assert [answer.status for answer in site.ask(Ask(), Ask(), Ask())] == [429, 200, 200]
    assert [answer.status for answer in site.ask(Ask(method="POST"), Ask(method="POST"))] == [429, 200]
    (answer,) = site.ask(Ask(method="POST"))
    assert [word.split(";t=")[0] for word in answer.all("ratelimit")[0].split(", ")] == [
        '"together:50/hour";r=46',
        '"all:1 at a time";r=0',
        '"ip:2 at a time";r=1',
        '"ip:6/hour";r=2',
        '"ip:100/day";r=96',
    ]
    assert [site.ask(Ask())[0].status for _ in range(4)] == [200, 200, 429, 429]
    answers = [site.ask(Ask("/missing", client="198.51.100.9"))[0] for _ in range(3)]
    assert [answer.status for answer in answers] == [404, 404, 429]
    assert b"Banned for a while" in answers[2].body
