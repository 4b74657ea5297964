"""What depends on a path: one condition where it opens and where it closes, and paths that are read in two ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import (
    AmbiguousPath,
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
    path,
)
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

Make = Callable[[], Keyguard]


def lookup(key: str) -> Identity | None:
    scopes = {"reader": frozenset[str](), "admin": frozenset({"admin"})}
    return Identity(key, scopes=scopes[key]) if key in scopes else None


def with_key(target: str, key: str = "reader", **more: Any) -> Ask:
    return Ask(target, (("X-API-Key", key),), **more)


def both(make: Make, *asks: Ask) -> list[int]:
    """The statuses, which both worlds give."""
    one, other = make().asgi(asgi_app), make().wsgi(wsgi_app)
    asgi, wsgi = [ask_asgi(one, ask) for ask in asks], [ask_wsgi(other, ask) for ask in asks]
    assert [answer.status for answer in asgi] == [answer.status for answer in wsgi]
    return [answer.status for answer in asgi]


# -- paths that are read in two ways --------------------------------------------------------------------------------

# Each of them some server, proxy, framework or HTTP client reads as a path to /admin.
LEADS_TO_ADMIN = [
    "//admin",
    "/public/../admin",
    "/public/%2e%2e/admin",
    "/public/..%2fadmin",
    "/public/..%5cadmin",
    "/public/..;/admin",
    "/public/%252e%252e/admin",
    "/public/%252e%252e%252fadmin",
    "/public/%25252e%25252e/admin",
    "/public/%2%65%2%65/admin",
    "/public/%c0%ae%c0%ae/admin",
    "/public/%u002e%u002e/admin",
    "/%2561dmin",
    "/%252561dmin",
    "/%25%36%31dmin",
    "/%2%35%36%31dmin",
    "/%u0061dmin",
    "/admin;x=1",
    "/admin%3b",
    "/admin%00",
    "/admin%0a",
    "/ad%09min",
    "/admin%3fx",
    "/admin%23x",
    "/x%2fadmin",
    "/%2fadmin",
    "/%5cadmin",
    "/.%2fadmin",
    "/./admin",
    "/%2e/admin",
    "/%61dmin%2f",
]
CLOSING: dict[str, Make] = {
    "a filter": lambda: Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin"])),
    "a filter by condition": lambda: Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=path("/admin"))),
    "a limit": lambda: Keyguard(RateLimit("1/minute", paths=["/admin"])),
    "a limit by condition": lambda: Keyguard(RateLimit("1/minute", paths=path("/admin"))),
    "when": lambda: Keyguard(RateLimit("1/minute", when=path("/admin"))),
    "limits together": lambda: Keyguard(RateLimit("9/hour"), RateLimit("1/minute", when=path("/admin"))),
    "keys for some paths": lambda: Keyguard(APIKeys(lookup=lookup, paths=["/admin"])),
    "keys by condition": lambda: Keyguard(APIKeys(lookup=lookup, paths=path("/admin"))),
    "scopes": lambda: Keyguard(
        APIKeys(lookup=lookup, optional=True, scopes=lambda r: ["admin"] if path("/admin")(r) else None)
    ),
}
OPENING: dict[str, Make] = {
    "public": lambda: Keyguard(APIKeys(lookup=lookup, public=["/public/*", "/health"])),
    "public by condition": lambda: Keyguard(APIKeys(lookup=lookup, public=path("/public/*", "/health"))),
    "exempt": lambda: Keyguard(RateLimit("1/minute", exempt=path("/public/*"))),
}


@pytest.mark.parametrize("target", LEADS_TO_ADMIN)
@pytest.mark.parametrize("rule", CLOSING)
def test_a_closing_rule_is_not_led_past(rule: str, target: str) -> None:
    assert both(CLOSING[rule], Ask(target), with_key(target)) == [400, 400]


@pytest.mark.parametrize("target", [target for target in LEADS_TO_ADMIN if target.startswith("/public")])
@pytest.mark.parametrize("rule", OPENING)
def test_an_opening_rule_opens_nothing_else(rule: str, target: str) -> None:
    assert both(OPENING[rule], Ask(target)) == [400]


@pytest.mark.parametrize("rule", [*CLOSING, *OPENING])
@pytest.mark.parametrize("target", ["/pkg/@scope%2fname", "/pkg//x", "/a%255fb", "/q/100%2525", "/a;v=1/b", "/a%5cb"])
def test_an_ambiguous_path_that_no_rule_is_about_is_no_bad_request(rule: str, target: str) -> None:
    make = (CLOSING | OPENING)[rule]
    statuses = both(make, with_key(target))
    assert statuses == [200]


def test_a_scoped_package_is_served_though_another_route_has_a_limit() -> None:
    def make() -> Keyguard:
        limit = RateLimit("1/minute", by="key", paths=["/login", "/items/{id}"], methods=["POST"])
        return Keyguard(APIKeys(lookup=lookup, public=["/", "/health", "/docs/*"]), limit)

    package = with_key("/pkg/@scope%2fname")
    assert both(make, package, package, Ask("/pkg/@scope%2fname"), Ask("/docs%2fx"), Ask("/")) == [
        *(200, 200, 401, 400, 200)
    ]


def test_a_rule_for_every_path_is_about_every_reading_of_it() -> None:
    target = "/a%2fb//c%252e"
    assert both(lambda: Keyguard(RateLimit("1/minute", paths=["/*"])), Ask(target), Ask(target)) == [200, 429]
    assert both(lambda: Keyguard(APIKeys(public=["/*"])), Ask(target)) == [200]
    assert both(lambda: Keyguard(APIKeys(paths=["/*"])), Ask(target)) == [401]


def test_a_query_that_is_encoded_is_no_question_where_it_makes_no_difference() -> None:
    def make() -> Keyguard:
        return Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*", "/c#x"][:1]), APIKeys(public=["/files/*"]))

    assert both(make, Ask("/files/C%23.pdf"), Ask("/files/what%3f"), Ask("/admin/C%23"), Ask("/x%3fadmin")) == [
        *(200, 200, 403, 401)
    ]


# -- exact where it opens, wide where it closes ---------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/items/7", "/items/7/", "/items/"])
def test_what_closes_a_door_is_wide(target: str) -> None:
    rules: list[Make] = [
        lambda: Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/items/{id}"])),
        lambda: Keyguard(APIKeys(paths=["/items/{id}"])),
        lambda: Keyguard(APIKeys(paths=path("/items/{id}"))),
        lambda: Keyguard(RateLimit("1/minute", cost=lambda r: 2, when=path("/items/{id}"))),
        lambda: Keyguard(APIKeys(optional=True, scopes=lambda r: ["x"] if path("/items/{id}")(r) else None)),
    ]
    assert [both(rule, Ask(target))[0] for rule in rules] == [403, 401, 401, 429, 401]
    assert [both(rule, Ask("/items"))[0] for rule in rules] == [200] * 5


@pytest.mark.parametrize("target", ["/health/", "/Health", "/health/x", "/healthy", "/"])
def test_what_opens_a_door_is_exact(target: str) -> None:
    rules: list[Make] = [
        lambda: Keyguard(APIKeys(public=["/health", "/h/{x}"])),
        lambda: Keyguard(APIKeys(public=path("/health", ignore_case=True))),
        lambda: Keyguard(RateLimit("1/minute", exempt=path("/health"))),
    ]
    assert [both(rule, Ask(target), Ask(target))[-1] for rule in rules] == [401, 401, 429]
    assert [both(rule, Ask("/health"), Ask("/health"))[-1] for rule in rules] == [200] * 3


def test_a_router_that_ignores_case_is_followed_by_what_closes() -> None:
    rules: list[Make] = [
        lambda: Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/Admin/*"], ignore_case=True)),
        lambda: Keyguard(APIKeys(paths=["/Admin/*"], ignore_case=True)),
        lambda: Keyguard(APIKeys(paths=path("/Admin/*", ignore_case=True))),
        lambda: Keyguard(RateLimit("1/minute", cost=lambda r: 2, paths=["/Admin/*"], ignore_case=True)),
    ]
    assert [both(rule, Ask("/aDmIn/x"))[0] for rule in rules] == [403, 401, 401, 429]
    assert [both(rule, Ask("/x%2fADMIN"))[0] for rule in rules] == [400] * 4


def test_only_some_paths_need_a_key() -> None:
    def make() -> Keyguard:
        keys = APIKeys(lookup=lookup, paths=["/api/*"], public=["/api/health"])
        return Keyguard(keys, RateLimit("2/minute", by="key"))

    assert both(make, Ask("/"), Ask("/api"), Ask("/api/x"), with_key("/api/x"), Ask("/api/health")) == [
        *(200, 401, 401, 200, 200)
    ]
    assert both(make, Ask("/"), Ask("/api/health"), Ask("/x"), with_key("/api")) == [200, 200, 429, 200]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: path(), "empty"),
        (lambda: path("admin"), "begins with '/'"),
        (lambda: path("/x", ignore_case="yes"), "ignore_case is True or False"),  # type: ignore[arg-type]
        (lambda: IPFilter(deny=["10.0.0.1"], ignore_case=True), "ignore_case is about paths"),
        (lambda: RateLimit("1/minute", ignore_case=True), "ignore_case is about paths"),
        (lambda: APIKeys(ignore_case=True), "ignore_case is about paths"),
        (lambda: APIKeys(paths=[]), "empty"),
        (lambda: APIKeys(paths=5), "are a list"),  # type: ignore[arg-type]
        (lambda: RateLimit("1/minute", paths=[path("/x")]), "is not a path pattern"),  # type: ignore[list-item]
    ],
)
def test_a_wrong_setting_of_paths_does_not_start(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


# -- functions that read the path -------------------------------------------------------------------------------------


def is_admin(request: Request) -> bool:
    return request.path.startswith("/admin")


async def is_admin_later(request: Request) -> bool:
    await asyncio.sleep(0)
    return request.path.startswith("/admin")


def guarding(request: Request) -> Response | None:
    return Response(403, [], b"") if is_admin(request) else None


async def surrounding(request: Request, forward: Forward) -> Response:
    return Response(403, [], b"") if is_admin(request) else await forward(request)


FUNCTIONS: dict[str, Make] = {
    "scopes": lambda: Keyguard(APIKeys(lookup=lookup, scopes=lambda r: ["admin"] if is_admin(r) else None)),
    "scopes without a key": lambda: Keyguard(APIKeys(optional=True, scopes=lambda r: ["admin"] if is_admin(r) else [])),
    "when": lambda: Keyguard(RateLimit("1/hour", when=is_admin)),
    "exempt": lambda: Keyguard(RateLimit("1/hour", exempt=lambda r: r.path == "/health")),
    "by": lambda: Keyguard(RateLimit("1/hour", by=lambda r: r.path)),
    "cost": lambda: Keyguard(RateLimit("9/hour", cost=lambda r: 9 if is_admin(r) else 1)),
    "rates": lambda: Keyguard(RateLimit(lambda r: "1/hour" if is_admin(r) else "5/hour")),
    "one of limits together": lambda: Keyguard(RateLimit("9/hour"), RateLimit("1/hour", when=is_admin)),
    "a cache's when": lambda: Keyguard(ResponseCache(ttl=9, when=is_admin)),
    "a plain guard": lambda: Keyguard(guarding),
    "a guard around the app": lambda: Keyguard(surrounding),
    "a plain guard between others": lambda: Keyguard(RateLimit("9/hour"), guarding, ResponseCache()),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("target", ["//admin/users", "/admin%2fusers", "/x/../admin", "/%2561dmin", "/pkg/@scope%2fx"])
def test_a_function_that_reads_an_ambiguous_path_gets_no_answer(function: str, target: str) -> None:
    ask = with_key(target, "reader") if function == "scopes" else Ask(target)
    assert both(FUNCTIONS[function], ask) == [400]


def test_an_async_function_gets_none_either() -> None:
    app = Keyguard(RateLimit("1/hour", when=is_admin_later)).asgi(asgi_app)
    assert [ask_asgi(app, Ask(target)).status for target in ("/admin", "/admin", "//admin")] == [200, 429, 400]


def test_functions_that_do_not_read_the_path_are_not_concerned() -> None:
    def make() -> Keyguard:
        return Keyguard(
            RateLimit(
                "9/hour", by=lambda r: r.method, cost=lambda r: len(r.raw_query) or 1, exempt=lambda r: r.ambiguous
            ),
            APIKeys(lookup=lookup, scopes=lambda r: ["admin"] if (r.raw_path or b"").startswith(b"/admin") else None),
        )

    assert both(make, with_key("/pkg/@scope%2fname"), with_key("//admin"), with_key("/admin")) == [200, 200, 403]


def test_once_the_app_has_run_the_path_is_for_the_log() -> None:
    seen: list[str] = []

    async def noting(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        seen.append(request.path)
        return response

    assert both(lambda: Keyguard(noting), Ask("/a//b"), Ask("/a%2fb")) == [200, 200]
    assert seen == ["/a//b", "/a/b"] * 2


def test_a_guard_may_have_an_answer_of_its_own() -> None:
    def own(request: Request) -> Response | None:
        try:
            return guarding(request)
        except AmbiguousPath:
            return Response(404, [], b"")

    assert both(lambda: Keyguard(own), Ask("//admin"), Ask("/admin"), Ask("/x")) == [404, 403, 200]


def test_it_is_a_refusal_like_others(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "keyguard")
    answer: Answer = ask_wsgi(Keyguard(RateLimit("1/hour", when=is_admin)).wsgi(wsgi_app), Ask("//admin"))
    assert b'"cause": "request"' in answer.body
    assert "reason=ambiguous-path" in caplog.text
    assert "Traceback" not in caplog.text


def test_the_cache_lets_pass_what_it_cannot_read() -> None:
    """It is a help, and no decision: what only opens a door stays shut."""
    app = Keyguard(ResponseCache(ttl=9, when=path("/products/*"))).wsgi(wsgi_app)
    answers = [ask_wsgi(app, Ask(target)) for target in ("/products/1", "/products//1", "/products/..%2fx")]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.get("cache-status") for answer in answers][1:] == ["keyguard; fwd=bypass"] * 2
