"""Attacks on the response cache, and accidents that look like them: each of these went through once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyguard import ConfigurationError, IPFilter, Keyguard, RateLimit, ResponseCache, asgi, wsgi
from keyguard.drivers.asgi import background as asgi_detached
from keyguard.guards.cache import variants
from keyguard.stores import open_store
from keyguard.testing import ManualClock
from tests.support.cache_worlds import Origin, Reply, Seen, World, world
from tests.support.harness import Answer, Ask, aask, ask_wsgi

WORLDS = ("asgi", "wsgi")


@pytest.fixture(params=WORLDS)
def earth(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def ask(target: str = "/x", **headers: str) -> Ask:
    return Ask(target, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


def said(reply: Reply, seen: Seen) -> Reply:
    return reply


def hit(answer: Answer) -> bool:
    return "; hit" in (answer.get("cache-status") or "")


# -- what stands outside ------------------------------------------------------------------------------------------


def test_17_our_validators_are_not_seen_by_what_stands_outside() -> None:
    """A layer outside that answers conditions would send a 304 to a client that holds nothing."""

    def reply(seen: Seen) -> Reply:
        fields = [("ETag", '"1"'), ("Cache-Control", "max-age=1")]
        return (304, fields, b"") if seen.fields.get("if-none-match") == '"1"' else (200, fields, b"body")

    clock = ManualClock()
    inside = Keyguard(ResponseCache(), clock=clock).wsgi(Origin(reply).wsgi)
    after: list[dict[str, Any]] = []

    def outside(environ: dict[str, Any], start_response: Any) -> Any:
        body = inside(environ, start_response)
        after.append({name: value for name, value in environ.items() if name.startswith("HTTP_IF")})
        return body

    ask_wsgi(outside, ask())
    clock.advance(5)
    answer = ask_wsgi(outside, ask())
    assert "fwd-status=304" in (answer.get("cache-status") or "")
    assert answer.status == 200
    assert answer.body == b"body"
    assert after == [{}, {}]


# -- memory -------------------------------------------------------------------------------------------------------


def test_28_a_long_range_counts_as_what_it_takes(earth: World) -> None:
    """Frameworks take `bytes=0-0,,,,` for one range: whoever asks so has 64 KB kept with a byte of body."""
    fields = [("Content-Range", "bytes 0-0/10"), ("Cache-Control", "max-age=600")]
    origin = Origin(lambda seen: (206, fields, b"x"))
    cache = ResponseCache(max_bytes=200_000)
    app = earth.wrap(Keyguard(cache), earth.app(origin))
    for number in range(12):
        earth.ask(app, ask(f"/x?{number}", Range="bytes=0-0" + "," * 60_000))
    assert 0 < cache.stats().entries <= 3


def test_28_tags_count_as_what_they_take(earth: World) -> None:
    tags = ",".join(f"tag-{number}" for number in range(1000))
    origin = Origin(lambda seen: (200, [("Cache-Tag", tags), ("Cache-Control", "max-age=600")], b"x"))
    cache = ResponseCache(max_bytes=200_000)
    app = earth.wrap(Keyguard(cache), earth.app(origin))
    for number in range(12):
        earth.ask(app, ask(f"/x?{number}"))
    assert 0 < cache.stats().entries <= 3


def test_28_the_variants_of_a_long_url_hold_it_once(earth: World) -> None:
    origin = Origin(lambda seen: (200, [("Vary", "Accept"), ("Cache-Control", "max-age=600")], b"x"))
    cache = ResponseCache()
    app = earth.wrap(Keyguard(cache), earth.app(origin))
    for number in range(8):
        earth.ask(app, ask("/x?" + "a" * 15_000, Accept=f"text/{number}"))
    slots = [slot for slot in cache.storage.local._slots.values() if slot.entries]
    assert [len(slot.entries) for slot in slots] == [8]
    assert len({id(entry.key) for entry in slots[0].entries}) == 1


@pytest.mark.slow
def test_28_heads_that_are_ready_count_as_what_they_take() -> None:
    """Twenty fields with every answer, each URL asked for in the short and in the long way: it took twice the bound."""
    fields = [("Cache-Control", "max-age=600")]

    def reply(seen: Seen) -> Reply:
        return 200, [*fields, *[(f"X-{n}", f"{n} of {seen.path}, " + "x" * 150) for n in range(20)]], b"x"

    cache = ResponseCache(max_bytes=1_000_000)
    origin = Origin(reply)
    with world("asgi") as made:
        app = made.wrap(Keyguard(cache), made.app(origin))
        made.ask(app, ask("/warm"))
        origin.seen.clear()
        gc.collect()
        tracemalloc.start()
        try:
            for number in range(200):
                path = f"/{number}"
                made.ask_in_turn([(app, ask(path)), (app, ask(path)), (app, ask(path, Cache_Control="max-stale"))] * 2)
                origin.seen.clear()
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert cache.stats().evicted > 0
    assert 500_000 < taken < 1_200_000


# -- whose answer it is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_14_what_freshens_an_entry_may_name_more_to_choose_by(earth: World, method: str) -> None:
    """A view that touches the session only for some callers says `Vary: Cookie` with its 304 for the first time."""

    def reply(seen: Seen) -> Reply:
        cookie = seen.fields.get("cookie")
        fields = [("ETag", '"1"'), ("Cache-Control", "max-age=5" if cookie is None else "max-age=600")]
        if cookie is not None:
            fields.append(("Vary", "Cookie"))
        if method == "GET" and seen.fields.get("if-none-match") == '"1"':
            return 304, fields, b""
        return 200, [*fields, ("Content-Length", "4")], (cookie or "none").encode()[:4]

    clock = ManualClock()
    app = earth.wrap(Keyguard(ResponseCache(), clock=clock), earth.app(Origin(reply)))
    assert earth.ask(app, ask()).body == b"none"
    clock.advance(10)
    earth.ask(app, Ask("/x", (("Cookie", "id=1"),), method))
    other = earth.ask(app, ask(Cookie="id=2"))
    assert not hit(other)
    assert other.body == b"id=2"
    mine = earth.ask(app, ask(Cookie="id=1"))
    assert hit(mine)
    assert mine.get("vary") == "cookie"


@pytest.mark.parametrize(
    "odd", ["en;q =0, de", "en;q=0;q=1, de", "en;level=1;q=0, de", "en;q=0.0000, de", ";q=0, en, de"]
)
def test_14_odd_weights_do_not_pass_for_plain_ones(earth: World, odd: str) -> None:
    """What the app reads in another way than the cache fills the common variant with the wrong language."""
    fields = [("Vary", "Accept-Language"), ("Cache-Control", "max-age=600")]
    origin = Origin(lambda seen: (200, fields, seen.fields["accept-language"].encode()))
    app = earth.wrap(Keyguard(ResponseCache()), earth.app(origin))
    earth.ask(app, ask(Accept_Language=odd))
    assert earth.ask(app, ask(Accept_Language="en, de")).body == b"en, de"
    assert earth.ask(app, ask(Accept_Language="DE;q=1.0,en;q=1")).body == b"en, de"


def test_14_sorted_queries_keep_the_order_of_one_parameter(earth: World) -> None:
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=600")], seen.query.encode()))
    app = earth.wrap(Keyguard(ResponseCache(sort_query=True)), earth.app(origin))
    assert earth.ask(app, ask("/x?b=1&a=2&a=1")).body == b"b=1&a=2&a=1"
    assert earth.ask(app, ask("/x?a=1&a=2&b=1")).body == b"a=1&a=2&b=1"
    assert hit(earth.ask(app, ask("/x?a=2&a=1&b=1")))


# -- who keeps others waiting -------------------------------------------------------------------------------------


def test_22_a_client_that_reads_slowly_keeps_nobody_waiting_again_and_again() -> None:
    """The leader's client reads nothing more, for ever: that costs those who wait once, and not at each expiry."""
    clock = ManualClock()
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=1")]})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        await send({"type": "http.response.body", "body": b"thing"})

    cache = ResponseCache(coalesce=0.05)
    guarded = Keyguard(cache, clock=clock).asgi(app)

    async def story() -> None:
        stuck, never = asyncio.Event(), asyncio.Event()

        async def receive() -> Any:
            await never.wait()

        async def slowly(message: Any) -> None:
            if message.get("more_body"):
                stuck.set()
                await never.wait()

        leader = asyncio.create_task(guarded(ask().scope(), receive, slowly))
        await stuck.wait()
        assert hit(await aask(guarded, ask())) is False
        assert calls == 2
        for _ in range(3):
            clock.advance(5)
            waiting = asyncio.create_task(aask(guarded, ask()))
            for _ in range(20):
                await asyncio.sleep(0)  # turns of the loop, and no time
            assert waiting.done()
        assert calls == 5
        assert cache.flights._open == {}
        leader.cancel()
        await asyncio.gather(leader, return_exceptions=True)

    asyncio.run(story())


def test_22_who_has_waited_in_vain_leads_those_who_come_after() -> None:
    """An app that never answers one request, under WSGI: the next ones wait for each other and not for that."""
    never, began = threading.Event(), threading.Event()
    calls = 0

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        nonlocal calls
        calls += 1
        if calls == 1:
            began.set()
            never.wait(20)
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        return [b"done"]

    cache = ResponseCache(coalesce=0.05)
    guarded = Keyguard(cache).wsgi(app)
    hung = threading.Thread(target=ask_wsgi, args=(guarded, ask()))
    hung.start()
    try:
        assert began.wait(20)
        assert ask_wsgi(guarded, ask()).body == b"done"
        assert cache.flights._open == {}
        assert hit(ask_wsgi(guarded, ask()))
    finally:
        never.set()
        hung.join(20)
    assert calls == 2


# -- many at a time -----------------------------------------------------------------------------------------------


def test_28_many_bodies_on_their_way_take_no_more_than_is_set() -> None:
    """A thousand clients that read slowly have a thousand copies made: beyond the bound nothing is copied."""
    cache = ResponseCache(max_bytes=100_000, coalesce=0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"x" * 30_000, "more_body": True})
        await send({"type": "http.response.body", "body": b"y"})

    guarded = Keyguard(cache).asgi(app)

    async def story() -> None:
        go_on, sent = asyncio.Event(), [0] * 8

        async def receive() -> Any:
            await asyncio.Event().wait()

        async def one(number: int) -> None:
            async def slowly(message: Any) -> None:
                sent[number] += len(message.get("body", b""))
                if message.get("more_body"):
                    await go_on.wait()

            await guarded(ask(f"/{number}").scope(), receive, slowly)

        crowd = [asyncio.create_task(one(number)) for number in range(8)]
        while min(sent) < 30_000:  # noqa: ASYNC110 - turns of the loop, and no time
            await asyncio.sleep(0)
        assert 0 <= cache.storage.budget.left < 30_000
        go_on.set()
        await asyncio.gather(*crowd)
        assert sent == [30_001] * 8

    asyncio.run(story())
    assert cache.stats().not_stored == 5
    assert cache.stats().stored == 3
    assert cache.storage.budget.left == 100_000
    assert "too much is being copied" in str(cache.explain("/7"))


def test_28_a_body_that_nobody_reads_or_closes_takes_no_room_for_ever() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Cache-Control", "max-age=60")])
        yield b"x" * 30_000
        yield b"y"

    cache = ResponseCache(max_bytes=100_000, coalesce=0)
    guarded = Keyguard(cache).wsgi(app)
    for number in range(8):  # as a middleware outside does that has an answer of its own, and forgets to close
        body: Any = guarded(ask(f"/{number}").environ(), lambda status, fields, exc_info=None: lambda data: None)
        next(iter(body))
    del body
    gc.collect()
    assert cache.storage.budget.left == 100_000


# -- order --------------------------------------------------------------------------------------------------------


def test_a_filter_by_address_does_not_stand_inside_a_cache() -> None:
    """What an allowed address has fetched would be served to those that are refused."""
    with pytest.raises(ConfigurationError, match="put the filter before the cache"):
        Keyguard(ResponseCache(), IPFilter(allow=["10.0.0.0/8"]))
    Keyguard(IPFilter(allow=["10.0.0.0/8"]), ResponseCache())
    for layers in (asgi, wsgi):
        filtered: Any = layers.IPFilter(lambda *scope: None, allow=["10.0.0.0/8"])
        with pytest.raises(ConfigurationError, match="an IPFilter further in"):
            layers.ResponseCache(filtered)


def test_14_two_apps_with_one_store_do_not_answer_for_each_other(earth: World, tmp_path: Path) -> None:
    """One app answers to any `Host`, also to the other one's: under names of their own they share nothing."""
    store: Any = open_store(f"sqlite:///{tmp_path}/both.db?timeout=1")
    fields = [("Cache-Control", "max-age=600")]
    apps = {}
    for name in ("shop", "office"):
        origin = Origin(partial(said, (200, fields, name.encode())))
        apps[name] = earth.wrap(Keyguard(ResponseCache(name=name), store=store), earth.app(origin))
    assert earth.ask(apps["shop"], ask()).body == b"shop"
    assert earth.ask(apps["office"], ask()).body == b"office"
    assert hit(earth.ask(apps["office"], ask()))
    earth.close_stores(store)


@pytest.mark.parametrize("wrong", [{"tag": 5}, {"tag": ""}, {"tag": ["a", "b"]}, {"url": 5}, {"url": b"/x"}])
def test_a_purge_of_what_is_no_text_says_so(wrong: dict[str, Any]) -> None:
    """It purged nothing, and said nothing."""
    with pytest.raises(ValueError, match="is a text, and one at a time"):
        Keyguard(ResponseCache()).cache.purge(**wrong)


@pytest.mark.parametrize("option", ["ignore_query", "vary", "targeted"])
def test_a_list_that_is_none_says_so(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} is a list of"):
        ResponseCache(**{option: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["a\nb", "a\r\nSet-Cookie: id=1", "a\0b"])
def test_3_a_header_that_breaks_out_of_its_line_is_not_stored(earth: World, value: str) -> None:
    """Some servers send it as it is: one caller's split response would be everybody's. Others got a 503 from hits."""
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=600"), ("X-Echo", value)], b"x"))
    for guards in [ResponseCache()], [RateLimit("100/second"), ResponseCache()]:
        stack = Keyguard(*guards)
        app = earth.wrap(stack, earth.app(origin))
        answers = [earth.ask(app, ask(), lint=False) for _ in range(3)]
        assert [(answer.status, hit(answer)) for answer in answers] == [(200, False)] * 3
        assert "CR, LF or NUL" in str(stack.explain("/x"))


@pytest.mark.parametrize("version", ["2", "3"])
def test_14_a_body_that_no_field_announces_poisons_nothing(version: str) -> None:
    """HTTP/2 needs no `Content-Length` for a body on a GET, and some frameworks read it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"found " + body})

    stack = Keyguard(ResponseCache())
    guarded = stack.asgi(app)
    asks = [Ask("/x", version=version, body=body) for body in (b"evil", b"", b"")]
    answers = [asyncio.run(aask(guarded, each)) for each in asks]
    assert [(answer.body, hit(answer)) for answer in answers] == [
        (b"found evil", False),
        (b"found ", False),
        (b"found ", True),
    ]


def test_22_who_has_waited_in_vain_does_not_wait_for_other_processes_as_well(tmp_path: Path) -> None:
    """One leader is stuck here, another process asks as well: the set time counts once."""
    never = asyncio.Event()
    calls = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await never.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": b"done"})

    leases = 0

    async def story() -> None:
        nonlocal leases
        store: Any = open_store(f"sqlite:///{tmp_path}/lease.db?timeout=1")
        cache = ResponseCache(coalesce=0.05)
        guarded = Keyguard(cache, store=store).asgi(app)
        shared: Any = cache.storage.shared
        original = shared.lease

        async def counted(*args: Any) -> Any:
            nonlocal leases
            leases += 1
            return await original(*args)

        shared.lease = counted
        stuck = asyncio.create_task(aask(guarded, ask()))
        while calls == 0:  # noqa: ASYNC110 - turns of the loop, and no time
            await asyncio.sleep(0)
        assert (await aask(guarded, ask())).body == b"done"
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        store.close()

    asyncio.run(story())
    assert leases == 1


def test_28_a_long_field_is_read_once_and_not_for_each_variant(earth: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty kilobytes of languages, compared with 32 variants, took 3 ms of every request."""
    read: list[str] = []

    def counted(name: str, value: str | None) -> str | None:
        read.append(name)
        return normal(name, value)

    normal = variants._normal
    origin = Origin(lambda seen: (200, [("Vary", "Accept-Language"), ("Cache-Control", "max-age=600")], b"x"))
    app = earth.wrap(Keyguard(ResponseCache()), earth.app(origin))
    for number in range(32):
        earth.ask(app, ask(Accept_Language=f"l{number}"))
    monkeypatch.setattr(variants, "_normal", counted)
    assert hit(earth.ask(app, ask(Accept_Language="l0")))
    assert len(read) == 1
    read.clear()
    odd = ask(Accept_Language=",".join(f"l{number}" for number in range(100)), Cache_Control="only-if-cached")
    assert earth.ask(app, odd).status == 504
    assert len(read) <= 2


# -- in the background --------------------------------------------------------------------------------------------


def test_20_a_refresh_that_hangs_is_tried_again_after_a_minute() -> None:
    """An app that waits for ever had the stale answer served until its window had passed."""
    clock = ManualClock()
    numbers = itertools.count(1)
    hung: list[asyncio.Event] = []

    async def reply(seen: Seen) -> Reply:
        number = next(numbers)
        if number == 2:
            hung.append(asyncio.Event())
            await hung[0].wait()
        return 200, [("Cache-Control", "max-age=5, stale-while-revalidate=86400")], b"%d" % number

    origin = Origin(reply)
    app = Keyguard(ResponseCache(), clock=clock).asgi(origin.asgi)

    async def get(wait: float = 0) -> bytes:
        clock.advance(wait)
        answer = await aask(app, ask())
        for _ in range(20):
            await asyncio.sleep(0)
        assert isinstance(answer.body, bytes)
        return answer.body

    async def story() -> None:
        assert await get() == b"1"
        assert [await get(10), await get(49)] == [b"1", b"1"]
        assert len(origin.seen) == 2
        assert await get(12) == b"1"
        assert len(origin.seen) == 3
        assert await get() == b"3"
        hung[0].set()

    asyncio.run(story())


def test_20_event_loops_that_were_closed_keep_no_places_in_the_background() -> None:
    """Sixty-four of them, each closed amid a refresh, and nothing was refreshed any more."""
    clock = ManualClock()
    hangs = True

    async def reply(seen: Seen) -> Reply:
        if hangs and clock.now > began:
            await asyncio.Event().wait()
        return 200, [("Cache-Control", "max-age=5, stale-while-revalidate=86400")], b"%d" % hangs

    began = clock.now
    origin = Origin(reply)
    app = Keyguard(ResponseCache(), clock=clock).asgi(origin.asgi)
    with asyncio.Runner() as runner:
        for number in range(80):
            runner.run(aask(app, ask(f"/{number}")))
    clock.advance(10)
    closed = []
    for number in range(79):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(aask(app, ask(f"/{number}")))
        loop.run_until_complete(asyncio.sleep(0))
        closed += asyncio.all_tasks(loop)
        loop.close()
    hangs = False
    before = len(origin.seen)
    with asyncio.Runner() as runner:
        assert runner.run(aask(app, ask("/79"))).body == b"1"
        runner.run(asyncio.sleep(0))
        assert len(origin.seen) == before + 1
        assert runner.run(aask(app, ask("/79"))).body == b"0"
    for task in closed:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    asgi_detached._detached.difference_update(closed)  # other tests wait for what runs there
