"""Requests with one field that is as long as can be, and as hard to read: what the tests count, and benchmarks time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit, ResponseCache, path
from tests.support.harness import Ask

UNITS = (
    *(",", '"', "\\", "=", ";", " ", "\t", "\0", "\xe9", "a", "%", "%25", "/", "/..", "&", "+", ":", "["),
    *(
        "a=1,",
        'a="',
        'a="\\",',
        '"a",',
        'W/"',
        'W/"a",',
        "a ",
        "a;b=c;",
        ";q=0.1,",
        "no-cache,",
        "private ;",
        'max-age="1',
    ),
    *(
        "for=1.1.1.1,",
        'for="',
        "127.0.0.1,",
        "for=127.0.0.1,",
        "bearer a,",
        "sid=a;",
        "key=a&",
        "%6bey=%61&",
        "bytes=0-1,",
    ),
    *("*/*,", "text/html;", "GMT"),
)
"""Of which long values are made: what parsers split at, quote, escape and fall back from."""

FIELDS = (
    *("cache-control", "pragma", "forwarded", "x-forwarded-for", "authorization", "x-api-key", "cookie", "accept"),
    *(
        "accept-language",
        "accept-encoding",
        "if-none-match",
        "if-modified-since",
        "if-range",
        "range",
        "host",
        "origin",
    ),
    *("access-control-request-method", "access-control-request-headers", "x-request-id", "x-forwarded-host"),
    *("x-http-method-override", "content-length", "transfer-encoding", "traceparent", "user-agent", "x-vary"),
    *("PATH", "QUERY", "METHOD", "NAME"),
)
"""Request fields that keyguard reads, and what else of a request may be long."""

HEAD = [
    (b"content-length", b"2"),
    (b"cache-control", b"max-age=60"),
    (b"etag", b'"a"'),
    (b"vary", b"accept, accept-language, accept-encoding, x-vary, user-agent"),
]


async def site(scope: Any, receive: Any, send: Any) -> None:
    """Answer anything with what may be stored, and varies."""
    await send({"type": "http.response.start", "status": 200, "headers": HEAD})
    await send({"type": "http.response.body", "body": b"ok"})


def stacks(field: str = "forwarded") -> list[Any]:
    """Every guard, with settings that have it read all that it can read.

    Two of them, which believe different fields about the caller's address; one, if this is none of those.
    """
    believed = ("forwarded", "x-forwarded-for")
    return [
        Keyguard(
            IPFilter(deny=["192.0.2.0/24"]),
            APIKeys(public=["/*"], sources=["authorization", "x-api-key", "cookie:sid", "query:key"]),
            RateLimit("1000000/second", by="ip", when=path("/a/{id}/b")),
            ResponseCache(ignore_query=["utm_*"], sort_query=True),
            trusted_proxies=["127.0.0.0/8"],
            forwarded_header=header,
        ).asgi(site)
        for header in (believed if "forwarded" in field else believed[:1])
    ]


def scope_with(field: str, value: str) -> dict[str, Any]:
    """A request with this value in the field, and with what else has it read."""
    asked = "OPTIONS" if field.startswith(("origin", "access-control")) else "GET"
    scope = Ask("/x", (), asked, client="127.0.0.1").scope()
    raw = value.encode("latin-1")
    if field == "PATH":
        return {**scope, "path": unquote("/" + value), "raw_path": b"/" + raw}
    if field == "QUERY":
        return {**scope, "query_string": raw}
    if field == "METHOD":
        return {**scope, "method": value}
    if field == "NAME":
        return {**scope, "headers": [*scope["headers"], (raw.lower(), b"x")]}
    fields = {b"host": b"example.test"}
    if asked == "OPTIONS":
        fields |= {b"origin": b"https://x.test", b"access-control-request-method": b"GET"}
    if field == "if-range":
        fields[b"range"] = b"bytes=0-0"
    fields[field.encode()] = raw
    return {**scope, "headers": list(fields.items())}


def values(size: int) -> Iterator[str]:
    """Values of a size, each of one unit; and each once more with a quote before it, which nothing closes."""
    for unit in UNITS:
        value = (unit * (size // len(unit) + 1))[:size]
        yield value
        if unit not in ('"', "\\"):
            yield ('a="' + value)[:size]


async def ask(app: Any, scope: dict[str, Any]) -> None:
    """Ask, and wait for the answer."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    await app(scope, receive, send)
