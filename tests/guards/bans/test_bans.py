"""Bans through a whole stack: what is a strike and what is none, who is refused, until when, and who never is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.storage import MemoryStorage

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    Ban,
    Cause,
    ConfigurationError,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Refusal,
    Request,
    Response,
    ResponseCache,
    StoreBusy,
    StoreError,
    refuse,
)
from keyguard.ops import Settle, Take
from keyguard.stores.leased import Leased
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, Played, play
from tests.support.every_store import KINDS, store_of
from tests.support.harness import Answer, Ask, aask, ask_asgi, ask_wsgi

# -- an app that answers with the status that is asked for ---------------------------------------------------------- -


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    status = environ["PATH_INFO"].strip("/") or "200"
    if not status.isdigit():
        raise LookupError(status)
    start_response(f"{status} Said", [("Content-Length", "2"), ("X-App", "kept")])
    return [b"ok"]


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    status = scope["path"].strip("/") or "200"
    if not status.isdigit():
        raise LookupError(status)
    fields = [(b"content-length", b"2"), (b"x-app", b"kept")]
    await send({"type": "http.response.start", "status": int(status), "headers": fields})
    await send({"type": "http.response.body", "body": b"ok"})


WORLDS: dict[str, Callable[[Keyguard], Callable[[Ask], Answer]]] = {
    "asgi": lambda stack: lambda ask: ask_asgi(stack.asgi(asgi_app), ask, lint=False),
    "wsgi": lambda stack: lambda ask: ask_wsgi(stack.wsgi(wsgi_app), ask, lint=False),
}


@pytest.fixture(params=["at once", "the long way"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways that a request can take: on a store in this process, and on any other one."""
    if request.param == "the long way":
        monkeypatch.setattr("keyguard.chain.may_decide", lambda guard: False)
    return str(request.param)


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> Any:
    return WORLDS[request.param]


class Caller:
    """Asks a stack, of either world, on a manual clock."""

    def __init__(self, world: Any, *guards: Any, store: Any = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock) if store is None else store(self.clock)
        self.stack = Keyguard(*guards, store=self.store, clock=self.clock, **options)
        self.ask = world(self.stack)

    def gets(self, target: str | int = 200, *headers: tuple[str, str], **more: Any) -> int:
        return int(self.ask(Ask(f"/{target}", headers, **more)).status)

    def strikes(self, times: int, target: str | int = 401, **more: Any) -> list[int]:
        return [self.gets(target, **more) for _ in range(times)]


AHEAD = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "PUT"))


def ban(**given: Any) -> Ban:
    return Ban(**{"after": "3/minute", **given})


# -- when it begins, and when it ends ---------------------------------------------------------------------------------


def test_one_strike_more_than_allowed_begins_a_ban_and_its_end_is_told_to_the_second(world: Any, way: str) -> None:
    caller = Caller(world, ban())
    assert caller.strikes(4) == [401] * 4  # the response that brings the last strike is not changed
    caller.clock.advance(0.4)
    refused = caller.ask(Ask("/200", (("X-Request-ID", "one"),)))
    assert refused.status == 429
    assert refused.get("retry-after") == "600"
    assert refused.get("content-type") == "application/problem+json"
    told = json.loads(refused.body)
    assert told["title"] == "Banned for a while"
    assert told["cause"] == "address"
    assert told["violated-policies"] == ["ban:3/minute"]
    assert told["recovers_at"] == "2027-01-15T08:10:00Z"
    assert told["recovers_at"] in told["detail"]
    caller.clock.advance(599)
    assert caller.gets() == 429
    caller.clock.advance(1)
    assert caller.gets() == 200


def test_three_in_any_minute_are_none(world: Any, way: str) -> None:
    caller = Caller(world, ban())
    for _ in range(10):
        assert caller.strikes(3) == [401] * 3
        caller.clock.advance("1 minute")
    assert caller.gets() == 200


def test_a_ban_is_ended_by_time_alone_and_not_made_longer_by_asking(world: Any, way: str) -> None:
    caller = Caller(world, ban(of=[401, 429, Cause.ADDRESS]))
    caller.strikes(4)
    for _ in range(60):
        assert caller.gets(401) == 429  # a refusal of its own is no strike
        caller.clock.advance(10)
    assert caller.gets() == 200


def test_bans_that_follow_each_other_grow_up_to_a_bound_and_are_forgotten_in_the_end(world: Any, way: str) -> None:
    caller = Caller(world, ban(for_="1 minute", growing=True, max_for="5 minutes"))
    lengths = []
    for _ in range(5):
        caller.strikes(4)
        length = int(caller.ask(Ask("/")).get("retry-after") or 0)
        lengths.append(length)
        caller.clock.advance(length)
    assert lengths == [60, 120, 240, 300, 300]
    caller.clock.advance("5 minutes")
    caller.strikes(4)
    assert caller.ask(Ask("/")).get("retry-after") == "60"


def test_bans_are_of_one_length_if_they_are_not_to_grow(world: Any) -> None:
    caller = Caller(world, ban(for_=90))
    for _ in range(3):
        caller.strikes(4)
        assert caller.ask(Ask("/")).get("retry-after") == "90"
        caller.clock.advance(90)


def test_a_clock_that_is_set_back_neither_forgives_a_ban_nor_makes_it_longer(world: Any, way: str) -> None:
    caller = Caller(world, ban())
    caller.strikes(4)
    caller.clock.advance(-7200)
    refused = caller.ask(Ask("/"))
    assert (refused.status, refused.get("retry-after")) == (429, "600")
    caller.clock.advance(600)
    assert caller.gets() == 200


spans = st.sampled_from([1, 7.3, 90, 3600, 86400])


@settings(max_examples=60)
@given(st.integers(1, 40), spans, st.booleans(), st.lists(st.floats(0, 30), min_size=1, max_size=4))
def test_a_lone_caller_is_told_the_truth(after: int, span: float, growing: bool, pauses: list[float]) -> None:
    """Whoever waits for `Retry-After` is admitted, and whoever comes a second too early is not."""
    guard = ban(after=f"{after}/minute", for_=span, growing=growing, max_for="2 days")
    caller = Caller(WORLDS["wsgi"], guard)
    for pause in pauses:
        caller.clock.advance(60)  # strikes of before have lapsed
        assert caller.strikes(after + 1) == [401] * (after + 1)
        caller.clock.advance(pause)
        refused = caller.ask(Ask("/200"))
        if refused.status == 200:
            assert pause >= span
            continue
        wait = int(refused.get("retry-after") or 0)
        caller.clock.advance(wait - 1)
        assert caller.gets() == 429
        caller.clock.advance(1)
        assert caller.gets() == 200


STORY: list[tuple[float, int, int, str | None]] = [
    # seconds that pass, what the app would answer, what comes, Retry-After
    *[(0, 401, 401, None)] * 3,
    (59.9, 200, 200, None),
    (0.1, 401, 401, None),  # those of the minute before have lapsed
    *[(0, 403, 403, None)] * 2,
    (1, 404, 404, None),
    (0, 401, 401, None),
    (0, 200, 429, "60"),
    (30.5, 200, 429, "30"),
    (28.5, 200, 429, "1"),
    (1, 200, 200, None),
    *[(0, 401, 401, None)] * 4,
    (119, 401, 429, "1"),
    (1, 200, 200, None),
]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_on_every_store(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    base = store_of(kind, request, tmp_path)
    for world in WORLDS.values():

        def scratch(clock: ManualClock) -> Any:
            store = MemoryStore(clock=clock) if kind == "memory" else base.scratch(clock)
            if hasattr(store, "close"):
                request.addfinalizer(store.close)
            return store

        caller = Caller(world, ban(for_="1 minute", growing=True), store=scratch)
        for place, (pause, asked, status, wait) in enumerate(STORY):
            caller.clock.advance(pause)
            answer = caller.ask(Ask(f"/{asked}"))
            assert (answer.status, answer.get("retry-after")) == (status, wait), place


# -- what is a strike -------------------------------------------------------------------------------------------------

CASES: list[tuple[str, Sequence[Any], Any, Ask, int]] = [
    # what, guards inside, of, the request, after how many of them the caller is banned: 0 for never
    ("an answer of the app", [], 422, Ask("/422"), 3),
    ("another answer of the app", [], (401, 403), Ask("/422"), 0),
    ("a failure of the app, if it is named", [], 500, Ask("/500"), 3),
    ("the app's own 503, if it is named", [], 503, Ask("/503"), 3),
    ("no key", [APIKeys()], (401,), Ask(), 3),
    ("a wrong key", [APIKeys()], Cause.CREDENTIALS, Ask("/", (("X-API-Key", "kg_live_x"),)), 3),
    ("a cause, whatever its status", [APIKeys()], "credentials", Ask(), 3),
    ("a cause and a status are one strike", [APIKeys()], (401, Cause.CREDENTIALS), Ask(), 3),
    ("the app's own 401 is no refusal of ours", [], Cause.CREDENTIALS, Ask("/401"), 0),
    ("an address that is filtered", [IPFilter(allow=["10.0.0.0/8"])], (403,), Ask(), 3),
    ("a limit, if it is named", [RateLimit("1/day")], 429, Ask(), 4),
    ("a limit, by its cause", [RateLimit("1/day")], Cause.USAGE, Ask(), 4),
    ("a limit, if it is not named", [RateLimit("1/day")], (401, 403), Ask(), 0),
    ("a bad request", [APIKeys()], 400, Ask("/", (("X-API-Key", "a,b"),)), 3),
    ("a preflight that nobody lets pass", [APIKeys()], 401, Ask("/", AHEAD, "OPTIONS"), 0),
    ("one that the app refuses", [APIKeys(preflights=True)], 403, Ask("/403", AHEAD, "OPTIONS"), 0),
    ("one with a key", [APIKeys()], 401, Ask("/", (*AHEAD, ("X-API-Key", "kg_x")), "OPTIONS"), 3),
    ("one with a password", [APIKeys()], 401, Ask("/", (*AHEAD, ("Authorization", "Basic dTpw")), "OPTIONS"), 3),
    ("an OPTIONS that is no preflight", [APIKeys()], 401, Ask("/", (), "OPTIONS"), 3),
]


@pytest.mark.parametrize(("what", "inside", "of", "ask", "after"), CASES, ids=[case[0] for case in CASES])
def test_what_is_a_strike(world: Any, way: str, what: str, inside: Any, of: Any, ask: Ask, after: int) -> None:
    caller = Caller(world, ban(of=of, after="2/hour"), *inside)
    banned = [b"Banned for a while" in caller.ask(ask).body for _ in range(6)]
    assert banned == [after > 0 and place >= after for place in range(6)]


def broken(request: Request) -> Response:
    raise ValueError("a guard of the user's")


def overloaded(request: Request) -> Response:
    return refuse(request, Cause.OVERLOAD, "Too much.", reason="load", status=403)


@pytest.mark.parametrize("guard", [broken, overloaded])
def test_a_fault_is_never_blamed_on_a_caller(world: Any, way: str, guard: Any) -> None:
    caller = Caller(world, ban(of=(403, 503)), guard)
    assert 429 not in caller.strikes(10, 200)


def test_what_has_no_answer_is_no_strike(world: Any, way: str) -> None:
    caller = Caller(world, ban(of=(500, 503)))
    for _ in range(10):
        with pytest.raises(LookupError):
            caller.gets("failing")
    assert caller.gets() == 200


def test_a_client_that_leaves_before_there_is_an_answer_has_no_strike(way: str) -> None:
    clock = ManualClock()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    stack = Keyguard(ban(), store=MemoryStore(clock=clock), clock=clock)

    async def leave() -> None:
        for _ in range(10):
            task = asyncio.create_task(aask(stack.asgi(slow), Ask("/401"), lint=False))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(leave())
    assert ask_asgi(stack.asgi(asgi_app), Ask("/200"), lint=False).status == 200


def test_requests_that_were_under_way_when_a_ban_began_make_it_no_longer() -> None:
    """Thirty at once: all of them were let in, and one ban follows."""
    clock = ManualClock()
    stack = Keyguard(ban(growing=True), store=MemoryStore(clock=clock), clock=clock)
    gate: list[asyncio.Event] = []

    async def gated(scope: Any, receive: Any, send: Any) -> None:
        await gate[0].wait()
        await asgi_app(scope, receive, send)

    async def flood() -> list[int]:
        gate.append(asyncio.Event())
        tasks = [asyncio.create_task(aask(stack.asgi(gated), Ask("/401"), lint=False)) for _ in range(30)]
        await asyncio.sleep(0)
        gate[0].set()
        return [answer.status for answer in await asyncio.gather(*tasks)]

    assert asyncio.run(flood()) == [401] * 30
    assert ask_asgi(stack.asgi(asgi_app), Ask("/"), lint=False).get("retry-after") == "600"


# -- who --------------------------------------------------------------------------------------------------------------


def test_callers_are_told_apart_by_address_and_a_64_is_one(world: Any, way: str) -> None:
    caller = Caller(world, ban())
    caller.strikes(4)
    assert caller.gets(client="198.51.100.2") == 200
    for last in range(4):
        caller.gets(401, client=f"2001:db8::{last}")
    assert caller.gets(client="2001:db8::9") == 429
    assert caller.gets(client="2001:db8:0:1::9") == 200


def test_a_trusted_proxy_is_never_banned_and_its_callers_are(world: Any, way: str) -> None:
    caller = Caller(world, ban(), trusted_proxies=["10.0.0.0/8"])
    assert 429 not in caller.strikes(10, client="10.0.0.1")  # it asks for itself
    behind = ("X-Forwarded-For", "203.0.113.7")
    for _ in range(4):
        assert caller.gets(401, behind, client="10.0.0.1") == 401
    assert caller.gets(200, behind, client="10.0.0.2") == 429
    assert caller.gets(200, ("X-Forwarded-For", "203.0.113.8"), client="10.0.0.1") == 200
    assert caller.gets(200, ("X-Forwarded-For", "10.0.0.9"), client="10.0.0.1") == 200


def test_callers_of_no_known_address_share_no_ban(world: Any, way: str) -> None:
    caller = Caller(world, ban(), trusted_proxies=["10.0.0.0/8"])
    assert 429 not in caller.strikes(10, client=None)
    for _ in range(10):
        assert caller.gets(401, ("X-Forwarded-For", "hidden"), client="10.0.0.1") == 401


def test_networks_that_are_exempt_are_never_banned_whoever_else_is(world: Any, way: str) -> None:
    caller = Caller(world, ban(exempt=["192.0.2.0/24", "2001:db8::1"]))
    assert 429 not in caller.strikes(10, client="192.0.2.7")
    caller.strikes(4, client="2001:db8::2")
    assert caller.gets(client="2001:db8::2") == 429
    assert caller.gets(client="2001:db8::1") == 200  # in the same /64


def lookup(key: str) -> Identity | None:
    owner, _, number = key.partition("-")
    return Identity(owner, key_id=key) if number else None


def test_keys_and_their_owners_may_be_banned_too(world: Any, way: str) -> None:
    for by, other in (("key", 200), ("subject", 429)):
        caller = Caller(world, APIKeys(lookup=lookup, optional=True), ban(by=by))
        for _ in range(4):
            caller.gets(403, ("X-API-Key", "ada-1"))
        refused = caller.ask(Ask("/", (("X-API-Key", "ada-1"),)))
        assert refused.status == 429
        assert json.loads(refused.body)["cause"] == "permission"
        assert caller.gets(200, ("X-API-Key", "ada-2")) == other
        assert caller.gets(200, ("X-API-Key", "eve-1")) == 200
        caller.strikes(4, 403)
        anonymous = caller.ask(Ask("/"))
        assert json.loads(anonymous.body)["cause"] == "address"
        assert caller.gets(200, ("X-API-Key", "eve-1")) == 200


@pytest.mark.parametrize("by", ["key", "subject", lambda request: request.identity.subject])
def test_a_preflight_that_passed_without_a_key_is_nobodys(world: Any, way: str, by: Any) -> None:
    caller = Caller(world, APIKeys(preflights=True), ban(by=by, name="inside"))
    for _ in range(6):
        assert caller.ask(Ask("/403", AHEAD, "OPTIONS")).status == 403


def test_a_function_says_who(world: Any, way: str) -> None:
    caller = Caller(world, ban(by=lambda request: request.headers.get("tenant"), name="tenants"))
    for _ in range(4):
        caller.gets(403, ("Tenant", "a secret one"))
    assert caller.gets(200, ("Tenant", "a secret one")) == 429
    assert caller.gets(200, ("Tenant", "another")) == 200
    assert 429 not in caller.strikes(10)  # nobody
    assert "secret" not in str([*caller.store.scan("")])


def test_a_function_may_be_async_where_there_is_an_event_loop() -> None:
    async def tenant(request: Request) -> str:
        return request.headers["tenant"]

    caller = Caller(WORLDS["asgi"], ban(by=tenant))
    for _ in range(4):
        caller.gets(403, ("Tenant", "one"))
    assert caller.gets(200, ("Tenant", "one")) == 429
    with pytest.raises(ConfigurationError, match="async"):
        caller.stack.wsgi(wsgi_app)


# -- around and inside ------------------------------------------------------------------------------------------------


def test_no_cache_may_answer_who_is_banned(world: Any) -> None:
    with pytest.raises(ConfigurationError, match="put the filter before the cache"):
        Keyguard(ResponseCache(ttl=60), ban(), store="memory://")
    caller = Caller(world, ban(), ResponseCache(ttl=60, public=True))
    assert [caller.gets() for _ in range(2)] == [200, 200]
    caller.strikes(4)
    assert caller.gets() == 429


def test_who_is_banned_is_not_served_as_one_whose_limit_is_used_up(world: Any) -> None:
    cache = ResponseCache(ttl=3600, public=True, serve_exhausted=True)
    caller = Caller(world, ban(), RateLimit("5/minute"), cache)
    assert caller.gets() == 200
    assert caller.strikes(4) == [401] * 4
    assert caller.gets() == 429
    assert caller.gets(client="198.51.100.2") == 200


def test_a_layer_that_bans_stands_outside_of_a_cache_too() -> None:
    inner = keyguard.asgi.Ban(asgi_app, after="3/minute", store="memory://")
    with pytest.raises(ConfigurationError, match="further in refuses"):
        keyguard.asgi.ResponseCache(inner, ttl=60, store="memory://")


def test_layers_of_one_guard_each() -> None:
    store = MemoryStore()
    asgi = keyguard.asgi.Ban(keyguard.asgi.APIKeys(asgi_app, store=store), after="2/hour", of=401, store=store)
    assert [ask_asgi(asgi, Ask("/"), lint=False).status for _ in range(4)] == [401, 401, 401, 429]
    store = MemoryStore()
    wsgi = keyguard.wsgi.Ban(keyguard.wsgi.APIKeys(wsgi_app, store=store), after="2/hour", of=401, store=store)
    assert [ask_wsgi(wsgi, Ask("/"), lint=False).status for _ in range(4)] == [401, 401, 401, 429]


def test_a_banned_caller_opens_no_websocket_and_a_refused_handshake_is_a_strike(way: str) -> None:
    stack = Keyguard(ban(of=403), store=MemoryStore())
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 1008})

    async def handshake() -> str:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await stack.asgi(app)({**Ask().scope(), "type": "websocket", "scheme": "ws"}, receive, send)
        return str(sent[-1]["code"])

    codes = [asyncio.run(handshake()) for _ in range(5)]
    assert codes == ["1008"] * 4 + ["1013"]


def test_a_stack_whose_store_counts_in_its_own_way_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match="cannot keep <Strikes"):
        Keyguard(ban(), store=LimitsStore(MemoryStorage()))


def test_leases_in_front_of_a_store_change_nothing(world: Any) -> None:
    caller = Caller(world, ban(), store=lambda clock: Leased(MemoryStore(clock=clock), workers=2, clock=clock))
    assert caller.strikes(5) == [401] * 4 + [429]
    caller.clock.advance(599)
    assert caller.gets() == 429
    caller.clock.advance(1)
    assert caller.gets() == 200


def test_two_that_count_different_things_need_names_of_their_own(world: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Give <Ban .*> a name="):
        Keyguard(ban(), ban(of=404), store="memory://")
    caller = Caller(world, ban(of=404, after="1/hour", name="scanners"), ban(of=401))
    assert caller.strikes(3, 404) == [404, 404, 429]


@pytest.mark.parametrize("other", [{"after": "9/minute"}, {"for_": 7}, {"of": 404}, {"exempt": ["10.0.0.0/8"]}])
def test_what_two_stacks_of_one_process_count_together_is_the_same(other: dict[str, Any]) -> None:
    store = MemoryStore()
    kept = Keyguard(ban(), store=store)
    assert Keyguard(ban(), store=store) is not kept
    with pytest.raises(ConfigurationError, match="would share a counter"):
        Keyguard(ban(**other), store=store)


# -- the store --------------------------------------------------------------------------------------------------------


class Recording(MemoryStore):
    """Notes each operation, and what had been sent by then."""

    def __init__(self, sent: list[Any], **more: Any) -> None:
        super().__init__(**more)
        self.sent = sent
        self.seen: list[tuple[str, int]] = []

    def execute(self, ops: Any) -> Any:
        self.seen += [(type(op).__name__, len(self.sent)) for op in ops]
        return super().execute(ops)


def test_no_response_waits_for_its_strike() -> None:
    sent: list[Any] = []
    store = Recording(sent)
    stack = Keyguard(ban(), store=store)

    async def go() -> None:
        async def send(message: Any) -> None:
            sent.append(message["type"])

        await stack.asgi(asgi_app)(Ask("/401").scope(), None, send)

    asyncio.run(go())
    assert store.seen == [(Take.__name__, 0), (Settle.__name__, 2), (Take.__name__, 2)]


class Failing(MemoryStore):
    error: Exception | None = None

    def execute(self, ops: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super().execute(ops)


def test_an_outage_of_the_store_bans_nobody_and_is_counted(world: Any) -> None:
    for mode, status in (("allow", 200), ("refuse", 503)):
        caller = Caller(world, ban(if_store_fails=mode), store=lambda clock: Failing(clock=clock))
        caller.strikes(4)
        assert caller.gets() == 429
        caller.store.error = StoreError("out of order")
        answer = caller.ask(Ask("/200"))
        assert answer.status == status
        if status == 503:
            assert json.loads(answer.body)["cause"] == "fault"
        assert caller.stack.health.degraded == {f"ban {'allowed' if mode == 'allow' else 'refused'}": 1}


def test_a_store_that_only_has_no_turn_lets_nobody_choose_what_is_checked(world: Any) -> None:
    caller = Caller(world, ban(), store=lambda clock: Failing(clock=clock))
    caller.store.error = StoreBusy("no turn")
    answer = caller.ask(Ask("/200"))
    assert (answer.status, json.loads(answer.body)["cause"]) == (503, "overload")


def test_a_strike_that_cannot_be_counted_is_noted_and_harms_nobody(world: Any) -> None:
    caller = Caller(world, ban(), store=lambda clock: Failing(clock=clock))

    class FailsLater(Failing):
        pass

    def fail(ops: Any) -> Any:
        if isinstance(ops[0], Settle):
            raise StoreError("out of order")
        return MemoryStore.execute(caller.store, ops)

    caller.store.execute = fail
    assert caller.strikes(1) == [401]
    assert caller.stack.health.degraded == {"ban: a strike was not counted": 1}


# -- the log ----------------------------------------------------------------------------------------------------------


def test_the_log_is_told_once_when_a_ban_begins(world: Any, way: str, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Refusal] = []
    caller = Caller(world, ban(), APIKeys(), on_refusal=told.append)
    for _ in range(7):
        caller.gets(200, ("X-API-Key", "kg_live_a_secret"))
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert lines == ["banned: caller=198.51.100.1 limit=ban:3/minute until=2027-01-15T08:10:00Z"]
    assert [refusal.reason for refusal in told[-3:]] == ["banned"] * 3
    assert "secret" not in caplog.text + str([*caller.store.scan("")])


# -- settings ---------------------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"after": 20}, "after is a rate such as '20/minute', not 20"),
    ({"after": "20/minute; 50/hour"}, "after is one rate"),
    ({"after": "20/month"}, "month"),
    ({"after": "0/minute"}, "at least 1"),
    ({"after": "2000000/minute"}, "at most 1000000"),
    ({"of": ()}, "of is empty"),
    ({"of": 200}, "statuses from 400 to 599"),
    ({"of": [True]}, "statuses from 400 to 599"),
    ({"of": ["401"]}, "statuses from 400 to 599"),
    ({"of": 4.01}, "of is a list"),
    ({"of": [Cause.FAULT]}, "'fault', which no caller is to blame for"),
    ({"of": Cause.OVERLOAD}, "'overload', which no caller is to blame for"),
    ({"for_": 0}, "for_ is a duration from 1 second"),
    ({"for_": "soon"}, "for_ is a duration"),
    ({"for_": "400 days"}, "for_ is a duration from 1 second to 365 days"),
    ({"growing": 2}, "growing is True or False"),
    ({"for_": "2 hours", "growing": True, "max_for": "1 hour"}, "with which bans begin"),
    ({"by": "address"}, "by is 'ip', 'key', 'subject' or a function"),
    ({"by": lambda: None}, "by is called with the request alone"),
    ({"exempt": ["10.0.0.1/8"]}, r"exempt: '10\.0\.0\.1/8' has bits set"),
    ({"name": "a|b"}, "a name is printable ASCII text"),
    ({"if_store_fails": "local"}, "if_store_fails is 'allow' or 'refuse'"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=[str(case[0]).partition(" at 0x")[0] for case in WRONG])
def test_a_wrong_setting_does_not_start(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^Ban: .*{why}"):
        Ban(**wrong)


@pytest.mark.parametrize(
    ("settings", "told"), [({}, 1), ({"of": Cause.CREDENTIALS}, 1), ({"of": 404}, 0), ({"by": "key"}, 0)]
)
def test_where_it_hears_nothing_of_wrong_keys_the_log_says_so(
    settings: dict[str, Any], told: int, caplog: pytest.LogCaptureFixture
) -> None:
    Keyguard(APIKeys(), ban(**settings), store="memory://")
    assert caplog.text.count("hears nothing of its refusals: put it before") == told
    if "by" not in settings:
        caplog.clear()
        Keyguard(ban(**settings), APIKeys(), store="memory://")
        assert caplog.text == ""


def test_by_key_it_needs_what_finds_the_key() -> None:
    with pytest.raises(ConfigurationError, match="identity"):
        Keyguard(ban(by="key"), APIKeys(), store="memory://")


def test_plain_play() -> None:
    stack = Keyguard(ban(after="1/hour"), APIKeys(), store="memory://")
    played: list[Played] = [play(stack) for _ in range(3)]
    assert [each.status for each in played] == [401, 401, 429]
