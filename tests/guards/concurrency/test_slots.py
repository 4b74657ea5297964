"""Slots: how many requests may be under way at the same time, in both worlds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from limits.storage import MemoryStorage

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, Concurrency, ConfigurationError, IPFilter, Keyguard, RateLimit, Request, StoreError
from keyguard.ops import Op, Settle
from keyguard.stores.leased import Leased
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from tests.support.every_store import KINDS, store_of
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app


class Site:
    """An app in one world, which asks itself again as often as the path says: `/2` has three requests under way."""

    def __init__(self, world: str, *guards: Any, **options: Any) -> None:
        self.world = world
        self.stack = Keyguard(*guards, **({"store": MemoryStore()} | options))
        self.app: Any = self.stack.asgi(self._asgi) if world == "asgi" else self.stack.wsgi(self._wsgi)
        self.inner: list[Answer] = []
        """The answers to the requests from inside, the innermost first."""
        self.before: Callable[[], None] = lambda: None

    def ask(self, path: str = "/0", **options: Any) -> Answer:
        self.inner.clear()
        return (ask_asgi if self.world == "asgi" else ask_wsgi)(self.app, Ask(path, **options))

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.before()
        depth = int(scope["path"][1:])
        if depth:
            self.inner.append(await aask(self.app, Ask(f"/{depth - 1}")))
        await asgi_app(scope, receive, send)

    def _wsgi(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.before()
        depth = int(environ["PATH_INFO"][1:])
        if depth:
            self.inner.append(ask_wsgi(self.app, Ask(f"/{depth - 1}")))
        return wsgi_app(environ, start_response)


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_so_many_are_under_way_at_once_and_no_more(
    world: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = Site(
        world, Concurrency(2, by=lambda request: kind, name=tmp_path.name), store=store_of(kind, request, tmp_path)
    )
    for _ in range(2):  # and all of them are free after that
        assert site.ask("/3").status == 200
        assert [answer.status for answer in site.inner] == [429, 200]


def test_a_refusal_says_how_many_are_in_use_and_to_come_again_in_a_second(world: str) -> None:
    site = Site(world, Concurrency(2, name="reports"))
    site.ask("/2")
    refused = site.inner[0]
    problem = json.loads(refused.body)
    assert (refused.status, refused.get("retry-after")) == (429, "1")
    assert problem["cause"] == "usage"
    assert problem["violated-policies"] == ["reports:2 at a time"]
    assert problem["retry_after"] == 1
    assert problem["detail"].startswith("2 requests are under way, and 'reports:2 at a time' allows no more.")
    assert refused.get("ratelimit") == '"reports:2 at a time";r=0;t=1'
    site = Site(world, Concurrency(1))
    site.ask("/1")
    told = "1 request is under way, and 'ip:1 at a time' allows no more. It works again as soon as it is over."
    assert json.loads(site.inner[0].body)["detail"] == told


def test_a_refusal_has_a_reason_of_its_own(world: str) -> None:
    told: list[Any] = []
    Site(world, Concurrency(1), on_refusal=told.append).ask("/1")
    assert [(refusal.cause, refusal.reason) for refusal in told] == [("usage", "slots-in-use")]


def test_fields_tell_how_many_are_left(world: str) -> None:
    site = Site(world, Concurrency(3, name='a "name"'))
    answer = site.ask("/1")
    assert answer.get("ratelimit-policy") == r'"a \"name\":3 at a time";q=3;qu="concurrent-requests"'
    assert answer.get("ratelimit") == r'"a \"name\":3 at a time";r=2'
    assert site.inner[0].get("ratelimit") == r'"a \"name\":3 at a time";r=1'
    assert Site(world, Concurrency(3, headers=None)).ask().get("ratelimit") is None
    site = Site(world, Concurrency(1, name="next", headers="draft-next"))
    assert site.ask("/1").get("ratelimit") == '"next:1 at a time";a=0'
    assert site.inner[0].get("ratelimit") == '"next:1 at a time";a=0;w=1'


def test_a_rate_limit_beside_it_adds_its_own_fields(world: str) -> None:
    answer = Site(world, RateLimit("9/minute"), Concurrency(3)).ask()
    assert answer.get("ratelimit") == '"ip:3 at a time";r=2, "ip:9/minute";r=8;t=60'


def test_who_is_refused_further_in_leaves_no_slot_in_use(world: str) -> None:
    site = Site(world, Concurrency(1), RateLimit("1/minute"))
    assert [site.ask().status for _ in range(3)] == [200, 429, 429]
    assert play_held(site) == 0


def play_held(site: Site) -> int:
    """How many slots are in use now."""
    guard: Any = site.stack.guards[0]
    taken = site.stack.store.execute([guard.take("198.51.100.1")])[0]
    site.stack.store.execute([Settle(taken)])
    return int(taken.held[0])


def test_an_app_that_fails_leaves_no_slot_in_use(world: str) -> None:
    site = Site(world, Concurrency(1))

    def fail() -> None:
        raise LookupError

    site.before = fail
    for _ in range(2):
        with pytest.raises(LookupError):
            site.ask()
    assert play_held(site) == 0


def test_callers_have_slots_of_their_own(world: str) -> None:
    site = Site(world, Concurrency(1))
    other: list[Answer] = []

    def ask() -> None:
        site.before = lambda: None
        if world == "wsgi":
            other.append(ask_wsgi(site.app, Ask("/0", client="192.0.2.7")))

    site.before = ask
    site.ask("/1")
    assert site.inner[0].status == 429
    assert [answer.status for answer in other] == [200] * len(other)


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ({"by": lambda request: None}, [200, 200]),
        ({"exempt": lambda request: request.path == "/0"}, [200, 200]),
        ({"when": lambda request: request.path == "/0"}, [200, 200]),
        ({"when": lambda request: True}, [429, 200]),
        ({"paths": ["/elsewhere"]}, [200, 200]),
        ({"paths": ["/{depth}"]}, [429, 200]),
        ({"methods": ["POST"]}, [200, 200]),
        ({"methods": ["GET"]}, [429, 200]),
    ],
)
def test_which_requests_need_one(world: str, options: dict[str, Any], statuses: list[int]) -> None:
    site = Site(world, Concurrency(1, **options))
    outer = site.ask("/1")
    assert [site.inner[0].status, outer.status] == statuses


def test_a_function_may_be_asynchronous_under_asgi() -> None:
    async def tenant(request: Request) -> str:
        await asyncio.sleep(0)
        return "one"

    site = Site("asgi", Concurrency(1, by=tenant))
    site.ask("/1")
    assert site.inner[0].status == 429
    with pytest.raises(ConfigurationError, match=r"by=.*is async"):
        Site("wsgi", Concurrency(1, by=tenant))


def test_by_key_and_by_whoever_has_none(world: str) -> None:
    stack = Keyguard(APIKeys(optional=True), Concurrency(1, by="key"), store=MemoryStore())
    text = stack.keys.issue("acme").key.reveal()
    inner: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/outer":
            for headers in ((("X-API-Key", text),), ()):
                inner.append(ask_wsgi(guarded, Ask("/inner", headers)).status)
        return wsgi_app(environ, start_response)

    guarded = stack.wsgi(app)
    ask_wsgi(guarded, Ask("/outer", (("X-API-Key", text),)))
    assert inner == [429, 200]
    with pytest.raises(ConfigurationError, match="put APIKeys"):
        Keyguard(Concurrency(1, by="key"))


# -- streams, and clients that leave ------------------------------------------------------------------------------


def test_a_stream_holds_its_slot_to_the_last_byte_or_until_its_client_leaves() -> None:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return iter([b"one", b"two"])

    stack = Keyguard(Concurrency(1), store=MemoryStore())
    guarded = stack.wsgi(app)

    def begin() -> tuple[int, Any]:
        heads: list[str] = []
        body = guarded(Ask().environ(), lambda status, headers, exc_info=None: heads.append(status))
        return int(heads[0][:3]), iter(body) if isinstance(body, list) else body

    status, body = begin()
    chunks = iter(body)
    assert (status, next(chunks), begin()[0]) == (200, b"one", 429)
    assert list(chunks) == [b"two"]
    status, body = begin()
    assert status == 200
    next(iter(body))
    body.close()  # the client has left
    assert begin()[0] == 200


def in_loop(story: Callable[..., Any]) -> Callable[..., None]:
    """A test that an event loop runs."""

    @wraps(story)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(story(*args, **kwargs))

    return run


class Streaming:
    """An ASGI app that sends a head and waits, inside of slots."""

    def __init__(self, store: Any = None) -> None:
        self.go_on = asyncio.Event()
        self.begun = asyncio.Event()
        self.stack = Keyguard(Concurrency(1), store=store or MemoryStore())
        self.guarded = self.stack.asgi(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        self.begun.set()
        await self.go_on.wait()
        await send({"type": "http.response.body", "body": b"two"})
        self.after = (await self.ask_again()).status  # a background task, say

    async def ask_again(self) -> Answer:
        return await aask(Keyguard(Concurrency(1), store=self.stack.store).asgi(asgi_app), Ask())


@in_loop
async def test_a_slot_is_free_at_the_last_byte_and_not_only_when_the_app_returns() -> None:
    site = Streaming()
    task = asyncio.create_task(aask(site.guarded, Ask()))
    await site.begun.wait()
    assert (await site.ask_again()).status == 429
    site.go_on.set()
    await task
    assert site.after == 200


@pytest.mark.parametrize("kind", KINDS)
@in_loop
async def test_a_request_that_is_cancelled_frees_its_slot(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    site = Streaming(store_of(kind, request, tmp_path))
    for _ in range(2):
        site.begun.clear()
        task = asyncio.create_task(aask(site.guarded, Ask()))
        await site.begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(1000):  # what it asks of its store then goes on in a task of its own
            if (status := (await site.ask_again()).status) == 200:
                break
            await asyncio.sleep(0.01)
        assert status == 200
    aclose = getattr(site.stack.store, "aclose", None)
    if aclose is not None:
        await aclose()


@in_loop
async def test_a_websocket_holds_a_slot_for_the_life_of_its_connection() -> None:
    store = MemoryStore()
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        seen.append((await aask(Keyguard(Concurrency(1), store=store).asgi(asgi_app), Ask())).status)
        await receive()

    queue = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    sent: list[Any] = []

    async def receive() -> Any:
        return queue.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    guarded = Keyguard(Concurrency(1), store=store).asgi(app)
    scope = {**Ask().scope(), "type": "websocket", "scheme": "ws", "subprotocols": []}
    await guarded(scope, receive, send)
    assert seen == [429]
    assert [message["type"] for message in sent] == ["websocket.accept"]
    assert (await aask(Keyguard(Concurrency(1), store=store).asgi(asgi_app), Ask())).status == 200


# -- while the store is out of order ------------------------------------------------------------------------------


class Down(MemoryStore):
    """A store that answers nothing once it is down."""

    down = True
    of_one_process = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("down")
        return super().execute(ops)


@pytest.mark.parametrize(("mode", "statuses"), [("allow", [200] * 4), ("local", [503, 200, 200]), ("refuse", [503])])
def test_without_the_store(world: str, mode: Any, statuses: list[int]) -> None:
    site = Site(world, Concurrency(4, if_store_fails=mode), store=Down(), workers=2)
    for _ in range(2):  # and what was counted here is free again
        outer = site.ask("/3")
        assert [*[answer.status for answer in site.inner], outer.status] == statuses


def test_a_slot_that_cannot_be_given_back_is_free_when_its_lease_has_ended(world: str, tmp_path: Path) -> None:
    clock = ManualClock()

    class Forgetful(SQLiteStore):
        def execute(self, ops: Any) -> list[Any]:
            return [None] if isinstance(ops[0], Settle) else super().execute(ops)

        def aexecute(self, ops: Any) -> Any:
            return [None] if isinstance(ops[0], Settle) else super().aexecute(ops)

    store = Forgetful(tmp_path / "slots.db", clock=clock)
    site = Site(world, Concurrency(1, lease="30 seconds"), store=store)
    assert [site.ask().status, site.ask().status] == [200, 429]
    clock.advance("30 seconds")
    assert site.ask().status == 200
    store.close()


# -- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "options", "said"),
    [
        (0, {}, "1 to 1000, not 0"),
        (-1, {}, "1 to 1000, not -1"),
        (1001, {}, "1 to 1000, not 1001"),
        (1.5, {}, "not 1.5"),
        (True, {}, "not True"),
        ("10", {}, "not '10'"),
        (1, {"lease": 0}, "lease"),
        (1, {"lease": "2 hours"}, "lease"),
        (1, {"lease": "soon"}, "lease"),
        (1, {"lease": "1 minute", "max_age": "30 seconds"}, "max_age"),
        (1, {"by": "plan"}, "by is 'ip', 'key', 'subject' or a function"),
        (1, {"methods": ["get"]}, "'get' is no HTTP method"),
        (1, {"paths": ["reports"]}, "reports"),
        (1, {"headers": "x-ratelimit"}, "headers are 'draft-11' or 'draft-next', or None"),
        (1, {"if_store_fails": "panic"}, "if_store_fails is 'local', 'refuse' or 'allow'"),
        (1, {"name": "a|b"}, "a name is printable ASCII text"),
        (1, {"when": "always"}, "when is a function of the request"),
    ],
)
def test_a_wrong_setting_does_not_start(limit: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match="Concurrency: .*" + said):
        Concurrency(limit, **options)


def test_stores_that_take_nothing_back_do_not_start() -> None:
    with pytest.raises(ConfigurationError, match="takes nothing back, so <Concurrency ip:2 at a time> could hold"):
        Keyguard(Concurrency(2), store=LimitsStore(MemoryStorage()))


def test_one_guard_stands_in_stacks_of_one_store() -> None:
    guard, store = Concurrency(2), MemoryStore()
    Keyguard(guard, store=store)
    Keyguard(guard, store=store)
    with pytest.raises(ConfigurationError, match="two stacks with different stores"):
        Keyguard(guard, store=MemoryStore())


def test_two_that_differ_in_how_many_they_admit_need_names() -> None:
    with pytest.raises(ConfigurationError):
        Keyguard(Concurrency(2), Concurrency(3), store=MemoryStore())
    Keyguard(Concurrency(2), Concurrency(3, name="wide"), RateLimit("2/minute"), store=MemoryStore())


def test_leases_in_front_of_a_store_leave_slots_to_it(world: str, tmp_path: Path) -> None:
    store = Leased(SQLiteStore(tmp_path / "slots.db"), workers=2)
    site = Site(world, IPFilter(deny=["192.0.2.0/24"]), Concurrency(2), store=store)
    site.ask("/2")
    assert [answer.status for answer in site.inner] == [429, 200]
    assert site.ask("/1").status == 200
    store.close()


def test_layers_of_it_alone() -> None:
    assert ask_asgi(keyguard.asgi.Concurrency(asgi_app, 1, store="memory://"), Ask()).status == 200
    assert ask_wsgi(keyguard.wsgi.Concurrency(wsgi_app, 1, by="ip", store="memory://"), Ask()).status == 200
    assert play(Concurrency(1)).header("RateLimit") == '"ip:1 at a time";r=0'


def test_operators_see_what_is_in_use(world: str) -> None:
    site = Site(world, Concurrency(3))
    seen: list[Any] = []
    site.before = lambda: seen.append(play_held(site))
    site.ask("/1")
    assert seen == [1, 2]


def test_a_handler_sees_how_many_are_left(world: str) -> None:
    seen: list[Any] = []
    site = Site(world, Concurrency(3), handlers=True)
    site.before = lambda: seen.extend((limit.name, limit.remaining) for limit in site.stack.here().limits)
    site.ask("/1")
    assert seen == [("ip:3 at a time", 2), ("ip:3 at a time", 1)]


def test_each_request_costs_one_operation_before_and_one_after(world: str) -> None:
    asked: list[list[type]] = []

    class Counting(Down):
        down = False

        def execute(self, ops: Any) -> list[Any]:
            batch: list[Op[Any]] = list(ops)
            asked.append([type(op) for op in batch])
            return super().execute(ops)

    Site(world, Concurrency(3), store=Counting()).ask()
    assert [[kind.__name__ for kind in batch] for batch in asked] == [["Take"], ["Settle"]]
