"""The same app in every framework: whatever is asked, it answers `hello`, with two cookies."""

from __future__ import annotations

import secrets
from typing import Any

from tests.support.harness import BODY, FIELDS, asgi_app, wsgi_app

HEADERS = dict(FIELDS[:2])


def _body(method: str) -> bytes:
    return b"" if method == "HEAD" else BODY


def starlette_app() -> Any:
    from starlette.applications import Starlette

    app = Starlette()
    app.router.default = _starlette_endpoint
    return app


def fastapi_app() -> Any:
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)
    app.router.default = _starlette_endpoint
    return app


async def _starlette_endpoint(scope: Any, receive: Any, send: Any) -> None:
    from starlette.responses import Response

    response = Response(_body(scope["method"]), headers=HEADERS)
    for cookie in ("a=1", "b=2"):
        response.headers.append("set-cookie", cookie)
    await response(scope, receive, send)


def flask_app() -> Any:
    from flask import Flask, Response, request
    from werkzeug.routing import Rule

    app = Flask("table")
    app.url_map.merge_slashes = False

    def endpoint(rest: str) -> Response:
        response = Response(_body(request.method), headers=HEADERS)
        for cookie in ("a=1", "b=2"):
            response.headers.add("Set-Cookie", cookie)
        return response

    # A rule without methods routes every method, unknown ones too.
    for rule in ("/", "/<path:rest>"):
        app.url_map.add(Rule(rule, endpoint="all", defaults={"rest": ""} if rule == "/" else None))
    app.view_functions["all"] = endpoint
    return app.wsgi_app


def _django() -> None:
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import re_path

    def view(request: HttpRequest) -> HttpResponse:
        response = HttpResponse(_body(request.method or ""), headers=HEADERS)
        for name, value in (("a", "1"), ("b", "2")):
            response.cookies.load({name: value})
            response.cookies[name]["path"] = ""
        return response

    if not settings.configured:
        settings.configure(
            ROOT_URLCONF=type("urls", (), {"urlpatterns": [re_path("", view)]}),
            SECRET_KEY=secrets.token_hex(),
            ALLOWED_HOSTS=["*"],
            DEBUG=False,
            LOGGING_CONFIG=None,
        )
        django.setup()


def django_asgi() -> Any:
    _django()
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


def django_wsgi() -> Any:
    _django()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


APPS: dict[str, tuple[Any, Any]] = {
    "raw": (asgi_app, wsgi_app),
    "starlette": (starlette_app(), None),
    "fastapi": (fastapi_app(), None),
    "flask": (None, flask_app()),
    "django": (django_asgi(), django_wsgi()),
}
