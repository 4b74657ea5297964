"""Litestar, Quart, Falcon, Pyramid and Bottle: their examples, by their own test clients, and on real servers."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit
from tests.core.test_documents import ROOT, example
from tests.support.servers import free_port, python, wait_until

pytestmark = pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning")  # Pyramid reads forms by it

Answer = tuple[int, Mapping[str, str], bytes]
Get = Callable[[str, Mapping[str, str]], Answer]
"""Asks an app for a path, with header fields."""


def by_litestar(module: Any) -> Get:
    from litestar.testing import TestClient

    def get(path: str, fields: Mapping[str, str]) -> Answer:
        with TestClient(module.app) as client:
            answer = client.get(path, headers=dict(fields))
        return answer.status_code, answer.headers, answer.content

    return get


def by_quart(module: Any) -> Get:
    async def ask(path: str, fields: Mapping[str, str]) -> Answer:
        answer = await module.app.test_client().get(path, headers=dict(fields))
        return answer.status_code, answer.headers, await answer.get_data()

    return lambda path, fields: asyncio.run(ask(path, fields))


def by_falcon(app: Any) -> Get:
    from falcon.testing import TestClient

    def get(path: str, fields: Mapping[str, str]) -> Answer:
        answer = TestClient(app).simulate_get(path, headers=dict(fields))
        return answer.status_code, answer.headers, answer.content

    return get


def by_webtest(module: Any) -> Get:
    from webtest import TestApp

    def get(path: str, fields: Mapping[str, str]) -> Answer:
        client = TestApp(module.application, extra_environ={"REMOTE_ADDR": "127.0.0.1"})
        answer = client.get(path, headers=dict(fields), status="*")
        return answer.status_int, answer.headers, answer.body

    return get


CLIENTS: list[tuple[str, Callable[[Any], Get]]] = [
    ("litestar_app", by_litestar),
    ("quart_app", by_quart),
    ("falcon_app", lambda module: by_falcon(module.application)),
    ("falcon_app", lambda module: by_falcon(module.asgi_application)),
    ("pyramid_app", by_webtest),
    ("bottle_app", by_webtest),
]
IDS = ["litestar", "quart", "falcon-wsgi", "falcon-asgi", "pyramid", "bottle"]


def use(get: Get, key: str) -> None:
    """Ask an example for all that its page tells."""
    keyed = {"X-API-Key": key}
    assert get("/health", {})[0] == 200
    status, fields, body = get("/items/7", {})
    assert (status, fields["content-type"], json.loads(body)["cause"]) == (
        401,
        "application/problem+json",
        "credentials",
    )
    status, fields, body = get("/items/7", keyed)
    assert (status, json.loads(body)) == (200, {"item": "7", "caller": "acme"})
    assert '"key:10/second";r=9' in fields["ratelimit"]
    status, _, body = get("/summary?tokens=600", keyed)
    assert (status, json.loads(body)) == (200, {"tokens": 300})
    # What a handler is refused, and does not catch.
    status, fields, body = get("/summary?tokens=701", keyed)
    assert (status, fields["content-type"]) == (429, "application/problem+json")
    assert json.loads(body)["violated-policies"] == ["tokens:1000/day"]
    assert "retry-after" in {name.lower() for name in fields.keys()}  # noqa: SIM118 - werkzeug's would be pairs
    assert get("/summary?tokens=700", keyed)[0] == 200


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/keyguard.db?timeout=10")
    return tmp_path


@pytest.mark.parametrize(("name", "client"), CLIENTS, ids=IDS)
def test_its_own_test_client_is_guarded(name: str, client: Callable[[Any], Get], folder: Path) -> None:
    module = example(name)
    use(client(module), module.guard.keys.issue("acme").key.reveal())
    module.guard.store.close()


SERVERS = [
    ("litestar_app", ["uvicorn", "litestar_app:app", "--port"]),
    ("quart_app", ["hypercorn", "quart_app:app", "--bind"]),
    ("falcon_app", ["gunicorn", "falcon_app:application", "--bind"]),
    ("falcon_app", ["uvicorn", "falcon_app:asgi_application", "--port"]),
    ("pyramid_app", ["gunicorn", "pyramid_app:application", "--bind"]),
    ("bottle_app", ["gunicorn", "bottle_app:application", "--bind"]),
]


@pytest.mark.parametrize(("name", "command"), SERVERS, ids=IDS)
def test_it_is_guarded_on_a_server(name: str, command: list[str], folder: Path) -> None:
    from keyguard import KeyRegistry, open_store

    store: Any = open_store(os.environ["KEYGUARD_STORE"])
    key = KeyRegistry(store).issue("acme").key.reveal()
    store.close()
    port = free_port()

    def get(path: str, fields: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path, headers=dict(fields))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    address = str(port) if command[-1] == "--port" else f"127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "examples"), *filter(None, sys.path)])}
    with python("-m", *command, address, env=environment, cwd=str(folder), start_new_session=True):
        wait_until(lambda: get("/health", {})[0] == 200, "the server answers")
        use(get, key)


# -- ways of listing middleware ---------------------------------------------------------------------------------


def litestar(middleware: list[Any], **more: Any) -> Any:
    from litestar import Litestar, get

    @get("/hello")
    async def hello() -> str:
        return "hello"

    return Litestar([hello, *more.pop("routes", ())], middleware=middleware, **more)


def starlette(middleware: list[Any]) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route("/hello", hello)], middleware=middleware)


def made_around(kind: Any, args: Any, settings: Any, app: Any) -> Any:
    """What stands in Litestar's list: it is called with the app by name."""
    return kind(app, *args, **settings)


def layered(way: str) -> tuple[Any, Any]:
    """An app with a key and two requests for each, and what issues keys."""
    from litestar.middleware import DefineMiddleware
    from starlette.middleware import Middleware

    import keyguard.asgi
    from keyguard import KeyRegistry
    from keyguard.stores.memory import MemoryStore

    store = MemoryStore()
    registry = KeyRegistry(store)
    guard = Keyguard(APIKeys(), RateLimit("2/minute", by="key"), store=store)
    one_by_one = [(keyguard.asgi.APIKeys, (), {}), (keyguard.asgi.RateLimit, ("2/minute",), {"by": "key"})]
    if way == "starlette":
        return starlette([Middleware(guard.asgi)]), registry
    if way == "starlette, one by one":
        return starlette([Middleware(kind, *args, store=store, **more) for kind, args, more in one_by_one]), registry
    if way == "litestar":
        return litestar([guard.asgi]), registry
    if way == "litestar, defined":
        return litestar([DefineMiddleware(guard.asgi)]), registry
    if way == "litestar, one by one":
        made = [partial(made_around, kind, args, {**more, "store": store}) for kind, args, more in one_by_one]
        return litestar(made), registry
    return guard.asgi(litestar([])), registry


WAYS = [
    "starlette",
    "starlette, one by one",
    "litestar",
    "litestar, defined",
    "litestar, one by one",
    "around litestar",
]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_of_listing_middleware(way: str) -> None:
    from starlette.testclient import TestClient

    app, registry = layered(way)
    keyed = {"X-API-Key": registry.issue("acme").key.reveal()}
    client = TestClient(app, client=("198.51.100.1", 40000))
    assert client.get("/hello").status_code == 401
    assert [client.get("/hello", headers=keyed).status_code for _ in range(3)] == [200, 200, 429]
    # Litestar runs what stands in its list for routes alone.
    unknown = client.get("/nothing").status_code
    assert unknown == (404 if way.startswith("litestar") else 401)


# -- Litestar ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
def test_rules_by_path_see_the_whole_path_in_a_mounted_app(listed: bool) -> None:
    from litestar import asgi
    from litestar.types import Receive, Scope, Send
    from starlette.testclient import TestClient

    @asgi("/files", is_mount=True, copy_scope=True)
    async def files(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode(), "more_body": False})

    guard = Keyguard(
        APIKeys(public=["/open/*", "/files/free"]),
        RateLimit("2/minute", by="ip", paths=["/files/free"], name="free"),
        store="memory://",
    )
    app = litestar([guard.asgi] if listed else [], routes=[files])
    client = TestClient(app if listed else guard.asgi(app), client=("198.51.100.1", 40000))
    assert client.get("/files/open/secret").status_code == 401
    assert [client.get("/files/free").status_code for _ in range(3)] == [200, 200, 429]
    assert client.get("/files/freed").status_code == 401


def test_a_websocket_whose_handler_is_refused_is_closed_for_now() -> None:
    from litestar import Litestar, WebSocket, websocket
    from litestar.exceptions import WebSocketDisconnect
    from litestar.testing import TestClient

    guard = Keyguard(RateLimit("10/minute", by="ip", cost=0, name="tokens"), store="memory://")

    @websocket("/socket")
    async def socket(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        async with guard.reserve(50, "tokens"):
            raise AssertionError

    with (
        TestClient(Litestar([socket], middleware=[guard.asgi])) as client,
        client.websocket_connect("/socket") as talk,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        talk.receive()
    assert closed.value.code == 1013
    assert "costs 50 units" in closed.value.detail


def test_litestar_without_starlette_answers_a_refusal() -> None:
    """It made a 500 of it, if no other framework was loaded whose exception it knows."""
    code = """
import asyncio, sys
sys.modules["starlette"] = None
from litestar import Litestar, get
from keyguard import Keyguard, RateLimit
guard = Keyguard(RateLimit("10/minute", by="ip", cost=0, name="tokens"), store="memory://")
@get("/")
async def greedy() -> None:
    async with guard.reserve(50, "tokens"): ...
scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}
async def send(message):
    if message["type"] == "http.response.start":
        print(message["status"])
app = Litestar([greedy], middleware=[guard.asgi])
asyncio.run(app({**scope, "client": ("127.0.0.1", 1), "root_path": ""}, receive, send))
"""
    with python("-c", code, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}) as process:
        told, _ = process.communicate(timeout=100)
    assert told.splitlines()[-1] == "429"


# -- others -------------------------------------------------------------------------------------------------------


def test_a_head_that_can_be_read_once() -> None:
    """Falcon's client makes iterators of the fields and of the client's address, as ASGI allows."""
    import falcon.asgi
    from falcon.testing import TestClient

    from keyguard import IPFilter

    seen: list[Any] = []

    class Hello:
        async def on_get(self, request: Any, response: Any) -> None:
            seen.append((request.get_header("x-word"), request.remote_addr))

    app = falcon.asgi.App()
    app.add_route("/", Hello())
    guard = Keyguard(IPFilter(deny=["203.0.113.0/24"]), RateLimit("9/minute", by="ip"), store="memory://")
    client = TestClient(guard.asgi(app))
    asked = [client.simulate_get("/", headers={"X-Word": "tea"}, remote_addr=f"{net}.7") for net in NETS]
    assert [answer.status_code for answer in asked] == [403, 200]
    assert seen == [("tea", "198.51.100.7")]


NETS = ("203.0.113", "198.51.100")


def test_limits_at_views_of_pyramid() -> None:
    """It looks at the parameters of a view: one, or two with the context."""
    from pyramid.config import Configurator
    from webtest import TestApp

    guard = Keyguard(store="memory://")
    limit = guard.limit("1/minute")

    def plain(request: Any) -> dict[str, str]:
        return {}

    def with_context(context: Any, request: Any) -> dict[str, str]:
        return {}

    def listed(request: Any) -> dict[str, str]:
        return {}

    with Configurator() as config:
        for name, view, more in (
            ("plain", limit(plain), {}),
            ("with_context", limit(with_context), {}),
            ("listed", listed, {"decorator": limit}),
        ):
            config.add_route(name, f"/{name}")
            config.add_view(view, route_name=name, renderer="json", **more)
        app = TestApp(guard.wsgi(config.make_wsgi_app()), extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    for name in ("plain", "with_context", "listed"):
        answers = [app.get(f"/{name}", status="*") for _ in range(2)]
        assert [answer.status_int for answer in answers] == [200, 429]
        assert answers[1].json["violated-policies"] == [f"{name}:1/minute"]


@pytest.mark.parametrize("mounted", [False, True])
@pytest.mark.parametrize("above", [False, True])
def test_a_decorator_above_a_route_of_bottle_does_not_start(above: bool, mounted: bool) -> None:
    import bottle

    guard, api, around = Keyguard(store="memory://"), bottle.Bottle(), bottle.Bottle()
    route, limit = api.get("/"), guard.limit("1/minute")

    def view() -> str:
        return "done"

    if above:
        limit(route(view))
    else:
        route(limit(view))
    if mounted:
        around.mount("/part/", api)
    outermost = around if mounted else api
    if not above:
        get = by_webtest(SimpleNamespace(application=guard.wsgi(outermost)))
        assert [get("/part/" if mounted else "/", {})[0] for _ in range(2)] == [200, 429]
        return
    for look in (guard.wsgi, guard.check):
        with pytest.raises(ConfigurationError, match=r"1/minute> stands above one that makes a route of .*view"):
            look(outermost)
