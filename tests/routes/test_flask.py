"""Limits and keys at the routes of Flask and Quart: decorators in any order, blueprints, views of classes."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask
from flask.views import MethodView, View
from quart import Quart
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, OutsideRequest, RateLimit, Refused
from keyguard.stores.memory import MemoryStore
from tests.guards.rate_limit.test_handlers import Slow

SAID = "done"


def view() -> str:
    return SAID


def asked(app: Flask, path: str, times: int = 1, **how: Any) -> list[int]:
    client = app.test_client()
    return [client.open(path, **how).status_code for _ in range(times)]


def made(*guards: Any, **settings: Any) -> tuple[Keyguard, Flask]:
    guard = Keyguard(*guards, **{"store": "memory://", **settings})
    app = Flask("shop")
    guard.init_app(app)
    return guard, app


def other_decorator(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    def calling(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return calling


def careless_decorator(view: Callable[..., Any]) -> Callable[..., Any]:
    def calling() -> Any:
        return view()

    return calling


# -- orders -------------------------------------------------------------------------------------------------------

Put = Callable[[Flask, Any], None]
"""Puts a view with a marker into an app."""


def below(app: Flask, marker: Any) -> None:
    app.get("/")(marker(lambda: SAID))


def above(app: Flask, marker: Any) -> None:
    marker(app.get("/")(lambda: SAID))  # Flask has the bare view, and nobody holds the decorated one


def between(app: Flask, marker: Any) -> None:
    app.get("/")(other_decorator(marker(other_decorator(lambda: SAID))))


def above_others(app: Flask, marker: Any) -> None:
    marker(other_decorator(app.get("/")(other_decorator(lambda: SAID))))


def below_a_careless_one(app: Flask, marker: Any) -> None:
    @marker
    def inner() -> str:
        return SAID

    app.get("/")(functools.wraps(inner)(careless_decorator(inner)))


def waiting(app: Flask, marker: Any) -> None:
    @app.get("/")
    @marker
    async def view() -> str:
        await asyncio.sleep(0)
        return SAID


def waiting_above(app: Flask, marker: Any) -> None:
    @marker
    @app.get("/")
    async def view() -> str:
        await asyncio.sleep(0)
        return SAID


def added(app: Flask, marker: Any) -> None:
    app.add_url_rule("/", "named", marker(lambda: SAID))


def of_a_blueprint(app: Flask, marker: Any) -> None:
    blueprint = Blueprint("part", "shop")
    marker(blueprint.get("/")(lambda: SAID))
    app.register_blueprint(blueprint)


def of_a_class(app: Flask, marker: Any) -> None:
    class Page(View):
        decorators = (marker,)

        def dispatch_request(self) -> str:
            return SAID

    app.add_url_rule("/", view_func=Page.as_view("page"))


def of_a_method(app: Flask, marker: Any) -> None:
    class Page(MethodView):
        @marker
        def get(self) -> str:
            return SAID

    app.add_url_rule("/", view_func=Page.as_view("page"))


def whole_blueprint(app: Flask, marker: Any) -> None:
    blueprint = Blueprint("part", "shop")
    blueprint.get("/")(lambda: SAID)
    blueprint.before_request(marker)
    app.register_blueprint(blueprint)


def nested_blueprint(app: Flask, marker: Any) -> None:
    outer, inner = Blueprint("outer", "shop"), Blueprint("inner", "shop")
    inner.get("/")(lambda: SAID)
    outer.register_blueprint(inner)
    outer.before_request(marker)
    app.register_blueprint(outer)


def whole_app(app: Flask, marker: Any) -> None:
    app.get("/")(lambda: SAID)
    app.before_request(marker)


ORDERS: list[Put] = [
    below,
    above,
    between,
    above_others,
    below_a_careless_one,
    waiting,
    waiting_above,
    added,
    of_a_blueprint,
    of_a_class,
    of_a_method,
    whole_blueprint,
    nested_blueprint,
    whole_app,
]


@pytest.mark.parametrize("installed", ["init_app", "wsgi", "late"])
@pytest.mark.parametrize("put", ORDERS)
def test_a_limit_holds_in_any_order(put: Put, installed: str) -> None:
    guard = Keyguard(store="memory://")
    app = Flask("shop")
    if installed == "init_app":
        guard.init_app(app)
    elif installed == "wsgi":
        app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]
    put(app, guard.limit("2/minute"))
    if installed == "late":
        guard.init_app(app)
    gc.collect()
    assert asked(app, "/", 4) == [200, 200, 429, 429]
    answer = app.test_client().get("/")
    assert answer.content_type == "application/problem+json"
    assert answer.get_json()["cause"] == "usage"
    assert "2/minute" in answer.headers["RateLimit-Policy"]


@pytest.mark.parametrize("put", ORDERS)
def test_a_key_is_needed_in_any_order(put: Put) -> None:
    guard, app = made(APIKeys(optional=True))
    put(app, guard.key(scopes=["write"]))
    reader, writer = (guard.keys.issue("acme", scopes=[scope]).key.reveal() for scope in ("read", "write"))
    assert asked(app, "/") == [401]
    assert asked(app, "/", headers={"X-API-Key": reader}) == [403]
    assert asked(app, "/", headers={"X-API-Key": writer}) == [200]


@pytest.mark.parametrize("put", ORDERS)
def test_a_view_is_not_served_without_the_guard(put: Put) -> None:
    """But for decorators above `@app.route`, of which an app without the guard knows nothing."""
    guard = Keyguard(store="memory://")
    app = Flask("shop")
    put(app, guard.limit("2/minute"))
    if put not in (above, above_others, waiting_above, of_a_blueprint):
        assert asked(app, "/") == [500]


def test_both_sides_of_a_route_count() -> None:
    guard, app = made()

    @guard.limit("3/minute", name="above")
    @app.get("/")
    @guard.limit("1/minute", name="below")
    def index() -> str:
        return SAID

    answer = app.test_client().get("/")
    assert answer.headers["RateLimit"].count(";r=") == 2
    assert asked(app, "/") == [429]


def test_a_route_that_is_not_decorated_beside_one_that_is() -> None:
    guard, app = made()
    app.add_url_rule("/limited", "limited", guard.limit("1/minute")(view))
    app.add_url_rule("/free", "free", view)
    assert asked(app, "/limited", 2) == [200, 429]
    assert asked(app, "/free", 3) == [200] * 3


def test_each_view_has_a_counter_and_a_blueprint_one() -> None:
    guard, app = made()
    blueprint = Blueprint("part", "shop", url_prefix="/part")
    blueprint.before_request(guard.limit("3/minute"))
    each = guard.limit("2/minute")
    for name in "ab":
        blueprint.add_url_rule(f"/{name}", name, each(functools.wraps(view)(eval(f"lambda: '{name}'"))))
    app.register_blueprint(blueprint)
    app.get("/free")(view)
    assert asked(app, "/part/a", 2) == [200, 200]
    assert asked(app, "/free", 3) == [200] * 3
    answer = app.test_client().get("/part/a")
    assert (answer.status_code, answer.get_json()["violated-policies"]) == (429, ["view:2/minute"])


def test_two_classes_count_apart() -> None:
    guard, app = made()

    class Page(MethodView):
        decorators = (guard.limit("1/minute"),)

        def get(self) -> str:
            return SAID

    app.add_url_rule("/a", view_func=Page.as_view("a"))
    app.add_url_rule("/b", view_func=Page.as_view("b"))
    assert asked(app, "/a", 2) == [200, 429]
    assert asked(app, "/b", 2) == [200, 429]


def test_what_runs_no_view_is_not_counted() -> None:
    """Flask answers `OPTIONS` by itself: a browser asks for it without a key."""
    guard, app = made(APIKeys(optional=True))

    @guard.key()
    @app.post("/")
    def create() -> str:
        return SAID

    preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert asked(app, "/", method="OPTIONS", headers=preflight) == [200]
    assert asked(app, "/", method="OPTIONS") == [200]
    assert asked(app, "/nothing") == [404]
    assert asked(app, "/", method="GET") == [405]
    assert asked(app, "/", method="POST") == [401]


def test_the_apps_own_functions_run_after_and_its_own_words_stand() -> None:
    guard, app = made()
    ran: list[str] = []
    app.before_request(lambda: ran.append("before"))

    @app.errorhandler(429)
    def slower(error: Any) -> tuple[str, int]:
        assert isinstance(error, Refused)
        return "slower", 429

    app.get("/")(guard.limit("1/minute")(view))
    client = app.test_client()
    assert client.get("/").text == SAID
    answer = client.get("/")
    assert (answer.text, 58 < int(answer.headers["Retry-After"]) < 63) == ("slower", True)
    assert ran == ["before"]


def test_a_refused_request_costs_nothing_outside() -> None:
    outside = RateLimit("9/minute", by="ip", name="outside")
    guard, app = made(outside)
    app.get("/")(guard.limit("1/minute")(view))
    asked(app, "/", 4)
    assert {use.name: use.spent for use in guard.limits.peek("127.0.0.1")} == {
        "outside:9/minute": 1,
        "view:1/minute": 1,
    }


def test_a_store_that_is_awaited() -> None:
    guard, app = made(store=Slow())
    above(app, guard.limit("2/minute"))
    assert asked(app, "/", 3) == [200, 200, 429]


# -- what is wrong ---------------------------------------------------------------------------------------------------


def raises(app: Flask, match: str) -> None:
    """Each request fails, and none is served."""
    app.testing = True
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=match):
            app.test_client().get("/")


def test_a_marker_on_the_view_of_no_route_is_told_of() -> None:
    guard, app = made()
    app.get("/")(view)
    lost = guard.limit("2/minute")(lambda: SAID)
    with pytest.raises(ConfigurationError, match="is the view of no route"):
        guard.check(app)
    raises(app, "is the view of no route, so it protects nothing")
    del lost


def test_a_view_may_come_after_the_check() -> None:
    guard, app = made()
    above(app, guard.limit("2/minute"))
    guard.check(app, fail_on=None)
    guard.limit("2/minute", name="later")(app.get("/later")(view))
    assert asked(app, "/later", 3) == [200, 200, 429]


def test_careless_decorators_are_looked_through() -> None:
    """Those without `functools.wraps`, between the limit and the route, in both orders."""
    guard, app = made()
    kept = guard.limit("2/minute", name="above")(
        careless_decorator(app.get("/above")(careless_decorator(lambda: SAID)))
    )
    app.add_url_rule("/below", "below", careless_decorator(guard.limit("2/minute")(lambda: SAID)))
    for path in ("/above", "/below"):
        assert asked(app, path, 3) == [200, 200, 429]
    del kept


def test_a_view_that_names_another_has_not_its_limit() -> None:
    guard, app = made()

    @app.get("/free")
    def free() -> str:
        return SAID

    @guard.limit("1/minute")
    @app.get("/limited")
    def limited() -> str:
        return free()

    @app.get("/index")
    def index() -> str:
        return limited.__name__

    assert asked(app, "/free", 3) == asked(app, "/index", 3) == [200] * 3
    assert asked(app, "/limited", 2) == [200, 429]


def test_two_views_of_one_name_do_not_share_a_counter() -> None:
    guard, app = made()
    marker = guard.limit("2/minute")
    for path in ("/", "/other"):
        app.add_url_rule(path, path.strip("/") or "index", marker(careless_decorator(view)))
    raises(app, "would be one counter for both: give it a name=")


def test_a_blueprint_and_its_view_do_not_count_twice() -> None:
    guard, app = made()
    blueprint = Blueprint("part", "shop")
    marker = guard.limit("5/minute")
    blueprint.before_request(marker)
    blueprint.get("/")(marker(view))
    app.register_blueprint(blueprint)
    raises(app, "stands twice")


def test_limits_of_one_name_do_not_stand_on_one_view() -> None:
    guard, _ = made()
    with pytest.raises(ConfigurationError, match="stands twice"):
        guard.limit("5/minute", name="calls")(guard.limit("5/minute", name="calls")(lambda: SAID))


def test_a_blueprint_is_no_view() -> None:
    guard, _ = made()
    with pytest.raises(ConfigurationError, match=r"blueprint\.before_request\(guard\.limit\(\.\.\.\)\)"):
        guard.limit("5/minute")(Blueprint("part", "shop"))  # type: ignore[type-var]


def test_another_guard_than_the_apps() -> None:
    _, app = made()
    other = Keyguard(store="memory://")
    app.get("/")(other.limit("5/minute")(view))
    app.testing = True
    with pytest.raises(OutsideRequest):
        app.test_client().get("/")
    _, app = made()
    app.before_request(other.limit("5/minute"))
    app.get("/")(lambda: SAID)
    raises(app, r"does not stand around this app: guard\.init_app\(app\)")


def test_the_views_of_several_apps() -> None:
    guard, app = made()
    other = Flask("other")
    guard.init_app(other)
    app.get("/")(guard.limit("2/minute")(view))
    guard.limit("2/minute")(other.get("/")(lambda: SAID))
    assert asked(app, "/") == asked(other, "/") == [200]


@pytest.mark.parametrize("outer", [True, False])
def test_apps_behind_a_dispatcher(outer: bool) -> None:
    guard = Keyguard(store="memory://")
    front, part = Flask("front"), Flask("part")
    above(front, guard.limit("2/minute", name="front"))
    above(part, guard.limit("1/minute", name="part"))
    if outer:
        served = guard.wsgi(DispatcherMiddleware(front, {"/part": part}))
    else:
        front.wsgi_app = DispatcherMiddleware(front.wsgi_app, {"/part": part})  # type: ignore[method-assign]
        guard.init_app(front)
        served = front.wsgi_app
    client = Client(served)
    assert [client.get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert [client.get("/part/").status_code for _ in range(2)] == [200, 429]


def test_many_first_requests_at_once() -> None:
    guard, app = made()
    blueprint = Blueprint("part", "shop")
    blueprint.before_request(guard.limit("5/minute"))
    ran: list[int] = []
    blueprint.before_request(lambda: ran.append(1))
    blueprint.get("/")(view)
    app.register_blueprint(blueprint)
    begin = threading.Barrier(8)
    told: list[int] = []

    def ask() -> None:
        begin.wait(60)
        told.extend(asked(app, "/"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(told) == [200] * 5 + [429] * 3
    assert len(ran) == 5


# -- Quart -----------------------------------------------------------------------------------------------------------


def quart_app(guard: Keyguard) -> Quart:
    app = Quart("shop")
    guard.init_app(app)

    @guard.limit("2/minute")
    @app.get("/above")
    async def above() -> str:
        return SAID

    @app.get("/below")
    @guard.limit("2/minute")
    async def below() -> str:
        return SAID

    @app.get("/def")
    @guard.limit("2/minute")
    def plain() -> str:
        return SAID

    from quart import Blueprint as QuartBlueprint

    part = QuartBlueprint("part", "shop")
    part.before_request(guard.limit("2/minute"))
    part.get("/part")(lambda: SAID)
    app.register_blueprint(part)

    @guard.limit("2/minute")
    @app.websocket("/socket")
    async def socket() -> None:
        from quart import websocket

        await websocket.accept()
        await websocket.send(SAID)

    return app


@pytest.mark.parametrize("kind", [MemoryStore, Slow], ids=["at once", "awaited"])
@pytest.mark.parametrize("path", ["/above", "/below", "/def", "/part"])
def test_quart(path: str, kind: Callable[[], Any]) -> None:
    guard = Keyguard(store=kind())
    client = quart_app(guard).test_client()

    async def ask() -> list[int]:
        return [(await client.get(path)).status_code for _ in range(3)]

    assert asyncio.run(ask()) == [200, 200, 429]


def test_a_websocket_of_quart() -> None:
    guard = Keyguard(store="memory://")
    app = quart_app(guard)

    async def talk() -> list[Any]:
        told: list[Any] = []
        for _ in range(3):
            try:
                async with app.test_client().websocket("/socket") as socket:
                    told.append(await socket.receive())
            except Exception as error:
                told.append(getattr(error, "response").status_code)  # noqa: B009
        return told

    assert asyncio.run(talk()) == [SAID, SAID, 429]


def test_here_tells_of_limits_at_routes() -> None:
    guard, app = made(APIKeys(optional=True))

    @guard.limit("5/minute")
    @app.get("/")
    def index() -> dict[str, Any]:
        identity = guard.here().identity
        assert isinstance(identity, Identity)
        return {"left": [limit.remaining for limit in guard.here().limits], "who": identity.subject}

    assert app.test_client().get("/").get_json()["left"] == [4]
