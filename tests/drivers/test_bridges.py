"""Over bridges between ASGI and WSGI: what one side found out reaches the other, and never another request."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest
from flask import Flask, request
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    Forward,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    open_store,
)
from keyguard.drivers.asgi.background import end_detached
from keyguard.drivers.asgi.driver import close_store
from keyguard.ops import Read
from keyguard.stores.memory import MemoryStore
from keyguard.stores.postgres import PostgresStore
from keyguard.testing import ManualClock
from tests.drivers.test_asgi_driver import lifespan
from tests.support.harness import Answer, Ask, aask, ask_asgi, ask_wsgi, wsgi_app
from tests.support.neighbours import BRIDGES, Bridge, to_wsgi


def lookup(key: str) -> Identity | None:
    return Identity(key.removeprefix("of-"), key_id=key) if key.startswith("of-") else None


def keyed(name: str, path: str = "/who") -> Ask:
    return Ask(path, (("X-API-Key", f"of-{name}"),))


def who_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says whose request it is, as far as the environ tells."""
    found = environ.get("keyguard.request")
    text = "nobody knows" if found is None or found.identity is None else found.identity.subject or "anonymous"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text.encode()]


def flask_app() -> Flask:
    app = Flask("bridged")

    @app.get("/who")
    def who() -> str:
        return str(request.environ["keyguard.request"].identity.subject)

    return app


def ask(app: Any, asked: Ask) -> Answer:
    return ask_asgi(app, asked, lint=False)  # a2wsgi and asgiref answer HEAD and the like in ways of their own


# -- from ASGI to WSGI --------------------------------------------------------------------------------------


def test_an_app_inside_a_bridge_reads_who_calls(bridge: Bridge) -> None:
    app = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(flask_app()))
    assert [ask(app, keyed(name)).body for name in ("ada", "bob", "ada")] == [b"ada", b"bob", b"ada"]
    assert ask(app, Ask("/who")).status == 401


def test_a_layer_inside_a_bridge_counts_by_the_key_that_a_layer_outside_found(bridge: Bridge) -> None:
    inside = keyguard.wsgi.RateLimit(who_app, "2/minute", by="key")
    app = keyguard.asgi.APIKeys(bridge(inside), lookup=lookup)
    answers = [ask(app, keyed(name)) for name in ("ada", "ada", "ada", "bob")]
    assert [answer.status for answer in answers] == [200, 200, 429, 200]
    assert answers[3].body == b"bob"


def test_the_same_where_the_bridge_is_mounted_in_an_app(bridge: Bridge) -> None:
    inside = Flask("mounted")
    inside.add_url_rule("/who", view_func=lambda: request.environ["keyguard.request"].identity.subject)
    inside.wsgi_app = keyguard.wsgi.RateLimit(inside.wsgi_app, "2/minute", by="subject")
    app = Starlette(routes=[Mount("/v1", app=bridge(inside))])
    app.add_middleware(Keyguard(APIKeys(lookup=lookup)).asgi)
    answers = [ask(app, keyed(name, "/v1/who")) for name in ("ada", "ada", "ada", "bob")]
    assert [answer.status for answer in answers] == [200, 200, 429, 200]
    assert answers[3].body == b"bob"


def test_an_app_in_a_mounted_bridge_needs_a_layer_of_its_own_and_it_may_be_an_empty_one(bridge: Bridge) -> None:
    app = Starlette(routes=[Mount("/v1", app=bridge(Keyguard().wsgi(flask_app())))])
    app.add_middleware(Keyguard(APIKeys(lookup=lookup)).asgi)
    assert [ask(app, keyed(name, "/v1/who")).body for name in ("ada", "bob")] == [b"ada", b"bob"]


def test_a_refusal_inside_charges_nothing_outside(bridge: Bridge) -> None:
    store = MemoryStore(clock=ManualClock())
    inside = keyguard.wsgi.RateLimit(who_app, "1/hour", by="key", paths=["/dear"], name="dear", store=store)
    guard = Keyguard(APIKeys(lookup=lookup), RateLimit("3/hour", by="key"), store=store)
    app = guard.asgi(bridge(inside))
    assert [ask(app, keyed("ada", "/dear")).status for _ in range(5)] == [200, 429, 429, 429, 429]
    assert [ask(app, keyed("ada", "/cheap")).status for _ in range(3)] == [200, 200, 429]


def test_many_callers_at_once_are_never_taken_for_each_other(bridge: Bridge) -> None:
    inside = keyguard.wsgi.RateLimit(who_app, "3/minute", by="key")
    app = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(inside))
    names = [f"caller{number}" for number in range(25)] * 4

    async def story() -> list[Answer]:
        return await asyncio.gather(*(aask(app, keyed(name), lint=False) for name in names))

    answers = asyncio.run(story())
    served = [(name, answer.body.decode()) for name, answer in zip(names, answers, strict=True) if answer.status == 200]
    assert all(name == told for name, told in served)
    assert len(served) == 75
    assert sum(answer.status == 429 for answer in answers) == 25


def test_two_bridges_in_a_row_carry_too(bridge: Bridge) -> None:
    async def scope_app(scope: Any, receive: Any, send: Any) -> None:
        body = scope["keyguard"].identity.subject.encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    innermost = keyguard.asgi.RateLimit(scope_app, "2/minute", by="key")
    app = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(to_wsgi(innermost)))
    assert [ask(app, keyed("ada")).status for _ in range(3)] == [200, 200, 429]
    assert ask(app, keyed("bob")).body == b"bob"


# -- and back -------------------------------------------------------------------------------------------------


async def scope_who(scope: Any, receive: Any, send: Any) -> None:
    found = scope.get("keyguard")
    body = b"nobody knows" if found is None or found.identity is None else found.identity.subject.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def test_an_asgi_app_inside_a_wsgi_bridge_reads_who_calls() -> None:
    app = Keyguard(APIKeys(lookup=lookup)).wsgi(to_wsgi(scope_who))
    assert [ask_wsgi(app, keyed(name)).body for name in ("ada", "bob")] == [b"ada", b"bob"]


def test_an_asgi_layer_inside_a_wsgi_bridge_counts_by_the_key() -> None:
    app = keyguard.wsgi.APIKeys(to_wsgi(keyguard.asgi.RateLimit(scope_who, "2/minute", by="key")), lookup=lookup)
    assert [ask_wsgi(app, keyed(name)).status for name in ("ada", "ada", "ada", "bob")] == [200, 200, 429, 200]


def test_a_cache_inside_a_wsgi_bridge_does_not_answer_a_known_caller_with_what_was_for_anybody() -> None:
    made: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        made.append(1)
        head = [(b"content-type", b"text/plain"), (b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": scope["keyguard"].identity.subject.encode() or b"anonymous"})

    inside = keyguard.asgi.ResponseCache(app)
    outside = keyguard.wsgi.APIKeys(to_wsgi(inside), lookup=lookup, sources=["cookie:session"], optional=True)
    sent = Ask("/", (("Cookie", "session=of-ada"),))
    assert [ask_wsgi(outside, asked).body for asked in (Ask("/"), sent, Ask("/"), sent)] == [
        b"anonymous", b"ada", b"anonymous", b"ada",
    ]  # fmt: skip


def test_the_next_request_of_a_thread_inherits_nothing() -> None:
    """The thread's context still holds what the request before it was."""
    seen: list[Identity | None] = []

    def note(request: Request) -> Response | None:
        seen.append(request.state.identity)
        return None

    inside = to_wsgi(Keyguard(note).asgi(scope_who))
    guarded = Keyguard(APIKeys(lookup=lookup)).wsgi(inside)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(ask_wsgi, guarded, keyed("ada")).result().body == b"ada"
        assert thread.submit(ask_wsgi, inside, keyed("ada")).result().body == b"nobody knows"
    assert [identity and identity.subject for identity in seen] == ["ada", None]


# -- what is another request ------------------------------------------------------------------------------------


def test_a_request_that_the_app_makes_itself_inherits_nothing(bridge: Bridge, caplog: pytest.LogCaptureFixture) -> None:
    """Inside of a request, in its context, and with its headers: it is another one all the same."""
    internal = Flask("internal")
    internal.add_url_rule("/who", view_func=lambda: "inside")
    internal.wsgi_app = keyguard.wsgi.RateLimit(internal.wsgi_app, "1/second", by="key")
    app = Flask("outer")

    @app.get("/who")
    def who() -> str:
        answer = internal.test_client().get("/who", headers=dict(request.headers))
        return f"{answer.status_code}"

    guarded = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(app))
    assert ask(guarded, keyed("ada")).body == b"503"
    assert "no APIKeys stands outside it" in caplog.text


def test_a_scope_that_the_app_puts_together_anew_is_of_nobody_else(bridge: Bridge) -> None:
    """A batch, say: each of its requests has credentials of its own."""
    inner = bridge(keyguard.wsgi.RateLimit(who_app, "1/second", by="key"))

    async def batch(scope: Any, receive: Any, send: Any) -> None:
        made = {key: value for key, value in scope.items() if key != "keyguard"}
        made["headers"] = [(b"host", b"x"), (b"x-api-key", b"of-eve")]
        await inner(made, receive, send)

    assert ask(Keyguard(APIKeys(lookup=lookup)).asgi(batch), keyed("ada")).status == 503


def test_what_runs_on_after_the_request_inherits_nothing() -> None:
    """A task that goes on in the request's context, with its scope: the request is over."""
    inner = keyguard.wsgi.RateLimit(who_app, "10/second", by="key")
    later: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        kept = {key: value for key, value in scope.items() if key != "keyguard"}
        again = BRIDGES["asgiref"](inner)
        later.append((again, kept))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def story() -> int:
        task: Any = asyncio.create_task(aask(Keyguard(APIKeys(lookup=lookup)).asgi(app), keyed("ada"), lint=False))
        await task
        again, kept = later[0]
        statuses: list[int] = []

        async def send(message: Any) -> None:
            statuses.append(message.get("status", 0))

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await asyncio.create_task(again(kept, receive, send), context=task.get_context())
        return statuses[0]

    if hasattr(asyncio.Task, "get_context"):
        assert asyncio.run(story()) == 503


def test_an_app_that_dispatches_its_environ_again_keeps_its_caller(bridge: Bridge) -> None:
    """That is the same request still: what was found out about it stands in the environ."""
    inner = keyguard.wsgi.RateLimit(who_app, "2/minute", by="key")

    def twice(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for _ in inner(dict(environ), lambda *_: None):  # type: ignore[arg-type, return-value]
            pass
        return inner(dict(environ), start_response)

    app = Keyguard(APIKeys(lookup=lookup)).asgi(bridge(twice))
    assert [ask(app, keyed("ada")).status for _ in range(2)] == [200, 429]


def test_work_in_the_background_is_a_request_of_its_own(bridge: Bridge) -> None:
    """A stale entry is refreshed for its caller, over the bridge, and leaves no trace on the request that asked."""
    clock = ManualClock()
    subjects: list[str] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        subjects.append(environ["keyguard.request"].identity.subject)
        start_response("200 OK", [("Cache-Control", "max-age=1, stale-while-revalidate=60, public")])
        return [b"x"]

    guard = Keyguard(APIKeys(lookup=lookup), ResponseCache(), clock=clock)
    guarded = guard.asgi(bridge(keyguard.wsgi.RateLimit(app, "9/minute", by="key")))

    async def story() -> list[bytes]:
        bodies = [(await aask(guarded, keyed("ada"), lint=False)).body]
        clock.advance(5)
        bodies.append((await aask(guarded, keyed("ada"), lint=False)).body)
        await end_detached()
        return bodies

    assert asyncio.run(story()) == [b"x", b"x"]
    assert subjects == ["ada", "ada"]


# -- what cannot be seen ------------------------------------------------------------------------------------------


def test_a_layer_inside_that_misses_its_outer_one_stops_the_start(bridge: Bridge) -> None:
    inside = keyguard.wsgi.RateLimit(who_app, "1/second", by="key")
    assert lifespan(Keyguard(IPFilter(deny=["10.0.0.0/8"])).asgi(bridge(inside))) == ["lifespan.startup.failed"]
    mounted = Starlette(routes=[Mount("/v1", app=bridge(inside))])
    mounted.add_middleware(Keyguard(IPFilter(deny=["10.0.0.0/8"])).asgi)
    with pytest.raises(Exception, match="put APIKeys outside it"), TestClient(mounted):
        pass
    complete = Starlette(routes=[Mount("/v1", app=bridge(inside))])
    complete.add_middleware(Keyguard(APIKeys(lookup=lookup)).asgi)
    with TestClient(complete) as client:
        assert client.get("/v1/who", headers={"X-API-Key": "of-ada"}).text == "ada"


def test_layers_in_the_wrong_order_do_not_start_over_a_bridge_either(bridge: Bridge) -> None:
    inside = keyguard.wsgi.APIKeys(who_app, lookup=lookup)
    with pytest.raises(keyguard.ConfigurationError, match="a layer further in finds"):
        keyguard.asgi.RateLimit(bridge(inside), "1/second", by="key")
    differing = keyguard.wsgi.RateLimit(who_app, "1/second", trusted_proxies=["10.0.0.0/8"])
    with pytest.raises(keyguard.ConfigurationError, match="give both the same"):
        keyguard.asgi.IPFilter(bridge(differing), deny=["203.0.113.0/24"])


def test_a_bridge_that_hides_the_caller_gives_503_and_the_log_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """One that runs the app in a thread without the request's context."""
    inside = keyguard.wsgi.RateLimit(who_app, "9/minute", by="key")

    async def own_bridge(scope: Any, receive: Any, send: Any) -> None:
        answer = await asyncio.get_running_loop().run_in_executor(None, ask_wsgi, inside, keyed("ada"))
        await send({"type": "http.response.start", "status": answer.status, "headers": []})
        await send({"type": "http.response.body", "body": answer.body})

    assert ask(Keyguard(APIKeys(lookup=lookup)).asgi(own_bridge), keyed("ada")).status == 503
    assert "put APIKeys() on this side" in caplog.text


# -- PEP 3333 -----------------------------------------------------------------------------------------------------


def test_the_linter_of_the_standard_library_finds_nothing_to_say() -> None:
    """Around the guards, and around the app: that its environ holds nothing which may not stand there."""

    async def looking(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: None)
        return await forward(request)

    guard = Keyguard(APIKeys(lookup=lookup), looking, RateLimit("9/second", by="key"))
    app = validator(guard.wsgi(validator(wsgi_app)))
    answer = ask_wsgi(app, Ask("/", (("X-API-Key", "of-ada"),)), lint=False)
    assert answer.status == 200
    assert ask_wsgi(app, Ask("/"), lint=False).status == 401


@pytest.mark.parametrize("kind", ["sqlite", "valkey", "postgres"])
def test_every_store_is_asked_in_the_event_loop_whatever_the_bridge(
    kind: str, bridge: Bridge, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Before the app, after its head, and at the end; the first requests like all others."""
    name = f"bridges_{request.node.callspec.params['bridge']}"
    if kind == "postgres":
        store: Any = PostgresStore(request.getfixturevalue(kind).url, schema=name, timeout=1)
        store.migrate()
    elif kind == "valkey":
        store = open_store(f"{request.getfixturevalue(kind).url}?namespace={name}&timeout=1")
    else:
        store = open_store(f"sqlite:///{tmp_path}/bridged.db?timeout=5")

    async def asking(request: Request, forward: Forward) -> Response:
        request.at_end(Read("k|end"))
        await Read("k|before")
        response = await forward(request)
        await Read("k|after")
        return response

    app = Keyguard(asking, RateLimit("20/hour"), store=store).asgi(bridge(who_app))

    async def story() -> list[int]:
        statuses = [(await aask(app, Ask(), lint=False)).status for _ in range(25)]
        await close_store(store)
        return statuses

    statuses = asyncio.run(story())
    store.close()
    assert statuses == [200] * 20 + [429] * 5


# -- a bridge may leave a body without closing it ---------------------------------------------------------------------


@pytest.mark.parametrize("length", [True, False])
def test_what_is_deferred_runs_where_a_bridge_leaves_the_body(bridge: Bridge, length: bool) -> None:
    """asgiref asks for no more once it has what `Content-Length` says; asgiref and Starlette close nothing."""
    notes: list[str] = []

    class Parts:
        def __iter__(self) -> Any:
            return iter([b"ab", b"cd"])

        def close(self) -> None:
            notes.append("closed")

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "4")] if length else [])
        return Parts()

    async def deferring(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: notes.append("end"))
        return await forward(request)

    assert ask(bridge(Keyguard(deferring).wsgi(app)), Ask()).body == b"abcd"
    assert sorted(notes) == ["closed", "end"]


# -- asgiref hands `send` to another thread ------------------------------------------------------------------------


def test_guards_go_on_in_the_event_loop_where_a_bridge_sends_from_a_thread(bridge: Bridge) -> None:
    """After the head a guard may await what only the event loop offers, as it may before."""
    threads: list[int] = []

    async def waiting(request: Request, forward: Forward) -> Response:
        await asyncio.sleep(0)
        threads.append(threading.get_ident())
        response = await forward(request)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        threads.append(threading.get_ident())
        response.headers.set("X-Waited", "yes")
        return response

    async def settled(request: Request, forward: Forward) -> Response:
        async def at_end() -> None:
            await asyncio.sleep(0)
            threads.append(threading.get_ident())

        request.at_end(at_end)
        return await forward(request)

    app = Keyguard(settled, waiting).asgi(bridge(who_app))
    assert ask(app, Ask()).get("x-waited") == "yes"
    assert len(threads) == 3
    assert len(set(threads)) == 1


ONE_SIDE = """
import asyncio, sys
from asgiref.wsgi import WsgiToAsgi
import keyguard.asgi, keyguard.wsgi
from keyguard import Identity
from keyguard.drivers import bridges
from tests.support.harness import Ask, ask_asgi

def who(environ, start_response):
    found = environ.get("keyguard.request")
    name = "nobody" if found is None or found.identity is None else found.identity.subject
    start_response("200 OK", [("Content-Length", str(len(name)))])
    return [name.encode()]

class Mounted:  # so that the bridge does not stand directly inside of the layer
    inside = None
    async def __call__(self, scope, receive, send):
        await self.inside(scope, receive, send)

mounted = Mounted()
mounted.inside = WsgiToAsgi(who)
app = keyguard.asgi.APIKeys(mounted, lookup=lambda key: Identity(key))
ask = Ask("/", (("X-API-Key", "alice"),))
print(ask_asgi(app, ask, lint=False).body.decode(), bridges.crossing)
mounted.inside = WsgiToAsgi(keyguard.wsgi.RateLimit(who, "5/hour", by="key"))
print(ask_asgi(app, ask, lint=False).body.decode(), bridges.crossing)
"""


def test_a_process_with_layers_on_one_side_lists_no_request_until_the_other_side_has_one() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_SIDE], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["nobody False", "alice True"], done.stderr
