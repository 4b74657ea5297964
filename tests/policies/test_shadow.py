"""Shadow mode: guards decide and record, and refuse nobody, whatever happens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Ban,
    Cause,
    Concurrency,
    ConfigurationError,
    Forward,
    IPFilter,
    Keyguard,
    Overload,
    RateLimit,
    Refusal,
    Request,
    RequestState,
    Response,
    ResponseCache,
    json_field,
    refuse,
)
from keyguard.policies import Policy, all_of, first_match, header, method, path, shadow
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.policies.test_policies import Site, keys
from tests.support.distant import BUSY, FAILS, STUMBLES, DistantStore
from tests.support.harness import Ask, aask, asgi_app, wsgi_app


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["near", "distant"])
def store(request: pytest.FixtureRequest) -> Any:
    clock = ManualClock()
    return MemoryStore(clock=clock) if request.param == "near" else DistantStore(clock)


def spent(site: Site, caller: str = "198.51.100.1") -> dict[str, int]:
    return {use.name: use.spent for use in site.stack.limits.peek(caller)}


def states(site: Site, world: str) -> list[RequestState]:
    """Have the app note what it is told of its requests."""
    found: list[RequestState] = []
    inner = site.app.app

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["keyguard"])
        await inner(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        found.append(environ["keyguard.request"])
        return inner(environ, start_response)

    site.app = site.stack.asgi(asgi) if world == "asgi" else site.stack.wsgi(wsgi)
    return found


# -- recording ----------------------------------------------------------------------------------------------------


def test_what_would_be_refused_is_told_everywhere_and_passes(world: str, store: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    heard: list[Refusal] = []
    site = Site(world, shadow(RateLimit("2/minute", name="api")), store=store, on_refusal=heard.append)
    told = states(site, world)
    answers = [site.ask("/x", headers=(("X-Request-ID", f"id-{n}"),)) for n in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    assert all(answer.get("ratelimit") is None for answer in answers)
    assert all(answer.get("ratelimit-policy") is None for answer in answers)
    assert [(one.shadow, one.guard, one.cause, one.status, one.request_id) for one in heard] == [
        (True, "api", Cause.USAGE, 429, "id-2"),
        (True, "api", Cause.USAGE, 429, "id-3"),
    ]
    assert [state.shadows for state in told] == [(), (), (heard[0],), (heard[1],)]
    assert all(state.refusal is None for state in told)
    limits = [limit for state in told for limit in state.limits]
    assert [(limit.shadow, limit.admitted, limit.remaining) for limit in limits] == [
        *((True, True, 1), (True, True, 0), (True, False, 0), (True, False, 0))
    ]
    assert [state.pressure for state in told] == [0.0] * 4
    lines = [message for message in caplog.messages if message.startswith("not refused")]
    assert len(lines) == 2
    assert lines[0].startswith("not refused, shadow of api: cause=usage reason=limit-reached status=429 request=id-2")
    assert "client=198.51.100.1 limits=api:2/minute" in lines[0]
    (stats,) = site.stack.shadows
    assert (stats.name, stats.refused, stats.causes, stats.failed) == ("api", 2, {Cause.USAGE: 2}, 0)
    assert spent(site) == {"api:2/minute": 2}


def test_real_limits_beside_one_in_shadow_are_not_touched_by_it(world: str, store: Any) -> None:
    site = Site(
        world,
        RateLimit("3/minute", name="before"),
        shadow(RateLimit("1/minute", name="shadow")),
        RateLimit("4/minute", name="behind"),
        store=store,
    )
    answers = [site.ask() for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert "shadow" not in str([answer.headers for answer in answers])
    assert spent(site) == {"before:3/minute": 3, "shadow:1/minute": 1, "behind:4/minute": 3}


def test_a_limit_in_shadow_gives_back_what_a_real_guard_further_in_refuses(world: str, store: Any) -> None:
    def closed(request: Request) -> Response | None:
        return refuse(request, Cause.PERMISSION, "No.", reason="no") if request.path == "/closed" else None

    site = Site(world, shadow(RateLimit("5/minute", name="api")), closed, store=store)
    assert site.statuses(3, "/closed") == [403] * 3
    assert site.statuses(2, "/open") == [200] * 2
    assert spent(site) == {"api:5/minute": 2}


def test_a_limit_in_shadow_settles_as_a_real_one(world: str, store: Any) -> None:
    limit = RateLimit("50/minute", name="api", settle=lambda outcome: 7 if outcome.headers.get("set-cookie") else 0)
    site = Site(world, shadow(limit), store=store)
    assert site.ask().status == 200
    assert spent(site) == {"api:50/minute": 7}


# -- policies -----------------------------------------------------------------------------------------------------


def test_a_policy_in_shadow_takes_no_request_away_from_real_ones(world: str, store: Any) -> None:
    site = Site(
        world,
        first_match(
            Policy("new", when=path("/v1/*"), then=[RateLimit("1/minute", name="new")], shadow=True),
            Policy("v1", when=path("/v1/*"), then=[RateLimit("2/minute", name="v1")]),
            Policy("late", when=path("/*"), then=[RateLimit("1/minute", name="late")], shadow=True),
            Policy("rest", then=[RateLimit("3/minute", name="rest")]),
        ),
        store=store,
    )
    assert site.statuses(3, "/v1/a") == [200, 200, 429]
    assert {stats.name: stats.refused for stats in site.stack.shadows} == {"new": 2, "late": 0}
    assert site.statuses(4, "/v2") == [200, 200, 200, 429]
    assert {stats.name: stats.refused for stats in site.stack.shadows} == {"new": 2, "late": 3}


def test_one_refusal_of_a_policy_in_shadow_is_one_and_charges_nothing(world: str, store: Any) -> None:
    """As if it were real: what refuses further in gives back what limits further out took, and ends the request."""
    site = Site(
        world,
        Policy(
            "try",
            then=[
                RateLimit("5/minute", name="outer"),
                RateLimit("1/minute", name="tight", when=method("POST")),
                RateLimit("1/minute", name="inner"),
            ],
            shadow=True,
        ),
        store=store,
    )
    assert site.statuses(3, method="POST") == [200] * 3
    (stats,) = site.stack.shadows
    assert (stats.name, stats.refused) == ("try", 2)
    assert spent(site) == {"outer:5/minute": 1, "tight:1/minute": 1, "inner:1/minute": 1}


def test_a_limit_by_address_in_shadow_keeps_charges_for_wrong_keys_as_a_real_one(world: str, store: Any) -> None:
    limit = RateLimit("5/minute", by="ip", name="flood")
    site = Site(world, Policy("try", then=[limit, keys()], shadow=True), store=store)
    assert site.ask(key="wrong").status == 200
    assert spent(site) == {"flood:5/minute": 1}
    (stats,) = site.stack.shadows
    assert stats.causes == {Cause.CREDENTIALS: 1}


def test_a_path_that_is_read_in_two_ways_is_recorded_and_passes(world: str) -> None:
    site = Site(
        world,
        all_of(
            Policy("try", when=path("/admin/*"), then=[IPFilter(deny=["192.0.2.1"])], shadow=True),
            Policy("real", when=path("/other"), then=[RateLimit("5/minute")]),
        ),
        store="memory://",
    )
    assert site.ask("/x/..%2fadmin").status == 200
    (stats,) = site.stack.shadows
    assert stats.causes == {Cause.REQUEST: 1}
    alone = Site(world, shadow(RateLimit("5/minute", paths=["/admin/*"])), store="memory://")
    assert alone.ask("/x/..%2fadmin").status == 200
    assert alone.stack.shadows[0].causes == {Cause.REQUEST: 1}


def test_a_condition_that_fails_in_shadow_refuses_nobody(world: str, caplog: Any) -> None:
    def broken(request: Request) -> bool:
        raise LookupError("nothing there")

    policy = Policy("try", when=header("x-on") & broken, then=[RateLimit("1/minute")], shadow=True)
    site = Site(world, policy, store="memory://")
    assert site.statuses(2, headers=(("X-On", "1"),)) == [200, 200]
    assert site.stack.shadows[0].failed == 2
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "try failed in shadow mode, which refuses nobody: told of once"
    ]


# -- each guard ---------------------------------------------------------------------------------------------------


def test_a_filter_in_shadow(world: str) -> None:
    site = Site(world, shadow(IPFilter(deny=["198.51.100.0/24"])), store="memory://")
    assert site.statuses(2) == [200, 200]
    assert site.stack.shadows[0].causes == {Cause.ADDRESS: 2}


def test_keys_in_shadow_are_looked_for_and_identify_callers_for_the_log(world: str, store: Any) -> None:
    heard: list[Refusal] = []
    site = Site(world, shadow(keys()), shadow(IPFilter(deny=["198.51.100.0/24"])), store=store, on_refusal=heard.append)
    assert site.ask().status == 200
    assert site.ask(key="wrong").status == 200
    assert site.ask(key="free").status == 200
    assert [(one.guard, one.cause, one.subject) for one in heard] == [
        ("keys", Cause.CREDENTIALS, ""),
        ("ip", Cause.ADDRESS, ""),
        ("keys", Cause.CREDENTIALS, ""),
        ("ip", Cause.ADDRESS, ""),
        ("ip", Cause.ADDRESS, "fay"),
    ]


def test_issued_keys_in_shadow(world: str, store: Any) -> None:
    site = Site(world, shadow(APIKeys(guesses="1/minute")), store=store)
    issued = site.stack.keys.issue("acme")
    assert site.statuses(2, key=issued.key.reveal()) == [200, 200]
    assert site.stack.shadows[0].refused == 0
    wrong = issued.key.reveal()[:-1] + "?"
    assert site.statuses(3, key=wrong) == [200, 200, 200]
    assert site.stack.shadows[0].refused == 3


def test_a_preflight_is_counted_as_without_keys_in_shadow(world: str) -> None:
    preflight = (("Origin", "https://a.example"), ("Access-Control-Request-Method", "POST"))
    site = Site(world, shadow(APIKeys(preflights=True)), RateLimit("1/minute"), store="memory://")
    assert site.statuses(2, method="OPTIONS", headers=preflight, lint=False) == [200, 429]


def test_slots_in_shadow_are_held_and_freed(world: str, store: Any) -> None:
    site = Site(world, shadow(Concurrency(1, name="slots")), store=store)
    inner: list[int] = []
    asking = [True]

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if asking.pop() if asking else False:
            inner.append((await aask(site.app, Ask(), lint=False)).status)

        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:

        if asking.pop() if asking else False:
            inner.append(site.ask(lint=False).status)
        return wsgi_app(environ, start_response)

    site.app = site.stack.asgi(asgi) if world == "asgi" else site.stack.wsgi(wsgi)
    answer = site.ask()
    assert (answer.status, inner, answer.get("ratelimit")) == (200, [200], None)
    assert site.stack.shadows[0].refused == 1
    assert site.ask().status == 200
    assert site.stack.shadows[0].refused == 1  # the slot is free again


def test_bans_in_shadow_begin_and_are_told_of(world: str, store: Any) -> None:
    def closed(request: Request) -> Response | None:
        return Response(403) if request.path == "/closed" else None

    site = Site(world, shadow(Ban(after="2/minute", for_="1 hour")), closed, store=store)
    assert site.statuses(4, "/closed") == [403] * 4
    assert site.ask("/open").status == 200
    assert site.stack.shadows[0].causes == {Cause.ADDRESS: 2}
    (banned,) = site.stack.bans.list()
    assert banned.caller == "198.51.100.1"


def test_refusals_in_shadow_are_no_strikes_of_a_real_ban(world: str, store: Any) -> None:
    site = Site(world, Ban(after="1/minute", of=[403, 429]), shadow(IPFilter(deny=["198.51.100.0/24"])), store=store)
    assert site.statuses(5) == [200] * 5


def test_guards_of_ones_own_in_shadow(world: str) -> None:
    def plain(request: Request) -> Response | None:
        return Response(429)

    async def around(request: Request, forward: Forward) -> Response:
        if request.path == "/no":
            return Response(403)
        response = await forward(request)
        response.headers.set("X-Seen", "1")
        return response

    site = Site(world, shadow(plain), shadow(around), store="memory://")
    assert site.ask("/no").status == 200
    answer = site.ask("/yes")
    assert (answer.status, answer.get("x-seen"), answer.body) == (200, None, b"hello")
    assert {stats.name: dict(stats.causes) for stats in site.stack.shadows} == {
        "plain": {Cause.USAGE: 2},
        "around": {Cause.PERMISSION: 1},
    }


@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, Cause.CREDENTIALS), (403, Cause.PERMISSION), (429, Cause.USAGE), (400, Cause.REQUEST), (503, Cause.FAULT)],
)
def test_a_status_tells_the_cause_of_a_refusal_of_ones_own(world: str, status: int, cause: Cause) -> None:
    site = Site(world, shadow(lambda request: Response(status), name="own"), store="memory://")
    assert site.ask("/").status == 200
    assert dict(site.stack.shadows[0].causes) == {cause: 1}


def test_a_limit_in_shadow_by_what_must_be_awaited_counts_while_overrides_are_read(store: Any) -> None:
    async def whose(request: Request) -> str:
        return "all"

    site = Site(
        "asgi",
        shadow(RateLimit("1/minute", by=lambda request: whose(request), name="trial")),
        store=store,
        overrides=True,
    )
    assert site.statuses(3) == [200, 200, 200]
    assert site.stack.shadows[0].refused == 2


def test_what_a_guard_in_shadow_raises_refuses_nobody(world: str, caplog: Any) -> None:
    def plain(request: Request) -> Response | None:
        raise LookupError("plain")

    async def around(request: Request, forward: Forward) -> Response:
        raise LookupError("around")

    site = Site(world, shadow(plain), shadow(around), store="memory://")
    assert site.ask().status == 200
    assert [stats.failed for stats in site.stack.shadows] == [1, 1]


def test_an_app_that_fails_behind_a_guard_in_shadow_fails_as_ever(world: str) -> None:
    async def around(request: Request, forward: Forward) -> Response:
        return await forward(request)

    site = Site(world, shadow(around), shadow(RateLimit("5/minute", name="api")), store="memory://")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("the app")

    def wsgi(environ: Any, start_response: Any) -> Any:
        raise LookupError("the app")

    site.app = site.stack.asgi(asgi) if world == "asgi" else site.stack.wsgi(wsgi)
    with pytest.raises(LookupError, match="the app"):
        site.ask(lint=False)


@pytest.mark.parametrize("outcome", [FAILS, BUSY, STUMBLES])
def test_a_store_that_fails_refuses_nobody(world: str, outcome: str, caplog: Any) -> None:
    store = DistantStore(ManualClock())
    site = Site(
        world,
        shadow(APIKeys()),
        shadow(RateLimit("1/minute", name="refuses", if_store_fails="refuse")),
        shadow(Concurrency(1, if_store_fails="refuse", name="slots")),
        shadow(Ban(if_store_fails="refuse")),
        store=store,
    )
    store.plan = lambda op: outcome
    assert site.statuses(2, key="kg_live_" + "a" * 40) == [200, 200]


def test_what_shadow_waits_for_is_not_on_the_account_of_real_guards(world: str, monkeypatch: Any) -> None:
    """The time budget of a request would be spent by three limits in shadow, and a real one had none left."""
    clock = ManualClock()
    store = DistantStore(clock)
    for module in ("keyguard.drivers.interpreter",):
        monkeypatch.setattr(f"{module}.monotonic", store.monotonic)
    tried = [shadow(RateLimit("9/minute", name=f"shadow {n}")) for n in range(3)]
    site = Site(world, *tried, RateLimit("9/minute", name="real", if_store_fails="refuse"), store=store)
    store.plan = lambda op: "late"
    assert site.ask().status == 200
    assert len([asked for asked in store.asked if asked.startswith("Take late")]) >= 4


# -- handlers -----------------------------------------------------------------------------------------------------


def test_handlers_use_limits_in_shadow_and_are_not_refused(world: str, store: Any) -> None:
    heard: list[Refusal] = []
    guard = Keyguard(shadow(RateLimit("5/minute", name="units", cost=0)), store=store, on_refusal=heard.append)
    site = Site(world)

    async def asgi(scope: Any, receive: Any, send: Any) -> None:

        guard.charge(2)
        async with guard.reserve(4) as hold:
            hold.settle(1)
        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:

        guard.charge(2)
        with guard.reserve(4) as hold:
            hold.settle(1)
        return wsgi_app(environ, start_response)

    site.stack, site.app = guard, guard.asgi(asgi) if world == "asgi" else guard.wsgi(wsgi)
    assert site.statuses(3) == [200] * 3
    assert [(one.shadow, one.guard) for one in heard] == [(True, "units")] * 2


# -- what does not start ------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "a cache": (lambda: shadow(ResponseCache()), "a cache refuses nobody"),
    "overload": (lambda: shadow(Overload()), "what it holds back"),
    "limits whose requests wait": (lambda: shadow(RateLimit("5/minute", count="failures")), "wait for what others"),
    "a guard twice in shadow": (lambda: shadow(shadow(RateLimit("5/minute"))), "already"),
    "a set": (lambda: shadow(all_of(Policy("a", then=[IPFilter(deny=["192.0.2.1"])]))), "shadow=True of its policies"),
    "what is no guard": (lambda: shadow(RateLimit), "is not a guard"),
    "a cache in a policy": (lambda: Policy("a", then=[ResponseCache()], shadow=True), "a cache refuses nobody"),
    "keys that others need": (
        lambda: Keyguard(shadow(APIKeys()), RateLimit("5/minute", by="key"), store="memory://"),
        "lets everybody pass",
    ),
    "a switch that is none": (lambda: Policy("a", then=[shadow(APIKeys())], shadow=1), "True or False"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_in_shadow_does_not_start(name: str) -> None:
    make, why = WRONG[name]
    with pytest.raises(ConfigurationError, match=why):
        make()


def test_a_limit_by_a_field_of_the_body_in_shadow(world: str) -> None:
    site = Site(
        world, shadow(RateLimit("1/minute", by=json_field("user"), methods=["POST"], name="log-in")), store="memory://"
    )
    fields = (("Content-Type", "application/json"), ("Content-Length", "14"))
    for _ in range(3):
        assert site.ask(method="POST", headers=fields, body=b'{"user":"ada"}', lint=False).status == 200
    (stats,) = site.stack.shadows
    assert (stats.refused, stats.failed) == (2, 0)
