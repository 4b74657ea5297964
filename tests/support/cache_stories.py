"""The table of stories, of what is stored, for how long and under which key: one client after the other, what the app is asked and says, and what they get.

The number before each name is the point of the cache's specification that it belongs to.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from tests.support.cache_site import PAGE, Reply, Turn, asks, get, ok, served, status

NOW = 1_800_000_000


def date(after: int) -> str:
    return formatdate(NOW + after, usegmt=True)


ETAG = ("ETag", '"a"')
TAG = ("ETag", '"b"')
MODIFIED = ("Last-Modified", date(-1000))
MINUTE = ok("max-age=60")
FRESH = ok("max-age=60", ETAG, MODIFIED)
SAME = Reply(304, (("Cache-Control", "max-age=60"), ETAG), (b"",))
HEAD = get(method="HEAD")
BROKEN = Reply(breaks=True, parts=())
STORED = "keyguard; fwd=uri-miss; stored"
MISSED = "keyguard; fwd=uri-miss"


def ranged(text: str, *more: tuple[str, str], **rest: Any) -> Any:
    return get("/", ("Range", text), *more, **rest)


def told(text: str, target: str = "/") -> Any:
    """A request with a `Cache-Control` of its own."""
    return get(target, ("Cache-Control", text))


def part(text: str, body: bytes, *more: tuple[str, str], control: str = "max-age=60") -> Reply:
    return status(206, control, ("Content-Range", text), *more, body=body)


STORIES: dict[str, list[Turn] | tuple[dict[str, Any], list[Turn]]] = {
    # -- what is stored
    "1 what is fresh is served without the app": [
        asks(PAGE, MINUTE, cache_status=STORED, age=None),
        served(PAGE, age="0", cache_status="keyguard; hit; ttl=60", content_length="5"),
        served(PAGE, wait=59, age="59", cache_status="keyguard; hit; ttl=1"),
        asks(PAGE, MINUTE, wait=1, cache_status="keyguard; fwd=stale; stored"),
    ],
    "2 a POST with its Content-Location serves GETs": [
        asks(get("/a", method="POST"), ok("max-age=60", ("Content-Location", "/a"), body=b"made")),
        served(get("/a"), b"made"),
        asks(get("/a", method="POST"), MINUTE),
        asks(get("/a"), MINUTE),
    ],
    "2 and with another's does not": [
        asks(get("/a", method="POST"), ok("max-age=60", ("Content-Location", "/b"))),
        asks(get("/a"), MINUTE),
        asks(get("/b"), MINUTE),
    ],
    "3 no-store": [asks(PAGE, ok("max-age=60, no-store"), cache_status=MISSED), asks(PAGE, MINUTE)],
    "3 no-store on the second line": [asks(PAGE, ok("max-age=60", ("Cache-Control", "no-store"))), asks(PAGE, MINUTE)],
    "3 no-store from the client": [
        asks(told("no-store"), MINUTE, cache_status="keyguard; fwd=request"),
        asks(PAGE, MINUTE),
        asks(told("no-store"), MINUTE),
    ],
    "3 private": [asks(PAGE, ok("max-age=60, private")), asks(PAGE, ok("max-age=60, Private"))],
    "3 private fields are left out": [
        asks(PAGE, ok('max-age=60, private="X-Me"', ("X-Me", "1"), ("X-You", "2")), x_me="1"),
        served(PAGE, x_me=None, x_you="2"),
    ],
    "3 Vary: *": [asks(PAGE, ok("max-age=60", ("Vary", "*"))), asks(PAGE, MINUTE)],
    "4 must-understand": [asks(PAGE, ok("max-age=60, must-understand, no-store")), served(PAGE)],
    "4 and is not understood": [
        asks(PAGE, status(299, "max-age=60, must-understand")),
        asks(PAGE, status(299, "max-age=60"), cache_status=STORED),
        served(PAGE, status=299),
    ],
    "4 a 204 has no body and no length": [
        asks(PAGE, status(204, "max-age=60"), content_length=None),
        served(PAGE, b"", status=204, content_length=None),
    ],
    "4 a 304 to the client's own condition is not stored": [
        asks(get("/", ("If-None-Match", '"x"')), status(304, "max-age=60"), sent={"if-none-match": '"x"'}),
        asks(PAGE, MINUTE),
    ],
    "4 a 200 with a Content-Range is a 200": [
        asks(PAGE, ok("max-age=60", ("Content-Range", "bytes 0-4/9"))),
        served(PAGE, content_range="bytes 0-4/9"),
        served(ranged("bytes=1-2"), b"el", status=206, content_range="bytes 1-2/5"),
    ],
    "4 a 416 is for who asked, not for all": [
        asks(ranged("bytes=9-"), status(416, "max-age=60")),
        asks(PAGE, MINUTE),
    ],
    "5 with credentials only what is open to them": [
        asks(get("/", ("Authorization", "Bearer a")), MINUTE, cache_status=MISSED),
        asks(PAGE, MINUTE),
        asks(get("/", ("Authorization", "Bearer a")), ok("max-age=60, public"), cache_status=STORED),
        served(PAGE),
        served(get("/", ("X-API-Key", "k"))),
    ],
    "6 fields are kept in order, twice where they came twice": (
        {"set_cookie": True},
        [
            asks(PAGE, ok("max-age=60", ("Set-Cookie", "a=1"), ("X-A", "1"), ("Set-Cookie", "b=2"), ("X-A", "2"))),
            served(PAGE),
        ],
    ),
    "6 limits that the app tells of itself come back too": [
        asks(PAGE, ok("max-age=60", ("X-A", "1"), ("Retry-After", "9"), ("RateLimit", '"a";r=1'), ("Age", "3"))),
        served(PAGE, x_a="1", retry_after="9", ratelimit='"a";r=1', age="3"),
    ],
    "7 an app that raises before it answers": [
        asks(PAGE, ok("max-age=60, stale-if-error=60")),
        served(PAGE),
        asks(PAGE, BROKEN, wait=61, status=200, body=b"hello"),
    ],
    "8 no-cache is asked about each time": [
        asks(PAGE, ok("no-cache", ETAG)),
        asks(PAGE, Reply(304, (ETAG,), (b"",)), status=200, body=b"hello", sent={"if-none-match": '"a"'}),
        asks(PAGE, ok("no-cache", TAG, body=b"new"), sent={"if-none-match": '"a"'}),
        asks(PAGE, Reply(304, (TAG,), (b"",)), status=200, body=b"new", sent={"if-none-match": '"b"'}),
    ],
    "8 a cookie is not stored": [
        asks(PAGE, ok("max-age=60", ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")), set_cookie="a=1"),
        asks(PAGE, MINUTE),
    ],
    # -- freshness and age
    "9 s-maxage, max-age, Expires": [
        asks(PAGE, ok("max-age=60, s-maxage=10", ("Expires", date(+99)))),
        served(PAGE, wait=9),
        asks(PAGE, ok("max-age=10", ("Expires", date(+99))), wait=1),
        served(PAGE, wait=9),
        asks(PAGE, ok(None, ("Expires", date(+29)), ("Date", date(+19))), wait=1),
        served(PAGE, wait=8),
        asks(PAGE, MINUTE, wait=2),
    ],
    "10 what is no number is no lifetime": [
        turn
        for text in ("max-age=x", "max-age='60'", "max-age=6.0", "max-age=-1", "max-age = 60", 'a="max-age=60"')
        for turn in (asks(PAGE, ok(text)), asks(PAGE, ok(text)))
    ],
    "10 what is one": [
        turn
        for number, text in enumerate(('max-age="60"', "MAX-AGE=60", "max-age=060", "max-age=60, max-age=0", "max-age=99999999999"))
        for turn in (asks(get(f"/{number}"), ok(text)), served(get(f"/{number}"), wait=59))
    ],
    "11 two Expires are stale": [
        asks(PAGE, ok(None, ("Expires", date(+60)), ("Expires", date(+60)))),
        asks(PAGE, MINUTE),
    ],
    "12 nothing is fresh by itself": [asks(PAGE, ok()), asks(PAGE, ok(None, MODIFIED)), asks(PAGE, ok())],
    "12 a guess where the app asks for guesses": (
        {"heuristic": True},
        [
            asks(PAGE, ok(None, MODIFIED, ("Date", date(0)))),
            served(PAGE, wait=99),
            asks(PAGE, ok(), wait=1, sent={"if-modified-since": date(-1000)}),
        ],
    ),
    "12 a lifetime where the app sets one": (
        {"ttl": 30},
        [asks(PAGE, ok()), served(PAGE, wait=29), asks(PAGE, status(500), wait=1), asks(PAGE, status(404)), served(PAGE, status=404)],
    ),
    "13 one Age, which grows": [
        asks(PAGE, ok("max-age=60", ("Age", "20, 30"), ("Age", "50"))),
        served(PAGE, age="20"),
        served(PAGE, wait=10, age="30"),
        asks(PAGE, ok("max-age=60", ("Age", "x"), ("Date", date(-10))), wait=30),
        served(PAGE, age="50", date=date(-10)),
    ],
    # -- keys and Vary
    "14 a query is part of the URL, as it stands": [
        asks(get("/?a=1&b=2"), MINUTE),
        served(get("/?a=1&b=2")),
        asks(get("/?b=2&a=1"), MINUTE),
        asks(get("/?a=1"), MINUTE),
        asks(get("/?a=1&b=%32"), MINUTE),
    ],
    "14 parameters may be ignored": (
        {"ignore_query": ["utm_*"], "sort_query": True},
        [asks(get("/?b=1&a=2&utm_source=x"), MINUTE), served(get("/?a=2&b=1&utm_campaign=y"))],
    ),
    "14 variants side by side": [
        asks(get("/", ("Foo", "1")), ok("max-age=60", ("Vary", "Foo"), body=b"one"), cache_status=STORED),
        asks(get("/", ("Foo", "2")), ok("max-age=60", ("Vary", "Foo"), body=b"two"), cache_status="keyguard; fwd=vary-miss; stored"),
        asks(get("/"), ok("max-age=60", ("Vary", "Foo"), body=b"none")),
        asks(get("/", ("Foo", "")), ok("max-age=60", ("Vary", "Foo"), body=b"empty")),
        served(get("/", ("Foo", "1")), b"one"),
        served(get("/", ("Foo", "2")), b"two"),
        served(get("/"), b"none"),
        served(get("/", ("Foo", "")), b"empty"),
    ],
    "14 Vary on two lines, on a field sent twice": [
        asks(get("/", ("A", "1"), ("A", "2"), ("B", "3")), ok("max-age=60", ("Vary", "A"), ("Vary", "B, C"))),
        served(get("/", ("A", "1 , 2"), ("B", "3"))),
        asks(get("/", ("A", "2,1"), ("B", "3")), ok("max-age=60", ("Vary", "A"), ("Vary", "B, C"))),
        asks(get("/", ("A", "1,2"), ("B", "3"), ("C", "")), ok("max-age=60", ("Vary", "A, B, C"))),
    ],
    "14 languages and codings in any order": [
        asks(get("/", ("Accept-Language", "de, en;q=0.5")), ok("max-age=60", ("Vary", "Accept-Language"))),
        served(get("/", ("Accept-Language", "EN;q=0.50,DE"))),
        asks(get("/", ("Accept-Language", "de")), ok("max-age=60", ("Vary", "Accept-Language"))),
    ],
    "14 a language that suits is not the one that was chosen": [
        asks(get("/", ("Accept-Language", "en, de")), ok("max-age=60", ("Vary", "Accept-Language"), ("Content-Language", "de"))),
        asks(get("/", ("Accept-Language", "fr;q=0.5, de")), ok("no-store"), cache_status="keyguard; fwd=vary-miss"),
        asks(get("/", ("Accept-Language", "de")), ok("no-store")),
    ],
    "14 of those that match the newest": [
        asks(PAGE, ok("max-age=600", body=b"old")),
        served(PAGE, b"old"),
        asks(told("no-cache"), ok("max-age=600", ("Vary", "Foo"), body=b"new")),
        served(PAGE, b"new"),
        served(get("/", ("Foo", "1")), b"old"),
    ],
    "14 the app may be told what to vary by": (
        {"vary": ["Foo"]},
        [
            asks(get("/", ("Foo", "1")), MINUTE, vary="foo"),
            served(get("/", ("Foo", "1")), vary="foo"),
            asks(get("/", ("Foo", "2")), MINUTE),
        ],
    ),
    "14 what is large replaces what it supersedes": (
        {"max_bytes": 65536},
        [
            asks(PAGE, MINUTE),
            asks(told("no-cache"), ok("max-age=60", body=b"x" * 70_000)),
            asks(PAGE, MINUTE, body=b"hello"),
        ],
    ),
    # -- poisoning
    "14 the hosts that proxies name are part of the key": [
        turn
        for name in ("X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Scheme", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Host", "X-Original-Host", "X-Script-Name", "Forwarded")
        for turn in (
            asks(get(f"/{name}", (name, "evil.test")), ok("max-age=60", body=b"evil")),
            asks(get(f"/{name}"), MINUTE),
            served(get(f"/{name}")),
        )
    ],
    "14 another method or path than the request line's is not cached": [
        turn
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL")
        for turn in (asks(get("/", (name, "POST")), MINUTE, cache_status="keyguard; fwd=bypass"), asks(get("/", (name, "POST")), MINUTE))
    ],
    "14 a GET with a body is not cached, and none is served from it": [
        asks(get("/", ("Content-Length", "3"), body=b"a=b"), MINUTE, cache_status="keyguard; fwd=bypass"),
        asks(PAGE, MINUTE),
        asks(get("/", ("Content-Length", "3"), body=b"a=b"), MINUTE),
        served(get("/", ("Content-Length", "0"))),
    ],
    "14 paths that are spelt otherwise are other paths": [
        asks(get("/account"), MINUTE),
        *[asks(get(path), MINUTE) for path in ("/account/x.css", "/account%2Fx.css", "/account;x.css", "//account", "/Account", "/account%3Fx", "/x/../account")],
        served(get("/account")),
    ],
    "14 two hosts, or an odd one": [
        asks(get("/", ("Host", "a.test"), ("Host", "b.test"), host=False), MINUTE, cache_status="keyguard; fwd=bypass"),
        asks(get("/", ("Host", "a.test/b"), host=False), MINUTE, cache_status="keyguard; fwd=bypass"),
        asks(get("/", ("Host", "a.test"), host=False), MINUTE),
        asks(get("/", ("Host", "b.test"), host=False), MINUTE),
        served(get("/", ("Host", "A.test"), host=False)),
    ],
}  # fmt: skip
