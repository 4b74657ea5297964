"""What the cache files entries under, and their form as a value: no two requests that may differ share a key."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyguard.digests import digest
from keyguard.drivers.asgi.request import ASGIRequest
from keyguard.guards.cache.coalescing import flight_key
from keyguard.guards.cache.entry import Entry, Part, decode, encode
from keyguard.guards.cache.key import Query, Target, target_of
from keyguard.guards.cache.purge import resolve, split_url, uri_digest
from keyguard.guards.cache.variants import variance_of
from keyguard.http.forwarding import ClientAddress
from keyguard.http.spelling import NOTHING
from tests.support.harness import Ask

NOW = 1_800_000_000
TARGET = Target(("http", "example.test"), "example.test", "/a/b?x=1")


def request_of(ask: Ask) -> ASGIRequest:
    parts = {"source": ClientAddress(()), "clock": staticmethod(lambda: NOW), "inside": NOTHING}
    engine: Any = type("Engine", (), parts)
    scope = ask.scope()
    return ASGIRequest(scope["method"], scope, engine)


# -- keys (caching.md 14) -----------------------------------------------------------------------------------------

parts = st.lists(st.one_of(st.text(max_size=6), st.binary(max_size=6)), max_size=5)


def as_bytes(listed: list[str | bytes]) -> list[bytes]:
    return [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in listed]


@settings(max_examples=300)
@given(parts, parts)
@example(["ab", "c"], ["a", "bc"])
@example(["a", ""], ["a"])
@example([], [""])
def test_14_different_parts_never_share_a_digest(one: list[str | bytes], other: list[str | bytes]) -> None:
    assert (digest(one) == digest(other)) == (as_bytes(one) == as_bytes(other))


def key_of(ask: Ask, query: Query = Query((), False)) -> Any:  # noqa: B008 - it has no state
    target = target_of(request_of(ask), query, "")
    return None if target is None else target.key


def host(name: str, target: str = "/a", *more: tuple[str, str]) -> Ask:
    return Ask(target, (("Host", name), *more), host=False)


APART = [
    host("a.test"),
    host("b.test"),
    host("a.test:81"),
    host("a.test", "/A"),
    host("a.test", "/a/"),
    host("a.test", "/%61"),
    host("a.test", "/a?"),
    host("a.test", "/a?b"),
    host("a.test", "/a?b="),
    host("a.test", "/a%3Fb"),
    host("a.test", "/a;b"),
    host("a.test", "//a"),
    host("a.test", "/./a"),
    host("a.test", "/a?b&c"),
    host("a.test", "/a?c&b"),
    host("a.test", "/a?b#c"),
    host("[::1]"),
    host("", "/a"),
    host("a.test", "/a", ("X-Forwarded-Host", "evil.test")),
    host("a.test", "/a", ("X-Forwarded-Host", "")),
    host("a.test", "/a", ("X-Forwarded-Proto", "https")),
    host("a.test", "/a", ("X-Forwarded-Port", "1")),
    host("a.test", "/a", ("X-Host", "evil.test")),
    host("a.test", "/a", ("X-Original-Host", "evil.test")),
    host("a.test", "/a", ("X-Script-Name", "/evil")),
    host("a.test", "/a", ("Forwarded", "host=evil.test")),
]


def test_14_requests_that_may_differ_have_keys_that_differ() -> None:
    keys = [key_of(ask) for ask in APART]
    assert None not in keys
    assert len(set(keys)) >= len(APART) - 1  # "/a" and "/a?" ask for the same in both worlds: the servers do not tell


@pytest.mark.parametrize(
    "ask",
    [
        host("a.test", "http://a.test/a"),
        host("a.test", "*"),
        host("a.test", "a"),
        host("a.test,b.test"),
        Ask("/a", (("Host", "a.test"), ("Host", "b.test")), host=False),
        host("a.test/b"),
        host("a.test b"),
        host("u@a.test"),
        host("a.test:port"),
        host("a.test:123456"),
        host("[::1"),
        host("a\x7f"),
        host("é.test"),
    ],
    ids=repr,
)
def test_14_what_cannot_be_read_in_one_way_has_no_key(ask: Ask) -> None:
    assert key_of(ask) is None


def test_14_hosts_are_the_same_in_any_case_and_who_asks_is_no_part() -> None:
    assert key_of(host("A.Test")) == key_of(host("a.test"))
    one, other = (host("a.test", "/a", ("Forwarded", f"for={name};host=h")) for name in ("192.0.2.1", '"[::1]"'))
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("for=192.0.2.1;host=h", "for=192.0.2.2;host=h", True),
        ('for="[2001:db8::1]:80", host=h', 'for="x;host=y", host=h', True),
        ("host=h; by=a;for=b;proto=http", "host=h; by=c;proto=http", True),
        ("for=a, for=b, for=c;host=h", "for=x, for=y, for=z;host=h", True),
        ("host=h", "host=hfor=.evil.test", False),
        ("host=h", "host=h;for=a=b", False),
        ("host=h", 'host=h;for="a";host=evil.test', False),
        ('host="h;for=a"', 'host="h;for=b"', False),
        ('for="a\\";host=h"', 'for="b\\";host=evil.test', False),
    ],
)
def test_14_of_forwarded_only_who_asks_is_left_out(one: str, other: str, same: bool) -> None:
    assert (
        key_of(host("a.test", "/", ("Forwarded", one))) == key_of(host("a.test", "/", ("Forwarded", other)))
    ) is same


def test_14_parameters_may_be_ignored_or_sorted() -> None:
    ignoring = Query(("utm_*", "ref"), False)
    assert ignoring.kept(b"a=1&utm_x=2&ref=3&refer=4&%75tm_y=5") == b"a=1&refer=4"
    assert Query((), True).kept(b"b=1&a=2&a=1") == b"a=2&a=1&b=1"
    assert key_of(Ask("/?b&a"), Query((), True)) == key_of(Ask("/?a&b"), Query((), True))
    assert Query((), False).kept(b"b=1&&a") == b"b=1&&a"


def test_22_flights_of_other_callers_and_variants_are_other_flights() -> None:
    keys = [
        flight_key(TARGET, credentials, variance)
        for credentials in ([], ["authorization=a"], ["authorization=b"])
        for variance in ((), (("a", None),), (("a", ""),), (("a", "-"),), (("b", None),))
    ]
    assert len(set(keys)) == len(keys)


# -- Vary's values (caching.md 14) --------------------------------------------------------------------------------


def variance(name: str, *values: str) -> Any:
    return variance_of(request_of(Ask("/", tuple((name, value) for value in values))), [name.lower()])


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("Foo", (), ("",), False),
        ("Foo", ("1", "2"), ("1,2",), True),
        ("Foo", ("1 ,\t2",), ("1,2",), True),
        ("Foo", ("1,2",), ("2,1",), False),
        ("Foo", ("a",), ("A",), False),
        ("Foo", ("1 2",), ("1  2",), False),
        ("Accept", ("a;q=1, b",), ("a;q=1,b",), True),
        ("Accept", ("a", ), ("A",), False),
        ("Accept-Language", ("en, de",), ("de,en",), True),
        ("Accept-Language", ("EN",), ("en",), True),
        ("Accept-Language", ("en;q=0.50",), ("en; q=0.5",), True),
        ("Accept-Language", ("en;q=1.0",), ("en",), True),
        ("Accept-Language", ("en;q=0.5",), ("en;q=0.6",), False),
        ("Accept-Language", ("en;q=0",), ("en",), False),
        ("Accept-Encoding", ("gzip, br",), ("br, GZIP",), True),
        ("Accept-Encoding", ("gzip",), ("br",), False),
        ("Accept-Encoding", (), ("",), False),
        ("Cookie", ("a=1",), ("a=2",), False),
    ],
)  # fmt: skip
def test_14_values_that_vary_name_means(name: str, one: tuple[str, ...], other: tuple[str, ...], same: bool) -> None:
    assert (variance(name, *one) == variance(name, *other)) is same


def test_14_what_may_be_a_secret_is_kept_as_a_digest() -> None:
    assert "s3cret" not in repr(variance("Authorization", "Bearer s3cret"))
    assert "s3cret" not in repr(variance("Cookie", "id=s3cret"))


# -- references, for what a change makes void (caching.md 21) -----------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "uri"),
    [
        ("/x", "/x"),
        ("/x?y", "/x?y"),
        ("x", "/a/x"),
        ("../x", "/x"),
        ("../../../x", "/x"),
        ("./x/./y/..", "/a/x/"),
        (".", "/a/"),
        ("?y", "/a/b?y"),
        ("/x#f", "/x"),
        ("//example.test/x", "/x"),
        ("//EXAMPLE.test/x", "/x"),
        ("http://example.test/x", "/x"),
        ("http://example.test", "/"),
        ("//other.test/x", None),
        ("http://example.test:81/x", None),
        ("ftp://example.test/x", None),
        ("mailto:a@example.test", None),
        ("http://[", None),
        ("//[::1", None),
    ],
)
def test_21_references(reference: str, uri: str | None) -> None:
    assert resolve(TARGET.host, TARGET.uri, reference) == uri


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("/items?page=2", (None, "/items?page=2")),
        ("/a b", (None, "/a%20b")),
        ("/a%20b", (None, "/a%20b")),
        ("/ü", (None, "/%C3%BC")),
        ("https://host", ("host", "/")),
        ("https://host:8000/x#f", ("host:8000", "/x")),
    ],
)
def test_21_urls_to_purge(url: str, found: tuple[str | None, str]) -> None:
    assert split_url(url) == found


@pytest.mark.parametrize("url", ["", "items", "host/items", "//host/x", "?a", "http:/x", "http://["])
def test_21_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is urllib's, at times
        split_url(url)


def test_21_a_place_is_the_same_under_each_scheme() -> None:
    assert uri_digest("a.test", "/") == uri_digest("A.test:80", "/") == uri_digest("a.test:443", "/")
    others = {uri_digest(*pair) for pair in (("a.test:81", "/"), ("b.test", "/"), ("a.test", "/x"))}
    assert len(others | {uri_digest("a.test", "/")}) == 4


# -- entries as a value -------------------------------------------------------------------------------------------

words = st.text(st.characters(max_codepoint=255), max_size=12)
sent = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=12)
pairs = st.lists(st.tuples(sent.filter(bool), sent), max_size=4).map(tuple)
numbers = st.integers(0, 2**53)
entries = st.builds(
    Entry,
    st.integers(200, 999),
    pairs,
    received=numbers,
    age=numbers,
    lifetime=numbers,
    must_validate=st.booleans(),
    no_stale=st.booleans(),
    stale_while_revalidate=numbers,
    stale_if_error=numbers,
    open_to_credentials=st.booleans(),
    variance=st.lists(st.tuples(words, st.one_of(st.none(), words)), max_size=3).map(tuple),
    tags=st.lists(words, max_size=3).map(tuple),
    part=st.one_of(st.none(), st.builds(Part, numbers, numbers, st.booleans(), st.one_of(st.none(), numbers))),
    range_text=st.one_of(st.none(), words),
    body=st.binary(max_size=50),
    since=numbers,
)


def told(entry: Entry | None) -> dict[str, Any]:
    assert entry is not None
    found = {name: getattr(entry, name) for name in Entry.__slots__}
    found["part"] = entry.part and {name: getattr(entry.part, name) for name in Part.__slots__}
    return found


@settings(max_examples=300)
@given(entries)
def test_an_entry_comes_back_as_it_went(entry: Entry) -> None:
    assert told(decode(encode(entry))) == told(entry)


@settings(max_examples=500)
@given(st.one_of(st.binary(max_size=100), st.builds(lambda data: b"\x02" + data, st.binary(max_size=100))))
@example(b"\x02\x02\x00\x00\x00\x00\x00\x00\x00{}")
@example(b"\x02\x02\x00\x00\x00\x00\x00\x00\x00[]")
@example(b"\x02\x01\x00\x00\x00\x00\x00\x00\x001")
@example(b"\x02\xff\xff\xff\xff\xff\xff\xff\xff")
def test_what_is_no_entry_is_none(value: bytes) -> None:
    assert decode(value) is None


@settings(max_examples=200)
@given(entries, st.data())
def test_an_entry_that_was_cut_short_is_none(entry: Entry, data: st.DataObject) -> None:
    whole = encode(entry)
    assert decode(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert decode(whole + b"x") is None


@pytest.mark.parametrize("fields", [(("X-A", "a\r\nX-B: b"),), (("X\n", "a"),), (("X-A", "\0"),), (("X-A", "€"),), (("", "a"),)])  # fmt: skip # noqa: E501
def test_an_entry_whose_fields_cannot_be_sent_is_none(fields: Any) -> None:
    """Whoever can write to the store cannot split responses, nor make hits fail."""
    entry = Entry(200, fields, received=5, age=0, lifetime=60, body=b"x", since=1)
    assert decode(encode(entry)) is None
