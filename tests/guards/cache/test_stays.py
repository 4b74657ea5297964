"""What is stored of a resource stays as it is, and for as long: whatever one request is answered, or the clock does."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from keyguard import APIKeys, Identity, Keyguard, RateLimit, ResponseCache, open_store
from keyguard.clock import wall_clock
from keyguard.guards.cache import storage as holding
from keyguard.testing import ManualClock
from tests.support.cache_worlds import Origin, Seen, World, world
from tests.support.harness import Answer, Ask
from tests.support.servers import wait_until


@pytest.fixture(params=["asgi", "wsgi"])
def either(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def is_hit(answer: Answer) -> bool:
    return "hit" in (answer.get("cache-status") or "")


# -- answers about a request ----------------------------------------------------------------------------------------

OF_REQUESTS = [400, 401, 402, 403, 405, 406, 407, 408, 409, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 425,
               426, 428, 429, 431, 499]  # fmt: skip
OF_THE_RESOURCE = [404, 410, 451]
SAYS = ["", "no-store", "max-age=60", "public, max-age=60"]
WAYS = {
    "a reload": (("Cache-Control", "no-cache"),),
    "a wrong Authorization": (("Authorization", "Basic wrong"),),
    "both": (("Cache-Control", "no-cache"), ("Authorization", "Basic wrong"), ("Accept", "image/none")),
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("public", ["public, max-age=600", "max-age=600"])
def test_an_answer_about_the_request_leaves_a_fresh_entry_where_it_is(either: World, public: str, way: str) -> None:
    status, says = 200, public
    origin = Origin(lambda seen: (status, [("Cache-Control", says)] if says else [], b"page"))
    app = either.wrap(Keyguard(ResponseCache(), clock=ManualClock()), either.app(origin))
    wrong = []
    for code in (*OF_REQUESTS, *OF_THE_RESOURCE):
        for then in SAYS:
            path = f"/{code}/{then.replace(' ', '')}"
            status, says = 200, public
            either.ask(app, Ask(path))
            status, says = code, then
            asked = either.ask(app, Ask(path, WAYS[way]))
            after = either.ask(app, Ask(path))
            stays = code in OF_REQUESTS or asked.status == 200  # a hit: for it is public
            if public == "max-age=600" and way != "a reload":  # it is not for who has credentials
                stays = stays or then != "public, max-age=60"
            if stays != ((after.status, is_hit(after)) == (200, True)):
                wrong.append((code, then, asked.status, after.status, is_hit(after)))
    assert wrong == []


def test_a_head_that_is_refused_leaves_the_entry_where_it_is(either: World) -> None:
    status = 200
    origin = Origin(lambda seen: (status, [("Cache-Control", "max-age=60")], b"page"))
    app = either.wrap(Keyguard(ResponseCache(), clock=ManualClock()), either.app(origin))
    for code in OF_REQUESTS:
        status = 200
        either.ask(app, Ask(f"/{code}"))
        status = code
        either.ask(app, Ask(f"/{code}", (("Cache-Control", "no-cache"),), "HEAD"))
        assert is_hit(either.ask(app, Ask(f"/{code}"))), code


def test_a_request_that_is_refused_makes_nobody_else_wait_apart(either: World) -> None:
    """The next callers ask the app once, together: what the first was told was about its own request."""
    gate = threading.Event()

    def reply(seen: Seen) -> Any:
        if seen.fields.get("accept") == "image/none":
            return 406, [], b"none of these"
        gate.wait(30)
        return 200, [("Cache-Control", "max-age=60")], b"page"

    async def waiting(seen: Seen) -> Any:
        return await asyncio.to_thread(reply, seen)

    origin = Origin(waiting if either.name == "asgi" else reply)
    app: Any = either.wrap(Keyguard(cache := ResponseCache()), either.app(origin))
    assert either.ask(app, Ask("/", (("Accept", "image/none"),))).status == 406

    def let_go_when_one_waits() -> None:
        wait_until(lambda: any(flight.signal._wakers for flight in cache.flights._open.values()), "somebody to wait")
        gate.set()

    answers = either.ask_together(app, [Ask("/"), Ask("/")], let_go_when_one_waits)
    assert [answer.status for answer in answers] == [200, 200]
    assert len(origin.seen) == 2


@pytest.mark.parametrize("status", [428, 429, 431, 511])
@pytest.mark.parametrize(
    "says", ["max-age=60", "public, max-age=60", "public, s-maxage=60, must-revalidate", "must-understand, max-age=60"]
)
@pytest.mark.parametrize("options", [{}, {"ttl": 60}, {"heuristic": True, "public": True}, {"by": "key"}])
def test_what_must_never_be_stored_is_not_whatever_its_headers_say(
    either: World, status: int, says: str, options: dict[str, Any]
) -> None:
    """RFC 6585, sections 3 to 6."""
    fields = [("Cache-Control", says), ("ETag", '"1"'), ("Last-Modified", "Fri, 15 Jan 2027 07:00:00 GMT")]
    origin = Origin(lambda seen: (status, fields, b"no"))
    guards = [APIKeys(lookup=lambda key: Identity(key))] if "by" in options else []
    app = either.wrap(Keyguard(*guards, ResponseCache(**options), clock=ManualClock()), either.app(origin))
    for method in ("GET", "POST"):
        asked = [either.ask(app, Ask("/x", (("X-API-Key", "ada"),) if guards else (), method)) for _ in range(2)]
        assert [answer.status for answer in asked] == [status] * 2
        assert not any("stored" in (answer.get("cache-status") or "") for answer in asked)
    assert len(origin.seen) == 4


# -- fields ---------------------------------------------------------------------------------------------------------


def test_what_has_no_date_gets_one_when_it_is_stored(either: World) -> None:
    """RFC 9110, section 6.6.1: of when it came. One that is there stays."""
    own = "Fri, 15 Jan 2027 07:59:00 GMT"
    clock = ManualClock()  # 08:00:00

    def reply(seen: Seen) -> Any:
        return 200, [("Cache-Control", "max-age=600"), *([("Date", own)] if seen.path == "/own" else [])], b"page"

    app = either.wrap(Keyguard(ResponseCache(), clock=clock), either.app(Origin(reply)))
    for path in ("/none", "/own"):
        either.ask(app, Ask(path))
    clock.advance(30)
    for path, date, age in (("/none", "Fri, 15 Jan 2027 08:00:00 GMT", "30"), ("/own", own, "90")):
        for method in ("GET", "HEAD"):
            answer = either.ask(app, Ask(path, (), method))
            assert (answer.all("date"), answer.all("age")) == ([date], [age])


DIGESTS = [
    ("Content-Digest", "sha-256=:whole:"),
    ("Content-MD5", "whole"),
    ("Digest", "sha-256=whole"),
    ("Repr-Digest", "sha-256=:whole:"),
    ("ETag", '"1"'),
]


def test_a_digest_of_the_whole_goes_with_no_part_of_it(either: World) -> None:
    """RFC 9530: `Content-Digest` is about the bytes that are sent, and `Repr-Digest` about the whole of them."""
    fields = [("Cache-Control", "max-age=600"), *DIGESTS]
    origin = Origin(lambda seen: (200, fields, b"0123456789"))
    app = either.wrap(Keyguard(ResponseCache(), clock=ManualClock()), either.app(origin))
    whole = {name.lower() for name, _ in DIGESTS}
    assert whole <= {name for name, _ in either.ask(app, Ask("/")).headers}
    assert whole <= {name for name, _ in either.ask(app, Ask("/")).headers}
    for headers, method, status in (
        ((("Range", "bytes=2-4"),), "GET", 206),
        ((("Range", "bytes=0-"),), "GET", 206),
        ((("If-None-Match", '"1"'),), "GET", 304),
        ((("Range", "bytes=20-"),), "GET", 416),
        ((), "HEAD", 200),
    ):
        answer = either.ask(app, Ask("/", headers, method))
        assert answer.status == status
        told = {name for name, _ in answer.headers} & whole
        assert told == (set() if status == 416 else {"repr-digest", "etag"}), (status, method)
    assert len(origin.seen) == 1


def test_the_digest_of_a_304_is_not_the_stored_bodys(either: World) -> None:
    clock = ManualClock()

    def reply(seen: Seen) -> Any:
        fields = [("Cache-Control", "max-age=60"), ("ETag", '"1"')]
        if "if-none-match" in seen.fields:
            return 304, [*fields, ("Content-Digest", "sha-256=:nothing:"), ("Content-MD5", "nothing")], b""
        return 200, [*fields, ("Content-Digest", "sha-256=:page:"), ("Content-MD5", "page")], b"page"

    app = either.wrap(Keyguard(ResponseCache(), clock=clock), either.app(Origin(reply)))
    either.ask(app, Ask("/"))
    clock.advance(100)
    for _ in range(2):
        answer = either.ask(app, Ask("/"))
        assert (answer.all("content-digest"), answer.all("content-md5")) == (["sha-256=:page:"], ["page"])


def test_what_the_app_says_of_limits_of_its_own_is_said_on_hits_as_well(either: World) -> None:
    """Also beside a guard's, within the cache or around it: what a guard says is of this caller and of now."""
    own = [("Retry-After", "7"), ("X-RateLimit-Limit", "3"), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "9")]
    own += [("RateLimit", '"app";r=0;t=9'), ("RateLimit-Policy", '"app";q=3')]
    names = [name.lower() for name, _ in own]
    limit: dict[str, Any] = {"headers": ["draft-11", "x-ratelimit"], "name": "ours"}
    for guards in (
        lambda: [ResponseCache()],
        lambda: [ResponseCache(), RateLimit("100/hour", **limit)],
        lambda: [ResponseCache(), RateLimit("100/hour", **limit), RateLimit("7/day", **{**limit, "name": "more"})],
    ):
        origin = Origin(lambda seen: (503, [("Cache-Control", "max-age=60"), *own], b"later"))
        app = either.wrap(Keyguard(*guards(), clock=ManualClock()), either.app(origin))
        either.ask(app, Ask("/"))
        for _ in range(2):
            hit = either.ask(app, Ask("/"))
            assert is_hit(hit)
            assert [hit.all(name) for name in names] == [[value] for _, value in own]
    around = either.wrap(Keyguard(RateLimit("100/hour", **limit), ResponseCache(), clock=ManualClock()),
                         either.app(origin))  # fmt: skip
    either.ask(around, Ask("/"))
    hit = either.ask(around, Ask("/"))
    assert is_hit(hit)
    assert hit.get("x-ratelimit-remaining") == "0"
    assert "r=98;" in ",".join(hit.all("ratelimit"))
    assert '"app";r=0' in ",".join(hit.all("ratelimit"))


# -- the clock --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "back", "after"), [(0, 3600, 61), (0, 3600, 0), (50, 40, 45), (10, 86400, 1)])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_clock_that_is_set_back_keeps_nothing_fresh(
    either: World, store: str, before: int, back: int, after: int, tmp_path: Any
) -> None:
    """How old an entry is cannot be known then. It serves as one that has just run out: for validation, say."""
    clock = ManualClock()
    opened = open_store("memory://" if store == "memory" else f"sqlite:///{tmp_path}/cache.db?timeout=5", clock)
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=60"), ("ETag", '"1"')], b"%d" % len(origin.seen)))
    app = either.wrap(Keyguard(ResponseCache(), store=opened, clock=clock), either.app(origin))
    either.ask(app, Ask("/first"))
    clock.advance(1)
    either.ask(app, Ask("/"))
    clock.advance(before)
    assert is_hit(either.ask(app, Ask("/")))
    clock.advance(-back)
    if back < before:  # then nothing that is stored is from the time to come: it shows in what was asked before
        either.ask(app, Ask("/other"))
    clock.advance(after)
    answer = either.ask(app, Ask("/"))
    if store == "memory":
        assert not is_hit(answer)
        assert origin.seen[-1].fields.get("if-none-match") == '"1"'
        assert is_hit(either.ask(app, Ask("/")))
    elif back > before:  # what a store of all processes holds is as old as that store's own clock says
        assert not is_hit(answer)
    either.close_stores(opened)


def test_the_systems_clock_is_compared_with_one_that_is_never_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a clock is seen to be set back by less than the time that has passed."""
    real = [1000.0]
    monkeypatch.setattr(holding, "monotonic", lambda: real[0])
    cache = ResponseCache()
    guard = Keyguard(cache)
    assert guard.cache is cache
    assert cache.storage._on_the_wall
    assert wall_clock() > 0
    ran_out: list[int] = []
    monkeypatch.setattr(cache.storage.local, "expire_all", ran_out.append)
    now = 1_800_000_000 * 1_000_000
    for passed, by_the_wall, expected in ((10, 10, 0), (50, 10, 1), (1, 1, 1), (0, -5, 2), (3, 3, 2), (1, 3600, 2)):
        real[0] += passed
        now += by_the_wall * 1_000_000
        if passed == 10:
            cache.storage.note_time(now - 10_000_000)
        cache.storage.note_time(now)
        assert len(ran_out) == expected


# -- streams ------------------------------------------------------------------------------------------------------

STREAMS = ["text/event-stream", "Text/Event-Stream; charset=utf-8", "multipart/x-mixed-replace; boundary=x",
           "application/x-ndjson", "application/json-seq", "application/grpc-web+proto"]  # fmt: skip


@pytest.mark.parametrize("says", [None, "max-age=60", "public, max-age=60"])
@pytest.mark.parametrize("kind", STREAMS)
def test_nobody_waits_for_a_stream_of_events_to_end(kind: str, says: str | None) -> None:
    """Two subscribe at the same time, and both get the first event while the stream goes on."""
    asyncio.run(_two_subscribe(kind, says, accept=None))


@pytest.mark.parametrize("kind", STREAMS[:2])
def test_nobody_waits_for_the_head_of_what_is_asked_for_as_events(kind: str) -> None:
    """The app sends its head with the first event, to each subscriber after both have come."""
    asyncio.run(_two_subscribe(kind, "max-age=60", accept="text/event-stream"))


async def _two_subscribe(kind: str, says: str | None, accept: str | None) -> None:
    in_app = 0
    both, over = asyncio.Event(), asyncio.Event()
    got: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal in_app
        in_app += 1
        if in_app == 2:
            both.set()
        if accept is not None:
            await both.wait()
        headers = [(b"content-type", kind.encode()), *([(b"cache-control", says.encode())] if says else [])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"event", "more_body": True})
        await over.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    cache = ResponseCache(coalesce=300, ttl=60)
    guarded = Keyguard(cache).asgi(app)
    fields = ((b"accept", accept.encode()),) if accept else ()

    async def subscribe() -> None:
        async def send(message: Any) -> None:
            if message.get("body"):
                got.append(message["body"])
                if len(got) == 2:
                    over.set()

        async def receive() -> Any:
            await over.wait()
            return {"type": "http.disconnect"}

        await guarded(Ask("/events", fields).scope(), receive, send)

    await asyncio.wait_for(asyncio.gather(subscribe(), subscribe()), 60)
    assert got == [b"event"] * 2
    assert in_app == 2


# -- keys in the query ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["api_key=SECRET-IN-QUERY", "colour=SECRET-IN-QUERY", "a=1&t=SECRET-IN-QUERY"])
@pytest.mark.parametrize("sources", [["query:colour"], ["x-api-key"]])
def test_what_is_sent_in_the_query_stands_nowhere_in_clear(
    either: World, query: str, sources: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    target = "/x?" + query
    caplog.set_level("DEBUG")
    failing: list[int] = []

    def reply(seen: Seen) -> Any:
        if failing:
            raise RuntimeError("the app is broken")
        return 200, [("Cache-Control", "public, max-age=10, stale-if-error=60")], b"page"

    clock = ManualClock()
    keys = APIKeys(lookup=lambda key: Identity("ada"), sources=sources, optional=True)
    cache = ResponseCache(coalesce=5)
    app = either.wrap(Keyguard(keys, cache, clock=clock), either.app(Origin(reply)))
    for _ in range(3):
        assert either.ask(app, Ask(target)).status == 200
    clock.advance(20)
    failing.append(1)
    assert is_hit(either.ask(app, Ask(target)))
    failing.clear()
    either.ask(app, Ask(target, (("Accept", "image/none"),)))
    gc.collect()
    held = repr([
        list(cache.storage.local._slots), list(cache.storage.local._by_digest), cache.flights._open,
        list(cache.flights._hit_for_miss), list(cache.storage.reports._notes), caplog.text,
        list(cache.storage.local.plain),
    ])  # fmt: skip
    assert "SECRET-IN-QUERY" not in held
    assert is_hit(either.ask(app, Ask(target)))


# -- fields that change what is asked for --------------------------------------------------------------------------

REWRITING = """
    X-Scheme X-Forwarded-Proto X-Forwarded-Scheme X-Forwarded-Protocol X-Forwarded-Ssl X-Url-Scheme X-Forwarded-Host
    X-Host X-Original-Host X-Forwarded-Server X-Forwarded-Port X-Forwarded-Prefix X-Script-Name Front-End-Https
    X-Forwarded-Path X-Forwarded-Uri X-Forwarded-Url X-Original-URL X-Original-URI X-Rewrite-URL X-Rewrite-Uri
    X-HTTP-Method-Override X-HTTP-Method X-Method-Override X-Method X-HTTP-Verb Method-Override X-HTTP-Host-Override
    Forwarded X-Proxy-Host X-Real-Host X-Base-Url X-Envoy-Original-Path X-Arr-Ssl CloudFront-Forwarded-Proto CF-Visitor
    X-Https X-Forwarded-Method X-Request-Uri X-Path-Prefix X-Forwarded-Root X-Domain X-Original-Scheme X-Forwarded-Query
    X-Port X-Original-Port X-Vhost X-Protocol
""".split()  # fmt: skip  # noqa: SIM905


@pytest.mark.parametrize("options", [{}, {"ttl": 60}, {"public": True}])
def test_a_field_that_changes_what_is_asked_for_poisons_no_entry(either: World, options: dict[str, Any]) -> None:
    """Who sends it gets what the app makes of it, and nobody else does. Before there is an entry, and after."""
    says = [] if "ttl" in options else [("Cache-Control", "max-age=60")]
    origin = Origin(lambda seen: (200, says, repr(sorted(seen.fields.items())).encode()))
    app = either.wrap(Keyguard(ResponseCache(**options)), either.app(origin))
    wrong = []
    for name in REWRITING:
        for order in ((None, "evil.example"), ("evil.example", None), ("evil.example", "worse.example")):
            path = f"/{name}/{order}"
            bodies = [
                either.ask(app, Ask(path.replace(" ", ""), ((name, one),) if one else ())).body.decode()
                for one in order
            ]
            for one, body in zip(order, bodies, strict=True):
                told = [text for text in ("evil.example", "worse.example") if text in body]
                if told != ([one] if one else []):
                    wrong.append((name, order, body))
    assert wrong == []


def test_who_sends_the_same_shares(either: World) -> None:
    """Behind a proxy all requests have these fields, and are no less cached for that."""
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=60")], b"page"))
    app = either.wrap(Keyguard(ResponseCache()), either.app(origin))
    for name in (
        "X-Scheme",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "Forwarded",
        "X-Forwarded-Uri",
    ):
        asked = [either.ask(app, Ask(f"/{name}", ((name, "https"), ("X-Forwarded-For", who)))) for who in "123"]
        assert [is_hit(answer) for answer in asked] == [False, True, True], name
