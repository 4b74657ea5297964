"""CORS middleware inside of guards is warned of: a browser could not read what they answer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard
from tests.support.harness import Ask, aask, ask_wsgi

ORIGIN = Ask(headers=(("Origin", "https://a.test"),))


def starlette(guard: Keyguard, inside: bool) -> Any:
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware

    app = Starlette()
    if inside:
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
        app.add_middleware(guard.asgi)  # type: ignore[arg-type]
    else:
        app.add_middleware(guard.asgi)  # type: ignore[arg-type]
        app.add_middleware(CORSMiddleware, allow_origins=["*"])
    return app


def starlette_wrapped(guard: Keyguard, inside: bool) -> Any:
    from starlette.applications import Starlette
    from starlette.middleware.cors import CORSMiddleware

    app = Starlette()
    if not inside:
        return CORSMiddleware(guard.asgi(app), allow_origins=["*"])
    guarded = guard.asgi(app)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])  # as late as that
    return guarded


def litestar(guard: Keyguard, inside: bool) -> Any:
    from litestar import Litestar
    from litestar.config.cors import CORSConfig

    if inside:
        return guard.asgi(Litestar(cors_config=CORSConfig(), logging_config=None))
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(guard.asgi(Litestar(logging_config=None)), allow_origins=["*"])


def flask(guard: Keyguard, inside: bool) -> Any:
    from flask import Flask
    from flask_cors import CORS

    app = Flask("shop")
    if inside:
        CORS(app)
        app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]
        return app.wsgi_app
    app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]
    return _with_cors(app.wsgi_app)


def _with_cors(app: Any) -> Any:
    def outer(environ: Any, start_response: Any) -> Any:
        def start(status: str, fields: Any, exc_info: Any = None) -> Any:
            return start_response(status, [*fields, ("Access-Control-Allow-Origin", "*")], exc_info)

        return app(environ, start)

    return outer


def ask_asgi(app: Any) -> Any:
    return asyncio.run(aask(app, ORIGIN, lint=False))


CASES: list[tuple[Callable[[Keyguard, bool], Any], Callable[[Any], Any], str]] = [
    (starlette, ask_asgi, "CORSMiddleware"),
    (starlette_wrapped, ask_asgi, "CORSMiddleware"),
    (litestar, ask_asgi, "cors_config"),
    (flask, lambda app: ask_wsgi(app, ORIGIN, lint=False), "flask-cors"),
]


@pytest.mark.parametrize(("make", "ask", "name"), CASES, ids=[make.__name__ for make, _, _ in CASES])
@pytest.mark.parametrize("inside", [True, False])
def test_the_wrong_place_is_told_once_and_the_right_one_is_not(
    make: Any, ask: Any, name: str, inside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = make(Keyguard(APIKeys()), inside)
    answers = [ask(app) for _ in range(2)]
    # This is what it is about: whether a browser may read the refusal.
    assert [(answer.status, answer.get("access-control-allow-origin")) for answer in answers] == [
        (401, None if inside else "*")
    ] * 2
    told = [line for line in caplog.messages if "inside of keyguard" in line]
    assert len(told) == inside
    assert not inside or told[0].startswith(f"{name} stands inside of keyguard: a browser cannot read")


@pytest.mark.parametrize("middleware", [["corsheaders.middleware.CorsMiddleware"], []])
def test_djangos_is_seen_in_its_settings(middleware: list[str]) -> None:
    code = (
        "import sys, logging; logging.basicConfig()\n"
        "from types import ModuleType\n"
        "from django.conf import settings\n"
        "class CorsMiddleware:\n"
        "    def __init__(self, get_response): self.get_response = get_response\n"
        "    def __call__(self, request): return self.get_response(request)\n"
        "for name in ('corsheaders', 'corsheaders.middleware'): sys.modules[name] = ModuleType(name)\n"
        "sys.modules['corsheaders.middleware'].CorsMiddleware = CorsMiddleware\n"
        f"settings.configure(SECRET_KEY='x', ROOT_URLCONF=__name__, ALLOWED_HOSTS=['*'], MIDDLEWARE={middleware})\n"
        "urlpatterns = []\n"
        "from django.core.wsgi import get_wsgi_application\n"
        "from keyguard import APIKeys, Keyguard\n"
        "from tests.support.harness import Ask, ask_wsgi\n"
        "app = Keyguard(APIKeys()).wsgi(get_wsgi_application())\n"
        "print(ask_wsgi(app, Ask(), lint=False).status)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "401", done.stderr
    assert ("CorsMiddleware stands inside of keyguard" in done.stderr) is bool(middleware)


def test_a_stack_without_guards_refuses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ask_asgi(starlette(Keyguard(), True))
    assert "inside of keyguard" not in caplog.text
