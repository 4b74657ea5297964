"""How the cache fits in: with servers and their extensions (caching.md 27), other guards (5, 26), and itself."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from keyguard import APIKeys, Identity, Keyguard, RateLimit, ResponseCache, path
from keyguard.testing import ManualClock
from tests.support.cache_site import PAGE, WORLDS, Site, asks, get, ok, served, status
from tests.support.harness import Ask, aask, ask_wsgi

Make = Callable[..., Site]

MINUTE = ok("max-age=60")


@pytest.fixture(params=WORLDS)
def site_of(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Site] = []

    def make(**options: Any) -> Site:
        made.append(Site(request.param, **options))
        return made[-1]

    yield make
    for site in made:
        site.close()


# -- ASGI ---------------------------------------------------------------------------------------------------------

EXTENSIONS = {
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
    "http.response.trailers": {},
    "http.response.push": {},
    "http.response.debug": {},
    "tls": {"tls_version": 1},
}


def run(app: Any, ask: Ask = PAGE, extensions: Any = None) -> list[dict[str, Any]]:
    """The messages that an ASGI app answers with."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = ask.scope()
    if extensions is not None:
        scope["extensions"] = extensions
    asyncio.run(app(scope, receive, send))
    return sent


def test_27_ways_past_the_body_are_hidden_where_it_may_be_stored() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(set(scope["extensions"]))
        scope["route"] = "noted"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"hello"})

    outside = Keyguard(ResponseCache()).asgi(app)
    run(outside, extensions=EXTENSIONS)
    assert seen.pop() == {"http.response.debug", "tls"}
    run(outside, extensions=EXTENSIONS)
    assert seen == [], "a hit"
    run(outside, get("/", ("Upgrade", "x")), EXTENSIONS)
    assert seen.pop() == set(EXTENSIONS), "nothing would be stored"
    assert set(EXTENSIONS) >= {"http.response.pathsend"}, "the server's own dictionary is as it was"


def test_1_and_27_messages_that_are_not_known_pass_through() -> None:
    hint = {"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(hint)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.debug", "info": {}})
        await send({"type": "http.response.body", "body": b"hello"})

    outside = Keyguard(ResponseCache()).asgi(app)
    kinds = [message["type"] for message in run(outside)]
    assert kinds == ["http.response.early_hint", "http.response.start", "http.response.debug", "http.response.body"]
    head, body = run(outside)
    assert (head["type"], body["body"]) == ("http.response.start", b"hello")
    assert b"link" not in dict(head["headers"])


def test_27_a_file_sent_past_the_body_all_the_same_is_not_stored() -> None:
    count = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        count.append(1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.pathsend", "path": "/a"})

    outside = Keyguard(ResponseCache()).asgi(app)
    for _ in range(2):
        assert [message["type"] for message in run(outside)] == ["http.response.start", "http.response.pathsend"]
    assert len(count) == 2


def test_27_websockets_are_left_alone() -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept", "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "websocket.close"})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    cache = ResponseCache(ttl=60)
    outside = Keyguard(cache).asgi(app)
    for _ in range(2):
        asyncio.run(outside({**PAGE.scope(), "type": "websocket", "scheme": "ws"}, receive, send))
    accept = {"type": "websocket.accept", "headers": [(b"cache-control", b"max-age=60")]}
    assert sent == [accept, {"type": "websocket.close"}] * 2
    assert cache.stats().entries == 0


@pytest.mark.parametrize("outermost", ["cache", "gzip"])
def test_25_gzip_inside_and_outside(outermost: str) -> None:
    from starlette.middleware.gzip import GZipMiddleware

    count = []
    body = b"a" * 2000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        count.append(1)
        headers = [(b"cache-control", b"max-age=60"), (b"content-length", b"2000"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    guard = Keyguard(ResponseCache(), clock=ManualClock())
    outside = guard.asgi(GZipMiddleware(app)) if outermost == "cache" else GZipMiddleware(guard.asgi(app))
    import gzip

    for _ in range(2):
        squeezed = asyncio.run(aask(outside, get("/", ("Accept-Encoding", "gzip, br"))))
        assert (squeezed.get("content-encoding"), gzip.decompress(squeezed.body)) == ("gzip", body)
        plain = asyncio.run(aask(outside, PAGE))
        assert (plain.get("content-encoding"), plain.body) == (None, body)
    assert len(count) == (2 if outermost == "cache" else 1)


# -- WSGI ---------------------------------------------------------------------------------------------------------


class FileWrapper:
    def __init__(self, file: Any, size: int = 8192) -> None:
        self.file = file
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(3), b"")

    def close(self) -> None:
        self.closed += 1


def call(app: Any, ask: Ask = PAGE, **environ: Any) -> tuple[Any, list[Any]]:
    heads: list[Any] = []
    body = app({**ask.environ(), **environ}, lambda status, headers, exc_info=None: heads.append((status, headers)))
    return body, heads


@pytest.mark.parametrize(("control", "kept"), [("no-store", True), ("max-age=60", False)])
def test_27_a_file_is_the_servers_to_send_where_it_is_not_stored(control: str, kept: bool) -> None:
    made: list[FileWrapper] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Cache-Control", control)])
        made.append(environ["wsgi.file_wrapper"](io.BytesIO(b"hello world")))
        return made[-1]

    outside = Keyguard(ResponseCache()).wsgi(app)
    body, _ = call(outside, **{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(body, FileWrapper) is kept
    assert b"".join(body) == b"hello world"
    body.close()
    assert made[0].closed == 1
    body, _ = call(outside, **{"wsgi.file_wrapper": FileWrapper})
    assert b"".join(body) == b"hello world"
    assert len(made) == (2 if kept else 1)


def test_27_early_hints_are_left_alone() -> None:
    hints: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ["wsgi.early_hints"]([("Link", "</a>; rel=preload")])
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"hello"]

    outside = Keyguard(ResponseCache()).wsgi(app)
    b"".join(call(outside, **{"wsgi.early_hints": hints.append})[0])
    assert hints == [[("Link", "</a>; rel=preload")]]
    _, heads = call(outside, **{"wsgi.early_hints": hints.append})
    assert len(hints) == 1
    assert "link" not in {name.lower() for name, _ in heads[0][1]}


def begins_late(environ: Any, start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Cache-Control", "max-age=60")])
    yield b"he"
    yield b"llo"


def writes(environ: Any, start_response: Any) -> Iterable[bytes]:
    write = start_response("200 OK", [("Cache-Control", "max-age=60")])
    write(b"he")
    write(b"l")
    return [b"lo"]


def yields_nothing(environ: Any, start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Cache-Control", "max-age=60")])
    return []


@pytest.mark.parametrize(("app", "body"), [(begins_late, b"hello"), (writes, b"hello"), (yields_nothing, b"")])
def test_27_however_a_wsgi_app_answers(app: Any, body: bytes) -> None:
    outside = Keyguard(ResponseCache(), clock=ManualClock()).wsgi(app)
    first, second = (ask_wsgi(outside, PAGE) for _ in range(2))
    assert (first.body, first.get("cache-status")) == (body, "keyguard; fwd=uri-miss; stored")
    assert (second.body, second.get("cache-status")) == (body, "keyguard; hit; ttl=60")


def test_7_an_app_that_begins_again_after_an_error_is_not_stored() -> None:
    calls: list[int] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        def parts() -> Iterator[bytes]:
            calls.append(1)
            try:
                raise ZeroDivisionError
            except ZeroDivisionError:
                start_response("500 Error", [("Content-Type", "text/plain")], sys.exc_info())
            yield b"it failed"

        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return parts()

    outside = Keyguard(ResponseCache()).wsgi(app)
    for _ in range(2):
        body, heads = call(outside)
        assert b"".join(body) == b"it failed"
        assert [line for line, _ in heads] == ["200 OK", "500 Error"]
        assert not any("max-age" in value for _, value in heads[1][1])
    assert len(calls) == 2


# -- with other guards (caching.md 5, 26) -------------------------------------------------------------------------


def test_26_an_exhausted_caller_is_served_where_the_app_says_so(site_of: Make) -> None:
    site = site_of(stack=lambda cache: [RateLimit("2/minute", by="ip"), cache], serve_exhausted=True)
    site.play(
        asks(PAGE, MINUTE, ratelimit='"ip:2/minute";r=1;t=60'),
        served(PAGE, ratelimit='"ip:2/minute";r=0;t=60', cache_status="keyguard; hit; ttl=60"),
        served(PAGE, ratelimit='"ip:2/minute";r=0;t=60', cache_status="keyguard; hit; ttl=60; detail=exhausted"),
        served(get("/other"), None, status=429),
        served(get(method="POST"), None, status=429),
    )
    assert len(site.get().all("ratelimit")) == 1


def test_26_and_is_refused_where_it_does_not(site_of: Make) -> None:
    site = site_of(stack=lambda cache: [RateLimit("1/minute", by="ip"), cache])
    site.play(asks(PAGE, MINUTE), served(PAGE, None, status=429))


def test_26_hits_are_free_where_the_cache_stands_outside(site_of: Make) -> None:
    site = site_of(stack=lambda cache: [cache, RateLimit("2/minute", by="ip")])
    site.play(
        asks(PAGE, MINUTE, ratelimit='"ip:2/minute";r=1;t=60'),
        *[served(PAGE, ratelimit=None) for _ in range(5)],
        asks(get("/b"), MINUTE),
        served(get("/c"), None, status=429, cache_status="keyguard; fwd=uri-miss"),
        served(get("/c"), None, status=429),
        served(PAGE),
        asks(get("/c"), MINUTE, wait=60),  # the refusal was not stored
    )


def lookup(key: str) -> Identity | None:
    return Identity(key, key_id=key) if key in ("ada", "bob") else None


def key(name: str, target: str = "/") -> Ask:
    return get(target, ("X-API-Key", name))


def test_5_what_one_key_gets_no_other_does(site_of: Make) -> None:
    site = site_of(stack=lambda cache: [APIKeys(lookup=lookup, optional=True), cache])
    site.play(
        asks(key("ada"), MINUTE, cache_status="keyguard; fwd=uri-miss"),
        asks(key("bob"), MINUTE),
        asks(PAGE, ok("max-age=60", body=b"for nobody")),
        asks(key("ada"), ok("public, max-age=60", body=b"for all")),
        served(key("bob"), b"for all"),
        served(PAGE, b"for all"),
        served(key("eve"), None, status=401),
    )


def test_5_each_key_its_own(site_of: Make) -> None:
    site = site_of(stack=lambda cache: [APIKeys(lookup=lookup), cache], by="key")
    site.play(
        asks(key("ada"), ok("private, max-age=60", body=b"ada's")),
        asks(key("bob"), ok("private, max-age=60", body=b"bob's")),
        served(key("ada"), b"ada's"),
        served(key("bob"), b"bob's"),
        served(key("eve"), None, status=401),
    )


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(
    ("source", "ask"),
    [
        ("authorization", get("/", ("Authorization", "Bearer ada"))),
        ("x-api-key", key("ada")),
        ("x-token", get("/", ("X-Token", "ada"))),
        ("cookie:session", get("/", ("Cookie", "a=b; session=ada"))),
        ("query:key", get("/?key=ada")),
    ],
)
def test_5_every_place_that_keys_are_read_from_is_credentials(site_of: Make, source: str, ask: Ask, order: int) -> None:
    def stack(cache: ResponseCache) -> list[Any]:
        guards = [APIKeys(lookup=lookup, sources=[source], optional=True), cache]
        return guards if order == 0 else guards[::-1]

    site_of(stack=stack).play(asks(ask, MINUTE), asks(ask, MINUTE))


def test_5_a_cookie_is_credentials_where_the_app_sets_no_lifetime_itself(site_of: Make) -> None:
    signed_in = get("/", ("Cookie", "session=1"))
    site_of(ttl=30).play(asks(signed_in, ok()), asks(PAGE, ok()), served(PAGE), asks(signed_in, ok()))
    site_of(ttl=30, public=True).play(asks(signed_in, ok()), served(PAGE), served(signed_in))
    site_of().play(asks(signed_in, MINUTE), served(signed_in))


def test_only_some_paths_go_through_it(site_of: Make) -> None:
    site = site_of(ttl=30, when=path("/products/*"))
    site.play(
        asks(get("/products/1"), ok()),
        served(get("/products/1")),
        asks(get("/account"), ok(), cache_status="keyguard; fwd=bypass"),
        asks(get("/products/..%2Faccount"), ok(), cache_status="keyguard; fwd=bypass"),
        asks(get("/products//1"), ok()),
    )


# -- with itself --------------------------------------------------------------------------------------------------


def test_mounted_twice_it_acts_once(site_of: Make) -> None:
    clock = ManualClock()
    cache = ResponseCache()
    guard = Keyguard(cache, clock=clock)
    site = site_of(
        stack=lambda unused: [],
        inside=lambda app: (
            guard.asgi(guard.asgi(app)) if asyncio.iscoroutinefunction(app) else guard.wsgi(guard.wsgi(app))
        ),
    )
    site.play(
        asks(PAGE, MINUTE, cache_status="keyguard; fwd=uri-miss; stored"),
        served(PAGE, cache_status="keyguard; hit; ttl=60"),
    )
    assert cache.stats().stored == 1
    site.play(asks(get(method="POST"), status(200)), asks(PAGE, MINUTE))


def test_two_caches_one_in_the_other(site_of: Make) -> None:
    inner = ResponseCache(name="inner")
    site = site_of(stack=lambda cache: [cache, inner])
    answer = site.play(asks(PAGE, MINUTE))
    assert answer.all("cache-status") == ["inner; fwd=uri-miss; stored", "keyguard; fwd=uri-miss; stored"]
    site.play(served(PAGE))
    site.cache.purge_all()
    answer = site.play(served(PAGE))
    assert answer.all("cache-status") == ["inner; hit; ttl=60", "keyguard; fwd=uri-miss; stored"]
    assert answer.all("age") == ["0"]
    assert site.get().all("age") == ["0"]
