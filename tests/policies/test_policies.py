"""Policies: guards for the requests that a condition is about, in both worlds and on every way through the stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    ConfigurationError,
    Forward,
    Guard,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
)
from keyguard.chain import Chain
from keyguard.policies import Policy, all_of, first_match, header, ip, method, path, plan, time
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.distant import FAILS, DistantStore
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

KEYS = {
    "free": Identity("fay", plan="free", scopes=frozenset({"read"})),
    "pro": Identity("pat", plan="pro", scopes=frozenset({"read", "write"})),
}


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["near", "distant"])
def store(request: pytest.FixtureRequest) -> Any:
    clock = ManualClock()
    return MemoryStore(clock=clock) if request.param == "near" else DistantStore(clock)


class Site:
    """A stack around an app, in one of the worlds."""

    def __init__(self, world: str, *guards: Any, **options: Any) -> None:
        self.stack = Keyguard(*guards, **options)
        self.app: Any = self.stack.asgi(asgi_app) if world == "asgi" else self.stack.wsgi(wsgi_app)
        self._ask: Callable[..., Answer] = ask_asgi if world == "asgi" else ask_wsgi

    def ask(self, target: str = "/", key: str = "", **more: Any) -> Answer:
        fields = (*more.pop("headers", ()), *([("X-API-Key", key)] if key else []))
        lint = more.pop("lint", True)
        return self._ask(self.app, Ask(target, fields, **more), lint=lint)

    def statuses(self, times: int, target: str = "/", key: str = "", **more: Any) -> list[int]:
        return [self.ask(target, key, **more).status for _ in range(times)]


def keys() -> APIKeys:
    return APIKeys(lookup=KEYS.get, guesses=None)


# -- choosing -----------------------------------------------------------------------------------------------------


def test_the_first_policy_that_matches_is_the_only_one(world: str, store: Any) -> None:
    site = Site(
        world,
        keys(),
        first_match(
            Policy("office", when=ip("10.0.0.0/8"), then=[]),
            Policy("free", when=plan("free"), then=[RateLimit("1/minute", by="subject", name="free")]),
            Policy("rest", then=[RateLimit("2/minute", by="subject", name="rest")]),
        ),
        store=store,
    )
    assert site.statuses(3, key="free") == [200, 429, 429]
    assert site.statuses(3, key="pro") == [200, 200, 429]
    assert site.statuses(3, key="free", client="10.1.1.1") == [200, 200, 200]
    assert site.ask(key="pro", client="10.1.1.1").get("ratelimit") is None


def test_all_policies_that_match_apply_and_charge_together_or_not_at_all(world: str, store: Any) -> None:
    site = Site(
        world,
        all_of(
            Policy("all", then=[RateLimit("3/minute", name="all")]),
            Policy("writes", when=method("POST"), then=[RateLimit("1/minute", name="writes")]),
        ),
        store=store,
    )
    assert site.statuses(3, method="POST") == [200, 429, 429]
    answer = site.ask()  # of three, one is spent: those that were refused are not charged
    assert answer.get("ratelimit") == '"all:3/minute";r=1;t=60'
    assert site.statuses(2) == [200, 429]


def test_a_policy_alone_is_a_guard_of_the_stack(world: str, store: Any) -> None:
    site = Site(world, Policy("v1", when=path("/v1/*"), then=[RateLimit("1/minute")]), store=store)
    assert site.statuses(2, "/v1/a") == [200, 429]
    assert site.statuses(2, "/v2") == [200, 200]


def test_what_may_be_another_request_has_to_pass_both(world: str) -> None:
    """A policy that takes a request away from the ones behind it opens a door: so it has to be exact."""

    def strict(request: Request) -> Response | None:
        return Response(418)

    site = Site(
        world,
        first_match(
            Policy("docs", when=path("/docs") & method("GET"), then=[RateLimit("100/minute")]),
            Policy("rest", then=[strict]),
        ),
        store="memory://",
    )
    assert site.ask("/docs").status == 200
    assert site.ask("/docs", method="HEAD", lint=False).status == 200
    assert site.ask("/docs/").status == 418
    assert site.ask("/docs", method="PURGE").status == 418
    assert site.ask("/docs", method="get").status == 418
    assert site.ask("/docs", headers=(("X-HTTP-Method-Override", "DELETE"),)).status == 418


@pytest.mark.parametrize("gate", [first_match, all_of])
def test_a_path_that_is_read_in_two_ways_is_refused_if_it_matters(world: str, gate: Any) -> None:
    site = Site(
        world,
        gate(
            Policy("admin", when=path("/admin/*") & header("x-on"), then=[RateLimit("100/minute")]),
            Policy("v1", when=path("/v1/*"), then=[RateLimit("100/minute", name="v1")]),
        ),
        store="memory://",
    )
    odd = "/public/..%2fadmin/x"
    assert site.ask(odd).status == 200  # the other criterion does not hold, so the path does not matter
    refused = site.ask(odd, headers=(("X-On", "1"),))
    assert (refused.status, b"more than one way" in refused.body) == (400, True)
    assert site.ask("/other//path").status == 200


def test_a_function_may_be_a_condition_and_what_it_raises_refuses(world: str, caplog: Any) -> None:
    def beta(request: Request) -> bool:
        return request.query["beta"] == "1"

    site = Site(world, Policy("beta", when=path("/v1/*") & beta, then=[RateLimit("1/minute")]), store="memory://")
    assert site.statuses(2, "/v1/a?beta=1") == [200, 429]
    assert site.ask("/v1/a").status == 503  # a KeyError: nobody is let pass unasked
    assert site.ask("/v2/a").status == 200


# -- guards are full citizens -------------------------------------------------------------------------------------


def test_neighbours_of_policies_share_one_operation(world: str) -> None:
    """A limit before the policies, those of two policies, and one behind: one trip."""
    store = DistantStore(ManualClock())
    site = Site(
        world,
        RateLimit("9/minute", name="before"),
        all_of(
            Policy("v1", when=path("/v1/*"), then=[RateLimit("8/minute", name="v1"), Concurrency(5, name="slots")]),
            Policy("writes", when=method("POST"), then=[RateLimit("7/minute", name="writes")]),
            Policy("never", when=path("/never"), then=[RateLimit("1/minute", name="never")]),
        ),
        RateLimit("6/minute", name="behind"),
        store=store,
    )
    answer = site.ask("/v1/a", method="POST")
    assert answer.status == 200
    takes = [asked for asked in store.asked if asked.startswith("Take ")]
    assert len(takes) == 1
    names = {word.split(":")[1]: True for word in takes[0].split()[2:]}
    assert [*names] == ["before", "v1", "slots", "writes", "behind"]
    told = " ".join(answer.all("ratelimit"))
    assert [f'"{name}:' in told for name in ("before", "v1", "writes", "never", "behind")] == [
        *(True, True, True, False, True)
    ]
    store.asked.clear()
    assert site.ask("/other").status == 200
    (take,) = [asked for asked in store.asked if asked.startswith("Take ")]
    assert [word.split(":")[1] for word in take.split()[2:]] == ["before", "behind"]


def test_the_tightest_of_fused_limits_refuses_and_nothing_is_charged(world: str, store: Any) -> None:
    site = Site(
        world,
        RateLimit("5/minute", name="before"),
        first_match(Policy("writes", when=method("POST"), then=[RateLimit("1/minute", name="writes")])),
        RateLimit("4/minute", name="behind"),
        store=store,
    )
    assert site.statuses(4, method="POST") == [200, 429, 429, 429]
    assert site.statuses(4) == [200, 200, 200, 429]
    uses = {use.name: use.spent for use in site.stack.limits.peek("198.51.100.1")}
    assert uses == {"before:5/minute": 4, "writes:1/minute": 1, "behind:4/minute": 4}


def test_policies_stay_on_the_short_way(world: str, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No coroutine of a guard runs, with a store that answers at once and with one that must be awaited."""
    site = Site(
        world,
        keys(),
        first_match(Policy("free", when=plan("free"), then=[RateLimit("5/minute", by="subject")])),
        store=store,
    )
    assert site.ask(key="free").status == 200  # which looks the key up
    monkeypatch.setattr(Chain, "_long", lambda *args, **more: pytest.fail("a guard took the long way"))
    assert site.ask(key="free").status == 200
    assert site.ask().status == 401


def test_guards_that_surround_the_app_work_in_policies(world: str) -> None:
    async def stamped(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.headers.set("X-Stamp", "yes")
        return response

    site = Site(
        world,
        RateLimit("5/minute", name="before"),
        all_of(
            Policy("stamp", when=path("/a"), then=[stamped]),
            Policy("limit", then=[RateLimit("2/minute", name="limit")]),
        ),
        RateLimit("5/minute", name="behind"),
        store=DistantStore(ManualClock()),
    )
    assert site.ask("/a").get("x-stamp") == "yes"
    assert site.ask("/b").get("x-stamp") is None
    assert site.ask("/a").status == 429


def test_a_cache_and_a_filter_in_policies(world: str) -> None:
    calls: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope["path"])
        fields = [(b"content-length", b"2"), (b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    def wsgi(environ: Any, start_response: Any) -> Any:
        calls.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "2"), ("Cache-Control", "max-age=60"), ("Content-Type", "a/b")])
        return [b"ok"]

    site = Site(
        world,
        first_match(
            Policy("admin", when=path("/admin/*"), then=[IPFilter(allow=["10.0.0.0/8"])]),
            Policy("shop", when=path("/shop/*"), then=[RateLimit("5/minute"), ResponseCache()]),
        ),
        store="memory://",
    )
    site.app = site.stack.asgi(app) if world == "asgi" else site.stack.wsgi(wsgi)
    assert site.statuses(2, "/shop/a") == [200, 200]
    assert site.statuses(2, "/other") == [200, 200]
    assert calls == ["/shop/a", "/other", "/other"]
    assert site.ask("/admin/x").status == 403
    assert site.ask("/admin/x", client="10.0.0.1").status == 200
    assert site.stack.cache.stats().hits == 1


def test_operators_see_the_limits_bans_and_keys_of_policies() -> None:
    guard = Keyguard(
        Policy("bans", then=[Ban(after="5/minute", name="b")]),
        APIKeys(),
        Policy("v1", when=path("/v1/*"), then=[RateLimit("5/minute", by="key", name="v1", cost=2)]),
        store="memory://",
    )
    issued = guard.keys.issue("acme")
    assert play(guard, "/v1/a", headers={"X-API-Key": issued.key.reveal()}).status == 200
    assert [use.spent for use in guard.limits.peek(issued.record.id)] == [2]
    assert guard.bans.list() == []


def test_handlers_charge_limits_of_policies(world: str) -> None:
    guard = Keyguard(Policy("v1", when=path("/v1/*"), then=[RateLimit("5/minute", name="units")]), store="memory://")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        guard.charge(3, "units")
        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        guard.charge(3, "units")
        return wsgi_app(environ, start_response)

    app: Any = guard.asgi(asgi) if world == "asgi" else guard.wsgi(wsgi)
    ask: Any = ask_asgi if world == "asgi" else ask_wsgi
    assert [ask(app, Ask("/v1/a")).status for _ in range(3)] == [200, 200, 429]


def test_while_the_store_fails_each_limit_does_as_it_was_told(world: str, caplog: Any) -> None:
    store = DistantStore(ManualClock())
    site = Site(
        world,
        RateLimit("9/minute", name="before", if_store_fails="allow"),
        first_match(
            Policy("v1", when=path("/v1/*"), then=[RateLimit("9/minute", name="v1", if_store_fails="refuse")]),
            Policy("v2", when=path("/v2/*"), then=[RateLimit("9/minute", name="v2", if_store_fails="allow")]),
        ),
        store=store,
    )
    store.plan = lambda op: FAILS
    assert site.ask("/v1/a").status == 503
    assert site.ask("/v2/a").status == 200
    assert site.ask("/v3").status == 200


def test_one_guard_in_several_policies_is_asked_once(world: str) -> None:
    limit = RateLimit("2/minute", name="shared")
    site = Site(
        world,
        all_of(Policy("a", when=path("/a"), then=[limit]), Policy("get", when=method("GET"), then=[limit])),
        store="memory://",
    )
    assert site.statuses(3, "/a") == [200, 200, 429]


def test_a_set_works_inside_of_a_guard_of_ones_own(world: str) -> None:
    inner = first_match(
        Policy("admin", when=path("/admin/*"), then=[IPFilter(deny=["198.51.100.0/24"])]),
        Policy("v1", when=path("/v1/*"), then=[RateLimit("1/minute")]),
    )

    class Own(Guard):
        async def __call__(self, request: Request, forward: Forward) -> Response:
            response: Response = await inner(request, forward)  # type: ignore[arg-type]
            return response

    site = Site(world, Own(), store="memory://")
    assert site.ask("/admin/x").status == 403
    assert site.statuses(2, "/v1/x") == [200, 429]
    assert site.ask("/x").status == 200


def test_many_choices_are_forgotten_and_made_again(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.chain._KEPT", 3)
    policies = [
        Policy(f"p{bit}", when=header(f"x-{bit}"), then=[RateLimit("40/minute", name=f"l{bit}")]) for bit in range(4)
    ]
    site = Site(world, all_of(*policies), store="memory://")
    for _ in range(2):
        for choice in range(16):
            fields = tuple((f"X-{bit}", "1") for bit in range(4) if choice >> bit & 1)
            told = " ".join(site.ask(headers=fields).all("ratelimit"))
            assert [f'"l{bit}:' in told for bit in range(4)] == [bool(choice >> bit & 1) for bit in range(4)]
    uses = {use.name: use.spent for use in site.stack.limits.peek("198.51.100.1")}
    assert set(uses.values()) == {16}


def test_several_gates_keep_a_bounded_number_of_branches_together(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.chain._KEPT", 8)
    gates = [
        all_of(
            *[Policy(f"{gate}{bit}", when=header(f"x-{gate}{bit}"), then=[limit(f"{gate}{bit}")]) for bit in range(3)]
        )
        for gate in "ab"
    ]
    site = Site(world, *gates, store="memory://")
    for choice in range(64):
        chosen = [
            f"{gate}{bit}" for place, gate in enumerate("ab") for bit in range(3) if choice >> (place * 3 + bit) & 1
        ]
        fields = tuple((f"X-{name}", "1") for name in chosen)
        told = " ".join(site.ask(headers=fields, client=f"192.0.2.{choice + 1}").all("ratelimit-policy"))
        assert [name for name in ("a0", "a1", "a2", "b0", "b1", "b2") if f'"{name}:' in told] == chosen
        assert len(site.stack._chain._branches) <= 8


# -- what does not start ------------------------------------------------------------------------------------------


def limit(name: str = "limit", **more: Any) -> RateLimit:
    return RateLimit("1/minute", name=name, **more)


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no policies": (lambda: first_match(), "no policies"),
    "a guard in the place of a policy": (lambda: all_of(limit()), "made of policies"),  # type: ignore[arg-type]
    "one name twice": (lambda: all_of(Policy("a", then=[limit()]), Policy("a", then=[limit("b")])), "called 'a'"),
    "one name twice in a stack": (
        lambda: Keyguard(Policy("a", then=[limit()]), Policy("a", then=[limit("b")]), store="memory://"),
        "called 'a'",
    ),
    "no name": (lambda: Policy("", then=[limit()]), "a name is"),
    "no condition": (lambda: Policy("a", when="/v1", then=[limit()]), "not '/v1'"),  # type: ignore[arg-type]
    "one guard without a list": (lambda: Policy("a", then=limit()), "list of guards"),  # type: ignore[arg-type]
    "a class for a guard": (lambda: Policy("a", then=[RateLimit]), "is not a guard"),
    "no guards": (lambda: all_of(Policy("a", then=[])), "has no guards"),
    "no guards in shadow": (lambda: Policy("a", then=[], shadow=True), "nothing to try out"),
    "a policy in a policy": (lambda: Policy("a", then=[Policy("b", then=[limit()])]), "do not nest"),  # type: ignore[list-item]
    "a set in a policy": (lambda: Policy("a", then=[all_of(Policy("b", then=[limit()]))]), "do not nest"),
    "behind one for all": (lambda: first_match(Policy("a", then=[]), Policy("b", then=[limit()])), "never reached"),
    "an identity that nobody finds": (
        lambda: Keyguard(Policy("a", then=[limit(by="key")]), store="memory://"),
        "need the identity of the caller, and none finds it",
    ),
    "an identity that is found later": (
        lambda: Keyguard(Policy("a", then=[limit(by="key")]), APIKeys(), store="memory://"),
        "put it after that",
    ),
    "an identity that another policy finds": (
        lambda: Keyguard(
            first_match(Policy("a", when=path("/a"), then=[APIKeys()]), Policy("b", then=[limit(by="key")])),
            store="memory://",
        ),
        "guards of its own policy alone",
    ),
    "a plan that nobody knows": (
        lambda: Keyguard(Policy("a", when=plan("free"), then=[limit()]), store="memory://"),
        "identity",
    ),
    "a guard that stands twice": (
        lambda: (lambda one: Keyguard(one, Policy("a", then=[one]), store="memory://"))(limit()),
        "stands twice",
    ),
    "two limits under one name": (
        lambda: Keyguard(
            first_match(Policy("a", when=path("/a"), then=[limit()]), Policy("b", then=[limit(by="subject")])),
            APIKeys(),
            store="memory://",
        ),
        "identity",
    ),
    "a cache before a filter": (
        lambda: Keyguard(Policy("a", then=[ResponseCache(), IPFilter(deny=["192.0.2.1"])]), store="memory://"),
        "put the filter before the cache",
    ),
    "balances of callers without a key": (
        lambda: Keyguard(
            APIKeys(optional=True), Policy("a", then=[RateLimit("5/minute", by="ip")]), "no guard", store="memory://"
        ),
        "not a guard|is not",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_policies_do_not_start(name: str) -> None:
    make, why = WRONG[name]
    with pytest.raises(ConfigurationError, match=why):
        make()


def test_an_identity_is_known_within_its_policy(world: str) -> None:
    site = Site(
        world,
        first_match(
            Policy("api", when=path("/api/*"), then=[keys(), limit(by="key")]),
            Policy("web", then=[limit("web")]),
        ),
        store="memory://",
    )
    assert site.ask("/api/x").status == 401
    assert site.statuses(2, "/api/x", "free") == [200, 429]
    assert site.statuses(2, "/web") == [200, 429]


def test_async_settings_in_policies_do_not_start_under_wsgi() -> None:
    async def cost(request: Request) -> int:
        return 1

    guard = Keyguard(Policy("a", then=[RateLimit("5/minute", cost=cost)]), store="memory://")
    with pytest.raises(ConfigurationError, match="no event loop"):
        guard.wsgi(wsgi_app)
    assert ask_asgi(guard.asgi(asgi_app), Ask()).status == 200


def test_time_is_that_of_the_stack() -> None:
    clock = ManualClock()
    guard = Keyguard(Policy("night", when=time("00:00-06:00"), then=[limit()]), store="memory://", clock=clock)
    hours = []
    for _ in range(24):
        statuses = [play(guard).status for _ in range(2)]
        hours.append(429 in statuses)
        clock.advance("1 hour")
    assert sum(hours) == 6
