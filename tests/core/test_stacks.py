"""Stacks: orders that work and orders that do not start; single classes; mounting twice and under prefixes."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest
from django.test.utils import override_settings
from fastapi import FastAPI
from flask import Flask
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    APIKeys,
    ConfigurationError,
    Forward,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
)
from keyguard.drivers.inspection.interface import check_interface
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.drivers.test_asgi_driver import lifespan, lifespan_app
from tests.support.frameworks import APPS
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app


def lookup(key: str) -> Identity | None:
    if key == "fails":
        raise OSError
    return Identity("ada", key_id="1") if key == "right" else None


def hello(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse("hello " + request.scope["keyguard"].identity.subject)


KEYED = Ask("/hello", (("X-API-Key", "right"),))


# -- orders -----------------------------------------------------------------------------------------------------


def test_an_order_that_cannot_work_does_not_start() -> None:
    with pytest.raises(ConfigurationError, match=r"needs the identity that <APIKeys keys> finds: put it after that"):
        Keyguard(RateLimit("1/second", by="key"), APIKeys())
    with pytest.raises(ConfigurationError, match=r"none finds it: put APIKeys\(\) first"):
        Keyguard(RateLimit("1/second", by="subject"))


def test_two_limits_that_would_share_a_counter_do_not_start() -> None:
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(RateLimit("1/second"), IPFilter(deny=["10.0.0.0/8"]), RateLimit("2/second"))
    with pytest.raises(ConfigurationError, match="share a counter"):
        Keyguard(RateLimit(lambda r: "1/second"), RateLimit(lambda r: "2/second"))
    Keyguard(RateLimit("1/second"), RateLimit("2/second", name="other"))


def test_a_long_list_of_paths_does_not_make_a_long_name() -> None:
    names = {RateLimit("1/second", paths=[f"/{word}/{n}" for n in range(100)]).name for word in ("a", "b")}
    assert len(names) == 2
    assert max(map(len, names)) < 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clock": 5}, "clock is a function"),
        ({"on_refusal": "print"}, "on_refusal is a function"),
        ({"on_refusal": asyncio.sleep}, "on_refusal is a plain function: .* would not be awaited"),
        ({"on_health": asyncio.sleep}, "on_health is a plain function: .* would not be awaited"),
        ({"on_refusal": lambda: None}, "called with a Refusal alone"),
        ({"on_health": lambda: None}, "called with a StoreHealth alone"),
        ({"store": None}, "a store is a URL or has execute"),
        ({"trusted_proxies": ["*"]}, "name the networks of your proxies"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "name the networks of your proxies"),
        ({"trusted_proxies": "10.0.0.0/8"}, "are a list"),
        ({"forwarded_header": "x forwarded"}, "forwarded_header"),
    ],
)
def test_a_wrong_setting_of_the_stack_does_not_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Keyguard(RateLimit("1/second"), **options)


def test_what_is_no_guard_does_not_start() -> None:
    def no_arguments() -> None: ...

    async def one_argument(request: Request) -> None: ...

    for guard, words in [
        (APIKeys, "APIKeys is not a guard: pass an instance"),
        ("limit", "is not a guard"),
        (no_arguments, r"must be `async def no_arguments\(request, forward\)` or"),
        (one_argument, r"must be `async def one_argument"),
    ]:
        with pytest.raises(ConfigurationError, match=words):
            Keyguard(guard)  # type: ignore[arg-type]


def _around_by_starlette(guard: Keyguard) -> None:
    app = Starlette()
    app.add_middleware(cast("Any", guard.wsgi))
    with TestClient(app):
        pass


@pytest.mark.parametrize(
    ("put_around", "words"),
    [
        (
            lambda guard: guard.wsgi(cast("Any", Starlette())),
            "Starlette is an app of ASGI, and these guards speak WSGI",
        ),
        (_around_by_starlette, "is an app of ASGI, and these guards speak WSGI: put them around it by guard.asgi"),
        (lambda guard: guard.asgi(cast("Any", Flask("shop"))), "Flask is an app of WSGI, and these guards speak ASGI"),
        (lambda guard: guard.asgi(cast("Any", Flask("shop").wsgi_app)), r"is an app of WSGI.* guard.wsgi\(app\)"),
        (lambda guard: guard.asgi(cast("Any", "shop.main:app")), "an app, which can be called, not around 'shop.main"),
    ],
)
def test_an_app_of_the_other_interface_does_not_start(put_around: Callable[[Keyguard], None], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        put_around(Keyguard(store="memory://"))


def test_apps_of_all_shapes_are_taken_as_what_they_are() -> None:
    class Made:
        """An app of WSGI that is a class, as some are."""

        def __init__(self, environ: Any, start_response: Any) -> None: ...

    class Telling:
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    class Hiding:
        """What would load its app if it was asked for an attribute, as proxies do."""

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("it is not the time")

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    guard = Keyguard(store="memory://")
    for wsgi in (Made, Telling(), functools.partial(lambda more, environ, start_response: [], 1), dict):
        check_interface(wsgi, asynchronous=False)
    for asgi in (
        Telling(),
        Hiding(),
        functools.partial(Hiding.__call__, Hiding()),
        Hiding().__call__,
        guard.asgi(Hiding()),
    ):
        check_interface(asgi, asynchronous=True)


def test_guards_nest_like_functions() -> None:
    notes: list[str] = []

    def noting(name: str) -> Any:
        async def guard(request: Request, forward: Forward) -> Response:
            notes.append(f"{name} in")
            response = await forward(request)
            notes.append(f"{name} out")
            return response

        return guard

    def plain(request: Request) -> Response | None:
        notes.append("plain")
        return None

    play(Keyguard(plain, noting("outer"), plain, noting("inner"), plain))
    assert notes == ["plain", "outer in", "plain", "inner in", "plain", "inner out", "outer out"]


def test_a_plain_guard_between_others_may_refuse() -> None:
    seen: list[int] = []

    async def outer(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        seen.append(response.status)
        return response

    def closed(request: Request) -> Response | None:
        return Response(418, [("Content-Type", "text/plain")], b"no")

    assert play(Keyguard(outer, closed)).status == 418
    assert seen == [418]


def test_a_played_request_is_like_one_from_a_server() -> None:
    """Any path, all lines of a header field, and the two fields that WSGI names otherwise."""
    assert play(IPFilter(deny=["198.51.100.0/24"], paths=["/thé/€"]), "/thé/€").status == 403
    assert play(APIKeys(), headers=[("X-API-Key", "one"), ("x-api-key", "other")]).status == 400
    typed: list[str | None] = []
    play(lambda request: typed.append(request.header("content-type")), headers={"Content-Type": "text/plain"})
    assert typed == ["text/plain"]


def test_no_guards_at_all_change_nothing() -> None:
    guard = Keyguard()
    assert ask_asgi(guard.asgi(asgi_app), Ask()) == ask_asgi(asgi_app, Ask())
    assert ask_wsgi(guard.wsgi(wsgi_app), Ask()) == ask_wsgi(wsgi_app, Ask())


# -- refusals charge nothing ------------------------------------------------------------------------------------


# What a guard further in refuses, and what is left of three units a minute after it has done so three times.
REFUSED: dict[str, tuple[dict[str, Any], Ask, int, int]] = {
    "no key": ({}, Ask(), 401, 0),
    "a wrong key": ({}, Ask("/", (("X-API-Key", "wrong"),)), 401, 0),
    "two keys": ({}, Ask("/", (("X-API-Key", "right"), ("Authorization", "Bearer wrong"))), 400, 0),
    "an ambiguous path": ({"public": ["/health"]}, Ask("//health"), 400, 0),
    "a function that reads one": ({"scopes": lambda r: [r.path]}, Ask("//health", KEYED.headers), 400, 0),
    "too many guesses": ({"guesses": "1/hour"}, Ask("/", (("X-API-Key", "wrong"),)), 429, 0),
    "a scope that is missing": ({"scopes": ["write"]}, KEYED, 403, 3),
    "a look-up that fails": ({}, Ask("/", (("X-API-Key", "fails"),)), 503, 3),
}


@pytest.mark.parametrize("stacked", ["one stack", "single classes"])
@pytest.mark.parametrize("by", ["ip", "a function", "both", "both, together"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_further_in_stays_charged_to_limits_by_address_or_is_given_back(
    case: str, by: str, stacked: str
) -> None:
    """A limit by address that gave back what strangers took would limit no flood of them (promise 5)."""
    options, ask, status, left = REFUSED[case]
    limits = {
        "ip": [RateLimit("3/minute", by="ip")],
        "a function": [RateLimit("3/minute", by=of_tenant)],
        "both": [RateLimit("3/minute", by="ip"), IPFilter(deny=["10.0.0.1"]), RateLimit("9/minute", by=of_tenant)],
        "both, together": [RateLimit("9/minute", by=of_tenant), RateLimit("3/minute", by="ip")],
    }[by]
    for world, app in (("asgi", asgi_app), ("wsgi", wsgi_app)):
        clock = ManualClock()
        store = MemoryStore(clock=clock)
        keys = APIKeys(lookup=lookup, **{"guesses": "100/minute", **options})
        if stacked == "one stack":
            guarded = getattr(Keyguard(*limits, keys, store=store, clock=clock), world)(app)
        else:
            guarded = getattr(Keyguard(keys, store=store, clock=clock), world)(app)
            guarded = getattr(Keyguard(*limits, store=store, clock=clock), world)(guarded)
        ask_one = ask_asgi if world == "asgi" else ask_wsgi
        statuses = [ask_one(guarded, ask).status for _ in range(3)]
        assert statuses[-1] == status
        if by == "a function":
            left = 3
        outside = Keyguard(*limits, store=store, clock=clock)  # who asks from there counts where the others did
        after = [ask_one(getattr(outside, world)(app), Ask()).status for _ in range(4)]
        assert after == [200] * left + [429] * (4 - left)


def of_tenant(request: Request) -> str:
    return "tenant"


def test_a_flood_of_requests_without_a_key_is_limited_by_address() -> None:
    """500 requests: three are told that they need a key, all others to wait; each asks the store once at most."""
    for world, app in (("asgi", asgi_app), ("wsgi", wsgi_app)):
        store = Counting()
        guard = Keyguard(RateLimit("3/minute", by="ip"), APIKeys(), RateLimit("9/second", by="key"), store=store)
        guarded, ask = getattr(guard, world)(app), ask_asgi if world == "asgi" else ask_wsgi
        statuses = [ask(guarded, Ask(f"/{n}"), lint=False).status for n in range(500)]
        assert statuses == [401] * 3 + [429] * 497
        assert store.operations <= 500
        assert ask(guarded, Ask(client="198.51.100.9"), lint=False).status == 401


class Counting(MemoryStore):
    """A store that counts its operations."""

    operations = 0

    def execute(self, ops: Any) -> list[Any]:
        self.operations += len(ops)
        return super().execute(ops)


# -- single classes ---------------------------------------------------------------------------------------------


def starlette_stack(*layers: tuple[Any, tuple[Any, ...], dict[str, Any]]) -> Starlette:
    app = Starlette(routes=[Route("/hello", hello)])
    for layer, args, options in layers:
        app.add_middleware(layer, *args, **options)
    return app


def test_single_classes_in_starlette_see_each_others_findings() -> None:
    store = MemoryStore()
    app = starlette_stack(
        (keyguard.asgi.RateLimit, ("2/minute",), {"by": "key", "store": store}),
        (keyguard.asgi.APIKeys, (), {"lookup": lookup, "store": store}),
        (keyguard.asgi.IPFilter, (), {"deny": ["203.0.113.0/24"], "store": store}),
    )
    assert ask_asgi(app, Ask("/hello")).status == 401
    assert ask_asgi(app, Ask("/hello", client="203.0.113.1")).status == 403
    answers = [ask_asgi(app, KEYED) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].body == b"hello ada"
    assert answers[0].get("ratelimit") == '"key:2/minute";r=1;t=60'


def test_single_classes_in_flask_see_each_others_findings() -> None:
    store = MemoryStore()
    app = Flask(__name__)
    app.add_url_rule("/hello", view_func=lambda: "hello")
    wrapped = keyguard.wsgi.RateLimit(app.wsgi_app, "2/minute", by="subject", store=store)
    wrapped = keyguard.wsgi.APIKeys(wrapped, lookup=lookup, store=store)
    app.wsgi_app = keyguard.wsgi.IPFilter(wrapped, allow=["198.51.100.0/24"], store=store)
    assert ask_wsgi(app, Ask("/hello")).status == 401
    assert ask_wsgi(app, Ask("/hello", client="192.0.2.1")).status == 403
    assert [ask_wsgi(app, KEYED).status for _ in range(3)] == [200, 200, 429]


def test_single_classes_in_the_wrong_order_do_not_start() -> None:
    with pytest.raises(ConfigurationError, match="a layer further in finds"):
        keyguard.wsgi.RateLimit(keyguard.wsgi.APIKeys(wsgi_app), "1/second", by="key")
    wrong = starlette_stack(
        (keyguard.asgi.APIKeys, (), {}),
        (keyguard.asgi.RateLimit, ("1/second",), {"by": "key"}),
    )
    with pytest.raises(ConfigurationError, match="a layer further in finds"), TestClient(wrong):
        pass


@pytest.mark.parametrize("module", [keyguard.asgi, keyguard.wsgi])
def test_single_classes_that_would_find_different_clients_do_not_start(module: Any) -> None:
    """The first that asks finds the client for all: which one would depend on the request."""
    app = asgi_app if module is keyguard.asgi else wsgi_app
    inner = module.RateLimit(app, "1/minute", trusted_proxies=["10.0.0.0/8", "unix"])
    with pytest.raises(ConfigurationError, match="give both the same"):
        module.IPFilter(inner, deny=["203.0.113.0/24"])
    module.IPFilter(inner, deny=["203.0.113.0/24"], trusted_proxies=["unix", "10.0.0.0/8"])


def test_a_layer_that_is_missing_stops_the_start_or_fails_closed(caplog: pytest.LogCaptureFixture) -> None:
    app = keyguard.asgi.RateLimit(lifespan_app, "1/second", by="key")
    assert lifespan(app) == ["lifespan.startup.failed"]
    with pytest.raises(ConfigurationError, match="put APIKeys outside it"), TestClient(app):
        pass
    complete = keyguard.asgi.APIKeys(app, lookup=lookup)
    assert lifespan(complete) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    # With no lifespan there is nobody to tell before a request comes.
    assert ask_wsgi(keyguard.wsgi.RateLimit(wsgi_app, "1/second", by="key"), Ask()).status == 503
    assert "no APIKeys stands outside it" in caplog.text


def test_an_unknown_option_of_a_single_class_is_an_error() -> None:
    with pytest.raises(TypeError, match="bye"):
        keyguard.wsgi.RateLimit(wsgi_app, "1/second", bye="key")


# -- mounting ---------------------------------------------------------------------------------------------------


def test_mounted_twice_a_limit_counts_twice_and_authentication_asks_twice() -> None:
    guard = Keyguard(APIKeys(lookup=lookup), RateLimit("4/minute", by="key"))
    twice = guard.asgi(guard.asgi(asgi_app))
    assert [ask_asgi(twice, KEYED).status for _ in range(3)] == [200, 200, 429]
    twice_wsgi = guard.wsgi(guard.wsgi(wsgi_app))
    assert ask_wsgi(twice_wsgi, Ask()).status == 401


def test_an_app_that_dispatches_a_copied_scope_again_is_limited_again() -> None:
    guarded = Keyguard(RateLimit("3/minute")).asgi(asgi_app)

    async def batch(scope: Any, receive: Any, send: Any) -> None:
        async def swallow(message: Any) -> None:
            pass

        for _ in range(2):
            await guarded(dict(scope), receive, swallow)
        await guarded(dict(scope), receive, send)

    app = Keyguard(IPFilter(deny=["10.0.0.0/8"])).asgi(batch)
    assert [ask_asgi(app, Ask()).status for _ in range(2)] == [200, 429]


def test_mounted_under_a_prefix_rules_see_the_path_that_the_app_routes() -> None:
    guard = Keyguard(APIKeys(public=["/open"]))
    inner = Starlette(routes=[Route("/open", lambda request: PlainTextResponse("open"))])
    app = Starlette(routes=[Mount("/api", app=guard.asgi(inner))])
    with TestClient(app) as client:
        assert client.get("/api/open").status_code == 200
        assert client.get("/api/other").status_code == 401
        assert client.get("/open").status_code == 404


@pytest.mark.parametrize("around", [lambda app: app, lambda app: CORSMiddleware(app)])
def test_a_prefix_that_the_app_sets_itself_is_seen_by_rules_that_stand_around_it(around: Any) -> None:
    app = FastAPI()
    app.root_path = "/api"  # FastAPI routes /api/inside as /inside, and so does Django with FORCE_SCRIPT_NAME
    app.get("/inside")(lambda: "in")
    filtered = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/inside"])).asgi(around(app))
    with override_settings(FORCE_SCRIPT_NAME="/api"):
        django = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/inside"])).asgi(around(APPS["django"][0]))
    for guarded in (filtered, django):
        for path in ("/inside", "/api/inside", "/api/inside/"):
            assert ask_asgi(guarded, Ask(path)).status == 403
    assert ask_asgi(filtered, Ask("/api/inside", client="10.0.0.1")).status == 200


def test_a_prefix_in_the_midst_of_a_path_is_not_interpreted() -> None:
    """Some frameworks cut it off there: under /api they route /apiinside and /x/api/inside as /inside."""
    app = Keyguard(IPFilter(deny=["203.0.113.0/24"], paths=["/inside"])).asgi(asgi_app)
    for path, status in (
        ("/apiinside", 400),
        ("/x/api/inside", 400),
        ("/api/inside", 200),
        ("/api", 200),
        ("/inside", 200),
        ("/api/api/inside", 200),
    ):
        assert ask_asgi(app, Ask(path, root="/api"), lint=False).status == status
    assert ask_asgi(app, Ask("/x", root="/"), lint=False).status == 200


def test_on_refusal_is_told_and_its_failure_harms_nobody() -> None:
    told: list[Any] = []

    def listener(refusal: Any) -> None:
        told.append((refusal.cause, refusal.reason, refusal.status, refusal.policies, refusal.retry_after))
        raise RuntimeError

    guard = Keyguard(RateLimit("1/minute"), on_refusal=listener)
    assert [play(guard).status for _ in range(2)] == [200, 429]
    assert told == [("usage", "limit-reached", 429, ("ip:1/minute",), 60)]


def test_the_lists_of_an_address_filter_are_replaced_while_it_runs() -> None:
    filter = IPFilter(deny=["10.0.0.0/8"])
    guard = Keyguard(filter)
    assert play(guard).status == 200
    filter.replace(deny=["198.51.100.0/24"])
    assert play(guard).status == 403
    with pytest.raises(ConfigurationError, match="is not a network"):
        filter.replace(deny=["nonsense"])
    assert play(guard).status == 403
    filter.replace()
    assert play(guard).status == 200
    filter.replace(allow=[])
    assert play(guard).status == 403


def test_async_settings_work_under_asgi() -> None:
    async def plan(request: Request) -> str | None:
        await asyncio.sleep(0)
        return None if request.path == "/free" else "1/minute"

    async def who(request: Request) -> str | None:
        return request.header("x-tenant")

    app = Keyguard(RateLimit(plan, by=who, when=lambda r: True, exempt=lambda r: r.path == "/exempt")).asgi(asgi_app)

    async def story() -> list[int]:
        asks = [("/", "a"), ("/", "a"), ("/", "b"), ("/free", "a"), ("/exempt", "a"), ("/", None)]
        return [(await aask(app, Ask(path, (("X-Tenant", tenant),) if tenant else ()))).status for path, tenant in asks]

    assert asyncio.run(story()) == [200, 429, 200, 200, 200, 200]


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    guard = Keyguard(APIKeys(lookup=lookup), RateLimit("1000/second", by="key"))
    asgi, wsgi = guard.asgi(asgi_app), guard.wsgi(wsgi_app)

    def run() -> None:
        for _ in range(50):
            ask_wsgi(wsgi, KEYED, lint=False)

    async def arun() -> None:
        for _ in range(50):
            await aask(asgi, KEYED, lint=False)

    async def left_by(first: Any, second: Any) -> int:
        for work in (first, second):
            gc.collect()
            gc.disable()
            result = work()
            if result is not None:
                await result
        return gc.collect()

    try:
        assert asyncio.run(left_by(run, run)) == 0
        assert asyncio.run(left_by(arun, arun)) == 0
    finally:
        gc.enable()


def test_a_cache_outside_of_api_keys_says_what_that_means(caplog: pytest.LogCaptureFixture) -> None:
    Keyguard(APIKeys(), ResponseCache())
    assert caplog.text == ""
    Keyguard(ResponseCache(), APIKeys())
    assert "served to callers whom <APIKeys keys> would refuse" in caplog.text


def test_a_browser_s_preflight_is_answered_by_cors_middleware_inside() -> None:
    guard = Keyguard(RateLimit("4/minute"), APIKeys())
    app: Any = guard.asgi(CORSMiddleware(asgi_app, allow_origins=["https://a.test"], allow_headers=["X-API-Key"]))
    asked = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "GET"))
    preflight = Ask("/", (*asked, ("Access-Control-Request-Headers", "x-api-key")), method="OPTIONS")
    for _ in range(3):
        answer = ask_asgi(app, preflight)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.get("access-control-allow-origin") == "https://a.test"
        assert "x-api-key" in (answer.get("access-control-allow-headers") or "").lower()
    assert ask_asgi(app, Ask()).status == 401
    assert ask_asgi(app, preflight).status == 429
