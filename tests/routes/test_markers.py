"""Limits and keys at routes: what a marker decides, in the frameworks of both worlds, and on each kind of store."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from keyguard import APIKeys, ConfigurationError, Keyguard, OutsideRequest, RateLimit, json_field
from keyguard.stack.route_rules import rules_of
from tests.support.every_store import KINDS, store_of

Get = Callable[[str], Any]
"""Asks an app for a path."""


def fastapi_app(guard: Keyguard) -> Get:
    app = FastAPI()
    app.add_middleware(guard.asgi)

    @app.get("/plain")
    @guard.limit("2/minute")
    def plain() -> str:
        return "done"

    @app.get("/async")
    @guard.limit("2/minute")
    async def waiting() -> str:
        return "done"

    @app.get("/dependency", dependencies=[Depends(guard.limit("2/minute"))])
    def depending() -> str:
        return "done"

    return TestClient(app, client=("127.0.0.1", 1)).get


def starlette_app(guard: Keyguard) -> Get:
    @guard.limit("2/minute")
    def plain(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    @guard.limit("2/minute")
    async def waiting(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/plain", plain), Route("/async", waiting)])
    app.add_middleware(guard.asgi)
    return TestClient(app, client=("127.0.0.1", 1)).get


def flask_app(guard: Keyguard) -> Get:
    app = flask.Flask("markers")

    @app.get("/plain")
    @guard.limit("2/minute")
    def plain() -> str:
        return "done"

    app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]

    def get(path: str) -> Any:
        response = app.test_client().get(path)
        return type("Answer", (), {"status_code": response.status_code, "headers": response.headers})

    return get


PLACES = [
    (fastapi_app, "/plain"),
    (fastapi_app, "/async"),
    (fastapi_app, "/dependency"),
    (starlette_app, "/plain"),
    (starlette_app, "/async"),
    (flask_app, "/plain"),
]
IDS = [f"{app.__name__[:-4]}{path.replace('/', '-')}" for app, path in PLACES]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    return store_of(request.param, request, tmp_path)


@pytest.mark.parametrize(("made", "path"), PLACES, ids=IDS)
def test_a_view_has_a_limit_of_its_own(made: Callable[[Keyguard], Get], path: str, store: Any) -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip", name="all"), store=store)
    get = made(guard)
    assert [get(path).status_code for _ in range(3)] == [200, 200, 429]
    # What the outer limit took for the request that was refused further in is given back.
    assert [use.spent for use in guard.limits.peek("127.0.0.1") if use.spent] == [2, 2]


@pytest.mark.parametrize(("made", "path"), PLACES, ids=IDS)
def test_fields_tell_of_both_limits(made: Callable[[Keyguard], Get], path: str) -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip", name="all"), store="memory://")
    get = made(guard)
    answer = get(path)
    policies = answer.headers["RateLimit-Policy"]
    assert '"all:10/minute";q=10;w=60' in policies
    assert ":2/minute" in policies
    assert "r=1;" in answer.headers["RateLimit"]
    assert "r=9;" in answer.headers["RateLimit"]
    get(path)
    refused = get(path)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["Content-Type"] == "application/problem+json"


def test_what_a_marker_refuses_is_charged_nowhere() -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip", name="outer"), store="memory://")

    @guard.limit("10/minute", name="first")
    @guard.limit("1/minute", name="second")
    def view(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", view)])
    app.add_middleware(guard.asgi)
    client = TestClient(app, client=("192.0.2.1", 1))
    assert [client.get("/").status_code for _ in range(4)] == [200, 429, 429, 429]
    assert {use.name: use.spent for use in guard.limits.peek("192.0.2.1")} == {
        "outer:10/minute": 1,
        "first:10/minute": 1,
        "second:1/minute": 1,
    }


def test_a_decorated_view_keeps_what_it_says_of_itself() -> None:
    guard = Keyguard(store="memory://")

    @guard.limit("1/minute")
    async def view(number: int, *, text: str = "a") -> str:
        """Say something."""
        return text

    assert (view.__name__, view.__doc__) == ("view", "Say something.")
    assert list(inspect.signature(view).parameters) == ["number", "text"]
    assert inspect.iscoroutinefunction(view)
    (rule,) = rules_of(view)
    assert rule.place.endswith("test_a_decorated_view_keeps_what_it_says_of_itself.locals.view")
    assert rule.name == "view"


def test_settings_are_checked_when_the_marker_is_made() -> None:
    guard = Keyguard(store="memory://")
    with pytest.raises(ConfigurationError, match="no APIKeys of the stack"):
        guard.limit("1/minute", by="key")
    with pytest.raises(ConfigurationError, match="no APIKeys of the stack"):
        guard.limit(plans={"free": "1/minute"}, default="free")
    with pytest.raises(ConfigurationError, match="needs an APIKeys"):
        guard.key()
    with pytest.raises(ConfigurationError, match="nothing of the body"):
        guard.limit("1/minute", by=json_field("username"))
    with pytest.raises(ConfigurationError, match="often"):
        guard.limit("often")
    with pytest.raises(ConfigurationError, match="handlers=True"):
        Keyguard(store="memory://", handlers=False).limit("1/minute")
    with pytest.raises(ConfigurationError, match="decorate the methods"):
        guard.limit("1/minute")(type("View", (), {}))
    with pytest.raises(ConfigurationError, match="a scope is"):
        Keyguard(APIKeys(), store="memory://").key(scopes=["a b"])


def test_two_markers_with_one_counter_do_not_start() -> None:
    guard = Keyguard(store="memory://")

    def view() -> None: ...

    marked = guard.limit("5/minute")(view)
    for rate, why in (("1/minute", "would share a counter"), ("5/minute", "stands twice")):
        with pytest.raises(ConfigurationError, match=why):
            guard.limit(rate)(marked)
    guard.limit("50/hour")(marked)  # another period is another counter
    named = guard.limit("1/minute", name="one")(view)
    with pytest.raises(ConfigurationError, match="would share a counter"):
        guard.limit("5/minute", name="one")(lambda: None)
    assert [rule.name for rule in rules_of(named)] == ["one"]


def test_a_view_is_not_run_outside_of_its_stack() -> None:
    guard, other = Keyguard(store="memory://"), Keyguard(store="memory://")

    @guard.limit("1/minute")
    def view(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    with pytest.raises(OutsideRequest, match=r"does not stand around the app: app.add_middleware\(guard.asgi\)"):
        view(None)  # type: ignore[arg-type]
    app = Starlette(routes=[Route("/", view)])
    app.add_middleware(other.asgi)
    other.limit("1/minute")
    with pytest.raises(ConfigurationError, match="does not stand around"):
        TestClient(app).get("/")


def test_a_marker_with_a_name_is_one_counter_for_all_its_views() -> None:
    guard = Keyguard(store="memory://")
    heavy = guard.limit("2/minute", name="heavy")
    own = guard.limit("2/minute")

    @heavy
    @own
    def one(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    @heavy
    @own
    def two(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/1", one), Route("/2", two)])
    app.add_middleware(guard.asgi)
    client = TestClient(app, client=("192.0.2.1", 1))
    assert [client.get(path).status_code for path in ("/1", "/2", "/1")] == [200, 200, 429]
    found = {use.name: use.spent for use in guard.limits.peek("192.0.2.1")}
    assert found == {"heavy:2/minute": 2, "one:2/minute": 1, "two:2/minute": 1}


def test_a_refusal_is_told_of_once() -> None:
    told: list[Any] = []
    guard = Keyguard(
        RateLimit("10/minute"), store="memory://", on_refusal=told.append, request_id_header="X-Request-ID"
    )

    @guard.limit("1/minute", name="few")
    async def view(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", view)])
    app.add_middleware(guard.asgi)
    client = TestClient(app)
    client.get("/")
    answer = client.get("/")
    assert [refusal.policies for refusal in told] == [("few:1/minute",)]
    assert answer.headers["X-Request-ID"] == told[0].request_id


def test_a_view_that_is_tried_again_is_asked_again() -> None:
    guard = Keyguard(RateLimit("10/minute", by="ip", name="outer"), store="memory://")
    runs: list[str] = []

    def trying_again(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        async def twice(request: StarletteRequest) -> Any:
            try:
                return await view(request)
            except Exception:
                guard.limits.reset("192.0.2.1", limit="few") if "reset" in request.query_params else None
                return await view(request)

        return twice

    @trying_again
    @guard.limit("1/minute", name="few")
    async def view(request: StarletteRequest) -> PlainTextResponse:
        runs.append("ran")
        return PlainTextResponse("done", 200 if "reset" not in request.query_params else 418)

    app = Starlette(routes=[Route("/", view)])
    app.add_middleware(guard.asgi)
    client = TestClient(app, client=("192.0.2.1", 1))
    # The last one is admitted when it is asked again, so its answer is no refusal, and it is charged.
    assert [client.get(path).status_code for path in ("/", "/", "/?reset")] == [200, 429, 418]
    assert len(runs) == 2
    assert {use.name: use.spent for use in guard.limits.peek("192.0.2.1")} == {"outer:10/minute": 2, "few:1/minute": 1}
