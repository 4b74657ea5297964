"""Apps with monitoring agents, each run in a process of its own by `test_agents.py`: agents patch what they find.

Nothing is sent: the agents are switched off as far as that goes, or are told to send to a closed port.
Usage: `python -m tests.support.agents <JSON>`, a list of agents, moments (`before` or `after`: when the agent begins)
and apps.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

KEY = "right"
NOWHERE = "http://public@127.0.0.1:9/1"

# -- the agents ---------------------------------------------------------------------------------------------------


def _sentry(**options: Any) -> None:
    import sentry_sdk
    from sentry_sdk.integrations.modules import ModulesIntegration

    class Nowhere(sentry_sdk.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            pass

    without = [ModulesIntegration()]  # it tells which packages are installed, and opens them all for that
    sentry_sdk.init(
        dsn=NOWHERE, transport=Nowhere, traces_sample_rate=1.0, disabled_integrations=without, **options
    )  # fmt: skip


def _sentry_spans() -> None:
    from sentry_sdk.integrations.fastapi import FastApiIntegration
    from sentry_sdk.integrations.starlette import StarletteIntegration

    _sentry(integrations=[StarletteIntegration(middleware_spans=True), FastApiIntegration(middleware_spans=True)])


def _newrelic() -> None:
    import newrelic.agent

    os.environ.update(NEW_RELIC_LICENSE_KEY="0" * 40, NEW_RELIC_APP_NAME="test", NEW_RELIC_DEVELOPER_MODE="true")
    newrelic.agent.initialize()
    newrelic.agent.register_application(timeout=0)


def _elastic_client() -> Any:
    import elasticapm

    options = {"SERVICE_NAME": "test", "DISABLE_SEND": True, "CLOUD_PROVIDER": "none", "CENTRAL_CONFIG": False}
    return elasticapm.Client({**options, "SERVER_URL": "http://127.0.0.1:9"})


def _opentelemetry() -> Any:
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider()


BEGIN: dict[str, Callable[[], Any]] = {
    "sentry": _sentry,
    "sentry-spans": _sentry_spans,
    "newrelic": _newrelic,
    "elastic": lambda: None,
    "opentelemetry": lambda: None,
}

# -- the apps -------------------------------------------------------------------------------------------------------


def _guard() -> Any:
    from keyguard import APIKeys, Identity, Keyguard, RateLimit

    return Keyguard(
        APIKeys(lookup=lambda key: Identity("ada", key_id="1") if key == KEY else None),
        RateLimit("4/hour", by="key"),
    )


def _layers() -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    import keyguard.asgi
    from keyguard import Identity

    def lookup(key: str) -> Identity | None:
        return Identity("ada", key_id="1") if key == KEY else None

    return [
        (keyguard.asgi.RateLimit, ("4/hour",), {"by": "key"}),
        (keyguard.asgi.APIKeys, (), {"lookup": lookup}),
    ]


def _add_asgi(app: Any, agent: str, one_by_one: bool) -> Any:
    if agent == "elastic":
        from elasticapm.contrib.starlette import ElasticAPM

        app.add_middleware(ElasticAPM, client=_elastic_client())
    if one_by_one:
        for layer, args, options in _layers():
            app.add_middleware(layer, *args, **options)
    else:
        app.add_middleware(_guard().asgi)
    return _around_asgi(app, agent)


def _around_asgi(app: Any, agent: str) -> Any:
    if agent == "opentelemetry":
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(app, tracer_provider=_opentelemetry())
    if agent == "newrelic":
        import newrelic.agent

        return newrelic.agent.ASGIApplicationWrapper(app)
    return app


def fastapi(agent: str, one_by_one: bool = False) -> Any:
    from fastapi import FastAPI, Request

    app = FastAPI()

    async def who(request: Request) -> str:
        return str(request.scope["keyguard"].identity.subject)

    who.__annotations__.update(request=Request)  # a local name: frameworks are imported after the agent has begun
    app.get("/who")(who)

    @app.get("/fails")
    def fails() -> None:
        raise LookupError("the app's own")

    return _add_asgi(app, agent, one_by_one)


def starlette(agent: str, one_by_one: bool = False) -> Any:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.scope["keyguard"].identity.subject)

    async def fails(request: Request) -> PlainTextResponse:
        raise LookupError("the app's own")

    routes = [Route("/who", who), Route("/fails", fails)]
    if one_by_one:
        return _add_asgi(Starlette(routes=routes), agent, one_by_one)
    layers: list[Any] = [Middleware(_guard().asgi)]
    if agent == "elastic":
        from elasticapm.contrib.starlette import ElasticAPM

        layers.append(Middleware(ElasticAPM, client=_elastic_client()))
    return _around_asgi(Starlette(routes=routes, middleware=layers), agent)


def bare_asgi(agent: str) -> Any:
    """No framework: the agent's own middleware stands inside of the guards and outside of them."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fails":
            raise LookupError("the app's own")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": scope["keyguard"].identity.subject.encode()})

    def within(app: Any) -> Any:
        if agent.startswith("sentry"):
            from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

            return SentryAsgiMiddleware(app)
        if agent == "elastic":
            from elasticapm.contrib.asgi import ASGITracingMiddleware

            _elastic_client()
            return ASGITracingMiddleware(app)
        return _around_asgi(app, agent)

    return within(_guard().asgi(within(app)))


def litestar(agent: str) -> Any:
    from litestar import Litestar, Request, get

    def who(request: Request[Any, Any, Any]) -> str:
        return str(request.scope["keyguard"].identity.subject)  # type: ignore[typeddict-item]

    who.__annotations__.update(request=Request)

    @get("/fails", sync_to_thread=False)
    def fails() -> str:
        raise LookupError("the app's own")

    handlers = [get("/who", sync_to_thread=False)(who), fails]
    return _around_asgi(Litestar(handlers, middleware=[_guard().asgi]), agent)


def flask(agent: str) -> Any:
    from flask import Flask, request

    app = Flask("agents")
    if agent == "elastic":
        from elasticapm.contrib.flask import ElasticAPM

        ElasticAPM(app, client=_elastic_client())

    @app.get("/who")
    def who() -> str:
        return str(request.environ["keyguard.request"].identity.subject)

    @app.get("/fails")
    def fails() -> str:
        raise LookupError("the app's own")

    app.wsgi_app = _guard().wsgi(app.wsgi_app)  # type: ignore[method-assign]
    return _around_wsgi(app, agent)


def _around_wsgi(app: Any, agent: str) -> Any:
    if agent == "opentelemetry":
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

        return OpenTelemetryMiddleware(app, tracer_provider=_opentelemetry())
    if agent == "newrelic":
        import newrelic.agent

        return newrelic.agent.WSGIApplicationWrapper(app)
    return app


def bare_wsgi(agent: str) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/fails":
            raise LookupError("the app's own")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["keyguard.request"].identity.subject.encode()]

    def within(app: Any) -> Any:
        if agent.startswith("sentry"):
            from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

            return SentryWsgiMiddleware(app)
        return _around_wsgi(app, agent)

    return within(_guard().wsgi(within(app)))


def _django(agent: str) -> None:
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def who(request: HttpRequest) -> HttpResponse:
        found = request.META.get("keyguard.request") or request.scope["keyguard"]  # type: ignore[attr-defined]
        return HttpResponse(found.identity.subject)

    def fails(request: HttpRequest) -> HttpResponse:
        raise LookupError("the app's own")

    options: dict[str, Any] = {}
    if agent == "elastic":
        options = {
            "INSTALLED_APPS": ["elasticapm.contrib.django"],
            "MIDDLEWARE": ["elasticapm.contrib.django.middleware.TracingMiddleware"],
            "ELASTIC_APM": {
                "SERVICE_NAME": "test", "DISABLE_SEND": True, "CLOUD_PROVIDER": "none", "CENTRAL_CONFIG": False,
            },
        }  # fmt: skip
    settings.configure(
        ROOT_URLCONF=type("urls", (), {"urlpatterns": [path("who", who), path("fails", fails)]}),
        SECRET_KEY="s" * 50,
        ALLOWED_HOSTS=["*"],
        LOGGING_CONFIG=None,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        **options,
    )
    import django

    django.setup()


def django_wsgi(agent: str) -> Any:
    _django(agent)
    from django.core.wsgi import get_wsgi_application

    return _around_wsgi(_guard().wsgi(get_wsgi_application()), agent)


def django_asgi(agent: str) -> Any:
    _django(agent)
    from django.core.asgi import get_asgi_application

    return _around_asgi(_guard().asgi(get_asgi_application()), agent)


def readme(number: int) -> Any:
    """What a block of README's calls `app`, with a key of its guard's in `KEYS`."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    names: dict[str, Any] = {"__name__": "readme"}
    os.chdir(tempfile.mkdtemp())  # for the files that it may make
    exec(text.split("```python\n")[1 + number].partition("```")[0], names)
    KEYS.append(names["guard"].keys.issue("ada").key.reveal())
    return names["app"]


KEYS = [KEY]
APPS: dict[str, Callable[[str], Any]] = {
    "fastapi": fastapi,
    "fastapi, one by one": lambda agent: fastapi(agent, one_by_one=True),
    "starlette": starlette,
    "starlette, one by one": lambda agent: starlette(agent, one_by_one=True),
    "litestar": litestar,
    "bare asgi": bare_asgi,
    "django asgi": django_asgi,
    "flask": flask,
    "bare wsgi": bare_wsgi,
    "django wsgi": django_wsgi,
}
README: dict[str, Callable[[str], Any]] = {
    "README, FastAPI": lambda agent: readme(0),
    "README, Flask": lambda agent: readme(1),
}
WSGI = ("flask", "bare wsgi", "django wsgi", "README, Flask")

# -- what comes back --------------------------------------------------------------------------------------------------


def _ask(app: Any, asked: Any, wsgi: bool) -> tuple[int, str]:
    from tests.support.harness import ask_asgi, ask_wsgi

    try:
        answer = ask_wsgi(app, asked, lint=False) if wsgi else ask_asgi(app, asked, lint=False)
    except LookupError as error:
        return 500, str(error)
    return answer.status, answer.body.decode().strip('"')


def _lifespan(app: Any) -> list[str]:
    """What a server is told at the start and at the end; some frameworks build their middleware then."""
    sent: list[str] = []
    queue = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return queue.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def run() -> None:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)

    asyncio.run(run())
    return sent


def told(agent: str, name: str, moment: str) -> dict[str, Any]:
    from tests.support.harness import Ask

    if moment == "before":
        BEGIN[agent]()
    app = {**APPS, **README}[name](agent)
    if moment == "after":
        BEGIN[agent]()
    wsgi = name in WSGI
    told: dict[str, Any] = {"app": name}
    sys.stderr = io.StringIO()  # the frameworks write the app's own error there
    if name.startswith(("fastapi", "starlette", "litestar")):
        told["lifespan"] = _lifespan(app)
    right = (("X-API-Key", KEYS[-1]),)
    if name in README:
        return {**told, "no key": _ask(app, Ask("/"), wsgi)[0], "key": _ask(app, Ask("/", right), wsgi)[0]}
    told["no key"] = _ask(app, Ask("/who"), wsgi)[0]
    told["who"] = [_ask(app, Ask("/who", right), wsgi) for _ in range(3)]
    told["fails"] = _ask(app, Ask("/fails", right), wsgi)[0]
    told["limited"] = _ask(app, Ask("/who", right), wsgi)[0]
    return told


COMMON = (
    *("django.core.asgi", "django.core.wsgi", "fastapi", "flask", "litestar", "tests.support.harness"),
    *("keyguard.asgi", "keyguard.drivers.bridges", "keyguard.wsgi", "redis.asyncio"),
    *("elasticapm", "httpcore", "opentelemetry.sdk.trace", "opentelemetry.instrumentation.asgi"),
    *("aiohttp", "httpx", "psycopg"),  # Elastic's agent patches them, and loads them for that
)
"""What would be imported by one child after the other."""


def _prepare(agent: str) -> None:
    """Import what this agent would in each child. It patches nothing yet."""
    if agent.startswith("sentry"):
        from sentry_sdk.integrations import iter_default_integrations

        for sdk in ("anthropic", "google.genai", "openai"):  # thousands of modules, which no app here uses
            sys.modules[sdk] = None  # type: ignore[assignment]
        list(iter_default_integrations(True))


def in_child(run: Callable[[], None], what: str) -> None:
    """Run it in a fork, which ends there: agents have threads that wait for a server."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            sys.__stderr__.flush()
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{what} failed")


def tell(agent: str, name: str, moment: str) -> None:
    print(json.dumps({"agent": agent, "moment": moment, **told(agent, name, moment)}), flush=True)


def main(cases: list[tuple[str, str, list[str]]]) -> None:
    if cases[0][0] != "newrelic":  # which patches what is imported after it has begun, and nothing else
        for module in COMMON:
            importlib.import_module(module)
    for agent, moment, names in cases:
        _prepare(agent)
        gc.collect()
        gc.freeze()  # a child would look through all that, and have a copy of it
        for name in names:
            in_child(partial(tell, agent, name, moment), f"{name} with {agent}, {moment}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
