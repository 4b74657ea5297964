"""A stack around Flask apps, as an extension: factories, one guard for several apps, and what cannot work."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from quart import Quart
from starlette.applications import Starlette
from werkzeug.middleware.proxy_fix import ProxyFix

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, Request


def create_app(guard: Keyguard) -> Flask:
    app = Flask("shop")
    guard.init_app(app)

    @app.get("/")
    def index() -> str:
        identity = guard.here().identity
        return "" if identity is None else identity.subject

    return app


def test_an_app_of_a_factory_is_guarded() -> None:
    guard = Keyguard(APIKeys(), RateLimit("2/minute", by="key"), store="memory://")
    app = create_app(guard)
    assert app.extensions["keyguard"] is guard
    client = app.test_client()
    assert client.get("/").status_code == 401
    keyed = {"X-API-Key": guard.keys.issue("acme").key.reveal()}
    answers = [client.get("/", headers=keyed) for _ in range(3)]
    assert [(answer.status_code, answer.text == "acme") for answer in answers] == [(200, True)] * 2 + [(429, False)]
    assert answers[2].get_json()["cause"] == "usage"


def test_the_apps_of_one_guard_share_its_limits() -> None:
    guard = Keyguard(RateLimit("3/minute", by="ip"), store="memory://", handlers=False)
    apps = [Flask("one"), Flask("other"), Quart("third")]
    for app in apps:
        guard.init_app(app)
    assert [app.test_client().get("/").status_code for app in apps[:2]] == [404, 404]
    assert [app.extensions["keyguard"] for app in apps] == [guard] * 3


def test_a_stack_of_no_guards_lets_all_through() -> None:
    app = create_app(Keyguard(handlers=True))
    assert app.test_client().get("/").status_code == 200


def test_quart_is_guarded_as_flask_is() -> None:
    import asyncio

    guard = Keyguard(RateLimit("1/minute", by=lambda request: "all", name="all"), store="memory://")
    app = Quart("shop")
    guard.init_app(app)

    @app.get("/")
    async def index() -> str:
        return str(guard.here().limits[0].remaining)

    async def ask() -> list[Any]:
        client = app.test_client()
        answers = [await client.get("/") for _ in range(2)]
        return [(answer.status_code, await answer.get_data(as_text=True)) for answer in answers]

    first, second = asyncio.run(ask())
    assert first == (200, "0")
    assert second[0] == 429


@pytest.mark.parametrize("same", [True, False])
def test_an_app_has_one_guard(same: bool) -> None:
    guard = Keyguard(RateLimit("3/minute", by="ip"), store="memory://")
    app = create_app(guard)
    before = app.wsgi_app
    with pytest.raises(ConfigurationError, match="has a Keyguard already: call init_app\\(\\) once for an app"):
        (guard if same else Keyguard()).init_app(app)
    assert app.wsgi_app is before
    assert app.extensions["keyguard"] is guard


def test_it_does_not_stand_around_an_app_twice() -> None:
    guard = Keyguard(RateLimit("3/minute", by="ip"), store="memory://")
    app = Flask("shop")
    app.wsgi_app = ProxyFix(guard.wsgi(app.wsgi_app))  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"count each request twice: .* the place of `app\.wsgi_app = \.\.\.`"):
        guard.init_app(app)
    assert app.extensions == {}


def test_it_does_not_come_too_late() -> None:
    app = Flask("shop")
    app.test_client().get("/")
    with pytest.raises(ConfigurationError, match="has served requests without a guard"):
        Keyguard().init_app(app)
    assert app.extensions == {}


@pytest.mark.parametrize("app", [Starlette(), Flask, object(), None, lambda environ, start_response: []])
def test_other_apps_are_put_in_otherwise(app: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"takes a Flask app or a Quart app, .* guard\.wsgi\(app\)"):
        Keyguard().init_app(app)


def test_what_cannot_work_under_wsgi_leaves_the_app_as_it_was() -> None:
    async def caller(request: Request) -> str:
        return "all"

    app = Flask("shop")
    before = app.wsgi_app
    with pytest.raises(ConfigurationError, match="no event loop under WSGI"):
        Keyguard(RateLimit("3/minute", by=caller), store="memory://").init_app(app)
    assert app.extensions == {}
    assert app.wsgi_app == before
