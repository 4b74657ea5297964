"""Whoever sends a long field has nobody wait: readers do little work, and it is known what becomes of the rest."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from keyguard.guards.cache.serving import etag_listed
from keyguard.http.cache_control import parse_cache_control
from keyguard.http.forwarding import ClientAddress
from keyguard.http.paths import ambiguous
from keyguard.keys.credentials import Sources
from tests.support import long_fields
from tests.support.cache_site import Site, get, ok
from tests.support.harness import Ask

SIZE = 1_000_000


def work(run: Callable[[], Any]) -> int:
    """How many lines and calls a function takes, those of C included: the same at any load of the machine."""
    count = 0

    def counting(frame: Any, event: str, arg: Any) -> Any:
        nonlocal count
        count += 1
        return counting

    def profiling(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "c_call"

    sys.settrace(counting)
    sys.setprofile(profiling)
    try:
        run()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("field", long_fields.FIELDS)
def test_a_megabyte_of_any_field_is_little_work(field: str) -> None:
    """605 ms stood all still for a `Cache-Control` of commas: at most eight times what an unknown field takes."""
    with asyncio.Runner() as runner:
        apps = long_fields.stacks(field)

        def asked(app: Any, field: str, value: str) -> int:
            scope = long_fields.scope_with(field, value)
            return work(lambda: runner.run(long_fields.ask(app, scope)))

        for app in apps:  # what is done but once
            asked(app, "x-unknown", "a")
            asked(app, field, "a")
        usual = min(asked(app, "x-unknown", "a" * SIZE) for app in apps)
        worst = max((asked(app, field, value), value[:20]) for value in long_fields.values(SIZE) for app in apps)
    assert worst[0] <= 8 * usual, worst


@pytest.mark.slow
@pytest.mark.parametrize("size", [2_000, 16_000])
@pytest.mark.parametrize("field", ["cache-control", "forwarded", "authorization", "x-api-key", "cookie", "QUERY"])
def test_nor_is_what_servers_let_pass(field: str, size: int) -> None:
    """Most take heads of 8 to 64 KB."""
    with asyncio.Runner() as runner:
        for app in long_fields.stacks(field):

            def asked(field: str, value: str, app: Any = app) -> int:
                scope = long_fields.scope_with(field, value)
                return work(lambda: runner.run(long_fields.ask(app, scope)))

            asked("x-unknown", "a"), asked(field, "a")
            usual = asked("x-unknown", "a" * size)
            assert max(asked(field, value) for value in long_fields.values(size)) <= 8 * usual


# -- what is made of the rest -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["max-age=60," * 400, "a," * 65, "max-age=60" + " " * 4096])
def test_a_cache_control_that_is_not_read_says_no_store(text: str) -> None:
    assert parse_cache_control([text]) == {"no-store": None}
    assert parse_cache_control([text[:40]]) != {"no-store": None}


def test_a_long_cache_control_passes_by_the_cache() -> None:
    site = Site("asgi")
    site.reply = ok("max-age=60")
    long = get("/", ("Cache-Control", "a," * 3000))
    assert [site.ask(ask).get("cache-status") for ask in (get("/"), long, get("/"))] == [
        "keyguard; fwd=uri-miss; stored",
        "keyguard; fwd=request",
        "keyguard; hit; ttl=60",
    ]
    site.close()


class Head:
    """As much of a request as places of keys are read from."""

    def __init__(self, ask: Ask) -> None:
        self.fields = {name.decode(): value.decode() for name, value in ask.fields()}
        self.raw_query = ask.target.partition("?")[2].encode()

    def header(self, name: str) -> str | None:
        return self.fields.get(name)


def keys(source: str, ask: Ask) -> set[str]:
    head: Any = Head(ask)
    return Sources([source]).read(head)


@pytest.mark.parametrize(
    ("source", "ask"),
    [
        ("authorization", get("/", ("Authorization", "a," * 20 + "Bearer right"))),
        ("authorization", get("/", ("Authorization", "Bearer right" + ",a" * 20))),
        ("x-api-key", get("/", ("X-API-Key", "right" + "," * 20))),
        ("x-api-key", get("/", ("X-API-Key", "," * 20 + "right"))),
        ("cookie:sid", get("/", ("Cookie", "a=b; " * 5000 + "sid=right"))),
        ("cookie:sid", get("/", ("Cookie", "sid=right" + "; a=b" * 5000))),
        ("query:key", get("/?" + "a=b&" * 5000 + "key=right")),
        ("query:key", get("/?key=right" + "&a=b" * 5000)),
    ],
)
def test_what_is_not_looked_at_counts_as_a_wrong_key(source: str, ask: Ask) -> None:
    """Neither a key that is hidden behind it nor one before it opens anything."""
    assert keys(source, ask) != {"right"}
    assert keys(source, ask)


@pytest.mark.parametrize(
    "ask",
    [
        get("/?key=a"),
        get("/?b=c&key=a&d"),
        get("/?%6bey=%61"),
        get("/?%6Bey=a&x"),
        get("/?xkey=b&key=a"),
        get("/?k%65y=a"),
    ],
)
def test_keys_in_the_query_are_found_however_they_are_written(ask: Ask) -> None:
    assert keys("query:key", ask) == {"a"}


@pytest.mark.parametrize(
    "cookie", ["sid=a", "x=y; sid=a", "x=y;sid = a ;z", 'sid="a"', "x=y, sid=a", "xsid=b; sid=a", "sid=a; sidx=b"]
)
def test_cookies_are_found_however_they_are_written(cookie: str) -> None:
    assert keys("cookie:sid", get("/", ("Cookie", cookie))) == {"a"}


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("for=8.8.8.8, for=127.0.0.2", "8.8.8.8"),
        ('for=8.8.8.8, for="' + "x" * 2000, None),
        ("for=8.8.8.8" + ", for=127.0.0.2" * 300, None),
        ("x" * 5000 + ", for=8.8.8.8, for=127.0.0.2", "8.8.8.8"),
    ],
)
def test_a_forwarded_that_is_not_read_hides_the_client(value: str, client: str | None) -> None:
    found = ClientAddress(["127.0.0.0/8"], "forwarded").find("127.0.0.1", lambda name: value)
    assert (None if found is None else found.text) == client


def test_others() -> None:
    assert etag_listed('"a", "b"', '"b"')
    assert not etag_listed('"a",' * 300 + '"b"', '"b"')
    assert ambiguous("/" + "a" * 20_000, None)
    assert not ambiguous("/" + "a" * 10_000, None)
