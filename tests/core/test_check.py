"""`Keyguard.check`: a stack compared with the routes of its app, on the frameworks whose routes can be listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit, path
from keyguard.drivers.inspection.django_routes import templates_of_regex
from keyguard.drivers.inspection.routes import Route, routes_of, segments_of
from keyguard.policies import Policy, PolicySet, first_match, method, shadow
from keyguard.stack.route_patterns import RoutesBySegment, covers, meets
from tests.support.warm import run

# -- one app in each framework: GET /items/{id}, POST /login, GET /health, and /files/... with slashes ------------


def fastapi() -> Any:
    from fastapi import APIRouter, FastAPI

    router = APIRouter(prefix="/items")
    router.get("/{id}")(lambda id: id)
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    app.post("/login")(lambda: None)
    app.get("/health")(lambda: None)
    app.get("/files/{name:path}")(lambda name: name)
    return app


def starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route

    def view(request: Any) -> Any:
        raise NotImplementedError

    items = Mount("/items", routes=[Route("/{id:int}", view)])
    routes = [items, Route("/login", view, methods=["POST"]), Route("/health", view), Mount("/files", lambda *_: None)]
    return Starlette(routes=routes)


def flask() -> Any:
    from flask import Blueprint, Flask

    items = Blueprint("items", "items", url_prefix="/items")
    items.get("/<int:id>")(lambda id: "")
    app = Flask("shop", static_folder=None)
    app.register_blueprint(items)
    app.post("/login", endpoint="login")(lambda: "")
    app.get("/health", endpoint="health")(lambda: "")
    app.get("/files/<path:name>", endpoint="files")(lambda name: "")
    return app


def litestar() -> Any:
    from litestar import Litestar, get, post

    @get("/items/{id:int}", sync_to_thread=False)
    def item() -> str:
        raise NotImplementedError

    @post("/login", sync_to_thread=False)
    def login() -> None:
        raise NotImplementedError

    @get("/health", sync_to_thread=False)
    def health() -> None:
        raise NotImplementedError

    @get("/files/{name:path}", sync_to_thread=False)
    def files() -> str:
        raise NotImplementedError

    return Litestar([item, login, health, files], openapi_config=None)


class Both:
    def on_get(self, *_: Any, **__: Any) -> None: ...


class Post:
    def on_post(self, *_: Any, **__: Any) -> None: ...


def falcon() -> Any:
    from falcon import App

    app = App()
    app.add_route("/items/{id:int}", Both())
    app.add_route("/login", Post())
    app.add_route("/health", Both())
    app.add_route("/files/{name:path}", Both())
    return app


APPS: dict[str, Callable[[], Any]] = {
    "fastapi": fastapi, "starlette": starlette, "flask": flask, "litestar": litestar, "falcon": falcon
}  # fmt: skip


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest) -> Any:
    return APPS[request.param]()


def found(guard: Keyguard, app: Any) -> list[tuple[str, str]]:
    return [(finding.severity, finding.rule) for finding in guard.check(app, fail_on=None)]


def test_routes_are_listed_alike_in_all_frameworks(app: Any) -> None:
    routes = routes_of(app)
    assert routes is not None
    told = {(route.segments, frozenset(route.methods - {"HEAD", "OPTIONS"})) for route in routes}
    get, post = frozenset({"GET"}), frozenset({"POST"})
    assert {("items", "{}"), ("login",), ("health",), ("files", "*")} == {segments for segments, _ in told}
    assert {(("items", "{}"), get), (("login",), post), (("health",), get)} <= told


def test_a_stack_that_fits_has_nothing_to_report(app: Any) -> None:
    guard = Keyguard(
        IPFilter(deny=["203.0.113.0/24"], paths=["/files/*"]),
        APIKeys(public=["/health"]),
        RateLimit("100/minute", by="ip", exempt=path("/files/{name}")),
        RateLimit("5/minute; 100/day", methods=["POST"], paths=["/login"], name="login"),
    )
    assert found(guard, app) == []
    assert str(guard.check(app)) == "nothing to report"


def test_a_rule_that_closes_and_matches_no_route_raises_and_names_the_nearest(app: Any) -> None:
    guard = Keyguard(RateLimit("100/minute"), RateLimit("5/minute", paths=["/logins"], name="login"))
    with pytest.raises(
        ConfigurationError, match=r"paths='/logins' matches no route of the app; the nearest is '/login'"
    ):
        guard.check(app)
    assert found(guard, app) == [("error", "matches-nothing")]


def test_a_rule_that_opens_and_matches_no_route_is_told(app: Any) -> None:
    guard = Keyguard(APIKeys(public=["/healthz"]))
    assert found(guard, app) == [("warning", "matches-nothing")]
    guard.check(app)  # which raises for errors alone
    with pytest.raises(ConfigurationError, match="/healthz"):
        guard.check(app, fail_on="warning")


def test_methods_that_no_route_there_answers_are_an_error(app: Any) -> None:
    guard = Keyguard(APIKeys(), RateLimit("5/minute", paths=["/login"], methods=["PUT"]))
    assert found(guard, app) == [("error", "matches-nothing")]


def test_routes_that_nothing_protects_are_told_by_name(app: Any) -> None:
    guard = Keyguard(RateLimit("5/minute", paths=["/items/*", "/login", "/files/*"], name="most"))
    findings = guard.check(app)
    assert [(one.severity, one.rule, one.subject) for one in findings if one.rule == "unprotected-route"] == [
        ("warning", "unprotected-route", "GET /health")
    ]


@pytest.mark.parametrize(
    ("guards", "protected"),
    [
        ((APIKeys(),), True),
        ((APIKeys(optional=True),), False),
        ((APIKeys(paths=["/login"]),), False),
        ((APIKeys(public=["/health"]),), False),
        ((APIKeys(public=["/health"]), RateLimit("5/minute", by="ip")), True),
        ((RateLimit("5/minute", methods=["POST"]),), False),
        ((RateLimit("5/minute", exempt=path("/health")),), False),
        ((RateLimit("5/minute", when=path("/health"), name="one"),), True),
        ((RateLimit("5/minute", when=lambda request: True, name="two"),), True),  # a function may say yes
        ((IPFilter(deny=["203.0.113.0/24"]),), True),  # a stack without keys and limits leaves nothing out
    ],
    ids=str,
)
def test_what_protects_a_route(guards: tuple[Any, ...], protected: bool) -> None:
    findings = Keyguard(*guards).check(fastapi(), fail_on=None)
    subjects = [finding.subject for finding in findings if finding.rule == "unprotected-route"]
    assert ("GET /health" not in subjects) is protected


@pytest.mark.parametrize(
    ("rates", "dead"),
    [
        (("10/second; 5000/day",), []),
        (("10/second; 10/day",), ["10/second"]),
        (("10/second; 9/day",), ["10/second"]),
        (("10/second; 600/minute",), []),  # which is the same as long as one comes steadily
        (("10/second; 601/minute",), ["601/minute"]),
        (("10/second; 36001/hour",), ["36001/hour"]),
        (("1/second; 1000000/hour; 5/day",), ["1000000/hour"]),
    ],
)
def test_limits_that_no_caller_can_come_to(rates: tuple[str, ...], dead: list[str]) -> None:
    findings = Keyguard(RateLimit(*rates)).check(fastapi(), fail_on=None)
    assert [one.message.partition(" can never")[0] for one in findings if one.rule == "unreachable-limit"] == dead


def test_a_limit_on_some_paths_is_compared_with_those_on_all() -> None:
    loose = RateLimit("100/minute", paths=["/login"], name="login")
    for other, expected in (
        (RateLimit("5/minute", by="ip"), ["unreachable-limit"]),
        (RateLimit("5/minute", by=lambda request: "all", name="all"), []),
        (RateLimit("5/minute", by="ip", methods=["GET"], name="get"), []),
        (RateLimit("5/minute", by="ip", cost=0, name="tokens"), []),
    ):
        guard = Keyguard(other, loose)
        assert [one.rule for one in guard.check(fastapi()) if one.rule == "unreachable-limit"] == expected


def test_paths_that_share_a_counter_are_noted() -> None:
    guard = Keyguard(APIKeys(), RateLimit("5/minute", paths=["/login", "/items/{id}"]))
    (finding,) = guard.check(fastapi())
    assert (finding.severity, finding.rule) == ("note", "shared-counter")
    assert "/items/{id}, /login" in finding.message


def guarded_fastapi() -> tuple[Keyguard, Any]:
    from fastapi import APIRouter, Depends, FastAPI

    guard = Keyguard()
    app = FastAPI(openapi_url=None, dependencies=[])
    router = APIRouter(dependencies=[Depends(guard.limit("50/minute"))])
    router.get("/of-router")(lambda: None)
    app.include_router(router)
    app.get("/own", dependencies=[Depends(guard.limit("5/minute"))])(lambda: None)

    @app.get("/decorated")
    @guard.limit("5/minute")
    def decorated() -> None: ...

    app.get("/open")(lambda: None)
    return guard, app


def guarded_flask() -> tuple[Keyguard, Any]:
    from flask import Blueprint, Flask

    guard = Keyguard()
    app = Flask("guarded", static_folder=None)
    guard.init_app(app)
    blueprint = Blueprint("b", "b")
    blueprint.before_request(guard.limit("50/minute"))
    blueprint.get("/of-router", endpoint="of")(lambda: "")
    app.register_blueprint(blueprint)

    @guard.limit("5/minute")
    @app.get("/decorated")
    def decorated() -> str:
        return ""

    app.get("/open", endpoint="open")(lambda: "")
    return guard, app


@pytest.mark.parametrize("make", [guarded_fastapi, guarded_flask])
def test_rules_at_routes_protect_them(make: Callable[[], tuple[Keyguard, Any]]) -> None:
    guard, app = make()
    assert [one.subject for one in guard.check(app) if one.rule == "unprotected-route"] == ["GET /open"]


def test_a_limit_at_a_route_that_one_of_the_stack_is_stricter_than() -> None:
    from fastapi import FastAPI

    guard = Keyguard(RateLimit("5/minute", by="ip"))
    app = FastAPI(openapi_url=None)

    @app.get("/search")
    @guard.limit("20/minute")
    def search() -> None: ...

    (finding,) = guard.check(app)
    assert (finding.rule, finding.severity) == ("unreachable-limit", "warning")
    assert "20/minute at tests.core.test_check" in finding.message


def test_a_rule_at_a_view_of_no_route_is_an_error() -> None:
    guard, app = guarded_fastapi()

    @guard.limit("1/minute", name="stray")
    def stray() -> None: ...

    with pytest.raises(ConfigurationError, match=r"rule-at-route.*which no route of the app has"):
        guard.check(app)


def about(*guards: Any) -> list[tuple[str, str]]:
    findings = Keyguard(*guards).check(fastapi(), fail_on=None)
    return [(finding.rule, finding.subject.split(":")[0].strip("<>")) for finding in findings]


LIMIT = "5/minute"


def test_policies_are_compared_with_the_routes_as_guards_are() -> None:
    every = APIKeys()
    fine = Policy("p", when=path("/items/*") & method("GET"), then=[RateLimit(LIMIT, name="p")])
    assert about(every, fine) == []
    wrong = Policy("p", when=path("/item/*") & method("GET"), then=[RateLimit(LIMIT, name="p")])
    assert about(every, wrong) == [("matches-nothing", "Policy p")]
    spared = Policy("p", when=~path("/helth"), then=[RateLimit(LIMIT, name="p")])
    assert about(every, spared) == [("matches-nothing", "Policy p")]
    inner = Policy("p", then=[RateLimit(LIMIT, paths=["/nowhere"], name="p")])
    assert about(every, inner) == [("matches-nothing", "RateLimit p")]


def test_what_a_policy_protects() -> None:
    paths = ["/items/*", "/login", "/files/*"]
    assert about(Policy("most", when=path(*paths), then=[RateLimit(LIMIT, name="p")])) == [
        ("unprotected-route", "GET /health")
    ]
    assert about(Policy("all", when=method("GET") | method("POST"), then=[RateLimit(LIMIT, name="p")])) == []
    tried = Policy("tried", then=[RateLimit(LIMIT, name="q")], shadow=True)
    most = RateLimit("6/minute", paths=paths, name="p")
    assert ("unprotected-route", "GET /health") in about(tried, most)  # it refuses nobody yet
    assert ("unprotected-route", "GET /health") in about(shadow(RateLimit(LIMIT, name="q")), most)


def test_policies_behind_one_that_takes_all_their_paths() -> None:
    def set_of(first: Any, **settings: Any) -> PolicySet:
        inner = Policy("inner", when=path("/items/{id}"), then=[RateLimit(LIMIT, name="i")])
        return first_match(Policy("outer", when=first, then=[RateLimit(LIMIT, name="o")], **settings), inner)

    found = ("unreachable-policy", "Policy inner")
    assert found in about(APIKeys(), set_of(path("/items/*")))
    assert found not in about(APIKeys(), set_of(path("/items/*") & method("GET")))
    assert found not in about(APIKeys(), set_of(path("/login")))
    assert found not in about(APIKeys(), set_of(path("/items/*"), shadow=True))


def test_a_limit_in_a_policy_makes_none_outside_of_it_useless() -> None:
    strict = Policy("strict", when=method("POST"), then=[RateLimit("1/minute", by="ip", name="strict")])
    loose = RateLimit("10/minute", by="ip", name="loose")
    assert about(strict, loose) == []
    assert about(shadow(RateLimit("1/minute", by="ip", name="tried")), loose) == []
    assert about(RateLimit("1/minute", by="ip", name="all"), Policy("p", when=method("GET"), then=[loose])) == [
        ("unreachable-limit", "RateLimit loose")
    ]


def test_middleware_and_the_stack_itself_may_stand_around_the_app() -> None:
    from starlette.middleware.gzip import GZipMiddleware

    guard = Keyguard(RateLimit("5/minute", paths=["/nowhere"]))
    for app in (guard.asgi(GZipMiddleware(fastapi())), guard.wsgi(flask())):
        with pytest.raises(ConfigurationError, match="/nowhere"):
            guard.check(app)


def test_what_opens_and_matches_no_route_is_told_and_does_not_raise() -> None:
    gone = path("/helth")
    guard = Keyguard(
        first_match(Policy("open", when=gone & method("GET"), then=[]), Policy("rest", then=[RateLimit("9/minute")])),
        RateLimit("5/minute", when=~gone, name="most"),
        store="memory://",
    )
    found = [one for one in guard.check(fastapi()) if one.rule == "matches-nothing"]
    assert [one.severity for one in found] == ["warning", "warning"]
    for closing in (Policy("p", when=~~gone, then=[RateLimit("9/minute")]), RateLimit("5/minute", when=gone | gone)):
        with pytest.raises(ConfigurationError, match="/helth"):
            Keyguard(closing, store="memory://").check(fastapi())


def test_one_path_that_several_routes_may_answer_shares_no_counter() -> None:
    app = flask()
    app.get("/<word>", endpoint="word")(lambda word: "")
    app.post("/items/special", endpoint="special")(lambda: "")
    for paths in (["/login"], ["/items/{id}"], ["/items/special"]):
        findings = Keyguard(RateLimit("5/minute", paths=paths), store="memory://").check(app)
        assert [one for one in findings if one.rule == "shared-counter"] == []


def test_apps_behind_a_dispatcher() -> None:
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    def within() -> Any:
        app = flask()
        app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/shop": flask(), "/else": lambda *_: []})
        return app

    for app in (DispatcherMiddleware(flask(), {"/shop": flask(), "/else": lambda *_: []}), within()):
        fits = RateLimit("5/minute", paths=["/shop/items/{id}", "/login", "/else/any/thing"])
        assert "matches-nothing" not in {one.rule for one in Keyguard(fits, store="memory://").check(app)}
        names = {one.subject for one in Keyguard(fits, store="memory://").check(app) if one.rule == "unprotected-route"}
        assert {"POST /shop/login", "GET /health"} <= names
        with pytest.raises(ConfigurationError, match="/shop/item"):
            Keyguard(RateLimit("5/minute", paths=["/shop/item"]), store="memory://").check(app)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:bottle")
def test_static_files_and_sinks_of_falcon_and_old_rules_of_bottle() -> None:
    import bottle as bottles
    import falcon as falcons

    app = falcons.App()
    app.add_static_route("/static", "/tmp")
    app.add_sink(lambda *_, **__: None, "/sink/")
    old = bottles.Bottle()
    old.get("/old/:name/x", callback=lambda name: "")
    old.get("/older/:name#[a-z/]+#", callback=lambda name: "")
    for made, texts in ((app, ["/static/a/b.css", "/sink/x/y"]), (old, ["/old/{name}/x", "/older/a/b"])):
        assert Keyguard(RateLimit("5/minute", paths=texts), store="memory://").check(made)
        with pytest.raises(ConfigurationError, match="/other"):
            Keyguard(RateLimit("5/minute", paths=[*texts, "/other"]), store="memory://").check(made)


@pytest.mark.parametrize(
    ("text", "templates"),
    [
        (r"^static/(?P<path>.*)$", ["static/*"]),
        (r"^articles/(?P<year>[0-9]{4})/$", ["articles/{}/"]),
        (r"^blog/(?P<y>\d+)/(?:(?P<m>\d+)/)?$", ["blog/{}/", "blog/{}/{}/"]),
        (r"^opt(?:/(?P<x>\d+))?/$", ["opt/", "opt/{}/"]),
        (r"^contact/?$", ["contact"]),
        (r"^data\.json$", ["data.json"]),
        (r"^(?:en|de)/x/\Z", ["{}/x/"]),
        (r"^users/[^/]+/$", ["users/{}/"]),
        (r"^users/[^.]+/$", ["users/*"]),
        (r"^page/(?!old)new$", ["page/new"]),
        (r"^either|or$", ["*"]),
        (r"^x/(a/b|c)/$", ["x/*"]),
        (r"^admin/", ["admin/*"]),
        (r"^beg", ["*"]),
        ("anywhere/", ["*"]),
        (r"^cost\$", ["*"]),
        (r"^(broken", ["*"]),
        (r"^$", [""]),
    ],
)
def test_regular_expressions_of_django(text: str, templates: list[str]) -> None:
    assert templates_of_regex(text) == templates


def test_a_thousand_policies_on_thousands_of_routes_are_compared_with_a_few_of_them() -> None:
    routes = [Route(f"/r{n}/x", (f"r{n}", "x"), frozenset(), None) for n in range(5000)]
    anything = Route("/{page}", segments_of("/{page}"), frozenset(), None)
    known = RoutesBySegment([*routes, anything])
    assert known.beside("/R17/{y}") == [routes[17], anything]
    assert known.beside("/{x}/y") == known.all
    assert known.beside("/none") == [anything]


def test_an_app_whose_routes_cannot_be_seen_is_told_of() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise NotImplementedError

    guard = Keyguard(RateLimit("5/minute", paths=["/login"]))
    (finding,) = guard.check(app)
    assert (finding.severity, finding.rule) == ("warning", "unknown-routes")


def test_a_severity_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="fail_on is 'error'"):
        Keyguard().check(fastapi(), fail_on="worst")  # type: ignore[arg-type]


DJANGO = """
import django
from django.conf import settings
from django.http import HttpResponse
from django.conf.urls.i18n import i18n_patterns
from django.urls import include, path, re_path, register_converter
from django.views import View

class Login(View):
    def post(self, request): ...

def view(request, **_): ...

class Below:
    regex = "[a-z/]+"
    def to_python(self, value): return value
    def to_url(self, value): return value

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], USE_I18N=True)
register_converter(Below, "below")
urlpatterns = [
    path("items/", include([path("<int:id>", view)])),
    path("login", Login.as_view()),
    path("health", view),
    path("files/<path:name>", view),
    re_path(r"^years/(?P<year>[0-9]{4})/$", view),
    re_path(r"^static/", include([re_path(r"(?P<path>.*)$", view)])),
    path("tree/<below:name>/end", view),
    *i18n_patterns(path("about", view), prefix_default_language=False),
]
django.setup()
from django.core.handlers.wsgi import WSGIHandler
from keyguard import Keyguard, RateLimit
paths = ["/items/{id}", "/login", "/files/*", "/years/{year}", "/logins", "/static/css/site.css", "/static/*",
         "/de/about", "/{language}/about", "/about", "/tree/a/b/end", "/tree/*"]
guard = Keyguard(RateLimit("5/minute", paths=paths))
for finding in guard.check(WSGIHandler(), fail_on=None):
    print(finding.rule, finding.subject, finding.message)
"""


def test_routes_of_django(warm: str) -> None:
    told = run(warm, ["-c", DJANGO], needs=["keyguard", "django"])
    lines = told.stdout.splitlines()
    assert len(lines) == 3, told.stderr
    assert "matches no route of the app; the nearest is '/login'" in lines[0]
    assert lines[1] == "unprotected-route ANY /health no limit is about it"
    assert lines[2].startswith("shared-counter")


# -- patterns and templates -----------------------------------------------------------------------------------------


def route(template: str) -> Route:
    return Route(template, segments_of(template), frozenset(), None)


@pytest.mark.parametrize(
    ("pattern", "template", "some", "all_"),
    [
        ("/a", "/a", True, True),
        ("/a", "/b", False, False),
        ("/a", "/a/", True, True),
        ("/A", "/a", False, False),
        ("/a/{x}", "/a/<int:x>", True, True),
        ("/a/1", "/a/<int:x>", True, False),
        ("/a/{x}", "/a/1", True, True),
        ("/a/*", "/a", True, True),
        ("/a/*", "/a/<x>/b", True, True),
        ("/a/*", "/b", False, False),
        ("/*", "/", True, True),
        ("/a/b", "/a/{rest:path}", True, False),
        ("/a/{x}", "/a/<path:rest>", True, False),
        ("/a/*", "/a/<path:rest>", True, True),
        ("/a/b/*", "/a/<path:rest>", True, False),
        ("/a/{x}", "/a/{name}.json", True, True),
        ("/a/{x}/c", "/a/b", False, False),
    ],
)
def test_patterns_against_templates(pattern: str, template: str, some: bool, all_: bool) -> None:
    assert (meets(pattern, route(template)), covers(pattern, route(template))) == (some, all_)
    if some:
        assert meets(pattern.swapcase(), route(template), ignore_case=True)
