"""What a response tells of limits: of several in one stack, of several layers, and of the app's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, Identity, IPFilter, Keyguard, RateLimit, credits, quota, smooth
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

KEYED = Ask(headers=(("X-API-Key", "k"),))
NAMES = ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")


def lookup(key: str) -> Identity | None:
    return Identity(key)


def apps(status: int, *fields: tuple[str, str]) -> tuple[Any, Any]:
    """An app that answers with a status and fields, in both worlds."""

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raw = [(name.lower().encode(), value.encode()) for name, value in (*fields, ("Content-Length", "0"))]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body"})

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response(f"{status} Answer", [*fields, ("Content-Length", "0"), ("Content-Type", "text/plain")])
        return []

    return asgi, wsgi


def told(answer: Answer) -> tuple[str | None, ...]:
    return tuple(answer.get(name) for name in NAMES)


def stacked(limits: list[RateLimit], layered: bool, world: str, app: Any) -> Any:
    """The limits, outermost first, with other guards between: in one stack, or each in a layer of its own."""
    clock = ManualClock()
    options: dict[str, Any] = {"store": MemoryStore(clock=clock), "clock": clock}
    between = IPFilter(deny=["10.0.0.1"])
    if not layered:
        guards = [guard for limit in limits for guard in (limit, between)]
        return getattr(Keyguard(APIKeys(lookup=lookup), *guards, **options), world)(app)
    for limit in reversed(limits):
        app = getattr(Keyguard(APIKeys(lookup=lookup), limit, **options), world)(app)
    return app


def of(rate: str, **options: Any) -> RateLimit:
    return RateLimit(rate, **{"headers": "x-ratelimit", "name": rate.replace("/", " "), **options})


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (["100/minute", "3/minute"], [("3", "2", "60"), ("3", "1", "60"), ("3", "0", "60")]),
        (["3/minute", "100/minute"], [("3", "2", "60"), ("3", "1", "60"), ("3", "0", "60")]),
        (["100/minute", "3/hour", "50/day"], [("3", "2", "3600"), ("3", "1", "3600"), ("3", "0", "3600")]),
        (["4/minute", "4/hour"], [("4", "3", "3600"), ("4", "2", "3600"), ("4", "1", "3600")]),
        (["4/hour", "4/minute"], [("4", "3", "3600"), ("4", "2", "3600"), ("4", "1", "3600")]),
    ],
)
def test_the_older_fields_tell_of_the_limit_with_least_left(
    rates: list[str], expected: list[tuple[str, ...]], world: str, layered: bool
) -> None:
    asgi, wsgi = apps(200)
    app = stacked([of(rate) for rate in rates], layered, world, asgi if world == "asgi" else wsgi)
    ask = ask_asgi if world == "asgi" else ask_wsgi
    assert [told(ask(app, KEYED)) for _ in expected] == expected


@pytest.mark.parametrize("layered", [False, True])
@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_refusal_tells_of_the_limit_that_refused(world: str, layered: bool) -> None:
    asgi, wsgi = apps(200)
    ask = ask_asgi if world == "asgi" else ask_wsgi
    for rates in (["9/minute", "1/hour"], ["1/hour", "9/minute"]):
        app = stacked([of(rate) for rate in rates], layered, world, asgi if world == "asgi" else wsgi)
        answers = [ask(app, KEYED) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert told(answers[1]) == ("1", "0", "3600")


@pytest.mark.parametrize(
    ("limits", "draft", "older"),
    [
        (["10/hour"], '"a:10/hour";r=7;t=3600', ("10", "7", "3600")),
        (["40/hour"], '"a:40/hour";r=37;t=3713', ("40", "37", "3713")),
        ([smooth("10/hour", burst=8)], '"a:10/hour smooth";r=5;t=360', ("10", "5", "360")),
        ([quota("10/day")], '"a:10/day";r=7;t=57600', ("10", "7", "57600")),
        ([credits(10, refill=quota("10/day"))], '"a:10 credits";r=7;t=57600', ("10", "7", "57600")),
        ([credits(10)], '"a:10 credits";r=7', ("10", "7", None)),
        (["90/hour", "10/day"], '"a:90/hour";r=87;t=3713, "a:10/day";r=7;t=86400', ("10", "7", "86400")),
    ],
)
def test_a_cost_above_all_that_is_ever_admitted_leaves_what_is_left(
    limits: list[Any], draft: str, older: tuple[str | None, ...]
) -> None:
    """Nobody may read out of `r=0;t=0` that it is worth another try at once."""
    clock = ManualClock()
    limit = RateLimit(
        *limits, by="key", name="a", cost=lambda r: int(r.query["cost"]), headers=["draft-11", "x-ratelimit"]
    )
    guard = Keyguard(APIKeys(lookup=lookup), limit, store=MemoryStore(clock=clock), clock=clock)
    app = guard.wsgi(apps(200)[1])
    answers = [ask_wsgi(app, Ask(f"/?cost={cost}", headers=KEYED.headers)) for cost in (3, 100)]
    assert [(answer.status, answer.get("retry-after")) for answer in answers] == [(200, None), (429, None)]
    assert [answer.get("ratelimit") for answer in answers] == [draft] * 2
    assert [told(answer) for answer in answers] == [older] * 2


def test_only_the_limits_that_are_told_of_count() -> None:
    guard = Keyguard(of("9/minute"), IPFilter(deny=["10.0.0.1"]), of("2/minute", headers="draft-11"))
    answer = ask_wsgi(guard.wsgi(apps(200)[1]), Ask())
    assert told(answer) == ("9", "8", "60")
    assert answer.get("ratelimit") == '"2 minute:2/minute";r=1;t=60'


OWN = (("X-RateLimit-Limit", "50"), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1700000000"))


@pytest.mark.parametrize("profile", ["x-ratelimit", "draft-11", ("draft-11", "x-ratelimit")])
def test_a_429_of_the_app_s_own_is_left_alone(profile: Any) -> None:
    fields = (*OWN, ("RateLimit", '"mine";r=0;t=9'), ("RateLimit-Policy", '"mine";q=50'), ("Retry-After", "9"))
    asgi, wsgi = apps(429, *fields)
    for own in (fields, ()):
        asgi, wsgi = apps(429, *own)
        guard = Keyguard(RateLimit("3/minute", headers=profile), IPFilter(deny=["10.0.0.1"]), of("9/hour"))
        for answer in (ask_asgi(guard.asgi(asgi), Ask()), ask_wsgi(guard.wsgi(wsgi), Ask())):
            assert sorted(answer.headers) == sorted(
                [
                    *[(name.lower(), value) for name, value in own],
                    *[
                        ("content-length", "0"),
                        *[("content-type", "text/plain")] * ("content-type" in dict(answer.headers)),
                    ],
                ]
            )


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        # The app's own limit has less left, or more.
        ([("X-RateLimit-Limit", "50"), ("X-RateLimit-Remaining", "1"), ("X-RateLimit-Reset", "9")], ("50", "1", "9")),
        ([("X-RateLimit-Limit", "50"), ("X-RateLimit-Remaining", "40"), ("X-RateLimit-Reset", "9")], ("5", "4", "60")),
        # What nobody can compare.
        (
            [("X-RateLimit-Limit", "50"), ("X-RateLimit-Remaining", "a few"), ("X-RateLimit-Reset", "9")],
            ("5", "4", "60"),
        ),
        ([("X-RateLimit-Remaining", "1")], ("5", "4", "60")),
    ],
)
def test_other_answers_tell_of_the_app_s_own_limit_if_it_has_less_left(own: Any, expected: tuple[str, ...]) -> None:
    asgi, wsgi = apps(200, *own)
    one, other = Keyguard(of("5/minute")), Keyguard(of("5/minute"))
    for answer in (ask_asgi(one.asgi(asgi), Ask()), ask_wsgi(other.wsgi(wsgi), Ask())):
        assert told(answer) == expected
        assert all(len(answer.all(name)) == 1 for name in NAMES)


def test_the_newer_fields_are_lists_and_tell_of_all() -> None:
    asgi, wsgi = apps(200, ("RateLimit", '"mine";r=7;t=9'), ("RateLimit-Policy", '"mine";q=50;w=60'))
    one, other = (Keyguard(RateLimit("5/minute"), IPFilter(deny=["10.0.0.1"]), RateLimit("9/hour")) for _ in range(2))
    for answer in (ask_asgi(one.asgi(asgi), Ask()), ask_wsgi(other.wsgi(wsgi), Ask())):
        left = ", ".join(answer.all("ratelimit"))
        assert left == '"mine";r=7;t=9, "ip:9/hour";r=8;t=3600, "ip:5/minute";r=4;t=60'


def test_single_classes_tell_of_the_least_too() -> None:
    asgi, wsgi = apps(200)
    store = MemoryStore()
    tight: dict[str, Any] = {"headers": "x-ratelimit", "store": store, "name": "tight"}
    wide: dict[str, Any] = {"headers": "x-ratelimit", "store": store, "name": "wide"}
    app = keyguard.asgi.RateLimit(keyguard.asgi.RateLimit(asgi, "2/minute", **tight), "9/minute", **wide)
    assert told(ask_asgi(app, Ask()))[:2] == ("2", "1")
    wsgi_app = keyguard.wsgi.RateLimit(keyguard.wsgi.RateLimit(wsgi, "2/minute", **tight), "9/minute", **wide)
    assert told(ask_wsgi(wsgi_app, Ask()))[:2] == ("2", "0")
