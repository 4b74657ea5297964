"""FastAPI: markers at routes and routers, keys, what does not start, and what the OpenAPI document says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.websockets import WebSocketDisconnect

from keyguard import APIKeys, Concurrency, ConfigurationError, Identity, IPFilter, Keyguard, RateLimit, Refused, quota
from keyguard.policies import Policy, first_match, ip, method, path
from tests.support.asgi_lint import ASGILint


def client_of(guard: Keyguard, app: Any) -> TestClient:
    app.add_middleware(guard.asgi)
    return TestClient(app, client=("192.0.2.1", 1))


def spent(guard: Keyguard) -> dict[str, int]:
    return {use.name: use.spent for use in guard.limits.peek("192.0.2.1") if use.spent}


def statuses(client: TestClient, *paths: str) -> list[int]:
    return [client.get(path).status_code for path in paths]


# -- routes and routers -----------------------------------------------------------------------------------------------


def test_a_marker_of_a_router_is_one_counter_for_each_place_where_the_router_is_included() -> None:
    guard = Keyguard(store="memory://")
    items = APIRouter(prefix="/items", dependencies=[Depends(guard.limit("2/minute"))])

    @items.get("/one")
    def one() -> None: ...

    @items.get("/two", dependencies=[Depends(guard.limit("1/minute"))])
    async def two() -> None: ...

    app = FastAPI()
    app.include_router(items, prefix="/v1")
    app.include_router(items, prefix="/v2")
    with client_of(guard, app) as client:
        names = {rule.name for rule in guard.markers.rules}
        assert names == {"/v1/items", "/v2/items", "two"}
        assert statuses(client, "/v1/items/one", "/v1/items/two", "/v1/items/one") == [200, 200, 429]
        assert statuses(client, "/v2/items/one", "/v2/items/two") == [200, 429]  # `two` is one view at both places
    assert spent(guard) == {"/v1/items:2/minute": 2, "/v2/items:2/minute": 1, "two:1/minute": 1}


def test_routers_within_routers_and_lists_at_all_levels() -> None:
    guard = Keyguard(store="memory://")

    def limit(name: str, period: str = "minute") -> Any:
        return Depends(guard.limit(f"{len(name)}/{period}"))

    app = FastAPI(dependencies=[limit("app")])
    outer = APIRouter(prefix="/outer", dependencies=[limit("outer")])
    inner = APIRouter(dependencies=[limit("inner1")])

    @inner.get("/x", dependencies=[limit("route12")])
    def x() -> None: ...

    @outer.get("/y")
    def y(given: None = limit("parameter")) -> None: ...

    outer.include_router(inner, prefix="/inner", dependencies=[limit("included", "hour")])
    app.include_router(outer)
    with client_of(guard, app) as client:
        assert statuses(client, "/outer/inner/x", "/outer/y") == [200, 200]
    assert spent(guard) == {
        "/:3/minute": 2,
        "/outer:5/minute": 2,
        "/outer/inner:6/minute": 1,
        "/outer/inner:8/hour": 1,
        "x:7/minute": 1,
        "y:9/minute": 1,
    }


def test_two_routers_with_one_prefix_have_counters_of_their_own() -> None:
    guard = Keyguard(store="memory://")
    app = FastAPI()
    for name in ("users", "posts"):
        router = APIRouter(dependencies=[Depends(guard.limit("1/minute"))])
        router.add_api_route(f"/{name}", lambda: None)
        app.include_router(router)
    assert statuses(client_of(guard, app), "/users", "/posts", "/users", "/posts") == [200, 200, 429, 429]


def test_a_mounted_app_and_routes_that_come_late() -> None:
    guard = Keyguard(store="memory://")
    app, mounted = FastAPI(), FastAPI(dependencies=[Depends(guard.limit("2/minute"))])
    mounted.add_api_route("/x", lambda: None)
    app.mount("/sub", mounted)
    client = client_of(guard, app)
    assert statuses(client, "/sub/x") == [200]
    mounted.add_api_route("/late", lambda: None, dependencies=[Depends(guard.limit("1/minute", name="late"))])
    assert statuses(client, "/sub/late", "/sub/late", "/sub/x") == [200, 429, 429]


def test_a_dependency_asks_for_nothing_of_the_request() -> None:
    guard = Keyguard(APIKeys(optional=True), store="memory://")
    app = FastAPI()

    @app.get("/", dependencies=[Depends(guard.limit("1/minute")), Depends(guard.key())])
    def view(number: int) -> None: ...

    (operation,) = app.openapi()["paths"]["/"].values()
    assert [parameter["name"] for parameter in operation["parameters"]] == ["number"]


def test_by_default_callers_count_by_their_key_if_the_stack_looks_for_keys() -> None:
    guard = Keyguard(APIKeys(), store="memory://")
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(guard.limit("1/minute", name="few"))])
    client = client_of(guard, app)
    keys = [guard.keys.issue(name).key.reveal() for name in ("ann", "bob")]
    answers = [client.get("/", headers={"X-API-Key": key}).status_code for key in (*keys, *keys)]
    assert answers == [200, 200, 429, 429]


def test_a_request_that_is_refused_further_in_is_charged_nowhere() -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip", name="outer"), store="memory://")
    app = FastAPI(dependencies=[Depends(guard.limit("9/minute", name="app"))])
    app.add_api_route("/", lambda: None, dependencies=[Depends(guard.limit("1/minute", name="route"))])
    client = client_of(guard, app)
    assert statuses(client, "/", "/", "/") == [200, 429, 429]
    assert spent(guard) == {"outer:10/minute": 1, "app:9/minute": 1, "route:1/minute": 1}


def test_a_handler_of_the_apps_own_makes_the_body_and_nothing_is_charged() -> None:
    told: list[Any] = []
    guard = Keyguard(RateLimit("10/minute", by="ip", name="outer"), store="memory://", on_refusal=told.append)
    app = FastAPI()

    @app.exception_handler(Refused)
    async def own(request: StarletteRequest, error: Refused) -> JSONResponse:
        return JSONResponse({"slow down": error.refusal.retry_after}, 503)

    app.add_api_route("/", lambda: None, dependencies=[Depends(guard.limit("1/minute", name="route"))])
    client = client_of(guard, app)
    client.get("/")
    answer = client.get("/")
    assert (answer.status_code, answer.json()) == (503, {"slow down": 60})
    assert answer.headers["Retry-After"] == "60"
    assert [refusal.reason for refusal in told] == ["limit-reached"]
    assert spent(guard) == {"outer:10/minute": 1, "route:1/minute": 1}


def test_costs_that_are_known_in_the_end_and_failures() -> None:
    outcomes: list[Any] = []

    def settle(outcome: Any) -> int:
        outcomes.append((outcome.status, outcome.left, type(outcome.exception).__name__))
        return 3 if outcome.status == 200 else 0

    guard = Keyguard(store="memory://")
    app = FastAPI()

    @app.get("/settled/{number}", dependencies=[Depends(guard.limit("10/minute", settle=settle))])
    async def settled(number: int) -> StreamingResponse:
        if not number:
            raise ValueError("nothing")
        return StreamingResponse(iter([b"a", b"b"]))

    @app.get("/wrong/{number}", dependencies=[Depends(guard.limit("2/minute", count="failures"))])
    def wrong(number: int) -> JSONResponse:
        return JSONResponse(None, 200 if number else 401)

    app.add_middleware(guard.asgi)
    client = TestClient(ASGILint(app), client=("192.0.2.1", 1), raise_server_exceptions=False)
    assert statuses(client, "/settled/1", "/settled/0") == [200, 500]
    assert outcomes == [(200, False, "NoneType"), (500, False, "ValueError")]
    assert statuses(client, *["/wrong/1"] * 5, "/wrong/0", "/wrong/0", "/wrong/1") == [200] * 5 + [401, 401, 429]
    assert spent(guard) == {"settled:10/minute": 3, "wrong:2/minute": 2}


def test_handlers_charge_the_limits_at_their_routes() -> None:
    guard = Keyguard(store="memory://")
    app = FastAPI()

    @app.get("/")
    @guard.limit("100/minute", cost=0, name="tokens")
    async def view() -> list[str]:
        guard.charge(7, "tokens")
        return [limit.name for limit in guard.here().limits]

    client = client_of(guard, app)
    assert client.get("/").json() == ["tokens:100/minute"]
    assert spent(guard) == {"tokens:100/minute": 7}


# -- websockets, and classes of Starlette's ---------------------------------------------------------------------------


def test_websockets_are_refused_before_they_are_accepted() -> None:
    guard = Keyguard(store="memory://")
    app = FastAPI()

    @app.websocket("/dependency", dependencies=[Depends(guard.limit("1/minute"))])
    async def depending(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @app.websocket("/decorator")
    @guard.limit("1/minute")
    async def decorated(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    client = client_of(guard, app)
    for target in ("/dependency", "/decorator"):
        with client.websocket_connect(target):
            pass
        with pytest.raises(Exception) as refused, client.websocket_connect(target):  # noqa: PT011
            pass
        assert getattr(refused.value, "status_code", None) == 429 or isinstance(refused.value, WebSocketDisconnect)


def test_methods_of_an_endpoint_class_have_limits_of_their_own() -> None:
    guard = Keyguard(store="memory://")

    class Items(HTTPEndpoint):
        @guard.limit("1/minute")
        async def get(self, request: StarletteRequest) -> PlainTextResponse:
            return PlainTextResponse("got")

        @guard.limit("1/minute")
        def post(self, request: StarletteRequest) -> PlainTextResponse:
            return PlainTextResponse("posted")

    client = client_of(guard, Starlette(routes=[Route("/", Items)]))
    assert [client.request(method, "/").status_code for method in ("GET", "POST", "GET", "POST")] == [
        200,
        200,
        429,
        429,
    ]
    assert spent(guard) == {"Items.get:1/minute": 1, "Items.post:1/minute": 1}


# -- keys -------------------------------------------------------------------------------------------------------------


def keyed_app() -> tuple[Keyguard, TestClient]:
    guard = Keyguard(APIKeys(optional=True), store="memory://")
    app = FastAPI()
    admin = APIRouter(prefix="/admin", dependencies=[Depends(guard.key(scopes=["admin"]))])

    caller: Any = Depends(guard.key())

    @app.get("/me")
    def me(identity: Identity = caller) -> str:
        return identity.subject

    @app.post("/items")
    @guard.key(scopes="write")
    async def create() -> str:
        return guard.here().caller.subject

    @admin.get("/users")
    def users() -> str:
        return "all"

    app.include_router(admin)
    return guard, client_of(guard, app)


def test_routes_that_need_a_key() -> None:
    guard, client = keyed_app()
    key = guard.keys.issue("ann", scopes=["write"]).key.reveal()

    def ask(method: str, path: str, key: str | None) -> tuple[int, Any, str | None]:
        answer: Any = client.request(method, path, headers={} if key is None else {"X-API-Key": key})
        body = answer.json()
        return answer.status_code, body if answer.is_success else body["cause"], answer.headers.get("WWW-Authenticate")

    assert ask("GET", "/me", key) == (200, "ann", None)
    assert ask("POST", "/items", key) == (200, "ann", None)
    assert ask("GET", "/me", None) == (401, "credentials", 'Bearer realm="api"')
    assert ask("GET", "/me", "kg_live_wrong")[:2] == (401, "credentials")
    assert ask("POST", "/items", guard.keys.issue("bob").key.reveal()) == (
        403,
        "permission",
        'Bearer realm="api", error="insufficient_scope", scope="write"',
    )
    assert ask("GET", "/admin/users", key)[0] == 403
    assert ask("GET", "/admin/users", guard.keys.issue("root", scopes=["admin"]).key.reveal())[0] == 200


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize("looked_up", [False, True])
def test_a_key_is_looked_at_also_where_the_stack_needs_none(looked_up: bool, strip: bool) -> None:
    def lookup(key: str) -> Identity | None:
        return {"one": Identity("ann", scopes=frozenset(["write"])), "two": Identity("bob")}.get(key)

    keys_guard = APIKeys(public=["/items/*"], lookup=lookup if looked_up else None, strip=strip)
    guard = Keyguard(keys_guard, store="memory://")
    app = FastAPI()
    caller: Any = Depends(guard.key(scopes=["write"]))

    @app.get("/items/a")
    @app.post("/items/b")
    def create(identity: Identity = caller) -> str:
        return identity.subject

    app.get("/items/c")(lambda: "open")
    client = client_of(guard, app)
    keys = ["one", "two"]
    if not looked_up:
        keys = [guard.keys.issue("ann", scopes=["write"]).key.reveal(), guard.keys.issue("bob").key.reveal()]
    sent: list[dict[str, str]] = [{"X-API-Key": key} for key in (*keys, "kg_live_wrong")]
    assert [client.get("/items/a", headers=headers).status_code for headers in (*sent, {})] == [200, 403, 401, 401]
    assert client.post("/items/b", headers=sent[0]).json() == "ann"
    both = {"X-API-Key": keys[0], "Authorization": f"Bearer {keys[1]}"}
    assert client.get("/items/a", headers=both).status_code == 400
    assert client.get("/items/c").status_code == 200


def test_requests_without_a_key_stay_charged_to_limits_by_address() -> None:
    guard = Keyguard(RateLimit("3/minute", by="ip", name="outer"), APIKeys(optional=True), store="memory://")
    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(guard.key())])
    assert statuses(client_of(guard, app), *["/"] * 4) == [401, 401, 401, 429]


# -- what does not start ----------------------------------------------------------------------------------------------


def above(guard: Keyguard, app: FastAPI) -> None:
    @guard.limit("1/minute")
    @app.get("/")
    def view() -> None: ...

    above.kept = view  # type: ignore[attr-defined]


def above_of_a_view_with_a_dependency(guard: Keyguard, app: FastAPI) -> None:
    @guard.limit("1/minute")
    @app.get("/", dependencies=[Depends(guard.limit("5/hour"))])
    def view() -> None: ...

    above.also_kept = view  # type: ignore[attr-defined]


def unrouted(guard: Keyguard, app: FastAPI) -> None:
    @guard.limit("1/minute")
    def view() -> None: ...

    unrouted.kept = view  # type: ignore[attr-defined]


def foreign(guard: Keyguard, app: FastAPI) -> None:
    other = Keyguard(store="memory://")
    app.add_api_route("/", lambda: None, dependencies=[Depends(other.limit("1/minute"))])


def foreign_and_mounted(guard: Keyguard, app: FastAPI) -> None:
    inner = FastAPI()
    foreign(guard, inner)
    app.mount("/inner", inner)


def twice_at_a_route(guard: Keyguard, app: FastAPI) -> None:
    app.add_api_route(
        "/",
        lambda: None,
        dependencies=[Depends(guard.limit("1/minute", name="one")), Depends(guard.limit("1/minute", name="one"))],
    )


def at_router_and_route(guard: Keyguard, app: FastAPI) -> None:
    marker = guard.limit("1/minute")
    router = APIRouter(dependencies=[Depends(marker)])
    router.add_api_route("/", lambda: None, dependencies=[Depends(marker)])
    app.include_router(router)


def decorated_and_depending(guard: Keyguard, app: FastAPI) -> None:
    @app.get("/", dependencies=[Depends(guard.limit("1/minute"))])
    @guard.limit("1/minute")
    def view() -> None: ...


def made_by_a_factory(guard: Keyguard, app: FastAPI) -> None:
    for name in ("users", "posts"):

        @app.get(f"/{name}")
        @guard.limit("1/minute")
        def view() -> None: ...


def streaming(guard: Keyguard, app: FastAPI) -> None:
    @app.get("/")
    @guard.limit("1/minute")
    def view() -> Iterator[int]:
        yield 1


def without_brackets(guard: Keyguard, app: FastAPI) -> None:
    app.add_api_route("/", lambda: None, dependencies=[Depends(guard.key)])


def limit_without_brackets(guard: Keyguard, app: FastAPI) -> None:
    @app.get("/")
    @guard.limit
    def view(request: StarletteRequest) -> None: ...


def scopes_of_security(guard: Keyguard, app: FastAPI) -> None:
    keyed = Keyguard(APIKeys(), store="memory://")
    app.add_middleware(keyed.asgi)
    app.add_api_route("/", lambda: None, dependencies=[Security(keyed.key(), scopes=["admin"])])


def above_of_one_with_a_limit(guard: Keyguard, app: FastAPI) -> None:
    @guard.limit("1/minute")
    @app.get("/")
    @guard.limit("100/hour")
    def view() -> None: ...


def above_of_one_with_fewer_scopes(guard: Keyguard, app: FastAPI) -> None:
    keyed = Keyguard(APIKeys(optional=True), store="memory://")
    app.add_middleware(keyed.asgi)

    @keyed.key(scopes=["admin"])
    @app.get("/")
    @keyed.key()
    def view() -> None: ...


def between_two_routes(guard: Keyguard, app: FastAPI) -> None:
    @app.get("/limited")
    @guard.limit("1/minute")
    @app.get("/")
    def view() -> None: ...


def between_two_routes_of_a_method(guard: Keyguard, app: FastAPI) -> None:
    class Views:
        def view(self) -> None: ...

    views = Views()
    app.get("/")(views.view)
    app.get("/limited")(guard.limit("1/minute")(views.view))


WRONG: list[tuple[Callable[[Keyguard, FastAPI], None], str]] = [
    (above, "stands above one that makes a route"),
    (above_of_a_view_with_a_dependency, "stands above one that makes a route"),
    (above_of_one_with_a_limit, "stands above one that makes a route"),
    (above_of_one_with_fewer_scopes, "stands above one that makes a route"),
    (between_two_routes, "stands above one that makes a route"),
    (between_two_routes_of_a_method, "stands above one that makes a route"),
    (unrouted, "no route of the app has"),
    (foreign, "does not stand around the app"),
    (foreign_and_mounted, "does not stand around the app"),
    (twice_at_a_route, "stands twice"),
    (at_router_and_route, "stands twice"),
    (decorated_and_depending, "stands twice"),
    (made_by_a_factory, "two views of the app are called"),
    (streaming, "part by part"),
    (without_brackets, r"write Depends\(guard.key\(...\)\)"),
    (limit_without_brackets, "in the place of a view"),
    (scopes_of_security, r"write Depends\(guard.key\(scopes=\['admin'\]\)\)"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_what_would_not_be_asked_does_not_start(wrong: Callable[[Keyguard, FastAPI], None], why: str) -> None:
    for with_lifespan in (True, False):
        guard = Keyguard(store="memory://")
        app = FastAPI()
        wrong(guard, app)
        client = client_of(guard, app)
        for _ in range(2):  # nor is the second request let through
            with pytest.raises(ConfigurationError, match=why):
                client.__enter__() if with_lifespan else client.get("/")


def test_the_server_is_told_why_the_app_does_not_start() -> None:
    guard, app = Keyguard(store="memory://"), FastAPI()
    above(guard, app)
    app.add_middleware(guard.asgi)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(ConfigurationError):
        asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "stands above" in sent[0]["message"]


def test_routes_that_a_lifespan_adds_are_seen() -> None:
    guard = Keyguard(store="memory://")

    @guard.limit("1/minute")
    def late() -> None: ...

    async def lifespan(app: FastAPI) -> Any:
        app.add_api_route("/late", late)
        yield

    app = FastAPI(lifespan=asynccontextmanager(lifespan))
    with client_of(guard, app) as client:
        assert statuses(client, "/late", "/late") == [200, 429]


def test_a_stack_further_out_may_have_the_marker() -> None:
    outer, inner = Keyguard(store="memory://"), Keyguard(store="memory://")
    app = FastAPI()
    app.add_api_route(
        "/", lambda: None, dependencies=[Depends(outer.limit("2/minute")), Depends(inner.limit("3/minute"))]
    )
    app.add_middleware(inner.asgi)
    app.add_middleware(outer.asgi)
    for client in (TestClient(app, client=("192.0.2.1", 1)),):
        with client:
            assert statuses(client, "/", "/", "/") == [200, 200, 429]
    assert [use.spent for use in inner.limits.peek("192.0.2.1")] == [2]


def test_an_app_that_is_made_anew_shares_its_counters() -> None:
    guard = Keyguard(store="memory://")

    def create() -> TestClient:
        app = FastAPI()

        @app.get("/")
        @guard.limit("2/minute")
        def view() -> None: ...

        return client_of(guard, app)

    first, second = create(), create()
    assert statuses(first, "/") + statuses(second, "/", "/") == [200, 200, 429]


def test_a_mount_that_cannot_be_looked_into_may_have_the_view(caplog: pytest.LogCaptureFixture) -> None:
    guard = Keyguard(store="memory://")

    @guard.limit("1/minute")
    async def view() -> None: ...

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await view()
        await PlainTextResponse("done")(scope, receive, send)

    client = client_of(guard, Starlette(routes=[Mount("/x", app=opaque)]))
    assert statuses(client, "/x/", "/x/") == [200, 429]
    assert "is at no route that can be seen" in caplog.text


# -- OpenAPI ----------------------------------------------------------------------------------------------------------


def document() -> Any:
    guard = Keyguard(
        IPFilter(deny=["203.0.113.0/24"], paths=["/admin/*"]),
        APIKeys(paths=["/v1/*"], public=["/v1/public/*"], sources=["authorization", "x-api-key", "cookie:session"]),
        RateLimit(quota("100/day"), by="ip", paths=["/v1/items/{id}"], methods=["GET"], headers="x-ratelimit"),
        store="memory://",
    )
    app = FastAPI()
    for template in ("/v1/items/{number}", "/v1/public/news", "/free", "/admin/users"):
        app.add_api_route(template, lambda: None, methods=["GET"])
    app.add_api_route(
        "/v1/items/{number}",
        lambda: None,
        methods=["POST"],
        dependencies=[Depends(guard.key(scopes=["write"])), Depends(guard.limit("5/minute", name="few"))],
        responses={429: {"description": "Own words"}},
    )
    app.add_api_route("/v1/files/{rest:path}", lambda: None, dependencies=[Depends(guard.limit("6/minute"))])
    guard.install_openapi(app)
    with pytest.raises(ConfigurationError, match="before"):
        guard.install_openapi(app)
    return client_of(guard, app).get("/openapi.json").json()


def test_openapi_has_the_schemes_of_all_places_of_keys() -> None:
    assert document()["components"]["securitySchemes"] == {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key as a Bearer token."},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        "cookie-session": {"type": "apiKey", "in": "cookie", "name": "session"},
    }


def test_openapi_has_locks_and_answers_where_the_stack_has_them() -> None:
    found = {
        (path, method): (
            [sorted(way) for way in operation.get("security", [])],
            sorted(operation["responses"]),
            sorted(operation["responses"].get("429", {}).get("headers", {})),
        )
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }
    locked = [["bearer"], ["x-api-key"], ["cookie-session"]]
    legacy = ["Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    assert found == {
        ("/v1/items/{number}", "get"): (locked, ["200", "401", "429", "503"], legacy),
        ("/v1/items/{number}", "post"): (locked, ["200", "401", "403", "429", "503"], []),
        ("/v1/public/news", "get"): ([], ["200", "503"], []),
        ("/v1/files/{rest}", "get"): (
            locked,
            ["200", "401", "429", "503"],
            ["RateLimit", "RateLimit-Policy", "Retry-After"],
        ),
        ("/free", "get"): ([], ["200", "503"], []),
        ("/admin/users", "get"): ([], ["200", "403", "503"], []),
    }


SETS: dict[str, tuple[Any, dict[str, str]]] = {
    "paths": (
        lambda keys: Policy("v1", when=path("/v1/*"), then=[keys]),
        {"/v1/{name} get": "locked", "/v1/{name} post": "locked", "/free get": "open"},
    ),
    "methods": (
        lambda keys: Policy("writing", when=path("/v1/*") & method("POST"), then=[keys]),
        {"/v1/{name} get": "open", "/v1/{name} post": "locked", "/free get": "open"},
    ),
    "addresses": (
        lambda keys: Policy("from outside", when=path("/v1/*") & ~ip("10.0.0.0/8"), then=[keys]),
        {"/v1/{name} get": "may be", "/v1/{name} post": "may be", "/free get": "open"},
    ),
    "the first that matches": (
        lambda keys: first_match(Policy("free", when=path("/free"), then=[]), Policy("rest", then=[keys])),
        {"/v1/{name} get": "locked", "/v1/{name} post": "locked", "/free get": "open"},
    ),
    "shadow mode": (
        lambda keys: Policy("tried", then=[keys], shadow=True),
        {"/v1/{name} get": "open", "/v1/{name} post": "open", "/free get": "open"},
    ),
}


@pytest.mark.parametrize("kind", SETS)
def test_openapi_has_locks_where_policies_ask_for_keys(kind: str) -> None:
    made, expected = SETS[kind]
    guard = Keyguard(made(APIKeys()), store="memory://")
    app = FastAPI()
    app.get("/v1/{name}")(lambda name: name)
    app.post("/v1/{name}")(lambda name: name)
    app.get("/free")(lambda: "free")
    app.add_middleware(guard.asgi)
    guard.install_openapi(app)
    found = {}
    with TestClient(app) as client:
        for template, methods in app.openapi()["paths"].items():
            for verb, operation in methods.items():
                ways = operation.get("security", [])
                found[f"{template} {verb}"] = "open" if not ways else "may be" if {} in ways else "locked"
                answer = client.request(verb, template.format(name="a"))
                assert answer.status_code == (200 if found[f"{template} {verb}"] == "open" else 401)
    assert found == expected


def test_openapi_keeps_what_the_app_says_and_names_scopes() -> None:
    operation = document()["paths"]["/v1/items/{number}"]["post"]
    assert operation["responses"]["429"]["description"] == "Own words"
    assert operation["security"][0] == {"bearer": ["write"]}
    assert "write" in operation["responses"]["403"]["description"]
    problem = operation["responses"]["401"]["content"]["application/problem+json"]["schema"]["$ref"]
    assert problem == "#/components/schemas/KeyguardProblem"
    assert "RateLimit" in operation["responses"]["200"]["headers"]


@pytest.mark.parametrize(
    ("limits", "fields", "example"),
    [
        ([RateLimit("5/minute")], ["RateLimit", "RateLimit-Policy"], '"search:5/minute";r=4;t=60'),
        (
            [RateLimit("5/minute", headers="draft-next")],
            ["RateLimit", "RateLimit-Policy"],
            '"search:5/minute";a=4;w=60',
        ),
        ([Concurrency(2, headers="draft-next")], ["RateLimit", "RateLimit-Policy"], '"search:5/minute";a=4;w=60'),
        ([RateLimit("5/minute", headers=None), Concurrency(2, headers=None)], [], None),
        (
            [RateLimit("5/minute", headers="github")],
            [f"X-RateLimit-{name}" for name in ("Limit", "Remaining", "Reset", "Resource", "Used")],
            None,
        ),
    ],
)
def test_openapi_tells_the_fields_that_answers_have(limits: list[Any], fields: list[str], example: str | None) -> None:
    app, guard = FastAPI(), Keyguard(*limits, store="memory://")
    app.add_api_route("/", lambda: None)
    guard.install_openapi(app)
    told = app.openapi()["paths"]["/"]["get"]["responses"]["200"].get("headers", {})
    answer = client_of(guard, app).get("/")
    assert sorted(told) == fields == sorted(name for name in told if name in answer.headers)
    assert told.get("RateLimit", {}).get("schema", {}).get("examples", [None]) == [example]


def test_what_cannot_be_looked_into_starts_and_its_decorators_are_asked() -> None:
    class Unreadable(dict[str, Any]):
        def keys(self) -> Any:
            raise RuntimeError("not now")

    class Middleware:
        def __init__(self, app: Any) -> None:
            self.more, self.next = Unreadable(), app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.next(scope, receive, send)

    guard = Keyguard(store="memory://")
    app = FastAPI()

    @app.get("/decorated")
    @guard.limit("1/minute")
    def decorated() -> None: ...

    app.add_api_route("/depending", lambda: None, dependencies=[Depends(guard.limit("1/minute"))])
    app.add_middleware(Middleware)
    client = client_of(guard, app)
    assert statuses(client, "/decorated", "/decorated", "/depending", "/depending") == [200, 429, 200, 429]
