"""The table of stories goes on: what a request may ask for, validation, ranges, stale answers, invalidation."""

from __future__ import annotations

from typing import Any

from tests.support.cache_site import PAGE, Reply, Turn, asks, get, ok, served, status
from tests.support.cache_stories import BROKEN, ETAG, FRESH, HEAD, MINUTE, MODIFIED, SAME, TAG, date, part, ranged, told

REUSE: dict[str, list[Turn] | tuple[dict[str, Any], list[Turn]]] = {
    # -- what a request may ask for
    "15 no-cache": [asks(PAGE, FRESH), asks(told("no-cache"), SAME, status=200, sent={"if-none-match": '"a"'})],
    "15 Pragma, where there is no Cache-Control": [
        asks(PAGE, MINUTE),
        asks(get("/", ("Pragma", "no-cache")), MINUTE, cache_status="keyguard; fwd=request; stored"),
        served(get("/", ("Pragma", "no-cache"), ("Cache-Control", "max-age=99"))),
    ],
    "15 max-age": [
        asks(PAGE, MINUTE),
        served(told("max-age=10"), wait=10),
        asks(told("max-age=10"), MINUTE, wait=1),
        asks(told("max-age=0"), MINUTE),
    ],
    "15 min-fresh": [asks(PAGE, MINUTE), served(told("min-fresh=10"), wait=50), asks(told("min-fresh=10"), MINUTE, wait=1)],
    "15 max-stale": [
        asks(PAGE, MINUTE),
        served(told("max-stale=10"), wait=70, age="70", cache_status="keyguard; hit; ttl=-10"),
        served(told("max-stale"), wait=1),
        asks(told("max-stale=10"), MINUTE),
    ],
    "15 max-stale against must-revalidate": [
        asks(PAGE, ok("max-age=60, must-revalidate")),
        asks(told("max-stale"), MINUTE, wait=61),
    ],
    "15 only-if-cached": [
        served(told("only-if-cached"), None, status=504, cache_status="keyguard; fwd=uri-miss; detail=only-if-cached"),
        asks(PAGE, MINUTE),
        served(told("only-if-cached")),
        served(told("only-if-cached"), None, wait=60, status=504),
    ],
    "15 clients may be ignored": (
        {"ignore_client_directives": True},
        [
            asks(told("no-store"), MINUTE),
            *[served(told(text)) for text in ("no-store", "no-cache", "max-age=0", "min-fresh=99")],
            served(get("/", ("Pragma", "no-cache"))),
            asks(told("only-if-cached"), MINUTE, wait=60),
        ],
    ),
    "16 If-None-Match": [
        asks(PAGE, FRESH),
        *[
            served(get("/", ("If-None-Match", text)), b"", status=304, content_length=None, etag='"a"', age="0")
            for text in ('"a"', 'W/"a"', '"x", W/"a", "y"', "*")
        ],
        *[served(get("/", ("If-None-Match", text))) for text in ('"b"', "", '"A"', '"x,a"')],
        served(get("/", ("If-None-Match", '"b"'), ("If-Modified-Since", date(0)))),
        served(get("/", ("If-None-Match", '"a"'), method="HEAD"), b"", status=304),
    ],
    "16 If-None-Match: * where there is no ETag": [
        asks(PAGE, MINUTE),
        served(get("/", ("If-None-Match", "*")), b"", status=304),
    ],
    "16 If-Modified-Since": [
        asks(PAGE, FRESH),
        served(get("/", ("If-Modified-Since", date(-1000))), b"", status=304),
        served(get("/", ("If-Modified-Since", date(0))), b"", status=304),
        served(get("/", ("If-Modified-Since", date(-1001)))),
        served(get("/", ("If-Modified-Since", "yesterday"))),
    ],
    "16 If-Modified-Since, where the app says no Last-Modified": [
        asks(PAGE, ok("max-age=600", ("Date", date(-100)))),
        served(get("/", ("If-Modified-Since", date(-100))), b"", status=304),
        served(get("/", ("If-Modified-Since", date(-101)))),
        asks(get("/undated"), ok("max-age=600")),
        served(get("/undated", ("If-Modified-Since", date(0))), b"", status=304),
        served(get("/undated", ("If-Modified-Since", date(-1)))),
    ],
    "16 only a 200 is not modified": [
        asks(PAGE, status(404, "max-age=60", ETAG)),
        served(get("/", ("If-None-Match", '"a"')), status=404),
    ],
    "16 a validator that is malformed": [
        asks(PAGE, ok("max-age=60", ("ETag", "a"), ("Last-Modified", "then"))),
        served(get("/", ("If-None-Match", '"a"'))),
        served(get("/", ("If-None-Match", "a")), b"", status=304),
        served(get("/", ("If-Modified-Since", "then"))),
        asks(PAGE, Reply(304, (), (b"",)), wait=60, status=200, sent={"if-none-match": "a", "if-modified-since": "then"}),
    ],
    # -- validation
    "17 a 304 freshens": [
        asks(PAGE, ok("max-age=60", ETAG, MODIFIED, ("X-A", "1"), ("X-A", "2"), ("X-B", "1"))),
        asks(
            PAGE,
            Reply(304, (("Cache-Control", "max-age=90"), ETAG, ("X-A", "3"), ("Content-Type", "text/odd")), (b"",)),
            wait=60,
            status=200,
            sent={"if-none-match": '"a"', "if-modified-since": date(-1000)},
            age="0",
            x_a="3",
            x_b="1",
            content_length="5",
            cache_status="keyguard; fwd=stale; fwd-status=304; stored",
        ),
        served(PAGE, wait=89, x_a="3"),
    ],
    "17 our validators take the place of the client's": [
        asks(PAGE, FRESH),
        asks(get("/", ("If-None-Match", '"x"')), SAME, wait=60, status=200, body=b"hello", sent={"if-none-match": '"a"'}),
        asks(get("/", ("If-None-Match", '"a"')), SAME, wait=60, status=304, sent={"if-none-match": '"a"'}),
        asks(get("/", ("If-Modified-Since", date(-9999))), SAME, wait=60, status=200),
        asks(ranged("bytes=0-1"), SAME, wait=60, status=206, body=b"he", sent={"range": None, "if-none-match": '"a"'}),
    ],
    "17 a 304 that names another ETag ends the entry": [
        asks(PAGE, FRESH),
        asks(PAGE, Reply(304, (("Cache-Control", "max-age=60"), TAG), (b"",)), wait=60, status=200),
        asks(PAGE, FRESH, sent={"if-none-match": None}),
    ],
    "17 a 200 replaces": [
        asks(PAGE, FRESH),
        asks(PAGE, ok("max-age=60", body=b"new"), wait=60),
        served(PAGE, b"new", etag=None),
    ],
    "17 what may not be stored any more is forgotten": [
        asks(PAGE, FRESH),
        asks(PAGE, ok("no-store"), wait=60),
        asks(PAGE, MINUTE, sent={"if-none-match": None}),
    ],
    "18 HEAD from a stored GET": [
        asks(PAGE, FRESH),
        served(HEAD, b"", content_length="5", etag='"a"', age="0"),
        asks(HEAD, FRESH, wait=60),
    ],
    "18 a HEAD stores nothing": [asks(HEAD, FRESH, body=b""), asks(PAGE, FRESH)],
    "18 a HEAD freshens the GET's entry": [
        asks(PAGE, FRESH),
        asks(HEAD, ok("max-age=90", ETAG, ("X-New", "1")), wait=60),
        served(PAGE, wait=89, x_new="1"),
    ],
    "18 or ends it": [asks(PAGE, FRESH), asks(HEAD, ok("max-age=90", TAG), wait=60), asks(PAGE, FRESH, sent={"if-none-match": None})],
    "18 where the length differs, too": [
        asks(PAGE, FRESH),
        asks(HEAD, ok("max-age=90", ETAG, body=b"longer"), wait=60),
        asks(PAGE, FRESH, sent={"if-none-match": None}),
    ],
    # -- ranges
    "19 one range of what is stored": [
        asks(PAGE, ok("max-age=60", ETAG, body=b"0123456789")),
        *[
            served(ranged(text), body, status=206, content_range=f"bytes {where}/10", content_length=str(len(body)))
            for text, body, where in (
                ("bytes=0-3", b"0123", "0-3"),
                ("bytes=8-", b"89", "8-9"),
                ("bytes=-3", b"789", "7-9"),
                ("bytes=-99", b"0123456789", "0-9"),
                ("bytes=8-99", b"89", "8-9"),
                ("BYTES=0-0", b"0", "0-0"),
            )
        ],
        *[served(ranged(text), b"", status=416, content_range="bytes */10") for text in ("bytes=10-", "bytes=-0")],
        *[
            served(ranged(text), b"0123456789", content_range=None)
            for text in ("bytes=0-1,3-4", "lines=0-1", "bytes=3-1", "bytes=a-", "bytes", "bytes=-", "bytes= 0-1")
        ],
        served(ranged("bytes=0-3", method="HEAD"), b"", content_length="10"),
        served(ranged("bytes=0-3", ("If-None-Match", '"a"')), b"", status=304),
    ],
    "19 a range of what came in a stream": [
        asks(PAGE, ok("max-age=60", body=(b"012", b"", b"34", b"56789"))),
        served(ranged("bytes=2-5"), b"2345", status=206, content_range="bytes 2-5/10"),
        served(PAGE, b"0123456789", content_length="10"),
    ],
    "19 If-Range is strong": [
        asks(PAGE, FRESH),
        served(ranged("bytes=0-0", ("If-Range", '"a"')), b"h", status=206),
        served(ranged("bytes=0-0", ("If-Range", date(-1000))), b"h", status=206),
        *[served(ranged("bytes=0-0", ("If-Range", text))) for text in ('W/"a"', '"b"', date(-999), "a", "")],
    ],
    "19 a part is kept as it came": [
        asks(ranged("bytes=2-5"), part("bytes 2-5/10", b"2345", ETAG)),
        served(ranged("bytes=2-5"), b"2345", status=206, content_range="bytes 2-5/10"),
        served(ranged("bytes=3-4"), b"34", status=206, content_range="bytes 3-4/10"),
        served(ranged("bytes=2-5", ("If-Range", '"a"')), b"2345", status=206),
        asks(PAGE, ok("max-age=60", ETAG, body=b"0123456789")),
        served(ranged("bytes=0-5"), b"012345", status=206),
    ],
    "19 the rest of a part is not asked for, where nothing says that both belong together": [
        asks(ranged("bytes=0-4"), part("bytes 0-4/10", b"01234")),
        asks(PAGE, ok("max-age=60", body=b"0123456789"), sent={"range": None, "if-range": None}),
        served(PAGE, b"0123456789"),
    ],
    "19 a part does not answer what it does not hold": [
        asks(ranged("bytes=2-5"), part("bytes 2-5/10", b"2345", ETAG)),
        asks(ranged("bytes=5-6"), part("bytes 5-6/10", b"56", ETAG, control="no-store")),
        asks(ranged("bytes=2-5", ("If-Range", '"b"')), ok("no-store", TAG), sent={"if-range": '"b"'}),
        asks(ranged("bytes=2-5", ("If-None-Match", '"a"')), Reply(304, (ETAG,), (b"",)), sent={"if-none-match": '"a"'}),
        asks(HEAD, MINUTE),
    ],
    # -- stale
    "20 stale-while-revalidate": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60")),
        asks(PAGE, ok("max-age=60", body=b"new"), wait=61, body=b"hello", age="61", cache_status="keyguard; hit; ttl=-1"),
        served(PAGE, b"new"),
    ],
    "20 but not beyond its window": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60")),
        asks(PAGE, ok("max-age=60", body=b"new"), wait=121, body=b"new"),
    ],
    "20 the refresh asks without the client's conditions": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60")),
        asks(
            get("/", ("If-None-Match", '"x"'), ("If-Modified-Since", date(0)), ("Range", "bytes=0-1"), ("If-Range", '"x"'), ("Foo", "1")),
            ok("max-age=60", body=b"new"),
            wait=61,
            sent={"if-none-match": None, "if-modified-since": None, "range": None, "if-range": None, "foo": "1"},
        ),
        served(PAGE, b"new"),
    ],
    "20 a HEAD is served stale, and leaves the refresh to a GET": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60", body=(b"old",))),
        served(HEAD, b"", wait=61),
        asks(PAGE, ok("max-age=60", body=(b"new",)), body=b"old"),
        served(PAGE, b"new"),
    ],
    "20 with its own validators": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60", ETAG)),
        asks(PAGE, SAME, wait=61, status=200, sent={"if-none-match": '"a"'}),
        served(PAGE, age="0"),
    ],
    "20 what the refresh brings counts from then on": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=600", ETAG)),
        asks(PAGE, ok("no-cache", TAG, body=b"new"), wait=61, body=b"hello", sent={"if-none-match": '"a"'}),
        asks(PAGE, ok("max-age=60", body=b"newer"), body=b"newer", sent={"if-none-match": '"b"'}),
    ],
    "20 a refresh that fails leaves the entry": [
        asks(PAGE, ok("max-age=60, stale-while-revalidate=60")),
        asks(PAGE, status(500), wait=61, status=200),
        asks(PAGE, MINUTE, status=200),
        served(PAGE, age="0"),
    ],
    "20 stale-if-error": [
        asks(PAGE, ok("max-age=60, stale-if-error=60")),
        *[
            asks(PAGE, status(code), wait=61 if code == 500 else 0, status=200, body=b"hello",
                 cache_status=f"keyguard; hit; ttl=-1; fwd=stale; fwd-status={code}")
            for code in (500, 502, 503, 504)
        ],
        asks(PAGE, BROKEN, status=200, body=b"hello"),
        asks(PAGE, status(501), status=501),
    ],
    "20 but not beyond its window either": [
        asks(PAGE, ok("max-age=60, stale-if-error=60")),
        asks(PAGE, status(503), wait=121),
    ],
    "20 and never where the app forbids it": [
        turn
        for number, text in enumerate(("must-revalidate, max-age=60", "proxy-revalidate, max-age=60", "s-maxage=60", "no-cache"))
        for turn in (
            asks(get(f"/{number}"), ok(f"{text}, stale-if-error=999, stale-while-revalidate=999", ETAG)),
            asks(get(f"/{number}"), status(503), wait=61),
        )
    ],
    "20 nor without its word, but for a setting": (
        {"stale_on_error": 30},
        [
            asks(PAGE, MINUTE),
            asks(PAGE, BROKEN, wait=89, status=200),
            asks(PAGE, status(503), wait=2),
        ],
    ),
    # -- invalidation
    "21 what an unsafe method changes": [
        asks(get("/a"), MINUTE),
        asks(get("/b", ("Foo", "1")), ok("max-age=60", ("Vary", "Foo"))),
        asks(get("/b", ("Foo", "2")), ok("max-age=60", ("Vary", "Foo"))),
        asks(get("/c/d"), MINUTE),
        asks(get("/e"), MINUTE),
        asks(get("/a", method="POST"), status(201, None, ("Location", "http://example.test/b"), ("Content-Location", "c/d"))),
        asks(get("/a"), MINUTE),
        asks(get("/b", ("Foo", "1")), ok("max-age=60", ("Vary", "Foo"))),
        asks(get("/b", ("Foo", "2")), MINUTE),
        asks(get("/c/d"), MINUTE),
        served(get("/e")),
    ],
    "21 any method that is not known to be safe": [
        turn
        for method in ("POST", "PUT", "DELETE", "PATCH", "M-POST")
        for turn in (asks(PAGE, MINUTE), asks(get(method=method), status(303), cache_status="keyguard; fwd=method"))
    ],
    "21 one that is safe changes nothing": [
        asks(PAGE, MINUTE),
        asks(get(method="OPTIONS"), ok()),
        asks(get(method="QUERY"), ok()),
        served(PAGE),
    ],
    "21 nor does one that fails, nor elsewhere": [
        asks(PAGE, MINUTE),
        asks(get(method="POST"), status(400)),
        asks(get(method="POST"), status(500)),
        asks(get("/x", method="POST"), status(200, None, ("Location", "http://other.test/"))),
        served(PAGE),
    ],
    "21 tags do not reach the client": [
        asks(PAGE, ok("max-age=60", ("Cache-Tag", "a"), ("Surrogate-Key", "b")), cache_tag=None, surrogate_key=None),
        served(PAGE, cache_tag=None, surrogate_key=None),
        *[
            asks(ask, ok("no-store", ("Cache-Tag", "a"), ("Surrogate-Key", "b")), cache_tag=None, surrogate_key=None)
            for ask in (get("/x"), told("no-store"), get(method="POST"), get("/y", method="HEAD"), get("/z", ("Upgrade", "x")))
        ],
    ],
    "23 Cache-Status on what goes by": [
        asks(get(method="PUT"), ok(), cache_status="keyguard; fwd=method"),
        asks(get("/", ("Upgrade", "x")), ok(), cache_status="keyguard; fwd=bypass"),
        asks(PAGE, ok("no-store"), cache_status="keyguard; fwd=uri-miss"),
        asks(PAGE, ok("no-store", ("Cache-Status", "inner; hit")), cache_status="inner; hit"),
    ],
    "24 targeted fields": (
        {"targeted": ["CDN-Cache-Control"]},
        [
            asks(PAGE, ok("no-store", ("CDN-Cache-Control", "max-age=60"))),
            served(PAGE, wait=59, cdn_cache_control="max-age=60"),
            asks(PAGE, ok("max-age=60", ("CDN-Cache-Control", "no-store")), wait=1),
            asks(PAGE, ok("max-age=60", ("CDN-Cache-Control", "no-store, ;"))),
            served(PAGE),
        ],
    ),
    "24 which say nothing to a cache that was not told of them": [
        asks(PAGE, ok("no-store", ("CDN-Cache-Control", "max-age=60"))),
        asks(PAGE, ok("max-age=60", ("CDN-Cache-Control", "max-age=600"))),
        served(PAGE, wait=59),
        asks(PAGE, MINUTE, wait=1),
    ],
    "24 and the other settings of a proxy for all apps": (
        {"heuristic": True, "set_cookie": True, "targeted": ["CDN-Cache-Control"], "stale_on_error": 60},
        [
            asks(PAGE, ok(None, MODIFIED, ("CDN-Cache-Control", "max-age=10"), ("Set-Cookie", "a=1"))),
            served(PAGE, wait=9, set_cookie="a=1"),
            asks(PAGE, ok(None, ("Last-Modified", date(-990)), body=b"new"), wait=1, body=b"new"),
            served(PAGE, b"new", wait=99),
            asks(PAGE, BROKEN, wait=1, status=200, body=b"new"),
            asks(PAGE, ok("max-age=60", ("CDN-Cache-Control", "private"))),
            asks(PAGE, ok(None, MODIFIED, ("CDN-Cache-Control", "no-store"))),
            asks(get("/mine", ("Authorization", "Bearer x")), ok(None, MODIFIED, ("CDN-Cache-Control", "max-age=60"))),
            asks(get("/mine"), MINUTE),
        ],
    ),
}  # fmt: skip
