"""The dashboard works beside apps of every framework, under any prefix, on whatever stands around it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit
from tests.dashboard.world import Desk, named
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi
from tests.support.warm import run

pytestmark = pytest.mark.filterwarnings("ignore:Absolute URLs required for location header")


def starlette(desk: Desk, prefix: str) -> Any:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    shop = Starlette(routes=[Route("/v1/orders", lambda request: PlainTextResponse("ok"))])
    shop.add_middleware(desk.guard.asgi)
    return Starlette(routes=[Mount(prefix, desk.dashboard.asgi), Mount("/", shop)])


def fastapi(desk: Desk, prefix: str) -> Any:
    from fastapi import FastAPI

    shop, outer = FastAPI(), FastAPI()
    shop.get("/v1/orders")(lambda: "ok")
    shop.add_middleware(desk.guard.asgi)
    outer.mount(prefix, desk.dashboard.asgi)
    outer.mount("/", shop)
    return outer


def beside_asgi(desk: Desk, prefix: str) -> Any:
    from fastapi import FastAPI

    shop = FastAPI()
    shop.get("/v1/orders")(lambda: "ok")
    return desk.dashboard.beside(desk.guard.asgi(shop), prefix)


def beside_wsgi(desk: Desk, prefix: str) -> Any:
    from flask import Flask

    shop = Flask("shop")
    shop.add_url_rule("/v1/orders", view_func=lambda: "ok")
    desk.guard.init_app(shop)
    return desk.dashboard.beside(shop, prefix)


def flask(desk: Desk, prefix: str) -> Any:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    shop = Flask("shop")
    shop.add_url_rule("/v1/orders", view_func=lambda: "ok")
    return DispatcherMiddleware(desk.guard.wsgi(shop), {prefix: desk.dashboard.wsgi})


MOUNTS: list[tuple[Callable[[Desk, str], Any], Callable[..., Answer]]] = [
    (starlette, ask_asgi),
    (fastapi, ask_asgi),
    (beside_asgi, ask_asgi),
    (beside_wsgi, ask_wsgi),
    (flask, ask_wsgi),
]


@pytest.mark.parametrize("prefix", ["/ops", "/internal/of-ours/keyguard"])
@pytest.mark.parametrize(("mount", "ask"), MOUNTS, ids=[mount.__name__ for mount, _ in MOUNTS])
def test_it_is_mounted_beside_the_app(mount: Any, ask: Any, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """No limit of the app counts its pages, and no request of theirs stands in the ledger."""
    desk = Desk(auth=named)
    app = mount(desk, prefix)
    operator = ("X-Operator", "ada")

    def get(target: str, *more: tuple[str, str]) -> Any:
        return ask(app, Ask(target, (operator, *more)), lint=False)

    with caplog.at_level(logging.WARNING, "keyguard"):
        if mount not in (
            starlette,
            fastapi,
        ):  # whose mounts begin with the slash
            top = get(prefix)
            assert (top.status, top.get("location")) == (307, prefix.rpartition("/")[2] + "/")
        for page in ("/", "/keys", f"/keys/{desk.id}", "/static/dashboard.css", "/audit"):
            answer = get(prefix + page)
            assert (page, answer.status) == (page, 200)
        assert get(f"{prefix}/keys/{desk.id}").body.count(b'"../static/dashboard.css') == 1
        assert ask(app, Ask(f"{prefix}/"), lint=False).status == 403
        assert ask(app, Ask("/v1/orders"), lint=False).status == 401  # the app's own keys
    assert [one.message for one in caplog.records if "dashboard" in one.message] == []
    assert desk.usage is not None
    desk.usage.flush()
    assert desk.usage.of().requests == 1


def test_the_view_of_a_mount_within_a_guarded_app_warns_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody needs to come through: with `APIKeys` around it, nobody would."""
    from starlette.applications import Starlette
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    desk = Desk(auth=named)
    for wrong in ("asgi", "wsgi"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "keyguard"):
            if wrong == "asgi":
                app = Starlette()
                app.mount("/ops", desk.dashboard.asgi)
                desk.guard.asgi(app)
            else:
                inner: Any = DispatcherMiddleware(lambda environ, start: [], {"/ops": desk.dashboard.wsgi})
                desk.guard.wsgi(inner)
        assert [one.message.partition(":")[0] for one in caplog.records if "dashboard" in one.message] == [
            "the dashboard is mounted inside of keyguard's own guards"
        ]


DJANGO = """
import asyncio
from django.conf import settings
from django.http import HttpResponse
from django.urls import path
from keyguard import APIKeys, Keyguard
from tests.dashboard.world import named
from tests.support.harness import Ask, ask_asgi, ask_wsgi

guard = Keyguard(APIKeys(), store="memory://")
urlpatterns = [path("orders", lambda request: HttpResponse("ok"))]
settings.configure(ALLOWED_HOSTS=["*"], KEYGUARD="__main__.guard", MIDDLEWARE=["keyguard.django.Middleware"],
                   ROOT_URLCONF="__main__", SECRET_KEY="of a test")
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application

wsgi = guard.dashboard(auth=named).beside(get_wsgi_application(), "/ops")
asgi = guard.dashboard(auth=named).beside(get_asgi_application(), "/ops")
operator = (("X-Operator", "ada"),)
for app, ask in ((wsgi, ask_wsgi), (asgi, ask_asgi)):
    for target, headers, status in (
        ("/ops/keys", operator, 200), ("/ops", operator, 307), ("/ops/", (), 403), ("/orders", operator, 401),
        ("/orders", (("X-API-Key", guard.keys.issue("ada").key.reveal()),), 200),
    ):
        answer = ask(app, Ask(target, headers), lint=False)
        assert answer.status == status, (target, answer)
print("done")
"""


def test_beside_a_django_project(warm: str) -> None:
    """As in its `wsgi.py` and `asgi.py`: before Django and its middleware, which asks for keys."""
    done = run(warm, ["-c", DJANGO], needs=["keyguard", "django", "pages"])
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr[-3000:]


@pytest.mark.parametrize("path", ["", "/", "/ops/*", "/{id}", "/a?b", "ops", None, 7])
def test_a_path_that_is_none(path: Any) -> None:
    with pytest.raises(ConfigurationError, match="the dashboard's path"):
        Desk(auth=named).dashboard.beside(lambda environ, start: [], path)


def test_what_is_below_a_path_and_what_is_not() -> None:
    """A prefix of the whole app counts, a name that only begins alike does not."""
    desk = Desk(auth=named)
    seen: list[str] = []

    def shop(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return []

    app = desk.dashboard.beside(shop, "/ops/")
    operator = (("X-Operator", "ada"),)
    assert ask_wsgi(app, Ask("/v2/ops/keys", operator, root="/v2")).status == 200
    assert ask_wsgi(app, Ask("/v2/ops", operator, root="/v2")).get("location") == "ops/"
    for given, wanted in (("/\\\\evil.example", "%5C%5Cevil.example/"), ("/a:b", "a%3Ab/")):
        answer = ask_wsgi(desk.dashboard.wsgi, Ask(given, operator, root=given), lint=False)
        assert answer.get("location") == wanted, given
    assert seen == []
    for path in ("/opsx", "/v1/ops/", "/"):
        ask_wsgi(app, Ask(path, operator))
    assert seen == ["/opsx", "/v1/ops/", "/"]

    async def asgi_shop(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("path", scope["type"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    other = desk.dashboard.beside(asgi_shop, "/ops")
    assert b'<link rel="stylesheet" href="./static/' in ask_asgi(other, Ask("/v2/ops/keys", operator, root="/v2")).body
    seen.clear()
    ask_asgi(other, Ask("/v2/opsx", operator, root="/v2"))
    assert seen == ["/v2/opsx"]


def test_another_stack_may_stand_around_it(caplog: pytest.LogCaptureFixture) -> None:
    """Such as a limit of its own for the pages; only the stack that it shows warns at the start."""
    desk = Desk(auth=named)
    around = Keyguard(RateLimit("3/minute", by="ip"), store="memory://")
    with caplog.at_level(logging.WARNING, "keyguard"):
        app = around.wsgi(desk.dashboard.wsgi)
        assert caplog.records == []
        statuses = [ask_wsgi(app, Ask("/keys", (("X-Operator", "ada"),))).status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]


def test_under_test_it_shows_the_store_of_the_test() -> None:
    desk = Desk(auth=named)
    browser = desk.browser("wsgi", headers={"X-Operator": "ada"})
    with desk.guard.testing():
        issued = desk.guard.keys.issue("only here")
        assert "only here" in browser.text("/keys")
        assert browser.get(f"/keys/{desk.id}").status == 404
    assert "only here" not in browser.text("/keys")
    assert browser.get(f"/keys/{issued.record.id}").status == 404


def test_a_stack_that_is_not_enabled_has_a_dashboard_all_the_same() -> None:
    guard = Keyguard(APIKeys(), store="memory://", enabled=False)
    app = guard.dashboard(auth=named).wsgi
    assert ask_wsgi(app, Ask("/keys", (("X-Operator", "ada"),))).status == 200
