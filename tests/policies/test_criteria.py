"""Criteria: each checked when it is made, and all of them together against a naive evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any

import pytest

from keyguard import AmbiguousPath, APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, Request, Response
from keyguard.conditions import PathIndex
from keyguard.policies import (
    Condition,
    Policy,
    all_of,
    first_match,
    header,
    ip,
    method,
    path,
    plan,
    query,
    scope,
    time,
)
from keyguard.testing import ManualClock, play
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

# -- what does not start ------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no path": (lambda: path(), "empty"),
    "no pattern": (lambda: path("v1"), "begins with '/'"),
    "an ambiguous pattern": (lambda: path("/v1//x"), "without '//'"),
    "a wildcard in the middle": (lambda: path("/*/x"), "the last segment"),
    "no method": (lambda: method(), "would hold for nothing"),
    "a method in small letters": (lambda: method("post"), "written in capitals"),
    "no network": (lambda: ip(), "would hold for nothing"),
    "a network that is none": (lambda: ip("10.0.0.0/33"), "at most 32"),
    "a network with bits behind": (lambda: ip("10.0.0.1/8"), "did you mean '10.0.0.0/8'"),
    "a list of networks": (lambda: ip(["10.0.0.0/8"]), "takes texts"),  # type: ignore[arg-type]
    "no plan": (lambda: plan(), "would hold for nothing"),
    "a plan that is none": (lambda: plan(""), "printable text"),
    "a scope that is none": (lambda: scope("a\n"), "printable text"),
    "no hours": (lambda: time("9-17"), "such as '09:00-17:00'"),
    "hours that are none": (lambda: time("09:00-25:00"), "such as '09:00-17:00'"),
    "hours behind the day": (lambda: time("09:00-24:30"), "ends at 24:00"),
    "the whole day": (lambda: time("00:00-24:00"), "whole day"),
    "no zone": (lambda: time("09:00-17:00", tz="Mars/Olympus"), "not a time zone"),
    "a zone out of the file system": (lambda: time("09:00-17:00", tz="../../etc/passwd"), "not a time zone"),
    "a header that is none": (lambda: header("x tenant"), "name of a header field"),
    "a header with an underscore": (lambda: header("x_tenant"), "write 'x-tenant'"),
    "a value no header has": (lambda: header("x-tenant", " acme"), "would never hold"),
    "a parameter that is none": (lambda: query(""), "name of a parameter"),
    "a value that is no text": (lambda: query("page", 1), "values as texts"),  # type: ignore[arg-type]
    "a function without a request": (lambda: path("/a") & (lambda: True), "cannot be"),  # type: ignore[operator]
    "what is no condition": (lambda: path("/a") & "POST", "not 'POST'"),  # type: ignore[operator]
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_criteria_do_not_start(name: str) -> None:
    make, why = WRONG[name]
    with pytest.raises(ConfigurationError, match=why):
        make()


def test_a_function_that_must_be_awaited_is_no_criterion() -> None:
    async def slow(request: Request) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="awaited"):
        path("/a") & slow


def test_and_or_not_of_python_are_an_error_not_a_trap() -> None:
    with pytest.raises(TypeError, match="&"):
        bool(path("/a") and method("POST"))
    with pytest.raises(TypeError, match="&"):
        bool(not path("/a"))


def test_criteria_say_in_words_what_they_are() -> None:
    condition = path("/v1/*") & (method("POST") | plan("free")) & ~ip("10.0.0.0/8") & time("22:00-06:00")
    assert repr(condition) == (
        "path('/v1/*') & (method('POST') | plan('free')) & ~ip('10.0.0.0/8') & time('22:00-06:00', tz='UTC')"
    )
    assert repr(~(path("/a") | header("x-tenant", "acme"))) == "~(path('/a') | header('x-tenant', 'acme'))"
    assert repr(~~query("page")) == "query('page')"


def test_criteria_serve_as_settings_of_guards_too() -> None:
    limit = RateLimit("1/minute", when=path("/a") & method("POST"))
    other = RateLimit("1/minute", when=path("/b") & method("POST"), name="b")
    assert limit.counter != RateLimit("1/minute", when=path("/b") & method("POST")).counter
    guard = Keyguard(limit, other, store="memory://")
    assert [play(guard, "/a", method="POST").status for _ in range(2)] == [200, 429]
    assert [play(guard, "/b", method="POST").status for _ in range(2)] == [200, 429]
    assert play(guard, "/a").status == 200


def test_criteria_of_the_caller_need_one() -> None:
    with pytest.raises(ConfigurationError, match="identity"):
        Keyguard(RateLimit("1/minute", when=~plan("pro")), store="memory://")
    with pytest.raises(ConfigurationError, match="identity"):
        Keyguard(all_of(Policy("writers", when=scope("write"), then=[RateLimit("1/minute")])), store="memory://")


# -- one by one ---------------------------------------------------------------------------------------------------


def holds(condition: Condition, target: str = "/", *, clock: ManualClock | None = None, **more: Any) -> bool:
    """Whether a policy with this condition refuses a request, in both worlds."""

    def teapot(request: Request) -> Response:
        return Response(418)

    def made() -> Keyguard:
        return Keyguard(Policy("p", when=condition, then=[teapot]), store="memory://", clock=clock)

    ask = Ask(target, **more)
    one, other = ask_asgi(made().asgi(asgi_app), ask), ask_wsgi(made().wsgi(wsgi_app), ask)
    assert one.status == other.status in (200, 418)
    return one.status == 418


def test_hours_of_a_day() -> None:
    clock = ManualClock(datetime(2026, 3, 28, 8, 59, 59, tzinfo=UTC))
    condition = time("09:00-17:00", tz="UTC")
    assert not holds(condition, clock=clock)
    clock.advance("1 second")
    assert holds(condition, clock=clock)
    clock.advance("7h 59m")
    assert holds(condition, clock=clock)
    clock.advance("1 minute")
    assert not holds(condition, clock=clock)
    assert holds(time("17:00-24:00"), clock=clock)
    assert holds(time("17:00-09:00"), clock=clock)
    assert holds(time("18:00-19:00", tz="Europe/Berlin"), clock=clock)
    clock.advance("1 day")  # over the change of clocks in Berlin
    assert holds(time("19:00-20:00", tz="Europe/Berlin"), clock=clock)
    assert not holds(time("18:00-19:00", tz="Europe/Berlin"), clock=clock)


def test_a_field_sent_twice_closes_by_any_of_its_values() -> None:
    twice = (("X-Tenant", "acme"), ("X-Tenant", "other"))
    assert holds(header("x-tenant", "acme"), headers=twice)
    assert holds(header("X-Tenant"), headers=twice)
    assert not holds(header("x-tenant", "acm"), headers=twice)
    assert holds(~header("x-tenant", "acme"), headers=twice)  # and it does not open by one of them


def test_a_parameter_sent_twice_closes_by_any_of_its_values() -> None:
    assert holds(query("format", "csv"), "/?format=json&format=csv")
    assert holds(~query("format", "csv"), "/?format=json&format=csv")
    assert not holds(~query("format", "csv"), "/?format=csv&format=csv")
    assert not holds(query("format", "csv"), "/")


def test_a_semicolon_in_the_query_closes_by_either_way_of_reading_it() -> None:
    csv = query("format", "csv")
    for closes in ("/?format=csv;x=1", "/?x=1;format=csv", "/?x=1;format=json;format=csv", "/?format=csv"):
        assert holds(csv, closes)  # Bottle takes it for `&`, Django and Starlette do not
        assert holds(query("format"), closes)
    for closed in ("/?format=csv;x=1", "/?x=1;format=csv", "/?format=csv;format=json", "/?format=csv&x=1;format=json"):
        assert holds(~csv, closed)  # only what every app reads as `csv` opens
    assert not holds(~csv, "/?format=csv&x=1;2")
    assert not holds(csv, "/?format=json;x=1")


def test_a_method_that_is_unknown_or_overridden_falls_under_the_strictest_rule() -> None:
    assert holds(method("POST"), method="PURGE")
    assert holds(~method("POST"), method="PURGE")
    override = (("X-HTTP-Method-Override", "DELETE"),)
    assert holds(method("DELETE"), method="POST", headers=override)
    assert holds(~method("POST"), method="POST", headers=override)
    assert holds(method("GET"), method="HEAD")
    assert holds(method("GET"), method="get")  # which HTTP does not define


def test_an_unknown_address_is_in_no_network() -> None:
    assert not holds(ip("0.0.0.0/1", "128.0.0.0/1"), client=None)
    assert holds(~ip("10.0.0.0/8"), client=None)
    assert holds(ip("198.51.100.0/24"), client="::ffff:198.51.100.1")


# -- all of them, against a naive evaluation ----------------------------------------------------------------------


@dataclass(frozen=True)
class Naive:
    """A criterion, and what it says of a request, the way in which it is read given."""

    condition: Condition
    says: Callable[[Ask, bool], bool]


PATHS = ["/v1/a", "/v1/a/b", "/v1", "/v2/a", "/", "/v2/a/b"]
METHODS = ["GET", "POST", "PUT", "PURGE"]
CLIENTS = ["10.1.2.3", "192.0.2.9", "2001:db8::1"]
KEYS = {"free": Identity("f", plan="free", scopes=frozenset({"read"})), "pro": Identity("p", plan="pro")}
HOUR = 10


def _path(pattern: str) -> Naive:
    def says(ask: Ask, wide: bool) -> bool:
        asked, wanted = ask.target.partition("?")[0].split("/"), pattern.split("/")
        if wanted[-1] == "*":
            asked, wanted = asked[: len(wanted) - 1], wanted[:-1]
        pairs = zip(asked, wanted, strict=False)
        return len(asked) == len(wanted) and all(one == other or other == "{x}" != one != "" for one, other in pairs)

    return Naive(path(pattern), says)


def _method(name: str) -> Naive:
    return Naive(method(name), lambda ask, wide: ask.method == name or (wide and ask.method == "PURGE"))


def _ip(network: str) -> Naive:
    return Naive(ip(network), lambda ask, wide: ip_address(str(ask.client)) in ip_network(network))


def _sent(ask: Ask, name: str) -> str:
    return {str(key): str(value) for key, value in ask.headers}.get(name, "")


LEAVES = [
    *map(_path, ["/v1/*", "/v1/{x}", "/v2/a", "/*", "/v2/{x}/b"]),
    *map(_method, ["POST", "PUT"]),
    *map(_ip, ["10.0.0.0/8", "2001:db8::/32"]),
    Naive(plan("free"), lambda ask, wide: _sent(ask, "X-API-Key") == "free"),
    Naive(scope("read"), lambda ask, wide: _sent(ask, "X-API-Key") == "free"),
    Naive(time("09:00-12:00"), lambda ask, wide: True),
    Naive(time("23:00-09:00"), lambda ask, wide: False),
    Naive(header("x-tenant", "acme"), lambda ask, wide: _sent(ask, "X-Tenant") == "acme"),
    Naive(query("q", "1"), lambda ask, wide: ask.target.endswith("?q=1")),
]


def _both(one: Naive, other: Naive) -> Naive:
    return Naive(one.condition & other.condition, lambda ask, wide: one.says(ask, wide) and other.says(ask, wide))


def _either(one: Naive, other: Naive) -> Naive:
    return Naive(one.condition | other.condition, lambda ask, wide: one.says(ask, wide) or other.says(ask, wide))


def _not(one: Naive) -> Naive:
    return Naive(~one.condition, lambda ask, wide: not one.says(ask, not wide))


def draw(random: Random, depth: int = 3) -> Naive:
    kind = random.choice(["leaf", "both", "either", "not"]) if depth else "leaf"
    if kind == "leaf":
        return random.choice(LEAVES)
    if kind == "not":
        return _not(draw(random, depth - 1))
    return (_both if kind == "both" else _either)(draw(random, depth - 1), draw(random, depth - 1))


def drawn_ask(random: Random) -> Ask:
    fields = [("X-API-Key", random.choice(list(KEYS)))] + [("X-Tenant", "acme")] * random.randrange(2)
    target = random.choice(PATHS) + random.choice(["", "?q=1", "?q=2"])
    return Ask(target, tuple(fields), method=random.choice(METHODS), client=random.choice(CLIENTS))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("first", [True, False])
def test_many_policies_choose_as_a_naive_evaluation_does(first: bool, seed: int) -> None:
    random = Random(f"{first} {seed}")
    drawn = [draw(random) for _ in range(30)]
    asked: list[int] = []

    def noting(number: int) -> Callable[[Request], None]:
        def note(request: Request) -> None:
            asked.append(number)

        return note

    policies = [Policy(f"p{number}", when=one.condition, then=[noting(number)]) for number, one in enumerate(drawn)]
    clock = ManualClock(datetime(2026, 5, 1, HOUR, tzinfo=UTC))
    gate = (first_match if first else all_of)(*policies)
    stack = Keyguard(APIKeys(lookup=KEYS.get), gate, store="memory://", clock=clock)
    asgi, wsgi = stack.asgi(asgi_app), stack.wsgi(wsgi_app)
    for _ in range(40):
        ask = drawn_ask(random)
        expected = []
        for number, one in enumerate(drawn):
            if one.says(ask, True):
                expected.append(number)
                if first and one.says(ask, False):
                    break
        for send, app in ((ask_asgi, asgi), (ask_wsgi, wsgi)):
            asked.clear()
            assert send(app, ask, lint=False).status == 200
            assert asked == expected, ask


ENDS = ["", "/", "//", "/..", "/%2fa", "%3fa", "/..;x/v1", "%23", "%2561"]


@pytest.mark.parametrize("seed", range(4))
def test_an_index_leaves_out_no_condition_that_holds(seed: int) -> None:
    """Whatever a path looks like: odd spellings, slashes at its end, prefixes of an app that is mounted."""
    random = Random(seed)
    words = ["a", "B", "v1", "x y", "é", "K"]
    patterns = [
        "/" + "/".join(random.choices([*words, "{id}"], k=random.randrange(1, 4))) + random.choice(["", "/*", "/"])
        for _ in range(60)
    ]
    conditions = [path(pattern, ignore_case=random.random() < 0.3) for pattern in patterns]
    index = PathIndex(conditions)
    fewer: list[bool] = []

    def matters(condition: Condition, request: Request) -> bool:
        try:
            return condition.closes(request)
        except AmbiguousPath:
            return True

    def check(request: Request) -> None:
        candidates = index.candidates(request)
        assert sorted(candidates) == list(candidates)
        held = {number for number, one in enumerate(conditions) if matters(one, request)}
        assert held <= set(candidates)
        fewer.append(len(candidates) < len(conditions))

    stack = Keyguard(check, store="memory://", root_path=random.choice(["", "/api", False]))
    app = stack.asgi(asgi_app)
    for _ in range(300):
        target = "/" + "/".join(random.choices([*words, words[1].lower(), "V1", "k", "api"], k=random.randrange(4)))
        target = (target + random.choice(ENDS)).replace(" ", "%20").replace("é", "%C3%A9")
        # What a guard raises, an assertion too, is answered with 503.
        assert ask_asgi(app, Ask(target.replace("K", "%E2%84%AA")), lint=False).status == 200
    assert sum(fewer) > 100
