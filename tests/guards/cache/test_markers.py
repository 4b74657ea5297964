"""What a route says of its caching, in each framework: `cache_control(...)` and `vary(...)`."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import ConfigurationError, Keyguard, ResponseCache, cache_control, vary
from keyguard.testing import ManualClock
from tests.support.frameworks import _django
from tests.support.harness import Answer, Ask, aask, ask_wsgi

Asking = Callable[[Ask], Answer]

calls: list[str] = []


def called(name: str) -> str:
    calls.append(name)
    return name


MINUTE = cache_control(max_age=60, tags=["pages"])


def fastapi() -> Any:
    from fastapi import Depends, FastAPI, HTTPException, Response

    app = FastAPI()

    @app.get("/sync")
    @MINUTE
    def sync() -> str:
        return called("sync")

    @app.get("/async")
    @MINUTE
    async def asynchronous(q: int = 0) -> str:
        return called("async")

    @app.get("/depends", dependencies=[Depends(MINUTE)])
    def depends() -> str:
        return called("depends")

    @app.get("/depends-async", dependencies=[Depends(MINUTE)])
    async def depends_async() -> str:
        return called("depends-async")

    @app.get("/vary", dependencies=[Depends(MINUTE), Depends(vary("Foo"))])
    async def varies() -> str:
        return called("vary")

    @app.get("/own")
    @MINUTE
    def own() -> Any:
        return Response(called("own"), headers={"Cache-Control": "no-store"})

    @app.get("/error")
    @MINUTE
    def error() -> str:
        called("error")
        raise HTTPException(401)

    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    @MINUTE
    def sync(request: Request) -> PlainTextResponse:
        return PlainTextResponse(called("sync"))

    @MINUTE
    async def asynchronous(request: Request) -> PlainTextResponse:
        return PlainTextResponse(called("async"))

    @MINUTE
    @vary("Foo")
    async def varies(request: Request) -> PlainTextResponse:
        return PlainTextResponse(called("vary"))

    @MINUTE
    async def own(request: Request) -> PlainTextResponse:
        return PlainTextResponse(called("own"), headers={"Cache-Control": "no-store"})

    @MINUTE
    async def error(request: Request) -> PlainTextResponse:
        called("error")
        raise HTTPException(401)

    views = {"sync": sync, "async": asynchronous, "vary": varies, "own": own, "error": error}
    return Starlette(routes=[Route(f"/{name}", view) for name, view in views.items()])


def flask() -> Any:
    from flask import Flask, Response, abort

    app = Flask("markers")

    @app.get("/sync")
    @MINUTE
    def sync() -> str:
        return called("sync")

    @app.get("/vary")
    @MINUTE
    @vary("Foo")
    def varies() -> str:
        return called("vary")

    @app.get("/own")
    @MINUTE
    def own() -> Response:
        return Response(called("own"), headers={"Cache-Control": "no-store"})

    @app.get("/error")
    @MINUTE
    def error() -> str:
        called("error")
        abort(401)

    return app.wsgi_app


def django_urls() -> Any:
    from django.core.exceptions import PermissionDenied
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    @MINUTE
    def sync(request: HttpRequest) -> HttpResponse:
        return HttpResponse(called("sync"))

    @MINUTE
    async def asynchronous(request: HttpRequest) -> HttpResponse:
        return HttpResponse(called("async"))

    @MINUTE
    @vary("Foo")
    def varies(request: HttpRequest) -> HttpResponse:
        return HttpResponse(called("vary"))

    @MINUTE
    def own(request: HttpRequest) -> HttpResponse:
        return HttpResponse(called("own"), headers={"Cache-Control": "no-store"})

    @MINUTE
    def error(request: HttpRequest) -> HttpResponse:
        called("error")
        raise PermissionDenied

    views = {"sync": sync, "async": asynchronous, "vary": varies, "own": own, "error": error}
    return type("urls", (), {"urlpatterns": [path(name, view) for name, view in views.items()]})


def django_asgi() -> Any:
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def django_wsgi() -> Any:
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


FRAMEWORKS: dict[str, tuple[str, Callable[[], Any], list[str]]] = {
    "fastapi": ("asgi", fastapi, ["sync", "async", "depends", "depends-async"]),
    "starlette": ("asgi", starlette, ["sync", "async"]),
    "flask": ("wsgi", flask, ["sync"]),
    "django asgi": ("asgi", django_asgi, ["sync", "async"]),
    "django wsgi": ("wsgi", django_wsgi, ["sync", "async"]),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_markers(name: str) -> None:
    world, make, routes = FRAMEWORKS[name]
    if not name.startswith("django"):
        check(world, make(), routes)
        return
    _django()
    from django.test import override_settings

    with override_settings(ROOT_URLCONF=django_urls()):
        check(world, make(), routes)


def check(world: str, app: Any, routes: list[str]) -> None:
    clock = ManualClock()
    guard = Keyguard(ResponseCache(), clock=clock)
    outside = guard.asgi(app) if world == "asgi" else guard.wsgi(app)
    with asyncio.Runner() as runner:

        def get(target: str, *headers: tuple[str, str]) -> tuple[Answer, int]:
            calls.clear()
            ask = Ask(target, headers)
            # The linters are for keyguard and for the app of the tests, not for frameworks.
            answer = (
                runner.run(aask(outside, ask, lint=False)) if world == "asgi" else ask_wsgi(outside, ask, lint=False)
            )
            return answer, len(calls)

        for route in routes:
            answer, asked = get(f"/{route}")
            assert (answer.status, asked, answer.get("cache-control"), answer.get("cache-tag")) == (
                200,
                1,
                "max-age=60",
                None,
            )
            answer, asked = get(f"/{route}")
            assert (answer.status, asked, answer.get("age"), answer.get("cache-control")) == (200, 0, "0", "max-age=60")
        guard.cache.purge(tag="pages")
        assert [get(f"/{route}")[1] for route in routes] == [1] * len(routes)
        assert [get("/vary", ("Foo", foo))[1] for foo in ("1", "2", "1", "2")] == [1, 1, 0, 0]
        assert "foo" in (get("/vary", ("Foo", "1"))[0].get("vary") or "").lower()
        assert [get("/own")[1] for _ in range(2)] == [1, 1], "the app's own word stands"
        errors = [get("/error") for _ in range(2)]
        assert [asked for _, asked in errors] == [1, 1], "an error has no lifetime"
        assert [answer.get("cache-control") for answer, _ in errors] == [None, None]
        assert guard.explain("/own").section == "RFC 9111, section 5.2.2.5"


@pytest.mark.parametrize(
    ("made", "control"),
    [
        (cache_control(max_age=60), "max-age=60"),
        (cache_control(swr=30, sie=90, public=True), "public, stale-while-revalidate=30, stale-if-error=90"),
        (cache_control(s_maxage=0, must_revalidate=True, immutable=True), "must-revalidate, immutable, s-maxage=0"),
        (cache_control(private=True, max_age=5), "private, max-age=5"),
        (cache_control(no_store=True), "no-store"),
        (cache_control(no_cache=True), "no-cache"),
        (vary("A", "b"), ""),
    ],
)  # fmt: skip
def test_what_they_say(made: Any, control: str) -> None:
    assert made.control == control


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "says nothing"),
        ({"max_age": -1}, "max-age is a duration from 0 seconds"),
        ({"max_age": 1.5}, "max-age is a whole number"),
        ({"private": True, "public": True}, "contradict"),
        ({"private": True, "s_maxage": 1}, "contradict"),
        ({"no_store": True, "max_age": 1}, "contradict"),
        ({"public": "yes"}, "public is True or False"),
        ({"tags": ["a b"]}, "a tag is printable"),
        ({"tags": ["a,b"]}, "a tag is printable"),
        ({"tags": ["é"]}, "a tag is printable"),
        ({"vary": ["*"]}, "header field names"),
    ],
)
def test_what_makes_no_sense_stops_the_start(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        cache_control(**options)


def test_an_error_gets_what_forbids_and_no_more() -> None:
    from keyguard.response import Headers

    for made, control in (
        (cache_control(max_age=60, public=True), None),
        (cache_control(max_age=60, private=True), "private"),
        (cache_control(no_store=True), "no-store"),
    ):
        headers = Headers()
        made.apply(500, headers)
        assert headers.get("Cache-Control") == control


def test_a_marker_stands_above_a_view() -> None:
    with pytest.raises(ConfigurationError, match="above a view"):
        cache_control(max_age=1)("view")  # type: ignore[type-var]
    with pytest.raises(ConfigurationError, match="a function or a method"):
        cache_control(max_age=1)(ManualClock)  # a class would be called once per request, and nothing of it be marked
    with pytest.raises(ConfigurationError, match="at least one"):
        vary()


def test_what_can_be_called_and_awaited_stays_so() -> None:
    """Frameworks ask whether a view is asynchronous before they call it."""

    class View:
        async def __call__(self) -> str:
            return "answer"

    async def view(text: str) -> str:
        return text

    for one in (View(), functools.partial(view, "answer")):
        marked = cache_control(max_age=1)(one)
        assert inspect.iscoroutinefunction(marked)
        assert asyncio.run(marked()) == "answer"


def test_without_a_cache_a_marker_does_nothing() -> None:
    assert cache_control(max_age=1)(lambda: "answer")() == "answer"
    assert cache_control(max_age=1)() is None


def test_a_dependency_needs_no_thread() -> None:
    """FastAPI runs what is not asynchronous in a thread: it took longer than the rest of the cache."""
    from fastapi import Depends, FastAPI, Response

    app = FastAPI(openapi_url=None)
    marker = cache_control(max_age=60, vary=["Foo"])

    @app.get("/", dependencies=[Depends(marker), Depends(vary("Bar")), Depends(cache_control(tags=["t"]))])
    async def view() -> Response:
        return Response("hello")

    async def story() -> list[str | None]:
        async def refused(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("a thread was asked for")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("anyio.to_thread.run_sync", refused)
            answer = await aask(Keyguard(ResponseCache()).asgi(app), Ask("/"), lint=False)
        return [answer.get("cache-control"), answer.get("vary")]

    assert asyncio.run(story()) == ["max-age=60", "foo, bar"]
