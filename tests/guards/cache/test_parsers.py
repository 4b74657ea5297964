"""The cache's parsers and keys: what they read, what they refuse, and that no text whatever troubles them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import http_sf
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard.drivers.asgi.request import ASGIRequest
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.key import Query, Target, target_of
from keyguard.guards.cache.purge import resolve, split_url
from keyguard.guards.cache.serving import Conditions, answer, etag_listed
from keyguard.guards.cache.variants import variance_of
from keyguard.http.cache_control import MAX_SECONDS, field_names, parse_cache_control, parse_targeted, seconds
from keyguard.http.dates import parse_date
from keyguard.http.forwarding import ClientAddress
from keyguard.http.spelling import NOTHING
from tests.support.harness import Ask

NOW = 1_800_000_000  # 15 January 2027
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

anything = st.text(st.characters(max_codepoint=255), max_size=200)
nasty = st.text('",;=\\ \t()a0-1*W/:@?%', max_size=200)
texts = st.one_of(anything, nasty)


def request_of(ask: Ask) -> ASGIRequest:
    parts = {"source": ClientAddress(()), "clock": staticmethod(lambda: NOW), "inside": NOTHING}
    engine: Any = type("Engine", (), parts)
    scope = ask.scope()
    return ASGIRequest(scope["method"], scope, engine)


# -- dates (caching.md 11) ----------------------------------------------------------------------------------------

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def imf(moment: datetime) -> str:
    return f"{DAYS[moment.weekday()][:3]}, {moment.day:02} {MONTHS[moment.month - 1]} {moment:%Y %H:%M:%S} GMT"


def rfc850(moment: datetime) -> str:
    return f"{DAYS[moment.weekday()]}, {moment.day:02}-{MONTHS[moment.month - 1]}-{moment:%y %H:%M:%S} GMT"


def asctime(moment: datetime) -> str:
    return f"{DAYS[moment.weekday()][:3]} {MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S %Y}"


LAST = int((datetime(2100, 12, 31, 23, 59, 59, tzinfo=UTC) - EPOCH).total_seconds())


@settings(max_examples=500)
@given(st.integers(0, LAST), st.sampled_from([str, str.upper, str.lower]))
@example(951_782_400, str)  # 29 February 2000: the year 2100, which is tried first, has none
def test_11_a_date_in_each_form_is_read_as_written(second: int, case: Callable[[str], str]) -> None:
    moment = EPOCH + timedelta(seconds=second)
    assert parse_date(case(imf(moment)), NOW) == second
    assert parse_date(case(asctime(moment)), NOW) == second
    if NOW - 49 * 365.25 * 86400 < second < NOW + 50 * 365 * 86400:  # two digits of a year mean no more than that
        assert parse_date(case(rfc850(moment)), NOW) == second


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("Sunday, 06-Nov-94 08:49:37 GMT", 1994),
        ("Sunday, 06-Nov-26 08:49:37 GMT", 2026),
        ("Sunday, 06-Nov-76 08:49:37 GMT", 2076),
        ("Sunday, 15-Jan-77 08:00:00 GMT", 2077),  # fifty years, to the second, are not more than fifty
        ("Sunday, 15-Jan-77 08:00:01 GMT", 1977),
        ("Sunday, 06-Nov-77 08:49:37 GMT", 1977),
        ("Sunday, 06-Nov-00 08:49:37 GMT", 2000),
    ],
)
def test_11_two_digits_of_a_year_are_at_most_fifty_years_ahead(text: str, year: int) -> None:
    found = parse_date(text, NOW)
    assert found is not None
    assert (EPOCH + timedelta(seconds=found)).year == year


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0",
        "-1",
        "1800000000",
        "now",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 +0000",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        " Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun,  06 Nov 1994 08:49:37 GMT",
        "Sun 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 94 08:49:37 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 06-Nov-1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 8:49:37 GMT",
        "Sun, 06 Nov 1994 08:49 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:00 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 06 Növ 1994 08:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
        "Sunday, 29-Feb-27 08:49:37 GMT",
        "Sun Nov 6 08:49:37 1994",
        "Sun Nov 06 08:49:37 94",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
    ],
)
def test_11_what_merely_looks_like_a_date_is_none(text: str | None) -> None:
    assert parse_date(text, NOW) is None


def test_11_a_leap_second_is_the_last_of_its_minute() -> None:
    assert parse_date("Sat, 31 Dec 2016 23:59:60 GMT", NOW) == parse_date("Sat, 31 Dec 2016 23:59:59 GMT", NOW)


# -- directives (caching.md 10) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["max-age=60"], {"max-age": "60"}),
        (["MAX-AGE=60, Public"], {"max-age": "60", "public": None}),
        (['max-age="60"'], {"max-age": "60"}),
        (["max-age=60", "no-cache"], {"max-age": "60", "no-cache": None}),
        ([" max-age=60\t ,\t public "], {"max-age": "60", "public": None}),
        ([",,max-age=60,, ,"], {"max-age": "60"}),
        (["max-age=1, max-age=2"], {"max-age": "1"}),
        (["max-age=1", "max-age=2"], {"max-age": "1"}),
        (['ext="no-store, max-age=5", max-age=1'], {"ext": "no-store, max-age=5", "max-age": "1"}),
        (['ext="a\\"b, no-store", public'], {"ext": 'a"b, no-store', "public": None}),
        (['private="Set-Cookie, X-A"'], {"private": "Set-Cookie, X-A"}),
        (['private=""'], {"private": ""}),
        (["max-age"], {"max-age": None}),
        (["max-age="], {"max-age": ""}),
        # Blanks round "=" make it no directive.
        (["max-age = 60"], {}),
        (["max-age =60"], {}),
        (["max-age= 60"], {}),
        (["max-age:60"], {"max-age:60": None}),
        # What is malformed opens nothing, but still forbids.
        (["private; max-age=60"], {"private": None}),
        (["max-age=60; no-store"], {"no-store": None}),
        (["no-cache no-store, max-age=60"], {"no-cache": None, "no-store": None, "max-age": "60"}),
        (['max-age=60 "must-revalidate'], {"must-revalidate": None}),
        (['ext="open, max-age=60'], {}),
        # One that forbids altogether is not weakened by one that forbids in part.
        (['private="x", private'], {"private": None}),
        (['no-cache, no-cache="x"'], {"no-cache": None}),
        (['no-cache="x", no-cache'], {"no-cache": None}),
        ([""], {}),
        ([], {}),
    ],
)
def test_10_directives(lines: list[str], found: dict[str, str | None]) -> None:
    assert parse_cache_control(lines) == found
    assert parse_cache_control([*lines, "pad=" + "x" * 300]) == {**found, "pad": "x" * 300} or '"' in "".join(lines)


@pytest.mark.parametrize(
    ("argument", "number"),
    [
        ("0", 0),
        ("60", 60),
        ("060", 60),
        ("00000000000060", 60),
        ("0" * 10_000, 0),
        ("0" * 10_000 + "7", 7),
        ("2147483648", MAX_SECONDS),
        ("4294967296", MAX_SECONDS),
        ("9" * 10_000, MAX_SECONDS),
        ("", None),
        (None, None),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        (" 1", None),
        ("1 ", None),
        ("'60'", None),
        ("6e1", None),
        ("٦٠", None),
        ("²", None),
    ],
)
def test_10_numbers_of_seconds(argument: str | None, number: int | None) -> None:
    assert seconds(argument) == number


def test_10_lists_of_field_names() -> None:
    assert field_names("Set-Cookie, x-a ,,") == {"set-cookie", "x-a"}


# -- targeted fields (caching.md 24) ------------------------------------------------------------------------------


def oracle(text: str) -> dict[str, Any] | None:
    try:
        found = http_sf.parse(text.encode("latin-1"), tltype="dictionary")
    except Exception:
        return None
    return dict(found)


members = st.sampled_from(
    [
        *("max-age=60", "max-age=0", "max-age=-1", "max-age=1.5", "max-age", "max-age=?0", 'max-age="60"', "max-age=a"),
        *("public", "no-store", "private", 'private="a, b"', "s-maxage=5;x=1", "a=(1 2;q=1 3)", "a=()", "b=:YWI=:"),
        *("c=@1659578233", "d=?1;e", "*k=tok/en:x", "Max-Age=60", "max-age =60", "max-age= 60", "e=(1", 'f="a', "g=1."),
        *(
            "a=1 ;b",
            "a=1; b",
            "a=1;\tb",
            "",
            "=1",
            "a==",
            "a=1 2",
            'x="é"',
            "n=1234567890123456",
            "n=123456789012.1234",
        ),
    ]
)
commas = st.sampled_from([",", ", ", " ,\t", ",,"])
dictionaries = st.builds(lambda parts, comma: comma.join(parts), st.lists(members, max_size=4), commas)


@settings(max_examples=1000)
@given(st.one_of(dictionaries, st.text('ab*=;, \t()?1"\\-.:@/', max_size=24)))
@example("max-age=60,")
@example("a=1, max-age=60\t")
def test_24_a_targeted_field_is_a_strict_dictionary(text: str) -> None:
    found, expected = parse_targeted(text), oracle(text)
    if not expected:
        assert found is None, "an empty field has no say, nor has one that cannot be read"
    else:
        assert found is not None
        value = expected.get("max-age")
        if isinstance(value, tuple) and type(value[0]) is int:
            assert int(found["max-age"] or "x") == value[0]
        for name in ("no-store", "public", "private"):
            if name in expected and expected[name][0] is True:
                assert found[name] is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("max-age=60", {"max-age": "60"}),
        ("max-age=60;ext", {"max-age": "60"}),
        ("max-age=1, max-age=2", {"max-age": "2"}),
        ("no-store=?0, max-age=5", {"max-age": "5"}),
        ('max-age="60"', {}),
        ("MAX-AGE=60", None),
        ("max-age=60; no-store, x y", None),
        ("max-age = 60", None),
        ("max-age=60,", None),
        ("max-age=1.5, no-store=(a b)", {"max-age": None, "no-store": None}),
        ('max-age=@60, a=%"b", private="a, b", c="d"', {"max-age": None, "a": None, "private": "a, b"}),
        ("a" * 4097, {"no-store": None}),
        ("", None),
        ("  ", None),
    ],
)
def test_24_targeted(text: str, found: dict[str, str | None] | None) -> None:
    assert parse_targeted(text) == found


# -- whatever is sent, nothing raises and nothing takes long ------------------------------------------------------

TARGET = Target(("http", "example.test"), "example.test", "/a/b?x=1")
ENTRY = Entry(
    200,
    (("ETag", '"a"'), ("Last-Modified", imf(EPOCH)), ("Date", imf(EPOCH))),
    received=NOW * 10**6,
    age=0,
    lifetime=60,
    body=b"0123456789",
)


@settings(max_examples=1000)
@given(texts)
@example("//[")
@example("http://[::1/x")
@example("http://a]/x")
@example('"' * 99)
def test_no_text_troubles_a_parser(text: str) -> None:
    names = ("Vary-Me", "Accept-Language", "X-Forwarded-Host", "Forwarded")
    request = request_of(Ask("/", tuple((name, text) for name in names)))
    parse_date(text, NOW)
    seconds(text)
    field_names(text)
    assert isinstance(parse_cache_control([text]), dict)
    parse_targeted(text)
    etag_listed(text, '"a"')
    found = resolve(TARGET.host, TARGET.uri, text)
    assert found is None or found.startswith("/")
    with suppress(ValueError):
        split_url(text)
    target_of(request, Query(("a*", "b"), True), "")
    variance_of(request, ["vary-me", "accept-language"])
    for conditions in (Conditions(text, None, None, None), Conditions(None, text, text, text)):
        response = answer(request, ENTRY, conditions, NOW * 10**6, "keyguard; hit")
        assert response is not None
        assert response.status in (200, 206, 304, 416)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_no_query_troubles_what_is_kept_of_it(query: bytes) -> None:
    Query(("utm_*", "id"), True).kept(query)


SIZE = 100_000
NASTY = [
    '"' * SIZE,
    "," * SIZE,
    "\\" * SIZE,
    " " * SIZE + ";",
    "\t" * SIZE + "x y",
    '"\\' * (SIZE // 2),
    'a="' * (SIZE // 3),
    'a="b' + "\\" * SIZE,
    "a=" * (SIZE // 2),
    "a;" * (SIZE // 2),
    "a=(" + "1 " * (SIZE // 2),
    "a=(1" + " " * SIZE + "x",
    "a=1" + ";b" * (SIZE // 2) + "=",
    "a" * SIZE + ";",
    "a=1," * (SIZE // 4) + "!",
    ("a" + " " * 99) * (SIZE // 100),
    "for=" * (SIZE // 4),
    'for="' * (SIZE // 5),
    ',for="\\"' * (SIZE // 8),
    ",for= " * (SIZE // 6),
    'W/"' * (SIZE // 3),
    "../" * (SIZE // 3),
    "W/" * (SIZE // 2),
]


@pytest.mark.parametrize("text", NASTY, ids=lambda text: f"{text[:6]!r}")
def test_a_long_text_takes_no_long_time(text: str) -> None:
    request = request_of(Ask("/", (("X-Any", text), ("Accept-Encoding", text), ("Forwarded", text))))
    began = time.process_time()
    parse_date(text, NOW)
    seconds(text)
    parse_cache_control([text])
    parse_targeted(text)
    etag_listed(text, '"a"')
    resolve(TARGET.host, TARGET.uri, text)
    target_of(request, Query(("a*",), True), "")
    variance_of(request, ["x-any", "accept-encoding"])
    answer(request, ENTRY, Conditions(None, text, text, text), NOW * 10**6, "")
    Query(("a*",), True).kept(text.replace(",", "&").encode())
    assert time.process_time() - began < 3  # quadratic work on so much takes minutes
