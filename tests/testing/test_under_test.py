"""`guard.testing()`: an app in a test, on an empty store and with time that stands still, in both worlds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from starlette.testclient import TestClient, WebSocketDenialResponse

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    ConfigurationError,
    Guard,
    Identity,
    Keyguard,
    Overload,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    credits,
    quota,
    smooth,
)
from keyguard.policies import Policy, all_of, first_match, path, plan, shadow
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app
from tests.support.servers import RedisServer

Client = Callable[..., Answer]
WORLDS = ["asgi", "wsgi"]


def client_of(world: str, guard: Keyguard, app: Any = None) -> Client:
    """Return a client of an app that stands inside of a guard: the app is made now."""
    made: Any = guard.asgi(app or asgi_app) if world == "asgi" else guard.wsgi(app or wsgi_app)
    ask = ask_asgi if world == "asgi" else ask_wsgi

    def send(target: str = "/", key: str | None = None, client: str | None = "192.0.2.1", **more: Any) -> Answer:
        fields = () if key is None else (("X-API-Key", key),)
        return ask(made, Ask(target, fields, client=client, **more))

    return send


def statuses(send: Client, times: int, *args: Any, **more: Any) -> list[int]:
    return [send(*args, **more).status for _ in range(times)]


Each = Iterator[tuple[Keyguard, Client]]
world = pytest.fixture(params=WORLDS)(lambda request: request.param)


def stack(*more: Any, **options: Any) -> Keyguard:
    limits = RateLimit("2/minute", by="key", name="search"), *more
    return Keyguard(APIKeys(public=["/open"]), *limits, **({"store": "memory://"} | options))


# -- the whole of it ----------------------------------------------------------------------------------------------


def test_limits_move_with_the_tests_time(world: str) -> None:
    guard = stack()
    send = client_of(world, guard)
    assert send().status == 401
    with guard.testing(identity="alice") as g:
        assert statuses(send, 3) == [200, 200, 429]
        assert send().get("retry-after") == "60"
        g.advance("30s")
        assert send().get("retry-after") == "30"
        g.advance(timedelta(seconds=30))
        assert statuses(send, 3) == [200, 200, 429]
        g.advance("1h")
        assert send().status == 200
    assert send().status == 401


def test_the_apps_own_store_is_not_touched(world: str, valkey: RedisServer, tmp_path: Any) -> None:
    """What is in it afterwards is what was in it before: also of an app whose first request is one of the test."""
    for store in (
        f"{valkey.url}?namespace=untouched-{tmp_path.name}",
        f"sqlite:///{tmp_path}/k.db?timeout=5",
        MemoryStore(),
    ):
        guard = stack(store=store)
        key = guard.keys.issue("acme").key.reveal()
        before, own = [*guard.store.scan("")], guard.store
        send = client_of(world, guard)
        with guard.testing() as g:
            assert guard.store is not own
            assert send(key=key).status == 401  # it is not in the test's store
            mine = guard.keys.issue("acme").key.reveal()
            assert statuses(send, 3, key=mine) == [200, 200, 429]
            g.exhaust("acme")
            guard.limits.reset(mine)
        assert guard.store is own
        assert [*guard.store.scan("")] == before
        assert statuses(send, 3, key=key) == [200, 200, 429]
        assert send(key=mine).status == 401


def test_a_store_that_cannot_be_reached_is_not_asked(world: str) -> None:
    guard = stack(store="redis://127.0.0.1:1")
    send = client_of(world, guard)
    with guard.testing(identity="alice"):
        assert statuses(send, 3) == [200, 200, 429]
    with guard.testing(identity="alice"):
        assert statuses(send, 3) == [200, 200, 429]


def test_apps_that_are_made_inside_are_as_others(world: str) -> None:
    """Frameworks put middleware around an app at its first request."""
    guard = stack()
    with guard.testing(identity="alice"):
        send = client_of(world, guard)
        assert statuses(send, 3) == [200, 200, 429]
    assert send().status == 401
    key = guard.keys.issue("acme").key.reveal()
    assert statuses(send, 3, key=key) == [200, 200, 429]


def test_one_inside_of_another_begins_anew_and_the_other_goes_on(world: str) -> None:
    guard = stack()
    send = client_of(world, guard)
    with guard.testing(identity="alice") as outer:
        assert send().status == 200
        with guard.testing(identity="bob") as inner:
            assert statuses(send, 3) == [200, 200, 429]
            inner.advance("1 day")
            assert (outer.hits("search"), inner.hits("search")) == (1, 3)
        assert statuses(send, 2) == [200, 429]
        outer.advance("1 minute")
        assert (send().status, outer.hits("search")) == (200, 4)


def test_a_test_that_was_not_entered_does_nothing_silently() -> None:
    forgotten = Keyguard(RateLimit("1/minute", by="ip"), store="memory://").testing()
    actions: list[Callable[[], object]] = [
        lambda: forgotten.advance("1h"),
        lambda: forgotten.hits("ip"),
        lambda: forgotten.exhaust("192.0.2.1"),
        forgotten.reset,
        forgotten.break_store,
    ]
    for act in actions:
        with pytest.raises(RuntimeError, match=r"inside of `with guard.testing\(\) as g:` alone"):
            act()


def test_what_a_test_has_counted_can_be_asked_when_it_is_over() -> None:
    guard = Keyguard(RateLimit("1/minute", by="ip"), store="memory://")
    with guard.testing() as g:
        play(guard)
    assert g.hits("ip") == 1


def test_tests_of_one_stack_that_overlap_are_refused() -> None:
    guard = stack()
    first, second = guard.testing(), guard.testing()
    own = guard.store
    first.__enter__()
    second.__enter__()
    with pytest.raises(RuntimeError, match="the one that has begun last ends first"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    first.__exit__(None, None, None)
    assert guard.store is own
    for wrong in (lambda: first.__enter__(), lambda: first.exhaust("alice"), lambda: guard.testing().reset()):
        with pytest.raises(RuntimeError):
            wrong()


def test_it_ends_also_if_the_test_fails(world: str) -> None:
    guard = stack()
    send, own = client_of(world, guard), guard.store
    with pytest.raises(KeyError), guard.testing(identity="alice"):
        raise KeyError
    assert (guard.store is own, send().status) == (True, 401)


class Picky(Guard):
    """Cannot stand in a second stack."""

    attached = 0

    def attach(self, stack: Any) -> None:
        self.attached += 1
        if self.attached == 2:
            raise ConfigurationError("one stack is enough")

    def __call__(self, request: Request) -> None:
        return None


def test_one_that_cannot_begin_leaves_all_as_it_was(world: str) -> None:
    outer, inner = stack(), Keyguard(Picky(), RateLimit("1/minute"), store="memory://")
    own = outer.store, inner.store
    send = client_of(world, inner)
    with pytest.raises(ConfigurationError, match="one stack is enough"), outer.testing(inner, identity="alice"):
        pass
    assert (outer.store, inner.store) == own
    assert statuses(send, 2) == [200, 429]
    with outer.testing(inner):
        assert statuses(send, 2) == [200, 429]
    assert send().status == 429
    with pytest.raises(ConfigurationError, match="further stacks, each a Keyguard, not 7"):
        outer.testing(7)  # type: ignore[arg-type]


def test_websockets_are_the_identitys_too() -> None:
    guard, app = stack(), FastAPI()
    app.add_middleware(guard.asgi)

    @app.websocket("/ws")
    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(guard.here().caller.subject)
        await socket.close()

    def talk_to(client: TestClient) -> str:
        with client.websocket_connect("/ws") as socket:
            return socket.receive_text()

    with TestClient(app) as client:
        with pytest.raises(WebSocketDenialResponse):
            talk_to(client)
        with guard.testing(identity="alice") as g:
            assert talk_to(client) == "alice"
            g.exhaust("alice")
            with pytest.raises(WebSocketDenialResponse):
                talk_to(client)
            g.advance("1 minute")
            assert talk_to(client) == "alice"


def test_a_stack_that_is_not_enabled_is_enabled_inside(world: str) -> None:
    guard = stack(enabled=False)
    send = client_of(world, guard)
    assert statuses(send, 3) == [200] * 3
    with guard.testing(identity="alice"):
        assert statuses(send, 3) == [200, 200, 429]
    assert statuses(send, 3) == [200] * 3


@pytest.mark.parametrize("wrong", ["", " ", 7, Identity(""), b"alice"])
def test_an_identity_is_somebody(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="identity is a subject such as 'alice'"):
        stack().testing(identity=wrong)
    with stack().testing() as g, pytest.raises(ConfigurationError, match="identity is a subject"):
        g.identity = wrong


def test_a_clock_is_one_that_goes_when_it_is_told_to() -> None:
    with pytest.raises(ConfigurationError, match="clock of a test is a ManualClock"):
        stack().testing(clock=lambda: datetime.now(UTC))  # type: ignore[arg-type]


# -- who asks -----------------------------------------------------------------------------------------------------


def test_requests_without_a_key_are_the_identitys_and_others_are_not(world: str) -> None:
    guard = stack()
    send = client_of(world, guard)
    with guard.testing(identity="alice") as g:
        key = guard.keys.issue("bob").key.reveal()
        assert statuses(send, 3) == [200, 200, 429]
        assert statuses(send, 3, key=key) == [200, 200, 429]
        assert send(key="kg_live_wrong").status == 401
        g.identity = "carol"
        assert g.identity == Identity("carol")
        assert statuses(send, 3) == [200, 200, 429]
        g.identity = None
        assert send().status == 401


def test_an_identity_has_its_scopes_and_its_plan(world: str) -> None:
    keys = APIKeys(scopes=lambda request: {"write"} if request.method == "POST" else {"read"})
    limit = RateLimit(plans={"pro": "3/minute"}, default="1/minute")
    guard = Keyguard(keys, limit, store="memory://")
    send = client_of(world, guard)
    with guard.testing(identity=Identity("alice", plan="pro", scopes=frozenset({"read"}))) as g:
        assert statuses(send, 4) == [200, 200, 200, 429]
        assert send(method="POST").status == 403
        g.identity = Identity("bob", scopes=frozenset({"read", "write"}))
        assert statuses(send, 2, method="POST") == [200, 429]
    strict = Keyguard(APIKeys(scopes=["write"]), store="memory://")
    send = client_of(world, strict)
    with strict.testing(identity="alice") as g:
        assert send().status == 403
        g.identity = Identity("alice", scopes=frozenset({"write"}))
        assert send().status == 200


def test_where_no_key_is_needed_nobody_is_looked_for(world: str) -> None:
    guard = stack()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(guard.here().caller.subject)
        await asgi_app(scope, receive, send)

    def plain(environ: Any, start_response: Any) -> Any:
        seen.append(guard.here().caller.subject)
        return wsgi_app(environ, start_response)

    send = client_of(world, guard, app if world == "asgi" else plain)
    with guard.testing(identity="alice"):
        assert [send("/open").status, send("/").status] == [200, 200]
    assert seen == ["", "alice"]


class ByName(Guard):
    """Takes callers at their word."""

    provides = frozenset({"identity"})
    sources = ("x-name",)

    def __call__(self, request: Request) -> Any:
        request.identity = Identity(request.headers["x-name"])


class ByNameAround(ByName):
    async def __call__(self, request: Any, forward: Any) -> Any:
        request.identity = Identity(request.headers["x-name"])
        return await forward(request)


@pytest.mark.parametrize("finds", [ByName, ByNameAround])
def test_a_guard_of_ones_own_that_finds_callers_is_spared_requests_without_credentials(
    finds: type[ByName], world: str
) -> None:
    guard = Keyguard(finds(), RateLimit("1/minute", by="subject"), store="memory://")
    made: Any = guard.asgi(asgi_app) if world == "asgi" else guard.wsgi(wsgi_app)
    ask = ask_asgi if world == "asgi" else ask_wsgi
    bob = Ask("/", (("x-name", "bob"),))
    with guard.testing(identity="alice"):
        assert [ask(made, Ask("/")).status, ask(made, bob).status, ask(made, Ask("/")).status] == [200, 200, 429]
    assert ask(made, bob).status == 200


def test_a_stack_without_keys_tells_its_handlers_who_asks() -> None:
    guard = Keyguard(RateLimit("1/minute", by="ip"), store="memory://")

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [guard.here().caller.subject.encode()]

    with guard.testing(identity="alice"):
        assert ask_wsgi(guard.wsgi(app), Ask("/")).body == b"alice"


def test_a_look_up_is_asked_about_keys_alone(world: str) -> None:
    asked: list[str] = []

    def lookup(key: str) -> Identity | None:
        asked.append(key)
        return Identity("bob") if key == "b0b" else None

    guard = Keyguard(APIKeys(lookup=lookup), RateLimit("2/minute", by="subject"), store="memory://")
    send = client_of(world, guard)
    with guard.testing(identity="alice"):
        assert [send().status, send(key="b0b").status, send(key="other").status] == [200, 200, 401]
    assert asked == ["b0b", "other"]


# -- keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_issued_revoked_and_expire_by_the_tests_time(world: str) -> None:
    """Trust in a key that was verified ends with time, which stands still here: so the store is asked each time."""
    guard = stack()
    send = client_of(world, guard)
    with guard.testing(clock=ManualClock(datetime(2030, 1, 1, tzinfo=UTC))) as g:
        assert g.clock.now == datetime(2030, 1, 1, tzinfo=UTC)
        issued = guard.keys.issue("acme", expires="1 day")
        assert issued.record.created == g.clock.now
        other = guard.keys.issue("other")
        assert [send(key=one.key.reveal()).status for one in (issued, other)] == [200, 200]
        guard.keys.revoke(other.record.id)
        assert [send(key=one.key.reveal()).status for one in (issued, other)] == [200, 401]
        g.advance("1 day")
        assert send(key=issued.key.reveal()).status == 401


def test_a_test_begins_at_the_present() -> None:
    with stack().testing() as g:
        assert abs(g.clock.now - datetime.now(UTC)) < timedelta(minutes=10)


# -- exhaust ------------------------------------------------------------------------------------------------------


def by_header(request: Any) -> str | None:
    return request.headers.get("x-tenant")


EVERY: dict[str, Any] = {
    "by key": lambda: [APIKeys(), RateLimit("100/minute", by="key")],
    "by subject": lambda: [APIKeys(), RateLimit("3/minute", by="subject")],
    "by address, outside": lambda: [RateLimit("100/minute", by="ip"), APIKeys()],
    "by address, inside": lambda: [APIKeys(), RateLimit("100/minute", by="ip")],
    "by a function": lambda: [APIKeys(), RateLimit("5/minute", by=lambda request: "all", name="all")],
    "chosen by a function": lambda: [APIKeys(), RateLimit(lambda request: "7/minute", by="key")],
    "by plan": lambda: [APIKeys(), RateLimit(plans={"pro": "9/minute"}, default="5/minute")],
    "even pace": lambda: [APIKeys(), RateLimit(smooth("5/minute", burst=3), by="key")],
    "calendar": lambda: [APIKeys(), RateLimit(quota("1000/day"), by="key")],
    "balance": lambda: [APIKeys(), RateLimit(credits(100, refill=quota("100/month")), by="key")],
    "several": lambda: [APIKeys(), RateLimit("9/second; 100/day", by="key"), RateLimit("3/minute", by="ip", name="ip")],
    "failures": lambda: [APIKeys(), RateLimit("3/minute", by="key", count="failures")],
    "places": lambda: [APIKeys(), Concurrency(3, by="key")],
}


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("named", ["subject", "id", "key", "identity", "all"])
def test_a_caller_that_is_exhausted_gets_a_429_that_says_when(kind: str, named: str, world: str) -> None:
    guard = Keyguard(*EVERY[kind](), store="memory://")
    send = client_of(world, guard)
    with guard.testing() as g:
        issued = guard.keys.issue("acme", plan="pro")
        key = issued.key.reveal()
        who = {
            "subject": "acme",
            "id": issued.record.id,
            "key": key,
            "identity": Identity("acme", key_id=issued.record.id),
            "all": None,
        }[named]
        assert send(key=key).status == 200
        g.exhaust(who)
        refused = send(key=key)
        assert refused.status == 429
        assert int(refused.get("retry-after") or 0) > 0
        assert key not in repr(vars(g)) + str([vars(one) for one in g._exhausted])
        g.advance("40 days")
        assert send(key=key).status == 200


def test_the_identity_of_a_test_can_be_exhausted_before_its_first_request(world: str) -> None:
    guard = stack(RateLimit("100/minute", by="ip", name="ip"))
    send = client_of(world, guard)
    with guard.testing(identity="alice") as g:
        g.exhaust("alice")
        assert guard.limits.peek("alice", by="key")[0].remaining == 0
        assert send("/open").status == 200  # nobody is asked for a key there: it is not a request of hers
        assert send().status == 429
        g.identity = "bob"
        assert [send(client="192.0.2.2").status, send(client="192.0.2.1").status] == [200, 429]  # her address


def test_a_caller_who_comes_later_finds_the_limits_as_time_has_filled_them(world: str) -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip"), APIKeys(), store="memory://")
    send = client_of(world, guard)
    with guard.testing(identity="alice") as g:
        g.exhaust("alice")
        g.advance("45 seconds")
        refused = send()
        assert (refused.status, refused.get("retry-after")) == (429, "15")
        g.advance("15 seconds")
        assert send().status == 200
        assert send(client="198.51.100.7").status == 200


def test_an_address_can_be_exhausted_and_a_client_that_has_none(world: str) -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip"), store="memory://")
    send = client_of(world, guard)
    with guard.testing() as g:
        g.exhaust("192.0.2.1")
        assert [send().status, send(client="192.0.2.2").status] == [429, 200]
        if world == "asgi":  # Starlette's client says that it is called so
            g.exhaust("testclient")
            assert send(client="testclient").status == 429


def test_callers_of_a_look_up_are_exhausted_by_key_and_by_subject(world: str) -> None:
    guard = Keyguard(
        RateLimit("10/minute", by="ip"),
        APIKeys(lookup=lambda key: Identity(f"owner of {key}")),
        RateLimit("10/minute", by="subject"),
        store="memory://",
    )
    send = client_of(world, guard)
    for who in ("k3y", "owner of k3y"):
        with guard.testing() as g:
            assert send(key="k3y").status == 200
            g.exhaust(who)
            assert send(key="k3y").status == 429


def test_rules_at_routes_are_exhausted_too() -> None:
    from flask import Flask

    guard, app = Keyguard(APIKeys(), store="memory://"), Flask(__name__)
    guard.init_app(app)
    app.get("/")(guard.limit("10/minute", name="login")(lambda: "ok"))
    send = app.test_client().get
    with guard.testing(identity="alice") as g:
        app.get("/late", endpoint="late")(guard.limit("10/minute", name="late")(lambda: "ok"))
        assert [send("/").status_code, g.hits("login")] == [200, 1]
        g.exhaust("alice")
        assert [send("/").status_code, send("/late").status_code] == [429, 429]
        g.advance("1 minute")
        assert [send("/").status_code, send("/late").status_code] == [200, 200]
    key = guard.keys.issue("acme").key.reveal()
    answers = [app.test_client().get("/late", headers={"X-API-Key": key}) for _ in range(11)]
    assert [answer.status_code for answer in answers] == [200] * 10 + [429]


def test_rules_that_are_made_in_a_test_go_on_afterwards(world: str) -> None:
    guard = Keyguard(APIKeys(optional=True), store="memory://")
    with guard.testing():
        from flask import Flask

        app = Flask(__name__)
        guard.init_app(app)
        app.get("/")(guard.limit("1/minute", by="ip")(lambda: "ok"))
        assert [app.test_client().get("/").status_code for _ in range(2)] == [200, 429]
    assert [app.test_client().get("/").status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("wrong", ["", 7, b"alice", "kg_live_abcdefghijkl_0000"])
def test_who_is_nobody_cannot_be_exhausted(wrong: Any) -> None:
    with stack().testing() as g, pytest.raises(ValueError, match=r"caller|looks like a key"):
        g.exhaust(wrong)


def test_handlers_find_nothing_left_to_reserve() -> None:
    tokens = RateLimit("1000/day", by="key", cost=0, name="tokens")
    guard = Keyguard(APIKeys(), tokens, store="memory://")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with guard.reserve(1, "tokens"):
            await asgi_app(scope, receive, send)

    send = client_of("asgi", guard, app)
    with guard.testing(identity="alice") as g:
        assert send().status == 200
        g.exhaust("alice")
        assert send().status == 429


# -- hits and reset -----------------------------------------------------------------------------------------------


def test_hits_are_the_requests_that_a_limit_was_asked_about(world: str) -> None:
    ban = Ban(after="5/minute")
    guard = Keyguard(
        ban,
        APIKeys(public=["/open"]),
        RateLimit("2/minute; 100/day", by="key", name="search"),
        RateLimit(lambda request: "50/minute", by="key", name="chosen"),
        Concurrency(5, by="key", name="places"),
        store="memory://",
    )
    send = client_of(world, guard)
    with guard.testing(identity="alice") as g:
        assert statuses(send, 3) == [200, 200, 429]
        names = ["search", "search:2/minute", "search:100/day", "chosen", "places", "ban"]
        assert {name: g.hits(name) for name in names} == dict.fromkeys(names, 3)
        g.identity = None
        assert (send().status, g.hits("search"), g.hits("ban")) == (401, 3, 4)
        with pytest.raises(ValueError, match=r"no limit is called 'serch': there is .*search, chosen, places"):
            g.hits("serch")
        g.reset()
        assert {name: g.hits(name) for name in names} == dict.fromkeys(names, 0)


def test_a_reset_forgets_all_but_keys_and_time(world: str) -> None:
    guard = Keyguard(
        Ban(after="1/minute"),
        APIKeys(),
        RateLimit("2/minute", by="key"),
        ResponseCache(by="key", ttl=600),
        store="memory://",
    )
    send = client_of(world, guard)
    with guard.testing() as g:
        key = guard.keys.issue("acme").key.reveal()
        g.advance("1h")
        now = g.clock.now
        assert statuses(send, 3, key=key) == [200, 200, 429]
        assert statuses(send, 3) == [401, 401, 429]
        g.break_store()
        g.reset()
        assert (send().status, g.clock.now) == (401, now)
        fresh = send(key=key)
        assert (fresh.status, "hit" in str(fresh.get("cache-status"))) == (200, False)
        assert statuses(send, 2, key=key) == [200, 429]


# -- a broken store -----------------------------------------------------------------------------------------------


def test_a_store_can_be_broken_and_repaired(world: str) -> None:
    seen: list[bool] = []
    guard = Keyguard(
        APIKeys(if_store_fails="refuse"),
        RateLimit("2/minute", by="key"),
        store="memory://",
        on_health=lambda health: seen.append(health.ok),
    )
    send = client_of(world, guard)
    with guard.testing() as g:
        key = guard.keys.issue("acme").key.reveal()
        assert send(key=key).status == 200
        with g.break_store():
            assert [send(key=key).status, guard.health.ok] == [503, False]
        assert [send(key=key).status, guard.health.ok] == [200, True]
        broken = g.break_store()
        assert send(key=key).status == 503
        broken.repair()
        assert send(key=key).status == 429
        g.break_store()
        g.repair_store()
        g.advance("1 minute")
        assert send(key=key).status == 200
        g.break_store()
    assert seen == [False, True, False, True]
    assert guard.health.ok


def test_keys_that_are_known_are_accepted_without_the_store_and_others_are_not(world: str) -> None:
    guard = Keyguard(APIKeys(stale_if_error="5 minutes"), RateLimit("2/minute", by="key"), store="memory://")
    send = client_of(world, guard)
    with guard.testing() as g:
        known, other = (guard.keys.issue(name).key.reveal() for name in ("acme", "other"))
        assert send(key=known).status == 200
        with g.break_store():
            assert [send(key=known).status, send(key=other).status] == [200, 503]
            g.advance("5 minutes")
            assert send(key=known).status == 503
        assert [send(key=known).status, send(key=other).status] == [200, 200]


# -- all that a stack may have ------------------------------------------------------------------------------------


def test_a_cache_begins_empty_ages_and_is_as_before(world: str) -> None:
    guard = Keyguard(ResponseCache(ttl=60, public=True), store="memory://")
    calls: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % len(calls)})

    def plain(environ: Any, start_response: Any) -> Any:
        calls.append(1)
        start_response("200 OK", [])
        return [b"%d" % len(calls)]

    send = client_of(world, guard, app if world == "asgi" else plain)
    assert [send().body, send().body] == [b"1", b"1"]
    stored = guard.cache.stats().entries
    with guard.testing() as g:
        assert guard.cache.stats().entries == 0
        assert [send().body, send().body] == [b"2", b"2"]
        g.advance("30 seconds")
        assert (send().body, send().get("age")) == (b"2", "30")
        g.advance("31 seconds")
        assert send().body == b"3"
        guard.cache.purge_all()
        assert send().body == b"4"
    assert (guard.cache.stats().entries, send().body) == (stored, b"1")


def test_a_cache_with_a_store_of_its_own_is_moved_too(world: str, valkey: RedisServer, tmp_path: Any) -> None:
    url = f"{valkey.url}?namespace=cache-{tmp_path.name}"
    guard = Keyguard(
        ResponseCache(ttl=60, public=True, set_cookie=True, store=url), RateLimit("9/minute"), store="memory://"
    )
    send = client_of(world, guard)
    assert ["hit" in str(send().get("cache-status")) for _ in range(2)] == [False, True]
    with guard.testing():
        assert ["hit" in str(send().get("cache-status")) for _ in range(2)] == [False, True]
    assert "hit" in str(send().get("cache-status"))


def test_places_and_the_guard_against_overload_are_as_before(world: str) -> None:
    guard = Keyguard(Overload(), APIKeys(), Concurrency(1, by="key"), store="memory://")
    send = client_of(world, guard)
    before = guard.overload.stats()
    with guard.testing(identity="alice"):
        assert statuses(send, 3) == [200] * 3
    assert guard.overload.stats() == before


def test_policies_choose_inside_as_outside(world: str) -> None:
    free = RateLimit("1/minute", by="key", name="free")
    every = RateLimit("3/minute", by="key", name="every")
    guard = Keyguard(
        APIKeys(),
        Policy("free", when=plan("free"), then=[free]),
        Policy("every", when=path("/*"), then=[every]),
        shadow(RateLimit("1/hour", by="ip", name="later")),
        store="memory://",
    )
    send = client_of(world, guard)
    for _ in range(2):
        with guard.testing(identity=Identity("alice", plan="free")) as g:
            assert statuses(send, 2) == [200, 429]
            g.identity = Identity("bob", plan="pro")
            assert statuses(send, 4) == [200, 200, 200, 429]
            assert g.hits("free") == 2
            g.advance("1 minute")
            assert send().status == 200
            g.exhaust("bob")
            assert send().status == 429
            g.reset()
            assert send().status == 200
    assert send().status == 401


def test_leases_stand_aside(world: str) -> None:
    shared = MemoryStore()
    guard = stack(store=Leased(shared))
    send = client_of(world, guard)
    with guard.testing(identity="alice") as g:
        assert statuses(send, 3) == [200, 200, 429]
        g.advance("1 minute")
        assert send().status == 200
    assert shared.scan("rl:") == []


def test_several_stacks_go_together_and_share_what_they_share(world: str) -> None:
    """Keys of one are known to the other if they are on one store."""
    store = MemoryStore()
    outer = Keyguard(APIKeys(), store=store)
    inner = Keyguard(APIKeys(), RateLimit("2/minute", by="key"), store=store, name="inner")
    app: Any = inner.asgi(asgi_app) if world == "asgi" else inner.wsgi(wsgi_app)
    send = client_of(world, outer, app)
    with outer.testing(inner) as g:
        assert outer.store is inner.store
        key = outer.keys.issue("acme").key.reveal()
        assert statuses(send, 3, key=key) == [200, 200, 429]
        g.advance("1 minute")
        assert send(key=key).status == 200
        g.exhaust("acme")
        assert send(key=key).status == 429
    assert outer.store is inner.store is store
    with outer.testing(inner, identity="alice"):
        assert statuses(send, 3) == [200, 200, 429]


def test_layers_of_one_guard_are_tested_by_their_stacks(world: str) -> None:
    if world == "asgi":
        limit: Any = keyguard.asgi.RateLimit(asgi_app, "2/minute", by="key", store="memory://")
        keys: Any = keyguard.asgi.APIKeys(limit, store="memory://")
    else:
        limit = keyguard.wsgi.RateLimit(wsgi_app, "2/minute", by="key", store="memory://")
        keys = keyguard.wsgi.APIKeys(limit, store="memory://")
    ask = ask_asgi if world == "asgi" else ask_wsgi
    with keys.stack.testing(limit.stack, identity="alice") as g:
        assert [ask(keys, Ask("/")).status for _ in range(3)] == [200, 200, 429]
        g.advance("1 minute")
        assert ask(keys, Ask("/")).status == 200
    assert ask(keys, Ask("/")).status == 401


def test_requests_that_are_under_way_end_as_they_have_begun() -> None:
    """What one holds in a test's store is not given back to the app's own."""
    guard = Keyguard(APIKeys(optional=True), Concurrency(1, by=lambda request: "all", name="all"), store="memory://")
    inside, go_on = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/slow":
            inside.set()
            assert go_on.wait(60)
        return wsgi_app(environ, start_response)

    send = client_of("wsgi", guard, app)
    with guard.testing():
        slow = threading.Thread(target=send, args=("/slow",))
        slow.start()
        assert inside.wait(60)
        assert send().status == 429
    assert send().status == 200
    go_on.set()
    slow.join(60)
    assert send().status == 200
    assert guard.limits.peek("all", by="function")[0].held == 0


def test_threads_and_tasks_may_ask_at_the_same_time() -> None:
    guard = stack()
    plain = client_of("wsgi", guard)
    looped: Any = guard.asgi(asgi_app)

    async def at_once() -> list[int]:
        from tests.support.harness import aask

        answers = await asyncio.gather(*[aask(looped, Ask("/")) for _ in range(5)])
        return sorted(answer.status for answer in answers)

    with guard.testing(identity="alice") as g:
        assert asyncio.run(at_once()) == [200, 200, 429, 429, 429]
        g.advance("1 minute")
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(plain().status)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(found) == [200, 200, 429, 429, 429]
        assert g.hits("search") == 10


class Badges(Guard):
    """Finds callers by a field of its own."""

    provides = frozenset({"identity"})

    def __init__(self, *sources: str) -> None:
        self.sources = sources

    def __call__(self, request: Request) -> Response | None:
        badge = request.header("x-badge")
        if badge is None:
            return Response(401)
        request.state.identity = Identity(badge)
        return None


@pytest.mark.parametrize("sources", [(), ("x-badge",)])
@pytest.mark.parametrize("gate", [all_of, first_match, None])
def test_a_guard_that_finds_callers_in_a_policy_is_spared_too(gate: Any, sources: tuple[str, ...]) -> None:
    guards = [Badges(*sources), RateLimit("2/minute", by="subject", name="api")]
    guard = Keyguard(*guards if gate is None else [gate(Policy("all", then=guards))], store="memory://")
    for interface in ("wsgi", "asgi"):
        with guard.testing(identity="alice") as test:
            assert [play(guard, interface=interface).status for _ in range(3)] == [200, 200, 429]
            assert test.hits("api") == 3
            if sources:
                assert play(guard, headers={"X-Badge": "bob"}, interface=interface).status == 200
            test.identity = None
            assert play(guard, interface=interface).status == 401
        assert play(guard, interface=interface).status == 401
        assert play(guard, headers={"X-Badge": "carl"}, interface=interface).status == 200
