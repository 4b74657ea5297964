"""What is void stays void: however the URL is spelled, and whatever is on its way meanwhile (point 21)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.guards.cache import path
from keyguard.guards.cache.purge import path_digest, split_url, uri_digest
from keyguard.guards.cache.shared_ops import Ensure, Purges, Renew, Stamp, read_moment
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.cache_site import WORLDS, Reply, Seen, Site, get, ok, status
from tests.support.harness import Ask, ask_wsgi

OLD = ok("max-age=600", body=b"old")
NEW = ok("max-age=600", body=b"new")
TAGGED = (("ETag", '"1"'), ("Cache-Tag", "t"))


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def played(site: Site, *asked: tuple[Ask, Reply | Callable[[Seen], Reply]]) -> bytes:
    """The body of the last answer."""
    answer: Any = None
    for ask, reply in asked:
        site.reply = reply
        answer = site.ask(ask)
        site.settle()
    site.close()
    assert isinstance(answer.body, bytes)
    return answer.body


# -- spellings ----------------------------------------------------------------------------------------------------

SPELLINGS = [
    ("/a", "/%61"),
    ("/%61", "/a"),
    ("/caf%c3%a9", "/caf%C3%A9"),
    ("/a%5Bb%5D", "/a[b]"),
    ("/x?q=%61", "/x?q=a"),
]


@pytest.mark.parametrize(("stored", "changed"), SPELLINGS)
def test_21_a_change_under_one_spelling_voids_the_others(world: str, stored: str, changed: str) -> None:
    asked = (get(stored), OLD), (get(changed, method="PUT"), ok("no-store")), (get(stored), NEW)
    assert played(Site(world), *asked) == b"new"


@pytest.mark.parametrize("url", ["/a[b]", "/a%5bb%5d", "http://example.test/a[b]", "http://EXAMPLE.test:80/%61[b]"])
def test_21_a_purge_finds_every_spelling(world: str, url: str) -> None:
    site = Site(world)
    site.reply = OLD
    site.get("/a[b]")
    site.cache.purge(url)
    assert played(site, (get("/a[b]"), NEW)) == b"new"


def test_21_other_paths_stay() -> None:
    assert len({path_digest(uri) for uri in ("/a", "/a/", "/A", "/a?", "/a?a", "/b", "/?a")}) == 6
    assert path_digest("/a?") == path_digest("/a")
    assert path_digest(split_url("/é?é")[1]) == path_digest("/%C3%A9?%c3%a9")
    assert uri_digest("h", "/Ã©") == uri_digest("h", "/%C3%A9")  # bytes of UTF-8, as text from the wire


@pytest.mark.parametrize("field", ["Location", "Content-Location"])
@pytest.mark.parametrize("reference", ["http://example.test/x?b=2&a=1&utm_id=3", "http://example.test:80/x?a=1&b=2", "http://example.test/%78?a=1&b=2"])  # fmt: skip # noqa: E501
def test_21_what_an_answer_refers_to_is_found_as_it_is_filed(world: str, field: str, reference: str) -> None:
    site = Site(world, sort_query=True, ignore_query=["utm_*"])
    asked = (get("/x?a=1&b=2"), OLD), (get("/y", method="POST"), ok(None, (field, reference))), (get("/x?a=1&b=2"), NEW)
    assert played(site, *asked) == b"new"


def test_21_a_change_by_an_absolute_target_voids_the_path(world: str) -> None:
    """What such a request gets is not stored, but what it changes has changed."""
    site = Site(world)
    site.reply = OLD
    site.get("/a b")
    site.reply = ok("no-store")

    def absolute(app: Any) -> Any:
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "raw_path": b"http://example.test/a%20b"}, receive, send)

        def wsgi(environ: Any, start_response: Any) -> Any:
            return app({**environ, "RAW_URI": "http://example.test/a%20b"}, start_response)

        return asgi if world == "asgi" else wsgi

    plain, site.app = site.app, absolute(site.app)
    site.get("/a b", method="DELETE")
    site.app = plain
    assert played(site, (get("/a b"), NEW)) == b"new"


# -- on its way ---------------------------------------------------------------------------------------------------

PURGES: dict[str, Callable[[Site], None]] = {
    "path": lambda site: site.cache.purge("/"),
    "url": lambda site: site.cache.purge("http://example.test/"),
    "tag": lambda site: site.cache.purge(tag="t"),
    "all": lambda site: site.cache.purge_all(),
}


@pytest.mark.parametrize("purge", PURGES)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_21_what_is_purged_while_it_is_freshened_does_not_come_back(world: str, method: str, purge: str) -> None:
    """A HEAD that was on its way during a purge stored the old body once more."""
    site = Site(world)

    def meanwhile(seen: Seen) -> Reply:
        PURGES[purge](site)
        return status(304, "max-age=600", *TAGGED) if method == "GET" else ok("max-age=600", *TAGGED, body=b"old")

    site.reply = ok("max-age=5", *TAGGED, body=b"old")
    site.get()
    site.clock.advance(10)
    assert played(site, (get(method=method), meanwhile), (get(), NEW)) == b"new"


def test_21_what_was_purged_does_not_stand_in_for_an_app_that_fails(world: str) -> None:
    """Not for a request either that found it before."""

    def failing(seen: Seen) -> Reply:
        site.cache.purge("/")
        return status(503, "no-store", body=b"failed")

    site = Site(world)
    site.reply = ok("max-age=5, stale-if-error=600", *TAGGED, body=b"old")
    site.get()
    site.clock.advance(10)
    site.reply = failing
    answer = site.get()
    site.close()
    assert answer.body == b"failed"


def test_21_a_purge_between_a_stale_answer_and_its_refresh(world: str) -> None:
    """The app says nothing of what was purged, for it is not asked about that."""
    site = Site(world)
    site.reply = ok("max-age=5, stale-while-revalidate=600", *TAGGED, body=b"old")
    site.get()
    site.clock.advance(10)
    moment = site.cache.storage.purges.moment
    real = site.cache._refresh

    async def purged_first(*args: Any) -> None:
        site.cache.purge("/")
        await real(*args)

    site.cache._refresh = purged_first  # type: ignore[method-assign]
    site.reply = lambda seen: status(304, "max-age=600") if "if-none-match" in seen.headers else NEW
    assert site.get().body == b"old"
    site.settle()
    assert site.cache.storage.purges.moment == moment + 1
    assert site.get().body == b"new"
    site.close()


def test_a_refresh_in_the_background_is_no_request_that_missed(world: str) -> None:
    """Hits, misses and what was bypassed are as many as the requests."""
    site = Site(world)
    site.reply = ok("max-age=5, stale-while-revalidate=600", body=b"old")
    site.get()
    site.clock.advance(10)
    for _ in range(3):
        site.get()
        site.settle()
    stats = site.cache.stats()
    site.close()
    assert (stats.hits, stats.misses, stats.stale, site.calls) == (3, 1, 1, 2)


# -- the store's clock --------------------------------------------------------------------------------------------


class Pair:
    """Two processes with one SQLite file, whose clock a test sets."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.calls = 0
        self.caches = [ResponseCache(local_ttl=0), ResponseCache(local_ttl=0)]
        stores = [SQLiteStore(str(folder / "cache.db"), clock=self.clock) for _ in self.caches]
        self.apps = [
            Keyguard(cache, store=store).wsgi(self._app) for cache, store in zip(self.caches, stores, strict=True)
        ]

    def _app(self, environ: Any, start_response: Any) -> list[bytes]:
        self.calls += 1
        body = b"%d" % self.calls
        fields = [("Cache-Control", "max-age=3600"), ("Cache-Tag", "t"), ("Content-Length", str(len(body)))]
        start_response("200 OK", fields)
        return [body]

    def get(self, process: int, path: str = "/x", method: str = "GET") -> bytes:
        body = ask_wsgi(self.apps[process], Ask(path, method=method), lint=False).body
        assert isinstance(body, bytes)
        return body


VOIDS: dict[str, Callable[[Pair], Any]] = {
    "change": lambda pair: pair.get(1, method="PUT"),
    "path": lambda pair: pair.caches[1].purge("/x"),
    "tag": lambda pair: pair.caches[1].purge(tag="t"),
    "all": lambda pair: pair.caches[1].purge_all(),
}


@pytest.mark.parametrize("void", VOIDS)
def test_21_a_clock_that_was_set_back_undoes_no_purge(void: str, tmp_path: Path) -> None:
    """Another server takes over, and its clock is behind: what is purged then was stored at a later time."""
    pair = Pair(tmp_path)
    pair.get(0, "/before")
    pair.clock.advance(1)
    assert pair.get(0) == pair.get(1) == b"2"
    pair.clock.advance(-30)
    VOIDS[void](pair)
    assert pair.get(0) != b"2"
    assert pair.get(1) != b"2"
    pair.clock.advance(60)
    assert pair.get(0) == pair.get(1) != b"2"


def test_21_two_purges_in_one_microsecond_are_two(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.get(0, "/before")
    pair.clock.advance(1)
    for name in ("/m", "/n"):
        pair.get(0, name)
    pair.clock.advance(1)
    pair.caches[1].purge("/m")
    assert pair.get(0, "/m") == b"4"
    pair.caches[1].purge("/n")
    assert pair.get(0, "/n") == b"5"


def test_21_a_mark_that_is_none_of_ours_voids_and_heals() -> None:
    for garbage in (b"", b"\0", b"x" * 100):
        assert read_moment(garbage) > 2**62
        assert Stamp("k").apply([garbage], 7)[0] == 7
        assert Ensure("k", 7).apply([garbage], 9)[1]
        assert Renew().apply([None, garbage], 7)[0][1] == Stamp("k").apply([None], 7)[1][0][1]
        assert Purges(b"[0,{}]", garbage, 7).floor == 7


def test_13_a_machine_whose_clock_is_behind_keeps_nothing_for_longer(tmp_path: Path) -> None:
    """What another one had stored was served for as much longer as its clock was behind."""
    right, ahead = ManualClock(), ManualClock()
    ahead.advance(300)
    calls: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        calls.append(environ["PATH_INFO"])
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("ETag", '"1"'), ("Content-Length", "5")])
        return [b"hello"]

    def made(clock: ManualClock) -> Any:
        store = SQLiteStore(str(tmp_path / "cache.db"), clock=right)
        return Keyguard(ResponseCache(local_ttl=1), store=store, clock=clock).wsgi(app)

    def wait(seconds: int) -> None:
        right.advance(seconds)
        ahead.advance(seconds)

    one, other = made(ahead), made(right)
    ask_wsgi(one, Ask("/before"), lint=False)
    wait(1)
    ask_wsgi(one, Ask("/x"), lint=False)
    wait(30)
    for _ in range(2):  # as the store has it, and as it is held then
        answer = ask_wsgi(other, Ask("/x"), lint=False)
        assert (answer.get("age"), answer.get("cache-status")) == ("30", "keyguard; hit; ttl=30")
    wait(30)
    assert len(calls) == 2
    ask_wsgi(other, Ask("/x"), lint=False)
    assert len(calls) == 3


# -- what it tells ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "ask", "says"),
    [
        ({"max_bytes": 65536}, get(), "larger than an entry may be, 65536 bytes"),
        ({"when": path("/x")}, get(), "`when`"),
        ({}, get("/", ("Cache-Control", "no-store")), "the request says no-store"),
        ({}, get("/", ("Host", "a b")), "cannot be read in one way"),
        ({}, get("/", ("X-HTTP-Method-Override", "PUT")), "no copy answers"),
    ],
)
def test_explain_tells_of_what_did_not_get_so_far(world: str, options: Any, ask: Ask, says: str) -> None:
    """It said that no such response had come by, or that one larger than the cache was stored."""
    site = Site(world, **options)
    site.reply = ok("max-age=60", body=b"x" * 70_000)
    assert "stored" not in (site.ask(ask, lint=False).get("cache-status") or "")
    told = site.cache.explain("/")
    site.close()
    assert not told.stored
    assert says in told.rule
