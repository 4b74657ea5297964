"""How much a cache holds and what it lets go of (caching.md 28), what it tells, and what it lets flow (25)."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import ConfigurationError, Keyguard, ResponseCache
from keyguard.guards.cache.entry import Entry, Part
from keyguard.guards.cache.local import LocalCache
from tests.support.cache_site import PAGE, WORLDS, Site, asks, get, ok, served, status

Make = Callable[..., Site]


@pytest.fixture(params=WORLDS)
def site_of(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Site] = []

    def make(**options: Any) -> Site:
        made.append(Site(request.param, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


def entry(size: int = 10, variance: Any = (), part: Part | None = None) -> Entry:
    return Entry(200, (), received=0, age=0, lifetime=60, variance=variance, part=part, body=b"x" * size)


def held(local: LocalCache) -> tuple[int, int]:
    """Bytes and entries, counted one by one."""
    slots = list(local._slots.values())
    return (
        sum(slot.size + sum(each.size for each in slot.entries) for slot in slots),
        sum(len(slot.entries) for slot in slots),
    )


# -- the local cache -------------------------------------------------------------------------------------------------


def test_28_a_hundred_thousand_urls_never_exceed_the_bounds() -> None:
    local = LocalCache(1_000_000, 10**9, 4)
    few = LocalCache(10**9, 100, 4)
    for number in range(100_000):
        key = ("http", f"/{number}")
        made = entry(number % 50)
        made.address = key
        local.put(key, (f"p{number}",), made)
        assert local.bytes <= 1_000_000
        if number % 10 == 0:
            few.put(key, (f"p{number}",), entry())
            assert few.count <= 100
    assert held(local) == (local.bytes, local.count)
    assert held(few) == (few.bytes, few.count)
    assert len(local.plain) == local.count
    assert len(local._by_digest) == local.count
    assert local.evicted == 100_000 - local.count


def test_28_a_child_that_was_forked_amid_a_change_holds_nothing_half() -> None:
    """The thread that was changing it is not there to end that. Nor is who refreshes an entry in the background."""
    local = LocalCache(10**6, 3, 4)
    local.put(("a",), ("p",), made := entry())
    made.refreshing_since = 5
    local.renew()
    assert (made.refreshing_since, local.count, held(local)) == (0, 1, (local.bytes, 1))
    local._lock.acquire()
    local.bytes += 100
    local.renew()
    assert (local.bytes, local.count, held(local), local.plain, local._by_digest) == (0, 0, (0, 0), {}, {})
    assert local.put(("a",), ("p",), entry())


def test_28_what_was_used_least_recently_goes_first() -> None:
    local = LocalCache(10**6, 3, 4)
    for name in "abc":
        local.put((name,), (name,), entry())
    local.get(("a",))
    local.touch(("b",))
    local.put(("d",), ("d",), entry())
    assert list(local._slots) == [("a",), ("b",), ("d",)]
    local.put(("a",), ("a",), entry())
    local.put(("e",), ("e",), entry())
    assert list(local._slots) == [("d",), ("a",), ("e",)]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 30_000), st.booleans()),
        st.tuples(st.sampled_from(["drop", "place", "where", "get"]), st.sampled_from("abc")),
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(steps)
def test_28_whatever_is_done_what_is_counted_is_what_is_held(steps: list[tuple[Any, ...]]) -> None:
    local = LocalCache(65_536, 4, 2)
    for verb, name, *more in steps:
        key, places = (name,), ("p" + name, "everywhere")
        if verb == "put":
            variance, size, part = more
            made = entry(size, (("v", variance),), Part(0, size, True, None) if part else None)
            made.address = (name, variance)
            local.put(key, places, made)
        elif verb == "drop":
            slot = local.get(key)
            if slot is not None:
                local.drop(key, slot.entries[-1])
        elif verb == "place":
            local.drop_uri("p" + name)
        elif verb == "where":
            local.drop_where(lambda each: len(each.body) % 2 == 0)
        else:
            local.get(key)
        assert held(local) == (local.bytes, local.count)
        assert local.bytes <= 65_536
        assert local.count <= 4
        assert all(0 < len(slot.entries) <= 2 for slot in local._slots.values())
        everything = {id(each) for slot in local._slots.values() for each in slot.entries}
        assert {id(each) for each in local.plain.values()} <= everything
        assert set().union(*local._by_digest.values()) == set(local._slots)
    local.drop_uri("everywhere")
    assert (local.bytes, local.count, local.plain, local._by_digest) == (0, 0, {}, {})


def test_28_threads_use_it_together() -> None:
    local = LocalCache(300_000, 10**6, 2)
    failed: list[BaseException] = []

    def use(first: int) -> None:
        try:
            for number in range(3000):
                name = f"{(first * 7 + number) % 60}"
                local.get((name,))
                local.put((name,), ("p" + name, "all"), entry(number % 500))
                local.touch((f"{number % 60}",))
                if number % 100 == 0:
                    local.drop_where(lambda each: len(each.body) % 7 == 0)
                    local.drop_uri("p" + name)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    assert failed == []
    assert held(local) == (local.bytes, local.count)
    assert local.bytes <= 300_000


def test_21_a_purge_by_tag_meets_readers() -> None:
    """Reading moves a key to the end; the purge that walked over them at that moment failed."""
    local = LocalCache(10**8, 10**6, 2)
    for number in range(1000):
        local.put((str(number),), (), entry())
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            for number in range(0, 1000, 7):
                local.get((str(number),))
                local.touch((str(number),))

    readers = [threading.Thread(target=read) for _ in range(3)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for reader in readers:
            reader.start()
        for _ in range(50):
            assert local.drop_where(lambda each: False) == 0
    finally:
        over.set()
        sys.setswitchinterval(before)
        for reader in readers:
            reader.join(60)


# -- the same from outside ----------------------------------------------------------------------------------------


def test_28_a_thousand_variants_of_one_url(site_of: Make) -> None:
    site = site_of(max_variants=8)
    reply = ok("max-age=60", ("Vary", "Foo"))
    for number in range(1000):
        site.reply = reply
        site.ask(get("/", ("Foo", str(number))), lint=False)
    stats = site.cache.stats()
    assert (stats.entries, stats.evicted) == (8, 992)
    site.play(served(get("/", ("Foo", "999"))), served(get("/", ("Foo", "992"))), asks(get("/", ("Foo", "991")), reply))


def test_28_an_entry_larger_than_one_may_be_still_flows(site_of: Make) -> None:
    site = site_of(max_entry_bytes=10, coalesce=0)
    large = b"x" * 11
    site.play(
        asks(PAGE, ok("max-age=60", body=large), body=large, cache_status="keyguard; fwd=uri-miss"),
        asks(PAGE, ok("max-age=60", body=(b"x" * 6, b"x" * 5)), body=large),
        asks(PAGE, ok("max-age=60", body=(b"x" * 6, b"x" * 4)), body=b"x" * 10),
        served(PAGE, b"x" * 10),
    )
    assert "larger than an entry" in site.cache.explain("/").rule or site.cache.explain("/").stored


def test_28_an_entry_larger_than_the_store(site_of: Make) -> None:
    site = site_of(max_bytes=65536)
    site.play(asks(PAGE, ok("max-age=60", body=b"x" * 70_000)), asks(PAGE, ok("max-age=60", body=b"x" * 70_000)))
    assert site.cache.stats().bytes == 0


def test_28_many_urls_from_outside(site_of: Make) -> None:
    site = site_of(max_bytes=200_000)
    site.reply = ok("max-age=60", body=b"x" * 1000)
    for number in range(300):
        site.ask(get(f"/{number}?{'q' * (number % 90)}"), lint=False)
        assert site.cache.stats().bytes <= 200_000
    assert 0 < site.cache.stats().entries < 100


# -- what flows (caching.md 25) -----------------------------------------------------------------------------------


def test_25_it_streams_while_it_stores(site_of: Make) -> None:
    site = site_of()
    parts = (b"one", b"two", b"three")
    answer = site.play(asks(PAGE, ok("max-age=60", body=parts), content_length=None))
    assert [chunk for chunk in answer.chunks if chunk] == list(parts)
    site.play(served(PAGE, b"onetwothree", content_length="11"))


def test_7_half_a_body_is_not_stored(site_of: Make) -> None:
    site = site_of()
    site.reply = ok("max-age=60", body=(b"half",), breaks=True)
    with pytest.raises(Exception, match="after half"):
        site.ask(PAGE, lint=False)
    site.play(asks(PAGE, ok("max-age=60")))
    assert site.closed == (2 if site.world == "wsgi" else 0), "the app's iterables were closed, each once"


@pytest.mark.parametrize("length", ["4", "6", "5, 5", "five"])
def test_7_a_length_that_is_not_the_bodys(site_of: Make, length: str) -> None:
    site = site_of(coalesce=0)
    reply = ok("max-age=60", ("Content-Length", length), body=(b"he", b"llo"))
    for calls in (1, 2):
        site.reply = reply
        site.ask(PAGE, lint=False)
        assert site.calls == calls, site.cache.explain("/")


def test_25_events_are_not_held_back_nor_stored_for_want_of_a_lifetime(site_of: Make) -> None:
    site = site_of(ttl=30)
    events = ok(None, ("Content-Type", "text/event-stream; charset=utf-8"), body=(b"data: 1\n\n", b"data: 2\n\n"))
    site.play(asks(PAGE, events), asks(PAGE, events))


# -- what it tells (caching.md 23, issue 6) -----------------------------------------------------------------------


def test_it_counts(site_of: Make) -> None:
    site = site_of()
    site.play(
        asks(PAGE, ok("max-age=60, stale-if-error=60", ("ETag", '"a"'))),
        served(PAGE),
        asks(PAGE, status(304, "max-age=60, stale-if-error=60", ("ETag", '"a"')), wait=60, status=200),
        asks(PAGE, status(500), wait=61, status=200),
        asks(get("/x"), ok("no-store")),
        asks(get(method="POST"), ok()),
        asks(PAGE, ok("max-age=60")),
    )
    stats = site.cache.stats()
    assert (stats.hits, stats.misses, stats.stale, stats.validated, stats.bypassed) == (1, 5, 1, 1, 1)
    assert (stats.stored, stats.not_stored, stats.invalidated, stats.entries, stats.errors) == (3, 2, 1, 1, 0)
    assert 0 < stats.bytes < stats.max_bytes


def test_it_explains(site_of: Make) -> None:
    site = site_of()
    assert not site.stack.explain("/").stored
    site.play(asks(PAGE, ok("private, max-age=60")))
    for url in ("/", "http://example.test/", "http://EXAMPLE.test:80/"):
        told = site.stack.explain(url)
        assert (told.stored, told.section, told.status) == (False, "RFC 9111, section 5.2.2.7", 200)
        assert str(told) == "not stored: the response says private (RFC 9111, section 5.2.2.7)"
    site.play(asks(PAGE, ok("max-age=60")))
    told = site.stack.explain("/")
    assert (told.stored, told.lifetime) == (True, 60)
    with pytest.raises(ValueError, match="neither a path"):
        site.stack.cache.explain("items")


def test_21_purges(site_of: Make) -> None:
    site = site_of()

    def fill() -> None:
        site.cache.purge_all()
        site.play(
            asks(get("/a"), ok("max-age=60", ("Cache-Tag", "one, two"), ("Vary", "Foo"))),
            asks(get("/a", ("Foo", "1")), ok("max-age=60", ("Surrogate-Key", "two three"), ("Vary", "Foo"))),
            asks(get("/b?c=1"), ok("max-age=60")),
        )

    def left() -> list[str]:
        names = []
        for name, ask in (("a", get("/a")), ("foo", get("/a", ("Foo", "1"))), ("b", get("/b?c=1"))):
            site.reply, before = ok("no-store"), site.calls
            only = get(ask.target, *ask.headers, ("Cache-Control", "only-if-cached"))
            if site.ask(only).status == 200:
                names.append(name)
            assert site.calls == before
        return names

    for purge, remain in (
        (lambda: site.cache.purge("/a"), ["b"]),
        (lambda: site.cache.purge("http://example.test/a"), ["b"]),
        (lambda: site.cache.purge("https://example.test:443/a"), ["b"]),
        (lambda: site.cache.purge("http://other.test/a"), ["a", "foo", "b"]),
        (lambda: site.cache.purge("/b"), ["a", "foo", "b"]),
        (lambda: site.cache.purge("/b?c=1"), ["a", "foo"]),
        (lambda: site.cache.purge(tag="one"), ["foo", "b"]),
        (lambda: site.cache.purge(tag="two"), ["b"]),
        (lambda: site.cache.purge(tag="three"), ["a", "b"]),
        (lambda: asyncio.run(site.cache.apurge("/a")), ["b"]),
        (site.cache.purge_all, []),
        (lambda: asyncio.run(site.cache.apurge_all()), []),
    ):
        fill()
        assert left() == ["a", "foo", "b"]
        purge()
        assert left() == remain
    for wrong in ({}, {"url": "/", "tag": "a"}, {"url": "a"}):
        with pytest.raises(ValueError, match=r"name a URL|neither a path"):
            site.cache.purge(**wrong)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": 0}, "ttl is a duration from 1 second to 365 days"),
        ({"ttl": True}, "ttl is a duration: seconds"),
        ({"ttl": 1.5}, "ttl is a whole number"),
        ({"coalesce": float("nan")}, "coalesce is a duration: seconds"),
        ({"coalesce": -1}, "coalesce is a duration from 0 seconds"),
        ({"max_bytes": 1}, "max_bytes is a whole number of bytes"),
        ({"max_variants": 0}, "max_variants"),
        ({"by": "ip"}, "by is 'key', 'subject' or None"),
        ({"when": "/a"}, "when is a function"),
        ({"public": 1}, "public is True or False"),
        ({"vary": ["*"]}, "vary is a list of header field names"),
        ({"vary": ["a b"]}, "vary is a list of header field names"),
        ({"targeted": [""]}, "targeted is a list"),
        ({"ignore_query": [1]}, "ignore_query is a list"),
        ({"name": "a b"}, "name is one word"),
    ],
)
def test_settings_that_are_wrong_stop_the_start(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        ResponseCache(**options)


def test_a_cache_belongs_to_one_store() -> None:
    cache = ResponseCache()
    Keyguard(cache)
    with pytest.raises(ConfigurationError, match="another store"):
        Keyguard(cache)
