"""Overrides: other limits for one subject, in all processes within a second."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from flask import Flask

from keyguard import APIKeys, Concurrency, ConfigurationError, Identity, Keyguard, KeyRegistry, RateLimit, StoreError
from keyguard.ops import Put, Read
from keyguard.overrides import FRESH, KEY, decode, overrides_of
from keyguard.policies import Policy, method
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.policies.test_policies import Site
from tests.support.commands import run, run_json
from tests.support.distant import FAILS, DistantStore
from tests.support.servers import wait_until


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["near", "distant"])
def store(request: pytest.FixtureRequest) -> Any:
    clock = ManualClock()
    return MemoryStore(clock=clock) if request.param == "near" else DistantStore(clock)


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which processes read overrides again: it stands still."""
    now = [1000.0]
    monkeypatch.setattr("keyguard.overrides.monotonic", lambda: now[0])
    return now


def lookup(key: str) -> Identity | None:
    return Identity(key, plan="free") if key in ("acme", "other") else None


def made(world: str, *guards: Any, **options: Any) -> Site:
    return Site(world, APIKeys(lookup=lookup, guesses=None), *guards, **({"overrides": True} | options))


def api(rate: str = "1/minute", **more: Any) -> RateLimit:
    return RateLimit(rate, by="subject", name="api", **more)


LIMITS: dict[str, Callable[[], list[Any]]] = {
    "a limit": lambda: [api()],
    "limits that join": lambda: [api(), RateLimit("90/minute", name="other")],
    "plans": lambda: [RateLimit(plans={"free": "1/minute", "pro": None}, default="pro", name="api")],
    "no limit": lambda: [RateLimit(plans={"free": None}, default="9/minute", name="api")],
    "a function": lambda: [RateLimit(lambda request: "1/minute", by="subject", name="api")],
    "conditions": lambda: [api(when=lambda request: True, cost=lambda request: 1)],
    "by address": lambda: [RateLimit("1/minute", by="ip", name="api")],
    "a policy": lambda: [Policy("gets", when=method("GET"), then=[api()])],
    "a method": lambda: [api(methods=["GET"])],
}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_subject_has_another_limit_from_now_on(world: str, store: Any, kind: str, ticks: list[float]) -> None:
    site = made(world, *LIMITS[kind](), store=store)
    before = 200 if kind == "no limit" else 429
    assert site.statuses(2, key="acme") == [200, before]
    site.stack.overrides.set("acme", {"api": "3/minute"})
    ticks[0] += FRESH
    expected = [200, 200, 200, 429] if kind == "no limit" else [200, 200, 429, 429]
    assert site.statuses(4, key="acme") == expected  # what was spent stays spent
    other = "198.51.100.9"
    assert site.statuses(2, key="other", client=other) == [200, before]
    site.stack.overrides.remove("acme")
    ticks[0] += FRESH
    assert site.ask(key="acme", client="198.51.100.7").status == (200 if kind in ("no limit", "by address") else 429)


def test_under_an_event_loop_they_are_the_same(store: Any) -> None:
    overrides = made("asgi", api(), store=store).stack.overrides

    async def story() -> None:
        (one,) = await overrides.aset("acme", {"api": "3/minute"})
        assert await overrides.alist() == await overrides.alist("acme") == (one,) == overrides.list()
        assert await overrides.aremove("acme") == (one,)
        assert await overrides.alist() == ()
        with pytest.raises(ValueError, match="'acme' has no override"):
            await overrides.aremove("acme")

    asyncio.run(story())


def test_no_limit_and_a_stricter_one(world: str, store: Any, ticks: list[float]) -> None:
    site = made(world, api("2/minute"), RateLimit("2/minute", by="subject", name="more"), store=store)
    site.stack.overrides.set("acme", {"api": None, "more": "1/minute"})
    answer = site.ask(key="acme")
    assert answer.all("ratelimit-policy") == ['"more:1/minute";q=1;w=60']
    assert site.ask(key="acme").status == 429
    site.stack.overrides.set("acme", {"more": None})
    ticks[0] += FRESH
    assert site.statuses(5, key="acme") == [200] * 5


def test_an_override_ends(world: str, ticks: list[float]) -> None:
    clock = ManualClock()
    for store in (MemoryStore(clock=clock), DistantStore(clock)):
        site = made(world, api(), store=store, clock=lambda: clock.now)
        (one,) = site.stack.overrides.set("acme", {"api": "9/minute"}, expires="2 days")
        assert one.expires == clock.now + timedelta(days=2)
        assert site.statuses(2, key="acme") == [200, 200]
        clock.advance("2 days")
        ticks[0] += FRESH
        assert site.stack.overrides.list() == ()
        assert site.statuses(2, key="acme") == [200, 429]


def test_nothing_is_asked_if_nobody_wants_overrides(world: str) -> None:
    store = DistantStore(ManualClock())
    site = made(world, api(), store=store, overrides=False)
    assert site.statuses(2, key="acme") == [200, 429]
    assert not [asked for asked in store.asked if KEY in asked]
    with pytest.raises(ConfigurationError, match="overrides=True"):
        site.stack.overrides  # noqa: B018


def test_one_request_in_half_a_second_reads_them(world: str, ticks: list[float]) -> None:
    store = DistantStore(ManualClock())
    site = made(world, api("9/minute"), RateLimit("9/minute", name="more"), store=store)
    for _ in range(3):
        site.statuses(3, key="acme")
        ticks[0] += FRESH
    assert len([asked for asked in store.asked if KEY in asked]) == 3
    takes = [asked for asked in store.asked if asked.startswith("Take")]
    assert len(takes) == 9  # both limits in one operation, also behind the reading
    assert all("api" in take and "more" in take for take in takes)


def test_another_process_sees_them_within_a_second(world: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    one, other = made(world, api(), store=url), made(world, api(), store=url)
    assert one.stack.store is not other.stack.store
    assert other.statuses(2, key="acme") == [200, 429]
    one.stack.overrides.set("acme", {"api": "500/minute"})
    begun = datetime.now(UTC)
    while other.ask(key="acme").status != 200:
        assert datetime.now(UTC) - begun < timedelta(seconds=20)
    assert other.stack._overridden is not None
    assert other.stack._overridden.limits["api"]["acme"].rate == "500/minute"


def test_while_the_store_fails_what_was_known_stays(world: str, ticks: list[float], caplog: Any) -> None:
    store = DistantStore(ManualClock())
    site = made(world, api(if_store_fails="local"), store=store)
    site.stack.overrides.set("acme", {"api": "5/minute"})
    assert site.ask(key="acme").status == 200
    store.plan = lambda op: FAILS if KEY in op.keys else "fine"
    ticks[0] += FRESH
    assert site.statuses(5, key="acme") == [200, 200, 200, 200, 429]
    store.plan = lambda op: FAILS
    ticks[0] += FRESH
    assert site.ask(key="other").status == 200


LATER = b'{"v":1,"rows":[["acme","api","5/minute","tomorrow",0,"x"]]}'


def test_what_is_damaged_in_the_store_changes_nothing_and_is_told_of_once(
    world: str, store: Any, ticks: list[float], caplog: Any
) -> None:
    distant = DistantStore(ManualClock())
    site = made(world, api(), store=distant)
    for text in (b"{", b"[]", b'{"v":2}', b'{"v":1,"rows":[[1]]}', b'{"v":1,"rows":[[1,2,3,4,5,6]]}', LATER):
        distant.near.execute([Put(KEY, text)])
        ticks[0] += FRESH
        assert site.ask(key="acme").status in (200, 429)
        with pytest.raises(StoreError):
            site.stack.overrides.list()
    assert len([record for record in caplog.records if "overrides in the store" in record.message]) == 1
    distant.near.execute([Put(KEY, b'{"v":1,"rows":[["acme","api","nonsense",null,0,"x"]]}')])
    ticks[0] += FRESH
    assert site.ask(key="acme").status == 429  # the limit itself, and the log says why


def test_changes_are_noted_in_the_audit_log(store: Any) -> None:
    guard = made("asgi", api(), RateLimit("5/minute", name="more"), store=store).stack
    guard.overrides.set("acme", {"api": "5/minute"}, actor="ada")
    guard.overrides.set("acme", {"more": None}, actor="bob")
    guard.overrides.remove("acme", "api", actor="cy")
    records = guard.audit.list(action="overrides", caller="acme")
    assert [(one.actor, one.action, dict(one.before), dict(one.after)) for one in records] == [
        ("ada", "overrides.set", {}, {"api": "5/minute"}),
        ("bob", "overrides.set", {"api": "5/minute"}, {"api": "5/minute", "more": None}),
        ("cy", "overrides.remove", {"api": "5/minute", "more": None}, {"more": None}),
    ]
    assert [(one.subject, one.limit, one.rate, one.actor) for one in guard.overrides.list()] == [
        ("acme", "more", None, "bob")
    ]


def test_two_people_at_once_both_see_their_change() -> None:
    store = DistantStore(ManualClock())
    guard = made("asgi", api(), store=store).stack
    raced = [True]

    def race(op: Any) -> str:
        if isinstance(op, Put) and KEY in op.keys and raced.pop() if raced else False:
            guard.overrides.set("other", {"api": "7/minute"})
        return "fine"

    store.plan = race
    guard.overrides.set("acme", {"api": "5/minute"})
    assert {one.subject: one.rate for one in guard.overrides.list()} == {"acme": "5/minute", "other": "7/minute"}


WRONG: dict[str, tuple[Callable[[Any], object], str]] = {
    "an unknown limit": (
        lambda o: o.set("acme", {"apis": "5/minute"}),
        "no RateLimit is called 'apis': there is 'api'",
    ),
    "slots": (lambda o: o.set("acme", {"slots": "5/minute"}), "no RateLimit is called 'slots'"),
    "no limits": (lambda o: o.set("acme", {}), "a mapping"),
    "a rate that is none": (lambda o: o.set("acme", {"api": "many"}), "many"),
    "a number": (lambda o: o.set("acme", {"api": 5}), "a text such as"),
    "one period twice": (lambda o: o.set("acme", {"api": "5/minute; 6/minute"}), "one limit a period"),
    "no subject": (lambda o: o.set("", {"api": "5/minute"}), "a subject is"),
    "the past": (lambda o: o.set("acme", {"api": "5/minute"}, expires=datetime(2020, 1, 1, tzinfo=UTC)), "in the past"),
    "no zone": (lambda o: o.set("acme", {"api": "5/minute"}, expires=datetime(2090, 1, 1)), "zone"),
    "a duration that is none": (lambda o: o.set("acme", {"api": "5/minute"}, expires="soon"), "duration"),
    "no actor": (lambda o: o.set("acme", {"api": "5/minute"}, actor=""), "actor"),
    "none to remove": (lambda o: o.remove("nobody"), "has no override"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_an_error_and_changes_nothing(name: str) -> None:
    guard = made("asgi", api(), Concurrency(3, name="slots"), store="memory://").stack
    call, why = WRONG[name]
    with pytest.raises(ValueError, match=why):
        call(guard.overrides)
    assert guard.overrides.list() == ()
    assert guard.audit.list() == []


def test_operators_see_the_limits_that_count_for_a_subject(world: str, ticks: list[float]) -> None:
    site = made(world, api("2/minute; 10/hour"), RateLimit("9/minute", by="key", name="key"), store="memory://")
    guard = site.stack
    id = KeyRegistry(guard.store).issue("acme").key.id

    def seen(who: str) -> list[tuple[str, int, int]]:
        return [(use.name, use.limit, use.spent) for use in guard.limits.peek(who, limit="api")]

    guard.overrides.set("acme", {"api": "4/minute; 7/day"}, expires="2 days")
    assert site.statuses(5, key="acme") == [200, 200, 200, 200, 429]
    assert seen("acme") == seen(id) == [("api:4/minute", 4, 4), ("api:7/day", 7, 4)]
    assert seen("other") == [("api:2/minute", 2, 0), ("api:10/hour", 10, 0)]
    assert guard.limits.grant("acme", 3, limit="api:4/minute").after.remaining == 3
    with pytest.raises(ValueError, match=r"stands in the place of 'api:2/minute' .*api:4/minute, api:7/day"):
        guard.limits.peek("acme", limit="api:2/minute")
    guard.overrides.set("acme", {"api": None})
    with pytest.raises(ValueError, match="no limit"):
        seen("acme")
    assert [use.name for use in guard.limits.peek(id)] == ["key:9/minute"]
    guard.overrides.remove("acme")
    assert seen("acme") == [("api:2/minute", 2, 1), ("api:10/hour", 10, 0)]


def test_operators_see_overrides_in_the_place_of_plans() -> None:
    plans = RateLimit(plans={"free": "3/minute", "pro": "50/minute; 100/hour"}, default="free", name="api")
    guard = made("asgi", plans, store="memory://").stack
    guard.overrides.set("acme", {"api": "70/minute"})
    uses = guard.limits.peek("acme"), guard.limits.peek("acme", plan="pro")
    assert [[use.name for use in found] for found in uses] == [["api:70/minute"]] * 2


def _fastapi(guard: Keyguard) -> Callable[..., int]:
    app = FastAPI()

    @app.get("/a", dependencies=[Depends(guard.limit("1/minute", by="subject", name="api"))])
    async def answer() -> None: ...

    app.add_middleware(guard.asgi)
    client = TestClient(app)
    client.__enter__()
    return lambda key: client.get("/a", headers={"X-API-Key": key}).status_code


def _flask(guard: Keyguard) -> Callable[..., int]:
    app = Flask("shop")

    @app.get("/a")
    @guard.limit("1/minute", by="subject", name="api")
    def answer() -> str:
        return "a"

    guard.init_app(app)
    client = app.test_client()
    return lambda key: client.get("/a", headers={"X-API-Key": key}).status_code


@pytest.mark.parametrize("framework", [_fastapi, _flask])
@pytest.mark.parametrize("outer", [(), (RateLimit("90/minute", name="outer"),)], ids=["alone", "behind a limit"])
def test_limits_at_routes_can_be_overridden(framework: Any, outer: Any, ticks: list[float]) -> None:
    distant = DistantStore(ManualClock())
    guard = Keyguard(APIKeys(lookup=lookup, guesses=None), *outer, store=distant, overrides=True)
    ask = framework(guard)
    assert [ask("acme"), ask("acme")] == [200, 429]
    guard.overrides.set("acme", {"api": "4/minute"})
    ((data,),) = distant.near.execute([Read(KEY)])
    overrides_of(distant, watching=True).load(None)  # it was set by another process
    assert ask("acme") == 429
    distant.near.execute([Put(KEY, data)])
    ticks[0] += FRESH
    assert [ask("acme") for _ in range(4)] == [200, 200, 200, 429]
    assert ask("other") == 200
    assert [use.name for use in guard.limits.peek("acme", limit="api")] == ["api:4/minute"]
    distant.plan = lambda op: FAILS
    ticks[0] += FRESH
    assert ask("other") == 200  # what was known stays, and the limit does as it was told


def test_by_commands(world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    at = ("--store", url)
    site = made(world, api(), store=url, name="shop")
    code, _, err = run(capsys, "overrides", "set", "acme", "api=5/minute", *at)
    assert (code, "no app that uses this store reads overrides" in err) == (1, True)
    site.ask(key="acme")  # it writes down what can be overridden, soon

    def written() -> bool:
        return run(capsys, "overrides", "set", "acme", "api=5/minute", "--expires", "2d", *at)[0] == 0

    wait_until(written, "what can be overridden")
    (one,) = run_json(capsys, "overrides", "list", *at)
    assert (one["subject"], one["limit"], one["rate"]) == ("acme", "api", "5/minute")
    assert one["expires"] is not None
    code, out, _ = run(capsys, "overrides", "list", "acme", *at)
    assert (code, out.split()[:3]) == (0, ["SUBJECT", "LIMIT", "RATE"])
    (use,) = run_json(capsys, "limits", "show", "acme", *at)
    assert "api:5/minute" in use.values()
    code, _, err = run(capsys, "overrides", "set", "acme", "apis=5/minute", *at)
    assert (code, "no RateLimit is called 'apis'" in err) == (1, True)
    code, _, err = run(capsys, "overrides", "set", "acme", "api", *at)
    assert (code, "LIMIT=RATE" in err) == (1, True)
    (removed,) = run_json(capsys, "overrides", "remove", "acme", *at)
    assert removed["limit"] == "api"
    actions = [record["action"] for record in run_json(capsys, "audit", "list", *at)]
    assert actions == ["overrides.set", "overrides.remove"]


def test_what_is_stored_is_json_with_a_version() -> None:
    guard = made("asgi", api(), store="memory://").stack
    guard.overrides.set("acme", {"api": "5/minute"})
    ((data,),) = guard.store.execute([Read(KEY)])
    assert json.loads(data)["v"] == 1
    (row,) = decode(data)
    assert (row.subject, row.limit, row.rate, row.expires, row.actor) == ("acme", "api", "5/minute", None, "app")
