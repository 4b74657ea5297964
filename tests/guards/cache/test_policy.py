"""What may be stored, for how long it is fresh, and what may be used again: the rules of RFC 9111 as tables."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.guards.cache.entry import SKEW, Entry, Fields
from keyguard.guards.cache.policy import Use, may_serve_on_error, may_store, use
from keyguard.guards.cache.request import CacheRequest
from keyguard.guards.cache.settings import Settings
from keyguard.guards.cache.storing import (
    MAX_HEURISTIC,
    freshened,
    initial_age,
    kept_fields,
    lifetime_of,
    make_entry,
    part_of,
    said,
    tags_of,
    vary_of,
)
from keyguard.http.cache_control import MAX_SECONDS, parse_cache_control

SECOND = 1_000_000
NOW = 1_800_000_000
RECEIVED = NOW * SECOND

PLAIN = Settings()
TARGETED = Settings(targeted=("x-cdn", "cdn-cache-control"))


def date(after: int) -> str:
    return formatdate(NOW + after, usegmt=True)


def cc(text: str, *more: tuple[str, str]) -> Fields:
    return (("Cache-Control", text), *more)


def asked(text: str = "", *, method: str = "GET", credentials: bool = False, range: str | None = None) -> CacheRequest:
    return CacheRequest(method, parse_cache_control([text] if text else []), credentials, range, "/a")


def named(value: object) -> str:
    return value if isinstance(value, str) else ""


ETAG = ("ETag", '"a"')
MODIFIED = ("Last-Modified", date(-1000))
COOKIE = ("Set-Cookie", "a=1")


# -- storing ------------------------------------------------------------------------------------------------------

GET, KEYED = asked(), asked(credentials=True)
POST = asked(method="POST")
PRIVATE = Settings(private=True)
TTL = Settings(ttl=30)

MAY_STORE: list[tuple[str, CacheRequest, int, Fields, Settings, str | None]] = [
    # caching.md 1
    ("an interim response", GET, 103, cc("max-age=60"), PLAIN, "RFC 9111, section 3"),
    # caching.md 2
    ("a POST with a lifetime alone", POST, 200, cc("max-age=60"), PLAIN, "RFC 9110, section 9.3.3"),
    ("and with its Content-Location", POST, 200, cc("max-age=60", ("Content-Location", "/a")), PLAIN, None),
    ("with another's", POST, 200, cc("max-age=60", ("Content-Location", "/b")), PLAIN, "RFC 9110, section 9.3.3"),
    ("and no lifetime", POST, 200, (ETAG, ("Content-Location", "/a")), PLAIN, "RFC 9110, section 9.3.3"),
    ("and a lifetime of our own", POST, 200, (("Content-Location", "/a"),), TTL, "RFC 9110, section 9.3.3"),
    ("a PUT", asked(method="PUT"), 200, cc("max-age=60", ("Content-Location", "/a")), PLAIN, "RFC 9111, section 3"),
    ("a HEAD", asked(method="HEAD"), 200, cc("max-age=60"), PLAIN, "RFC 9111, section 3"),
    # caching.md 3
    ("no-store from the app", GET, 200, cc("max-age=60, no-store"), PLAIN, "RFC 9111, section 5.2.2.5"),
    ("in other letters", GET, 200, cc("max-age=60, NO-STORE"), PLAIN, "RFC 9111, section 5.2.2.5"),
    ("on a second line", GET, 200, (*cc("max-age=60"), *cc("no-store")), PLAIN, "RFC 9111, section 5.2.2.5"),
    ("no-store from the client", asked("no-store"), 200, cc("max-age=60"), PLAIN, "RFC 9111, section 5.2.1.5"),
    ("to which we do not listen", asked("no-store"), 200, cc("max-age=60"), Settings(ignore_client=True), None),
    ("private", GET, 200, cc("max-age=60, private"), PLAIN, "RFC 9111, section 5.2.2.7"),
    ("private, with nothing in its list", GET, 200, cc('max-age=60, private=""'), PLAIN, "RFC 9111, section 5.2.2.7"),
    ("private for each caller", GET, 200, cc("max-age=60, private"), PRIVATE, None),
    ("private fields", GET, 200, cc('max-age=60, private="x"'), PLAIN, None),
    ("Vary: *", GET, 200, cc("max-age=60", ("Vary", "*")), PLAIN, "RFC 9111, section 4.1"),
    ("Vary: * on a line", GET, 200, cc("max-age=60", ("Vary", "a"), ("Vary", "b, *")), PLAIN, "RFC 9111, section 4.1"),
    # caching.md 4
    ("must-understand", GET, 200, cc("max-age=60, must-understand, no-store"), PLAIN, None),
    ("and not understood", GET, 299, cc("max-age=60, must-understand"), PLAIN, "RFC 9111, section 5.2.2.3"),
    ("nor stored", GET, 299, cc("max-age=60, must-understand, no-store"), PLAIN, "RFC 9111, section 5.2.2.3"),
    ("a status nobody knows", GET, 599, cc("max-age=60"), PLAIN, None),
    ("a 304", GET, 304, cc("max-age=60"), PLAIN, "RFC 9111, section 3"),
    ("a part", asked(range="bytes=0-1"), 206, cc("max-age=60", ("Content-Range", "bytes 0-1/9")), PLAIN, None),
    ("a part of nothing", GET, 206, cc("max-age=60"), PLAIN, "RFC 9111, section 3"),
    ("many parts", GET, 206, cc("max-age=60", ("Content-Type", "multipart/byteranges")), PLAIN, "RFC 9111, section 3"),
    ("a range not to be had", asked(range="bytes=99-"), 416, cc("max-age=60"), PLAIN, "RFC 9110, section 15.5.17"),
    # caching.md 5
    ("a caller with credentials", KEYED, 200, cc("max-age=60"), PLAIN, "RFC 9111, section 3.5"),
    ("and public", KEYED, 200, cc("max-age=60, public"), PLAIN, None),
    ("and must-revalidate", KEYED, 200, cc("max-age=60, must-revalidate"), PLAIN, None),
    ("and s-maxage", KEYED, 200, cc("s-maxage=60"), PLAIN, None),
    ("and proxy-revalidate", KEYED, 200, cc("max-age=60, proxy-revalidate"), PLAIN, "RFC 9111, section 3.5"),
    ("and a lifetime of our own", KEYED, 200, (), TTL, "RFC 9111, section 3.5"),
    ("each caller apart", KEYED, 200, cc("max-age=60"), PRIVATE, None),
    ("the same for all", KEYED, 200, cc("max-age=60"), Settings(public=True), None),
    ("but private", KEYED, 200, cc("max-age=60, private"), Settings(public=True), "RFC 9111, section 5.2.2.7"),
    # caching.md 8
    ("no-cache with an ETag", GET, 200, cc("no-cache", ETAG), PLAIN, None),
    ("no-cache with a date", GET, 200, cc("no-cache", MODIFIED), PLAIN, None),
    ("no-cache without either", GET, 200, cc("no-cache, max-age=60"), PLAIN, "RFC 9111, section 5.2.2.4"),
    ("a cookie", GET, 200, cc("max-age=60", COOKIE), PLAIN, "RFC 9111, section 7.3"),
    ("a cookie, allowed", GET, 200, cc("max-age=60", COOKIE), Settings(set_cookie=True), None),
    ("a cookie taken off", GET, 200, cc('max-age=60, no-cache="set-cookie"', COOKIE), PLAIN, None),
    # caching.md 12
    ("nothing", GET, 200, (), PLAIN, "RFC 9111, section 3"),
    ("a validator alone", GET, 200, (ETAG,), PLAIN, None),
    ("for a status that is not cacheable", GET, 500, (ETAG,), PLAIN, "RFC 9111, section 3"),
    ("a lifetime of none", GET, 200, cc("max-age=0"), PLAIN, "RFC 9111, section 4.2"),
    ("of none, but a validator", GET, 200, cc("max-age=0", ETAG), PLAIN, None),
    ("of none, but stale uses", GET, 200, cc("max-age=0, stale-if-error=9"), PLAIN, None),
    ("a lifetime of our own", GET, 200, (), TTL, None),
    ("for an error none", GET, 500, (), TTL, "RFC 9111, section 3"),
    ("nor for events", GET, 200, (("Content-Type", "text/event-stream"),), TTL, "RFC 9111, section 3"),
    ("a guess", GET, 200, (MODIFIED,), Settings(heuristic=True), None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "request_", "status", "fields", "settings", "section"), MAY_STORE, ids=named)
def test_may_store(
    name: str, request_: CacheRequest, status: int, fields: Fields, settings: Settings, section: str | None
) -> None:
    verdict = may_store(request_, status, fields, settings, RECEIVED)
    assert (verdict.stored, None if verdict.stored else verdict.section) == (section is None, section), verdict
    assert verdict.rule


# -- freshness (caching.md 9, 12, 24) -----------------------------------------------------------------------------

EXPIRES = ("Expires", date(+60))
DATE = ("Date", date(0))

LIFETIMES: list[tuple[str, int, Fields, Settings, int | None]] = [
    ("s-maxage first", 200, cc("max-age=1, s-maxage=2", EXPIRES), PLAIN, 2),
    ("wherever it stands", 200, cc("s-maxage=2, max-age=1"), PLAIN, 2),
    ("max-age before Expires", 200, cc("max-age=1", EXPIRES), PLAIN, 1),
    ("Expires by Date", 200, (EXPIRES, ("Date", date(-40))), PLAIN, 100),
    ("Expires without one", 200, (EXPIRES,), PLAIN, 60),
    ("Expires with a bad one", 200, (EXPIRES, ("Date", "today")), PLAIN, 60),
    ("Expires in the past", 200, (("Expires", date(-60)), DATE), PLAIN, 0),
    ("Expires that is none", 200, (("Expires", "0"), DATE), PLAIN, 0),
    ("two of them", 200, (EXPIRES, EXPIRES), PLAIN, 0),
    ("a bad Expires is no guess", 200, (("Expires", "0"), MODIFIED), Settings(heuristic=True), 0),
    ("nor our own", 200, (("Expires", "0"),), TTL, 0),
    ("a bad max-age", 200, cc("max-age=soon", EXPIRES), PLAIN, 0),
    ("a bare max-age", 200, cc("max-age", EXPIRES), PLAIN, 0),
    ("a negative one", 200, cc("max-age=-1"), PLAIN, 0),
    ("a fraction", 200, cc("max-age=1.5"), PLAIN, 0),
    ("single quotes", 200, cc("max-age='60'"), PLAIN, 0),
    ("double quotes", 200, cc('max-age="60"'), PLAIN, 60),
    ("blanks round =", 200, cc("max-age = 60"), PLAIN, None),
    ("a bad s-maxage", 200, cc("s-maxage=x, max-age=60"), PLAIN, 0),
    ("the first of two", 200, cc("max-age=1, max-age=60"), PLAIN, 1),
    ("one inside a text", 200, cc('ext="max-age=60", max-age=1'), PLAIN, 1),
    ("more than can be held", 200, cc("max-age=99999999999999999999"), PLAIN, MAX_SECONDS),
    ("nothing", 200, (MODIFIED,), PLAIN, None),
    ("our own", 200, (MODIFIED,), TTL, 30),
    ("theirs before our own", 200, cc("max-age=0"), TTL, 0),
    ("our own for 404", 404, (), TTL, 30),
    ("not for 500", 500, (), TTL, None),
    # A guess: ten per cent, and not without Last-Modified.
    ("a tenth", 200, (DATE, MODIFIED), Settings(heuristic=True), 100),
    ("by Date", 200, (("Date", date(-500)), MODIFIED), Settings(heuristic=True), 50),
    ("at most so much", 200, (DATE, ("Last-Modified", date(-(10**9)))), Settings(heuristic=True), MAX_HEURISTIC),
    ("from the future", 200, (DATE, ("Last-Modified", date(+1000))), Settings(heuristic=True), 0),
    ("a bad one", 200, (DATE, ("Last-Modified", "then")), Settings(heuristic=True), None),
    ("for a status that is not cacheable", 201, (DATE, MODIFIED), Settings(heuristic=True), None),
    ("unless it is public", 201, cc("public", DATE, MODIFIED), Settings(heuristic=True), 100),
    *[(f"a guess for {s}", s, (DATE, MODIFIED), Settings(heuristic=True), 100)
      for s in (200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501)],
    # RFC 9213
    ("a targeted field", 200, cc("max-age=1", ("CDN-Cache-Control", "max-age=5")), TARGETED, 5),
    ("that nobody listed", 200, cc("max-age=1", ("CDN-Cache-Control", "max-age=5")), PLAIN, 1),
    ("in order", 200, (("CDN-Cache-Control", "max-age=5"), ("X-CDN", "max-age=6")), TARGETED, 6),
    ("malformed", 200, cc("max-age=1", ("CDN-Cache-Control", "max-age=5;;")), TARGETED, 1),
    ("malformed, then the next", 200, (("CDN-Cache-Control", "max-age=5"), ("X-CDN", "max-age = 6")), TARGETED, 5),
    ("empty", 200, cc("max-age=1", ("CDN-Cache-Control", "")), TARGETED, 1),
    ("without a lifetime", 200, cc("max-age=1", ("CDN-Cache-Control", "public"), EXPIRES), TARGETED, None),
    ("that is no number", 200, cc("max-age=1", ("CDN-Cache-Control", "max-age=soon")), TARGETED, 0),
    ("on two lines", 200, (("X-CDN", "public"), ("X-CDN", "max-age=6")), TARGETED, 6),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "fields", "settings", "seconds"), LIFETIMES, ids=named)
def test_9_lifetimes(name: str, status: int, fields: Fields, settings: Settings, seconds: int | None) -> None:
    assert lifetime_of(status, fields, said(fields, settings.targeted), RECEIVED, settings) == seconds


def test_24_where_a_targeted_field_counts_the_other_says_nothing() -> None:
    fields = cc("no-store, private", ("X-CDN", "max-age=60"))
    assert may_store(GET, 200, fields, TARGETED, RECEIVED).stored
    assert not may_store(GET, 200, cc("max-age=60", ("X-CDN", "no-store")), TARGETED, RECEIVED).stored


# -- age (caching.md 13) ------------------------------------------------------------------------------------------

AGES: list[tuple[str, Fields, int, int]] = [
    ("nothing", (), 0, 0),
    ("stated", (("Age", "30"),), 0, 30),
    ("and the time it took", (("Age", "30"),), 5, 35),
    ("the time it took alone", (), 5, 5),
    ("apparent", (("Date", date(-40)),), 0, 40),
    ("whichever is more", (("Date", date(-40)), ("Age", "30")), 5, 40),
    ("a date in the future", (("Date", date(+40)), ("Age", "30")), 0, 30),
    ("a bad date", (("Date", "x"), ("Age", "30")), 0, 30),
    ("the first of a list", (("Age", "30, 90"),), 0, 30),
    ("of the first line", (("Age", "30"), ("Age", "90")), 0, 30),
    ("a bad first one", (("Age", "x, 90"),), 0, 0),
    ("negative", (("Age", "-30"),), 0, 0),
    ("a fraction", (("Age", "30.5"),), 0, 0),
    ("with a parameter", (("Age", "30;a"),), 0, 0),
    ("quoted", (("Age", '"30"'),), 0, 0),
    ("empty", (("Age", ""),), 0, 0),
    ("endless", (("Age", "9" * 5000),), 0, MAX_SECONDS),
]


@pytest.mark.parametrize(("name", "fields", "took", "age"), AGES, ids=named)
def test_13_the_age_it_comes_with(name: str, fields: Fields, took: int, age: int) -> None:
    assert initial_age(fields, RECEIVED - took * SECOND, RECEIVED) == age


@given(st.integers(0, 10**6), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_13_age_only_grows(age: int, held: int, lifetime: int) -> None:
    entry = Entry(200, (), received=RECEIVED, age=age, lifetime=lifetime)
    now = RECEIVED + held * SECOND
    if now < RECEIVED - SKEW:  # the clock was set back: nobody knows how old it is, so it is no longer fresh
        assert entry.current_age(now) == max(age, lifetime)
    else:
        assert entry.current_age(now) == age + max(0, held)
    assert entry.ttl(now) == lifetime - entry.current_age(now)


def test_17_the_clock_is_set_back_between_asking_and_answering() -> None:
    assert initial_age((("Age", "30"),), RECEIVED + 100 * SECOND, RECEIVED) == 30


# -- using (caching.md 15, 20) ------------------------------------------------------------------------------------


def entry(text: str, age: int = 0, **more: Any) -> Entry:
    made = make_entry(200, cc(text, ETAG), PLAIN, asked_at=RECEIVED, received=RECEIVED)
    made.age = age
    return made


USES: list[tuple[str, str, int, Use]] = [
    # client, app, age, what to do
    ("", "max-age=60", 59, Use.FRESH),
    ("", "max-age=60", 60, Use.VALIDATE),
    ("", "no-cache, max-age=60", 0, Use.VALIDATE),
    ("", 'no-cache="x", max-age=60', 0, Use.FRESH),
    ("", "max-age=60, stale-while-revalidate=30", 60, Use.REFRESH),
    ("", "max-age=60, stale-while-revalidate=30", 89, Use.REFRESH),
    ("", "max-age=60, stale-while-revalidate=30", 91, Use.VALIDATE),
    ("", "max-age=60, stale-while-revalidate=30, must-revalidate", 61, Use.VALIDATE),
    ("", "max-age=60, stale-while-revalidate=30, proxy-revalidate", 61, Use.VALIDATE),
    ("", "s-maxage=60, stale-while-revalidate=30", 61, Use.VALIDATE),
    ("", "max-age=60, stale-while-revalidate=x", 60, Use.VALIDATE),
    ("no-cache", "max-age=60", 0, Use.DEMANDED),
    ("no-cache=x", "max-age=60", 0, Use.DEMANDED),
    ("max-age=0", "max-age=60", 0, Use.DEMANDED),
    ("max-age=x", "max-age=60", 0, Use.DEMANDED),
    ("max-age=10", "max-age=60", 10, Use.FRESH),
    ("max-age=10", "max-age=60", 11, Use.DEMANDED),
    ("max-age=99", "max-age=60", 61, Use.VALIDATE),
    ("max-age=99", "max-age=60, stale-while-revalidate=30", 61, Use.VALIDATE),  # it wants nothing stale
    ("min-fresh=10", "max-age=60", 50, Use.FRESH),
    ("min-fresh=10", "max-age=60", 51, Use.DEMANDED),
    ("min-fresh=10", "max-age=60, stale-while-revalidate=30", 61, Use.VALIDATE),
    ("max-stale", "max-age=60", 10**6, Use.STALE),
    ("max-stale=10", "max-age=60", 70, Use.STALE),
    ("max-stale=10", "max-age=60", 71, Use.VALIDATE),
    ("max-stale=x", "max-age=60", 61, Use.VALIDATE),
    ("max-stale", "max-age=60, must-revalidate", 60, Use.VALIDATE),
    ("max-stale", "max-age=60, proxy-revalidate", 60, Use.VALIDATE),
    ("max-stale", "s-maxage=60", 60, Use.VALIDATE),
    ("max-stale", "no-cache, max-age=60", 60, Use.VALIDATE),
    ("max-age=99, max-stale=10", "max-age=60", 70, Use.STALE),
    ("max-age=65, max-stale=10", "max-age=60", 70, Use.DEMANDED),
    ("only-if-cached", "max-age=60", 10, Use.FRESH),
    ("something-else", "max-age=60", 60, Use.VALIDATE),
]


@pytest.mark.parametrize(("client", "app", "age", "verdict"), USES)
def test_15_use(client: str, app: str, age: int, verdict: Use) -> None:
    assert use(asked(client), entry(app, age), RECEIVED, PLAIN) is verdict


@pytest.mark.parametrize(("client", "app", "age", "verdict"), USES)
def test_15_use_without_an_ear_for_clients(client: str, app: str, age: int, verdict: Use) -> None:
    ignoring = Settings(ignore_client=True)
    assert use(asked(client), entry(app, age), RECEIVED, ignoring) is use(asked(), entry(app, age), RECEIVED, PLAIN)


@pytest.mark.parametrize(
    ("app", "age", "serves"),
    [
        ("max-age=60", 61, False),
        ("max-age=60, stale-if-error=30", 61, True),
        ("max-age=60, stale-if-error=30", 89, True),
        ("max-age=60, stale-if-error=30", 91, False),
        ("max-age=60, stale-if-error=30, must-revalidate", 61, False),
        ("max-age=60, stale-if-error=30, proxy-revalidate", 61, False),
        ("s-maxage=60, stale-if-error=30", 61, False),
        ("no-cache, max-age=60, stale-if-error=30", 61, False),
    ],
)
def test_20_stale_if_error(app: str, age: int, serves: bool) -> None:
    assert may_serve_on_error(entry(app, age), RECEIVED) is serves


def test_20_the_apps_failing_is_bridged_by_a_setting_only_where_nothing_forbids_it() -> None:
    bridging = Settings(stale_on_error=30)
    for text, serves in (("max-age=60", True), ("max-age=60, must-revalidate", False), ("s-maxage=60", False)):
        made = make_entry(200, cc(text, ETAG), bridging, asked_at=RECEIVED, received=RECEIVED)
        assert may_serve_on_error(made, RECEIVED + 61 * SECOND) is serves
        assert not may_serve_on_error(made, RECEIVED + 91 * SECOND)


# -- fields that are kept (caching.md 6) --------------------------------------------------------------------------


def test_6_fields_between_two_hops_are_not_kept_and_all_others_are() -> None:
    fields: Fields = (
        ("Cache-Control", "max-age=60"),
        ("X-A", "1"),
        ("Connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("connection", "x-other"),
        ("X-Other", "1"),
        ("Keep-Alive", "5"),
        ("TE", "trailers"),
        ("Trailer", "X-T"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authentication-Info", "a=1"),
        ("Proxy-Authorization", "Basic"),
        ("Proxy-Connection", "close"),
        ("RateLimit", '"a";r=1'),
        ("RateLimit-Policy", '"a";q=1'),
        ("X-RateLimit-Remaining", "1"),
        ("Retry-After", "1"),
        ("Age", "5"),
        ("Cache-Tag", "a"),
        ("Surrogate-Key", "a b"),
        ("X-A", "2"),
        ("Link", "</a>; rel=preload"),
    )
    kept = kept_fields(fields, said(fields, ()), PLAIN)
    limits = (("RateLimit", '"a";r=1'), ("RateLimit-Policy", '"a";q=1'), ("X-RateLimit-Remaining", "1"))
    own = (*limits, ("Retry-After", "1"))  # a guard's are taken off before (see test_limit_fields_are_never_replayed)
    assert kept == (fields[0], ("X-A", "1"), *own, ("X-A", "2"), ("Link", "</a>; rel=preload"))


def test_3_fields_named_by_private_and_no_cache_are_not_kept() -> None:
    fields = cc(
        'max-age=60, private="X-A, x-b", no-cache="x-C"', ("x-a", "1"), ("X-B", "1"), ("X-C", "1"), ("X-D", "1")
    )
    assert [name for name, _ in kept_fields(fields, said(fields, ()), PLAIN)] == ["Cache-Control", "X-D"]
    assert [name for name, _ in kept_fields(fields, said(fields, ()), PRIVATE)] == [
        "Cache-Control",
        "x-a",
        "X-B",
        "X-D",
    ]


def test_14_vary_is_read_over_all_lines() -> None:
    assert vary_of((("Vary", "B, a"), ("vary", " ,C"))) == ("a", "b", "c")
    assert vary_of(()) == ()


def test_21_tags() -> None:
    assert tags_of((("Cache-Tag", "a, b ,"), ("surrogate-key", "c  a"), ("cache-tag", "d e"))) == ("a", "b", "d e", "c")


# -- freshening (caching.md 17) -----------------------------------------------------------------------------------


def test_17_a_304_replaces_every_line_of_the_fields_it_has_and_no_other() -> None:
    stored: Fields = (
        ("Cache-Control", "max-age=60"),
        ("ETag", '"a"'),
        ("Date", date(-100)),
        ("X-A", "1"),
        ("X-A", "2"),
        ("X-B", "1"),
        ("Content-Type", "text/plain"),
        ("Content-Length", "5"),
        ("Content-Encoding", "gzip"),
    )
    before = make_entry(200, stored, PLAIN, asked_at=RECEIVED, received=RECEIVED)
    before.body = b"hello"
    update: Fields = (
        ("Cache-Control", "max-age=90"),
        ("Date", date(0)),
        ("x-a", "3"),
        ("Content-Length", "0"),
        ("Content-Encoding", "br"),
        ("Content-Range", "bytes 0-1/2"),
        ("Connection", "X-Hop"),
        ("X-Hop", "1"),
        ("Set-Cookie", "a=1"),
        ("RateLimit", "x"),
        ("X-New", "1"),
    )
    after = freshened(before, update, PLAIN, asked_at=RECEIVED, received=RECEIVED + 5 * SECOND)
    assert after.fields == (
        ("ETag", '"a"'),
        ("X-B", "1"),
        ("Content-Type", "text/plain"),
        ("Content-Length", "5"),
        ("Content-Encoding", "gzip"),
        ("Cache-Control", "max-age=90"),
        ("Date", date(0)),
        ("x-a", "3"),
        ("RateLimit", "x"),
        ("X-New", "1"),
    )
    assert (after.body, after.lifetime, after.age, after.received) == (b"hello", 90, 5, RECEIVED + 5 * SECOND)


def test_17_a_304_that_says_nothing_makes_it_fresh_from_now() -> None:
    fields = cc("max-age=60", ETAG, ("Date", date(-100)), ("Age", "50"))
    before = make_entry(200, fields, PLAIN, asked_at=RECEIVED, received=RECEIVED)
    assert before.age == 100
    after = freshened(before, (), PLAIN, asked_at=RECEIVED, received=RECEIVED)
    assert (after.age, after.lifetime) == (0, 60)
    assert ("Date", date(-100)) in after.fields, "a stored Date is not rewritten"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("bytes 0-4/10", (0, False, 10)),
        ("bytes 5-9/10", (5, True, 10)),
        ("bytes 5-9/*", (5, False, None)),
        ("bytes 9-5/10", None),
        ("bytes 5-10/10", None),
        ("bytes */10", None),
        ("bytes 5-/10", None),
        ("lines 0-4/10", None),
        ("bytes 0-4/10, bytes 5-9/10", None),
        ("", None),
    ],
)
def test_19_which_part_it_is(text: str, part: tuple[int, bool, int | None] | None) -> None:
    found = part_of((("Content-Range", text),), b"01234")
    assert (None if found is None else (found.first, found.to_end, found.total)) == part


@pytest.mark.parametrize(
    ("update", "age", "date_kept"),
    [
        ((("Age", "30"),), 30, date(-100)),
        ((("aGE", "30"),), 30, date(-100)),
        ((("Date", date(-20)),), 20, date(-20)),
        ((("DATE", date(-20)), ("Age", "40")), 40, date(-20)),
        ((("Date", date(-50)), ("Age", "40")), 50, date(-50)),
        ((("X-Age", "30"), ("Expires", date(60))), 0, date(-100)),
    ],
)
def test_17_a_304_that_says_its_own_age_or_date_is_as_old_as_that(update: Fields, age: int, date_kept: str) -> None:
    """The answer may come through another cache. The fields that say so are the 304's own, whatever was stored."""
    fields = cc("max-age=60", ETAG, ("Date", date(-100)), ("Age", "50"))
    before = make_entry(200, fields, PLAIN, asked_at=RECEIVED, received=RECEIVED)
    after = freshened(before, update, PLAIN, asked_at=RECEIVED, received=RECEIVED)
    assert after.age == age
    assert [text for name, text in after.fields if name.lower() == "date"] == [date_kept]
    assert not [text for name, text in after.fields if name.lower() == "age"]


# -- which statuses (caching.md 4, 12) ----------------------------------------------------------------------------

STATUSES = range(200, 600)
GUESSED = {200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501}
KNOWN = GUESSED | {302, 303, 307, 400, 401, 403, 409, 412, 421, 422, 451, 500, 502, 503, 504}
PART = ("Content-Range", "bytes 0-9/20")


def test_12_a_lifetime_is_guessed_for_these_and_for_no_more_than_a_day() -> None:
    heuristic = Settings(heuristic=True)
    fields = (("Date", date(0)), ("Last-Modified", date(-1000)))
    guessed = {code for code in STATUSES if lifetime_of(code, fields, said(fields, ()), RECEIVED, heuristic) == 100}
    assert guessed == GUESSED
    for code in STATUSES:
        assert lifetime_of(code, fields, said(fields, ()), RECEIVED, PLAIN) is None
    long_ago = (("Date", date(0)), ("Last-Modified", date(-86400 * 10 - 1)))
    assert lifetime_of(200, long_ago, said(long_ago, ()), RECEIVED, heuristic) == 86400
    older = (("Date", date(0)), ("Last-Modified", date(-86400 * 20)))
    assert lifetime_of(200, older, said(older, ()), RECEIVED, heuristic) == 86400


def test_12_with_nothing_but_a_validator_these_are_stored() -> None:
    asked = CacheRequest("GET", {}, False, None)
    stored = {code for code in STATUSES if may_store(asked, code, (ETAG, PART), PLAIN, RECEIVED).stored}
    assert stored == GUESSED


def test_4_must_understand_stores_what_it_knows() -> None:
    asked = CacheRequest("GET", {}, False, None)
    fields = cc("max-age=60, must-understand, no-store", PART)
    stored = {code for code in STATUSES if may_store(asked, code, fields, PLAIN, RECEIVED).stored}
    assert stored == KNOWN
    every = cc("max-age=60", PART)
    stored = {code for code in STATUSES if may_store(asked, code, every, PLAIN, RECEIVED).stored}
    assert stored == set(STATUSES) - {304, 416, 428, 429, 431, 511}  # RFC 6585, sections 3 to 6


@pytest.mark.parametrize(("length", "to_end"), [(10, True), (9, False), (11, False)])
def test_19_a_part_that_is_not_as_long_as_it_says_is_no_end(length: int, to_end: bool) -> None:
    """Its last bytes would be served as the representation's last."""
    part = part_of((("Content-Range", "bytes 10-19/20"),), b"x" * length)
    assert part is not None
    assert (part.first, part.length, part.to_end, part.total) == (10, length, to_end, 20)
