"""Whose counter is whose: what limits are called, which of them share, and which do not start."""

from __future__ import annotations

import functools
import gc
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, Request, open_store, path, smooth
from keyguard.ops import Read
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from tests.support.harness import Ask, asgi_app, ask_wsgi, wsgi_app


def tenant(request: Request) -> str | None:
    return request.header("x-tenant")


def region(request: Request) -> str | None:
    return request.header("x-region")


def rates(request: Request) -> str:
    return "5/minute"


def other_rates(request: Request) -> str:
    return "3/minute"


def five(request: Request) -> int:
    return 5


def writes(request: Request) -> bool:
    return request.method == "POST"


NAMELESS = [lambda request: 1]


class Weigher:
    def __init__(self, weight: int) -> None:
        self.weight = weight

    def __call__(self, request: Request) -> int:
        return self.weight

    def weigh(self, request: Request) -> int:
        return self.weight


def made(of: int) -> RateLimit:
    """Equal limits are made of equal numbers."""
    return RateLimit("9/minute", by=lambda request: (of, request.header("x-tenant")))


# Limits of one algorithm and period that differ in what they count, by whom or where; each has a counter of its own.
DIFFERENT: list[Any] = [
    lambda: RateLimit("10/minute"),
    lambda: RateLimit("10/minute", by="key"),
    lambda: RateLimit("10/minute", by="subject"),
    lambda: RateLimit("10/minute", by=tenant),
    lambda: RateLimit("10/minute", by=region),
    lambda: RateLimit("10/minute", by=functools.partial(tenant)),
    lambda: RateLimit("10/minute", by=Weigher(1)),
    lambda: RateLimit("10/minute", by=Weigher(1).weigh),
    lambda: RateLimit("10/minute", by=lambda request: "all"),
    lambda: RateLimit("10/minute", methods=["POST"]),
    lambda: RateLimit("10/minute", paths=["/a"]),
    lambda: RateLimit("10/minute", paths=["/b"]),
    lambda: RateLimit("10/minute", paths=["/a"], methods=["POST"]),
    lambda: RateLimit("10/minute", when=path("/a")),
    lambda: RateLimit("10/minute", when=path("/b")),
    lambda: RateLimit("10/minute", when=writes),
    lambda: RateLimit("10/minute", exempt=writes),
    lambda: RateLimit("10/minute", exempt=path("/a")),
    lambda: RateLimit("10/minute", cost=2),
    lambda: RateLimit("10/minute", cost=five),
    lambda: RateLimit("10/minute", cost=Weigher(2)),
    lambda: RateLimit(rates),
    lambda: RateLimit(other_rates),
    lambda: RateLimit(plans={"free": "10/minute"}, default="free", by="ip"),
    lambda: RateLimit("10/minute", name="one"),
    lambda: RateLimit("10/minute", name="other"),
    lambda: RateLimit("10/minute", paths=["/ü"]),
    lambda: RateLimit("10/minute", paths=["/ä"]),
    lambda: RateLimit("10/minute", paths=[f"/{n}" for n in range(100)]),
    lambda: RateLimit("10/minute", paths=[f"/{n}" for n in range(101)]),
]


def test_limits_that_differ_have_counters_of_their_own() -> None:
    limits = [make() for make in DIFFERENT]
    assert len({limit.counter for limit in limits}) == len(limits)
    counters = [each for limit in limits for each in limit.counters]
    assert [
        (one, other)
        for place, one in enumerate(counters)
        for other in counters[:place]
        if one.shares(other) or one.differs_unseen_from(other)
    ] == []
    store = MemoryStore()
    for limit in limits:  # several apps on one store
        Keyguard(APIKeys(optional=True), limit, store=store)


def test_what_is_counted_by_one_is_not_counted_by_another() -> None:
    """A fixed limit and one by function in one stack; stacks of one process on one store."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    stack = Keyguard(RateLimit("5/minute"), RateLimit(other_rates), store=store, clock=clock)
    assert [play(stack).status for _ in range(4)] == [200, 200, 200, 429]
    for make in DIFFERENT[10:22]:
        guard = Keyguard(make(), store=store, clock=clock)
        assert play(guard, "/a", method="POST").status == 200


@pytest.mark.parametrize(
    ("make", "name", "counter"),
    [
        (lambda: RateLimit("1/minute"), "ip", "ip"),
        (lambda: RateLimit("1/minute", by="key", methods=["GET"], paths=["/b", "/a"]), *["key GET /a /b"] * 2),
        (lambda: RateLimit("1/minute", by=tenant), "tenant", f"{__name__}.tenant"),
        (lambda: RateLimit("1/minute", by=NAMELESS[0]), "lambda", f"{__name__}.lambda"),
        (lambda: RateLimit(rates), "ip", f"ip rates {__name__}.rates"),
        (lambda: RateLimit("9/minute", cost=five, when=path("/x")), "ip", f"ip when /x cost {__name__}.five"),
        (lambda: RateLimit("9/minute", cost=3), "ip", "ip cost 3"),
        (lambda: RateLimit("1/minute", by=tenant, name="given"), "given", "given"),
    ],
)
def test_names_are_readable_and_those_of_before_stay(make: Any, name: str, counter: str) -> None:
    limit = make()
    assert (limit.name, limit.counter) == (name, counter)


def test_counters_that_stand_in_a_store_already_go_on() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    play(Keyguard(RateLimit("5/minute", by="ip", paths=["/login"]), store=store, clock=clock), "/login")
    (state,) = store.execute([Read("rl:ip /login:win60000000|198.51.100.1")])[0]
    assert state is not None


@pytest.mark.parametrize("edit", ["9/minute", "40/minute", "5/minute"])
def test_an_edited_quota_keeps_its_counters(edit: str) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)

    def used(rate: str) -> str:
        # The process before an edit is gone.
        return play(Keyguard(RateLimit(rate), store=store, clock=clock)).header("RateLimit") or ""

    used("50/minute")
    assert f"r={int(edit.partition('/')[0]) - 2};" in used(edit)


# -- equal limits share --------------------------------------------------------------------------------------------


EQUAL: list[Any] = [
    lambda: made(1),
    lambda: RateLimit(smooth("5/minute", burst=3)),
    lambda: RateLimit("9/minute", by=operator.methodcaller("header", "x-tenant")),
    lambda: RateLimit("9/minute", by=operator.attrgetter("method")),
    lambda: RateLimit("9/minute", by=functools.lru_cache(tenant)),
]


@pytest.mark.parametrize("make", [*DIFFERENT, *EQUAL])
def test_equal_limits_share_wherever_they_are_made(make: Any) -> None:
    """A factory that is called twice, several workers, several layers of several apps of the same code."""
    store = MemoryStore()
    stacks = [Keyguard(APIKeys(optional=True), make(), store=store) for _ in range(3)]
    assert len(stacks) == 3


def test_an_app_factory_may_be_called_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"

    def factory() -> Any:
        app = keyguard.wsgi.RateLimit(wsgi_app, "2/minute", by=lambda r: r.header("x-tenant"), store=url)
        return keyguard.wsgi.RateLimit(app, "3/minute", store=url)

    apps = [factory(), factory()]
    asked = Ask(headers=(("X-Tenant", "a"),))
    assert [ask_wsgi(app, asked).status for app in apps * 2] == [200, 200, 429, 429]


# -- different limits under one name do not start -------------------------------------------------------------------

CLASHING: dict[str, Any] = {
    "quotas": lambda: (RateLimit("10/minute"), RateLimit("2/minute")),
    "quotas by key": lambda: (RateLimit("10/minute", by="key"), RateLimit("2/minute", by="key")),
    "paths": lambda: (RateLimit("9/minute", paths=["/a"], name="x"), RateLimit("9/minute", paths=["/b"], name="x")),
    "costs": lambda: (RateLimit("9/minute", cost=2, name="x"), RateLimit("9/minute", name="x")),
    "callers": lambda: (RateLimit("9/minute", by=tenant, name="x"), RateLimit("9/minute", by=region, name="x")),
    "methods": lambda: (RateLimit("9/minute", methods=["PUT"], name="x"), RateLimit("9/minute", name="x")),
    "conditions": lambda: (RateLimit("9/minute", when=writes, name="x"), RateLimit("9/minute", name="x")),
    "exemptions": lambda: (RateLimit("9/minute", exempt=path("/a"), name="x"), RateLimit("9/minute", name="x")),
    "bursts": lambda: (RateLimit(smooth("5/minute", burst=3)), RateLimit(smooth("5/minute", burst=4))),
    "by function and fixed": lambda: (RateLimit(rates, name="x"), RateLimit("9/hour", name="x")),
    "functions": lambda: (RateLimit(rates, name="x"), RateLimit(other_rates, name="x")),
    "plans": lambda: (
        RateLimit(plans={"free": "9/minute"}, default="free"),
        RateLimit(plans={"free": "8/minute"}, default="free"),
    ),
    "lambdas": lambda: (
        RateLimit("9/minute", by=lambda r: r.header("a")),
        RateLimit("9/minute", by=lambda r: r.header("b")),
    ),
    "lambdas of other periods": lambda: (
        RateLimit("9/minute", by=lambda r: r.header("a")),
        RateLimit("9/hour", by=lambda r: r.header("b")),
    ),
    "lambdas as rates": lambda: (RateLimit(lambda r: "1/minute"), RateLimit(lambda r: "2/minute")),
    "lambdas as costs": lambda: (RateLimit("9/minute", cost=lambda r: 1), RateLimit("9/minute", cost=lambda r: 2)),
    "lambdas as conditions": lambda: (
        RateLimit("9/minute", when=lambda r: True),
        RateLimit("9/minute", when=lambda r: False),
    ),
    "lambdas that remember others": lambda: (made(1), made(2)),
    "partial functions": lambda: (
        RateLimit("9/minute", by=functools.partial(tenant_of, "a")),
        RateLimit("9/minute", by=functools.partial(tenant_of, "b")),
    ),
    "getters": lambda: (
        RateLimit("9/minute", by=operator.methodcaller("header", "x-tenant")),
        RateLimit("9/minute", by=operator.methodcaller("header", "x-region")),
    ),
    "attributes": lambda: (
        RateLimit("9/minute", by=operator.attrgetter("method")),
        RateLimit("9/minute", by=operator.attrgetter("scheme")),
    ),
    "instances": lambda: (RateLimit("9/minute", cost=Weigher(1)), RateLimit("9/minute", cost=Weigher(2))),
    "methods of instances": lambda: (
        RateLimit("9/minute", cost=Weigher(1).weigh),
        RateLimit("9/minute", cost=Weigher(2).weigh),
    ),
    "local functions": lambda: (RateLimit("9/minute", by=local("a")), RateLimit("9/minute", by=local("b"))),
}


def tenant_of(prefix: str, request: Request) -> str:
    return prefix


def local(prefix: str) -> Any:
    def by(request: Request) -> str:
        return prefix

    return by


@pytest.mark.parametrize("clash", CLASHING)
def test_different_limits_under_one_name_do_not_start(clash: str, tmp_path: Path) -> None:
    one, other = CLASHING[clash]()
    keys = APIKeys(optional=True)
    with pytest.raises(ConfigurationError, match=r"two limits would share a counter.*name=\.\.\."):
        Keyguard(keys, one, other)
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(one, keys, other) if not one.needs else Keyguard(keys, one, other)
    # Two stacks, two layers, of one app or of several: on one store object, or one URL.
    store = MemoryStore()
    first = Keyguard(keys, one, store=store)
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(keys, other, store=store)
    second = Keyguard(keys, one, store=f"sqlite:///{tmp_path}/k.db?timeout=5")
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(keys, other, store=open_store(f"sqlite:///{tmp_path}/k.db?timeout=5"))
    # On stores of their own they are two.
    assert Keyguard(keys, other, store=MemoryStore()) is not None
    assert Keyguard(keys, other) is not None
    del first, second


ONE_STORE: list[tuple[Any, Any]] = [
    ("sqlite:///k.db", "sqlite:///./k.db"),
    ("sqlite:///k.db", "sqlite:///k.db?timeout=0.05"),
    ("sqlite:///k.db", lambda: f"sqlite:///{Path.cwd()}/k.db"),
    ("sqlite:///k.db", lambda: f"sqlite:///{Path.cwd()}/x/../k.db"),
    ("sqlite:///k.db", lambda: f"sqlite:///{linked()}/k.db"),
    ("sqlite:///k.db", lambda: SQLiteStore("k.db")),
    (lambda: SQLiteStore("k.db"), lambda: SQLiteStore("k.db")),
    (lambda: Leased("sqlite:///k.db", workers=2), "sqlite:///k.db"),
    (lambda: Leased("sqlite:///k.db", workers=2), lambda: Leased("sqlite:///k.db", workers=2)),
    ("redis://localhost", "redis://localhost:6379/0"),
    ("redis://localhost", "redis://user:secret@127.0.0.1/?timeout=0.05"),
    ("redis://localhost/3", "rediss://localhost:6379/3"),
    ("redis://localhost", "valkey://localhost"),
    ("unix:///run/r.sock", "redis+unix:///run/r.sock"),
    ("redis+sentinel://a,b/s/1", "redis+sentinel://b:26379,a/s/1"),
    ("redis+cluster://a,b", "redis+cluster://b,a:6379"),
    ("unix:///run/r.sock", "unix:///run/r.sock?timeout=0.05"),
    ("postgresql://h/db", "postgres://h:5432/db?max_connections=3"),
    ("postgresql://me@h/db", "postgresql://you:secret@H/db"),
]
TWO_STORES = [
    ("sqlite:///k.db", "sqlite:///l.db"),
    ("redis://localhost", "redis://localhost/1"),
    ("redis://localhost", "redis://localhost:6380"),
    ("redis://localhost", "redis://localhost?namespace=other"),
    ("postgresql://h/db", "postgresql://h/other"),
    ("postgresql://h/db", "postgresql://h/db?schema=other"),
    ("memory://", "memory://"),
]


def linked() -> Path:
    link = Path.cwd() / "linked"
    if not link.exists():
        link.symlink_to(Path.cwd())
    return link


def opened(store: Any) -> Any:
    return open_store(store() if callable(store) else store)


@pytest.mark.parametrize(("one", "other"), ONE_STORE)
def test_one_store_is_known_however_it_is_spelled(
    one: Any, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = Keyguard(RateLimit("100/minute"), store=opened(one))
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(RateLimit("50/minute"), store=opened(other))
    second = Keyguard(RateLimit("100/minute"), store=opened(other))
    assert first is not second


@pytest.mark.parametrize(("one", "other"), TWO_STORES)
def test_two_stores_are_two(one: Any, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = Keyguard(RateLimit("100/minute"), store=opened(one))
    assert Keyguard(RateLimit("50/minute"), store=opened(other)) is not first


@dataclass
class Compared:
    """A store of a user's own, which has no hash."""

    inner: MemoryStore

    def execute(self, ops: Any) -> Any:
        return self.inner.execute(ops)

    def scan(self, prefix: str) -> Any:
        return self.inner.scan(prefix)


class Slotted(Compared):
    __slots__ = ()


class Bare:
    """Another one, which cannot be referred to weakly."""

    __slots__ = ("inner",)

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner

    execute, scan = Compared.execute, Compared.scan


@pytest.mark.parametrize("kind", [Compared, Slotted, Bare])
def test_a_store_of_any_kind_of_object_is_known(kind: Any) -> None:
    store = kind(MemoryStore())
    first = Keyguard(RateLimit("9/minute"), store=store)
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(RateLimit("8/minute"), store=store)
    assert Keyguard(RateLimit("8/minute"), store=kind(MemoryStore())) is not first
    del first
    gc.collect()
    Keyguard(RateLimit("8/minute"), store=store)


def test_layers_of_one_app_that_would_share_do_not_start() -> None:
    store = MemoryStore()
    app = Starlette()
    app.add_middleware(keyguard.asgi.RateLimit, "100/minute", store=store)
    app.add_middleware(keyguard.asgi.RateLimit, "5/minute", store=store)
    with pytest.raises(ConfigurationError, match="share a counter"), TestClient(app):
        pass
    one = keyguard.asgi.RateLimit(asgi_app, "100/minute", store=store)
    with pytest.raises(ConfigurationError, match="share a counter"):
        keyguard.asgi.RateLimit(one, "5/minute", store=store)
    named = keyguard.asgi.RateLimit(one, "5/minute", name="tight", store=store)
    assert named is not None


def test_two_that_would_be_called_alike_do_not_start() -> None:
    """They count apart, but nobody could tell which of them refused."""
    with pytest.raises(ConfigurationError, match="refusals would not tell which of them refused"):
        Keyguard(RateLimit("9/minute"), RateLimit("9/minute", when=writes))


def test_a_stack_may_take_the_place_of_another() -> None:
    store = MemoryStore()
    stack = Keyguard(RateLimit("9/minute"), store=store)
    stack.wsgi(wsgi_app)
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(RateLimit("8/minute"), store=store)
    del stack
    gc.collect()
    Keyguard(RateLimit("8/minute"), store=store)


def test_the_message_says_what_is_right() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Keyguard(RateLimit("9/minute", by=lambda r: 1), RateLimit("8/minute", by=lambda r: 2))
    assert "a function without a name, a lambda say, gives a limit none" in str(raised.value)
    assert "Give <RateLimit lambda: 8/minute> a name=..." in str(raised.value)


# -- plans ----------------------------------------------------------------------------------------------------------

PLANS: dict[str, Any] = {
    "free": "2/minute; 4/day",
    "pro": ["3/minute"],
    "paced": smooth("1/minute", burst=2),
    "staff": None,
}


def of_plan(key: str) -> Identity | None:
    return Identity(key, plan=None if key == "none" else key)


def planned(*keys: str, **options: Any) -> list[int]:
    clock = ManualClock()
    limit = RateLimit(plans=PLANS, **{"default": "free", **options})
    guard = Keyguard(APIKeys(lookup=of_plan, public=["/health"]), limit, clock=clock)
    return [play(guard, headers={"X-API-Key": key}).status for key in keys]


def test_each_plan_has_its_rates() -> None:
    assert planned(*["free"] * 3) == [200, 200, 429]
    assert planned(*["pro"] * 4) == [200, 200, 200, 429]
    assert planned(*["paced"] * 3) == [200, 200, 429]
    assert planned(*["staff"] * 9) == [200] * 9


def test_who_has_no_plan_or_one_that_nobody_knows_gets_the_default(caplog: pytest.LogCaptureFixture) -> None:
    assert planned(*["none"] * 3) == [200, 200, 429]
    assert "knows no plan" not in caplog.text
    assert planned(*["enterprise"] * 3) == [200, 200, 429]
    assert caplog.text.count("knows no plan 'enterprise': callers of it get the default") == 1
    assert planned(*["enterprise"] * 3, default="1/minute") == [200, 429, 429]
    assert planned(*["enterprise"] * 3, default="staff") == [200] * 3


@pytest.mark.parametrize("plan", [["pro"], {"name": "pro"}, {"pro"}, ("pro",), 5, True, b"pro", "", "pro ", "Pro", 1.5])
def test_a_plan_of_any_kind_that_is_not_listed_gets_the_default(plan: Any, caplog: pytest.LogCaptureFixture) -> None:
    limit = RateLimit(plans=PLANS, default="free")
    guard = Keyguard(APIKeys(lookup=lambda key: Identity("ada", plan=plan)), limit, clock=ManualClock())
    assert [play(guard, headers={"X-API-Key": "k"}).status for _ in range(3)] == [200, 200, 429]
    assert caplog.text.count(f"knows no plan {plan!r}: callers of it get the default") == 1


def test_the_default_may_be_several_rates() -> None:
    for default in (["1/second", "2/day"], ("1/second", "2/day"), "1/second; 2/day", [smooth("1/second")]):
        assert planned(*["none"] * 2, default=default) == [200, 429]


def test_plans_count_by_subject_and_the_anonymous_by_address() -> None:
    guard = Keyguard(APIKeys(lookup=of_plan, public=["/health"]), RateLimit(plans=PLANS, default="free"))
    assert [play(guard, "/health").status for _ in range(3)] == [200, 200, 429]
    assert play(guard, "/health", client="10.0.0.1").status == 200
    assert play(guard, headers={"X-API-Key": "free"}).header("RateLimit") == (
        '"subject:2/minute";r=1;t=60, "subject:4/day";r=3;t=86400'
    )


def test_a_plan_that_is_changed_keeps_what_was_used() -> None:
    identities = iter([Identity("ada", plan=plan) for plan in ("free", "free", "pro", "pro")])
    keys = APIKeys(lookup=lambda key: next(identities))
    guard = Keyguard(keys, RateLimit(plans=PLANS, default="free"), clock=ManualClock())
    statuses = [play(guard, headers={"X-API-Key": f"k{n}"}).status for n in range(4)]
    assert statuses == [200, 200, 200, 429]


def test_plans_go_with_functions() -> None:
    limit = RateLimit(plans=PLANS, default="free", by=tenant, cost=lambda r: 2, exempt=path("/health"))
    guard = Keyguard(APIKeys(lookup=of_plan, optional=True), limit, clock=ManualClock())
    asked = {"X-API-Key": "free", "X-Tenant": "a"}
    assert [play(guard, headers=asked).status for _ in range(2)] == [200, 429]
    assert play(guard, "/health", headers=asked).status == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"plans": {}}, "plans are a mapping"),
        ({"plans": ["free"]}, "plans are a mapping"),
        ({"plans": {"free": "1/minute"}}, "plans need a default"),
        *[
            ({"plans": {"free": "1/minute"}, "default": default}, "is none of the plans 'free', and no rate")
            for default in ([], {}, {"free": 1}, {"1/minute"}, 5, True, "", ["free"])
        ],
        ({"plans": {"free": "1/minute"}, "default": "fre"}, "'fre' is none of the plans 'free', and no rate"),
        ({"plans": {"free": "1/mnute"}, "default": "free"}, "cannot read the rate"),
        ({"plans": {"": "1/minute"}, "default": ""}, "the name of a plan is a text"),
        ({"plans": {7: "1/minute"}, "default": 7}, "the name of a plan is a text"),
        ({"plans": {"free": "1/minute"}, "default": "free", "cost": 2}, "more than it ever admits"),
        ({"default": "free"}, "default is about plans"),
    ],
)
def test_wrong_plans_do_not_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimit(*(() if "plans" in options else ("1/minute",)), **options)


def test_plans_and_rates_are_not_mixed_and_need_api_keys() -> None:
    with pytest.raises(ConfigurationError, match="rates or plans, not both"):
        RateLimit("1/minute", plans={"free": "1/minute"}, default="free")
    with pytest.raises(ConfigurationError, match=r"put APIKeys\(\) first"):
        Keyguard(RateLimit(plans={"free": "1/minute"}, default="free", by="ip"))
