"""Records: one `Decision` a request, the same in both worlds, whatever has answered it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import pytest

import keyguard.decision
from keyguard import (
    ANONYMOUS,
    APIKeys,
    Cause,
    ConfigurationError,
    Decision,
    Guard,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    StoreError,
    log_decision,
    path,
)
from keyguard.policies import Policy, shadow
from keyguard.replay import replay
from keyguard.replay.access_log import Reader
from keyguard.testing import ManualClock
from tests.support.harness import Ask, aask, ask_asgi, ask_wsgi
from tests.support.servers import wait_until


class ByName(Guard):
    """Takes callers at their word."""

    provides = frozenset({"identity"})

    def __call__(self, request: Request) -> None:
        name = request.headers.get("x-name")
        request.identity = Identity(name, key_id=f"id-{name}") if name else ANONYMOUS


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["path"] == "/raises":
        raise LookupError("of the app")
    if scope["path"] == "/silent":
        return
    status = int(scope["path"][-3:]) if scope["path"][-3:].isdigit() else 200
    fields = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=60"), (b"etag", b'"1"')]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b"" if status == 304 else b"hello"})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise LookupError("of the app")
    if path == "/silent":
        return []
    status = int(path[-3:]) if path[-3:].isdigit() else 200
    start_response(f"{status} Said", [("Content-Type", "text/plain"), ("Cache-Control", "max-age=60"), ("ETag", '"1"')])
    return [b"" if status == 304 else b"hello"]


class Records:
    """The records of one stack, whose app is asked in one of the worlds."""

    def __init__(self, world: str, *guards: Any, **settings: Any) -> None:
        self.told: list[Decision] = []
        self.clock = ManualClock()
        settings.setdefault("on_decision", self.told.append)
        settings.setdefault("store", "memory://")
        self.guard = Keyguard(*guards, clock=self.clock, **settings)
        self._app = self.guard.asgi(asgi) if world == "asgi" else self.guard.wsgi(wsgi)
        self._ask = ask_asgi if world == "asgi" else ask_wsgi

    def ask(self, target: str, method: str = "GET", **fields: str) -> Any:
        ask = Ask(target, tuple((name.replace("_", "-"), value) for name, value in fields.items()), method)
        try:
            return self._ask(self._app, ask, lint=False)
        except Exception:
            return None
        except AssertionError:  # of the harness: no head
            return None


class Down:
    """A store that is out of order."""

    def execute(self, ops: Any) -> list[Any]:
        raise StoreError("it is down")

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        raise StoreError("it is down")


async def replace(request: Request, forward: Any) -> Any:
    """Answer something else in the place of a refusal."""
    answer = await forward(request)
    return Response(200, [], b"a demo") if answer.status == 429 else answer


def own(request: Request) -> Response | None:
    """Answer without refusing."""
    return Response(503, [], b"closed on Sundays") if request.path == "/own" else None


LIMIT = "ip:1/minute"
TABLE: dict[str, tuple[Callable[[], list[Any]], list[tuple[str, str, dict[str, str]]], list[tuple[Any, ...]]]] = {
    "served": (
        lambda: [ByName(), RateLimit("9/minute", by="subject")],
        [("GET", "/a", {"x_name": "ada"}), ("POST", "/404", {}), ("GET", "/304", {"x_name": "bob"})],
        [
            ("GET", "served", None, "", 200, "ada", "id-ada", ()),
            ("POST", "served", None, "", 404, "", "", ()),
            ("GET", "served", None, "", 304, "bob", "id-bob", ()),
        ],
    ),
    "failed": (
        lambda: [RateLimit("9/minute", by="ip")],
        [("GET", "/raises", {}), ("GET", "/silent", {}), ("GET", "/502", {})],
        [
            ("GET", "failed", "fault", "app-failed", 500, "", "", ()),
            ("GET", "failed", "fault", "no-response", 500, "", "", ()),
            ("GET", "failed", "fault", "app-failed", 502, "", "", ()),
        ],
    ),
    "failed without guards": (
        list,
        [("GET", "/raises", {}), ("GET", "/a", {})],
        [("GET", "failed", "fault", "app-failed", 500, "", "", ()), ("GET", "served", None, "", 200, "", "", ())],
    ),
    "limited": (
        lambda: [RateLimit("1/minute", by="ip")],
        [("GET", "/a", {}), ("GET", "/a", {}), ("BREW", "/a", {})],
        [
            ("GET", "served", None, "", 200, "", "", ()),
            ("GET", "refused", "usage", "limit-reached", 429, "", "", (LIMIT,)),
            ("_OTHER", "refused", "usage", "limit-reached", 429, "", "", (LIMIT,)),
        ],
    ),
    "shadow": (
        lambda: [shadow(RateLimit("1/minute", by="ip"))],
        [("GET", "/a", {}), ("GET", "/a", {})],
        [("GET", "served", None, "", 200, "", "", ()), ("GET", "served", None, "", 200, "", "", ())],
    ),
    "address": (
        lambda: [IPFilter(deny=["198.51.100.0/24"])],
        [("GET", "/a", {})],
        [("GET", "refused", "address", "denied-address", 403, "", "", ())],
    ),
    "no key": (
        lambda: [APIKeys()],
        [("GET", "/a", {})],
        [("GET", "refused", "credentials", "no-key", 401, "", "", ())],
    ),
    "cached": (
        lambda: [ResponseCache(ttl=60), RateLimit("9/minute", by="ip")],
        [("GET", "/a", {}), ("GET", "/a", {}), ("GET", "/a", {"if_none_match": '"1"'}), ("HEAD", "/a", {})],
        [
            ("GET", "served", None, "", 200, "", "", ()),
            ("GET", "cached", None, "", 200, "", "", ()),
            ("GET", "cached", None, "", 304, "", "", ()),
            ("HEAD", "cached", None, "", 200, "", "", ()),
        ],
    ),
    "cached for some": (
        lambda: [ByName(), ResponseCache(ttl=60, by="subject")],
        [("GET", "/a", {"x_name": "ada"}), ("GET", "/a", {"x_name": "ada"})],
        [
            ("GET", "served", None, "", 200, "ada", "id-ada", ()),
            ("GET", "cached", None, "", 200, "ada", "id-ada", ()),
        ],
    ),
    "replaced": (
        lambda: [replace, RateLimit("1/minute", by="ip")],
        [("GET", "/a", {}), ("GET", "/a", {})],
        [("GET", "served", None, "", 200, "", "", ()), ("GET", "served", None, "", 200, "", "", ())],
    ),
    "answered by a guard": (lambda: [own], [("GET", "/own", {})], [("GET", "served", None, "", 503, "", "", ())]),
}


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize("case", TABLE)
def test_both_worlds_keep_the_same_records(case: str, world: str) -> None:
    guards, asked, expected = TABLE[case]
    records = Records(world, *guards())
    for method, target, fields in asked:
        records.ask(target, method, **fields)
    found = [
        (one.method, one.outcome, one.cause, one.reason, one.status, one.subject, one.key_id, one.policies)
        for one in records.told
    ]
    assert found == expected
    for one in records.told:
        assert one.client == "198.51.100.1"
        assert one.duration >= 0
        assert one.at == records.clock()
        assert one.route == ""  # nothing is known of this app's routes, and no rule is about paths


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_store_that_fails_is_a_refusal_by_fault(world: str) -> None:
    records = Records(world, RateLimit("9/minute", by="ip", if_store_fails="refuse"), store=Down())
    assert records.ask("/a").status == 503
    (one,) = records.told
    assert (one.outcome, one.cause, one.status) == ("refused", Cause.FAULT, 503)


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_ids_and_limits(world: str) -> None:
    records = Records(world, RateLimit("2/minute", by="ip"))
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    for sent in (f"00-{trace}-00f067aa0ba902b7-01", f"ff-{trace}-00f067aa0ba902b7-01", "00-" + "0" * 32, "x" * 9999):
        records.ask("/a", traceparent=sent, x_request_id="of-mine")
    assert [one.trace_id for one in records.told] == [trace, "", "", ""]
    assert {one.request_id for one in records.told} == {"of-mine"}
    assert [[(limit.cost, limit.remaining, limit.admitted) for limit in one.limits] for one in records.told] == [
        [(1, 1, True)],
        [(1, 0, True)],
        [(1, 0, False)],
        [(1, 0, False)],
    ]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_the_pattern_of_a_rule_stands_for_routes_that_nobody_can_see(world: str) -> None:
    shop = Policy("shop", when=path("/shop/*"), then=[RateLimit("1/minute", by="ip", name="shop")])
    records = Records(world, RateLimit("9/minute", by="ip", paths=["/items/{id}", "/static/*"]), shop)
    for target in ("/items/17", "/items/18", "/static/a/b", "/4fK2mQ9xTzLb", "/items/17/x", "/shop/a", "/"):
        records.ask(target)
    assert [one.route for one in records.told] == ["/items/{id}", "/items/{id}", "/static/*", "", "", "/shop/*", ""]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_what_listens_ends_no_request_and_is_told_of_once(world: str, caplog: pytest.LogCaptureFixture) -> None:
    class Told(Exception):
        pass

    def fails(decision: Decision) -> None:
        raise Told(decision.status)

    records = Records(world, RateLimit("1/minute", by="ip"), on_decision=fails)
    assert [records.ask("/a").status for _ in range(3)] == [200, 429, 429]
    lines = [line for line in caplog.messages if "on_decision failed" in line]
    assert len(lines) == 1


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_request_has_one_record_however_many_stacks_it_passes(world: str) -> None:
    told: dict[str, list[Decision]] = {"outer": [], "inner": [], "both": []}

    def both(decision: Decision) -> None:
        told["both"].append(decision)

    inner = Keyguard(RateLimit("9/minute", by="ip", name="in"), store="memory://", on_decision=told["inner"].append)
    outer = Keyguard(RateLimit("2/minute", by="ip", name="out"), store="memory://", on_decision=told["outer"].append)
    same = Keyguard(RateLimit("9/minute", by="ip", name="a"), store="memory://", on_decision=both)
    twice = Keyguard(RateLimit("9/minute", by="ip", name="b"), store="memory://", on_decision=both)
    for _ in range(3):
        if world == "asgi":
            ask_asgi(twice.asgi(same.asgi(outer.asgi(inner.asgi(asgi)))), Ask("/a"))
        else:
            ask_wsgi(twice.wsgi(same.wsgi(outer.wsgi(inner.wsgi(wsgi)))), Ask("/a"), lint=False)
    assert len(told["both"]) == len(told["outer"]) == 3
    assert told["inner"] == told["outer"][:2]  # the third request did not come so far
    assert [one.policies for one in told["outer"]] == [(), (), ("out:2/minute",)]
    assert told["both"] == told["outer"]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_stack_that_guards_nothing_has_records_too(world: str) -> None:
    records = Records(world, RateLimit("1/minute", by="ip"), enabled=False)
    records.ask("/a")
    records.ask("/a")
    assert [one.outcome for one in records.told] == ["served", "served"]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_refreshes_in_the_background_have_no_record(world: str) -> None:
    records = Records(world, ResponseCache(ttl=1))
    told: list[Decision] = []
    inner = Keyguard(RateLimit("9/minute", by="ip"), store="memory://", on_decision=told.append)
    calls: list[str] = []
    if world == "asgi":
        refreshed = asyncio.Event()

        async def fresh(scope: Any, receive: Any, send: Any) -> None:
            calls.append("app")
            if len(calls) == 2:
                refreshed.set()
            fields = [(b"cache-control", b"max-age=1, stale-while-revalidate=60")]
            await send({"type": "http.response.start", "status": 200, "headers": fields})
            await send({"type": "http.response.body", "body": b"hello"})

        app = records.guard.asgi(inner.asgi(fresh))

        async def story() -> None:
            await aask(app, Ask("/a"))
            records.clock.advance(2)
            await aask(app, Ask("/a"))
            await refreshed.wait()

        asyncio.run(story())
    else:

        def fresh_wsgi(environ: Any, start_response: Any) -> list[bytes]:
            calls.append("app")
            start_response("200 OK", [("Cache-Control", "max-age=1, stale-while-revalidate=60")])
            return [b"hello"]

        served = records.guard.wsgi(inner.wsgi(fresh_wsgi))
        ask_wsgi(served, Ask("/a"), lint=False)
        records.clock.advance(2)
        ask_wsgi(served, Ask("/a"), lint=False)
        wait_until(lambda: len(calls) == 2, "the refresh")
    assert [one.outcome for one in records.told] == ["served", "cached"]
    assert told == records.told[:1]


def test_heads_that_come_late_or_twice_under_wsgi() -> None:
    told: list[Decision] = []
    guard = Keyguard(RateLimit("9/minute", by="ip"), store="memory://", on_decision=told.append)

    def late(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("201 Created", [])
        yield b"hello"

    def twice(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"oops"]

    def writes(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("202 Accepted", [])(b"hello")
        return []

    for app in (late, twice, writes):
        ask_wsgi(guard.wsgi(app), Ask("/a"), lint=False)
    assert [(one.status, one.outcome) for one in told] == [(201, "served"), (500, "failed"), (202, "served")]


def test_bodies_under_wsgi_stay_as_they_are() -> None:
    guard = Keyguard(RateLimit("9/minute", by="ip"), store="memory://", on_decision=lambda decision: None)
    body = [b"hello"]

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return body

    assert guard.wsgi(app)(Ask("/a").environ(), lambda status, fields, exc_info=None: print) is body


def test_clients_that_leave_before_the_head() -> None:
    told: list[Decision] = []
    guard = Keyguard(RateLimit("9/minute", by="ip"), store="memory://", on_decision=told.append)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def story() -> None:
        task = asyncio.ensure_future(aask(guard.asgi(app), Ask("/a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    (one,) = told
    assert (one.outcome, one.cause, one.reason, one.status) == ("failed", None, "cancelled", 499)


def test_handshakes() -> None:
    told: list[Decision] = []
    guard = Keyguard(RateLimit("2/minute", by="ip"), store="memory://", on_decision=told.append)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close" if scope["path"] == "/closed" else "websocket.accept"})

    async def shake(path: str) -> list[str]:
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message["type"])

        scope = {**Ask(path).scope(), "type": "websocket", "scheme": "ws", "subprotocols": []}
        del scope["method"]
        await guard.asgi(app)(scope, receive, send)
        return sent

    assert [asyncio.run(shake(path)) for path in ("/a", "/closed", "/a")] == [
        ["websocket.accept"],
        ["websocket.close"],
        ["websocket.close"],
    ]
    assert [(one.method, one.outcome, one.status) for one in told] == [
        ("GET", "served", 101),
        ("GET", "served", 403),
        ("GET", "refused", 429),
    ]


@pytest.mark.parametrize("wrong", ["a text", lambda: None, asyncio.sleep])
def test_what_cannot_listen_does_not_start(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_decision"):
        Keyguard(store="memory://", on_decision=wrong)


# -- the log --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_the_log_has_one_line_of_json_a_request(world: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keyguard.decisions")
    records = Records(
        world, ByName(), RateLimit("1/minute", by="subject", paths=["/items/{id}"]), on_decision=log_decision
    )
    secret = "kg_live_4fK2mQ9xTzLb4fK2mQ9xTzLb"
    records.ask(f"/items/{secret}?key={secret}", x_name='a"b\nc', authorization=f"Bearer {secret}")
    records.ask("/items/17", "BREW", x_name='a"b\nc')
    lines = [one.getMessage() for one in caplog.records if one.name == "keyguard.decisions"]
    assert len(lines) == 2
    assert secret not in "".join(lines)
    assert "\n" not in "".join(lines)
    found = json.loads(lines[0])
    assert list(found) == [
        *("time", "request_id", "trace_id", "subject", "key_id", "client", "method", "route", "outcome", "cause"),
        *("reason", "status", "policies", "limits", "duration"),
    ]
    assert found["subject"] == 'a"b\nc'
    assert found["limits"][0] | {"name": ""} == {
        "name": "",
        "limit": 1,
        "cost": 1,
        "remaining": 0,
        "admitted": True,
        "shadow": False,
    }
    entries = [Reader().read(line) for line in lines]
    assert [(one.at, one.method, one.path, one.client, one.status) for one in entries if one is not None] == [
        (records.clock(), "GET", "/items/{id}", "198.51.100.1", 200),
        (records.clock(), "_OTHER", "/items/{id}", "198.51.100.1", 429),
    ]


def test_a_log_that_is_not_shown_says_so_once(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    monkeypatch.setattr(keyguard.decision, "_told_in", 0)
    logging.getLogger("keyguard.decisions").setLevel(logging.WARNING)
    try:
        records = Records("wsgi", on_decision=log_decision)
        records.ask("/a")
        records.ask("/a")
    finally:
        logging.getLogger("keyguard.decisions").setLevel(logging.NOTSET)
    assert [line for line in caplog.messages if "log_decision writes nothing" in line] == [caplog.messages[-1]]


def test_a_replay_of_our_own_log_makes_no_records(caplog: pytest.LogCaptureFixture) -> None:
    """The log would grow while it is read, if it is the stack's own."""
    caplog.set_level(logging.INFO, "keyguard.decisions")
    records = Records("wsgi", RateLimit("1/minute", by="ip", paths=["/items/{id}"]), on_decision=log_decision)
    for _ in range(3):
        records.ask("/items/17")
    lines = [one.getMessage() for one in caplog.records if one.name == "keyguard.decisions"]
    caplog.clear()
    found = replay(records.guard, lines)
    assert (found.requests, found.refused, found.refused_then) == (3, 2, 2)
    assert caplog.messages == []
    records.ask("/items/17")  # from then on it listens again
    assert len(caplog.messages) == 1


class Head(dict[str, Any]):
    """A scope or an environ, of which can be told whether it is still there."""


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_no_request_is_left_to_the_garbage_collector(world: str) -> None:
    guard = Keyguard(RateLimit("2/minute", by="ip"), store="memory://", on_decision=lambda decision: None)
    app = guard.asgi(asgi) if world == "asgi" else guard.wsgi(wsgi)
    heads: list[weakref.ref[Head]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None: ...

    async def ask() -> None:
        head = Head(Ask("/a").scope() if world == "asgi" else Ask("/a").environ())
        heads.append(weakref.ref(head))
        if world == "asgi":
            await app(head, receive, send)
        else:
            app(head, lambda *answer: None)

    async def story() -> None:
        for _ in range(4):  # two are served, the others are refused
            await ask()

    gc.disable()
    try:
        asyncio.run(story())
        assert [head() for head in heads] == [None] * 4
    finally:
        gc.enable()
