"""The fast ways to a hit: the answers are those of the long way, for random requests in both worlds."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache
from keyguard.guards.cache import path
from keyguard.guards.cache.request import RequestReader
from keyguard.ops import Put
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_asgi, ask_wsgi

ASKERS = {"asgi": ask_asgi, "wsgi": ask_wsgi}

PAGES = {
    "/open": [("Cache-Control", "public, max-age=6"), ("ETag", '"1"')],
    "/closed": [("Cache-Control", "max-age=6")],
    "/swr": [("Cache-Control", "s-maxage=2, max-age=2"), ("X-Request-ID", "first")],
    "/vary": [("Cache-Control", "public, max-age=6"), ("Vary", "Accept-Language")],
    "/checked": [("Cache-Control", "public, no-cache"), ("ETag", '"2"')],
    "/silent": [],
    "/cookie": [("Cache-Control", "max-age=6"), ("Set-Cookie", "a=1")],
    "/lost": [("Cache-Control", "public, max-age=2")],
}

STACKS: dict[str, Any] = {
    "outermost": lambda: [ResponseCache()],
    "outermost, with a lifetime": lambda: [
        ResponseCache(ttl=4, ignore_query=["token", "utm_*"]),
        RateLimit("999/hour"),
    ],
    "for all callers": lambda: [ResponseCache(ttl=4, public=True, vary=["Accept-Language"])],
    "by a function": lambda: [ResponseCache(ttl=4, when=path("/open", "/silent", "/vary"))],
    "own credentials": lambda: [ResponseCache(ttl=4, credentials=["X-Own"])],
    "within keys": lambda: [APIKeys(optional=True), ResponseCache(ttl=4)],
    "within keys, as the app says": lambda: [APIKeys(optional=True), ResponseCache()],
    "around keys": lambda: [ResponseCache(), APIKeys(optional=True, sources=["x-token", "cookie:key"])],
    "each caller's own": lambda: [APIKeys(optional=True), ResponseCache(ttl=4, by="subject")],
    "obstinate": lambda: [ResponseCache(ttl=4, ignore_client_directives=True, max_bytes=65536, max_entries=3)],
}


def site_of(world: str) -> Any:
    """An app that tells what it is asked, and counts."""

    def answer(path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        status = 404 if path == "/lost" else 200
        return status, [("Content-Type", "text/plain"), *PAGES.get(path, [])], f"{path} was here".encode()

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        status, fields, body = answer(scope["path"])
        raw = [(name.lower().encode(), value.encode()) for name, value in fields]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def wsgi(environ: Any, start_response: Any) -> list[bytes]:
        status, fields, body = answer(environ["PATH_INFO"])
        start_response(f"{status} Answer", fields)
        return [body]

    return asgi if world == "asgi" else wsgi


def drawn(random: Random, key: str) -> Ask:
    nothing: list[tuple[str, str]] = []
    credentials = [
        *[nothing] * 9,
        *[[("X-API-Key", key)]] * 4,
        [("X-API-Key", "k" * 20_000)],
        [("Authorization", "Bearer other.token")],
        [("Cookie", "session=1")],
        [("X-Forwarded-User", "ann")],
        [("X-Tenant", "one")],
        [("X-Own", "me")],
        [("X-Token", key)],
        [("X-API-Key", key), ("Cookie", "session=1")],
        [("X-API-Key", key), ("X-API-Key", key)],
        [("X-API-Key", "k" * 1500), ("X-API-Key", "k" * 1500)],
        [("Cookie", "c" * 1500), ("Cookie", "c" * 1500)],
    ]
    others = [
        *[nothing] * 8,
        [("Accept-Language", "de")],
        [("Accept-Language", "de"), ("Accept-Language", "fr")],
        [("User-Agent", "one"), ("Accept", "*/*")],
        [("Cache-Control", "no-cache")],
        [("Cache-Control", "max-age=1")],
        [("Cache-Control", "only-if-cached")],
        [("Pragma", "no-cache")],
        [("If-None-Match", '"1"')],
        [("Range", "bytes=0-3")],
        [("X-Forwarded-Host", "else.test")],
        [("X-HTTP-Method-Override", "PUT")],
        [("Upgrade", "h2c")],
        [("Content-Length", "0")],
        [("Host", "else.test")],
    ]
    query = random.choice([*[""] * 8, "?x=1", "?token=1", "?utm_source=a", "?x=%20"])
    target = random.choice([*PAGES, "/open", "/open", "/%6Fpen", "//open"]) + query
    fields = (("X-Request-ID", "one"), *random.choice(credentials), *random.choice(others))
    return Ask(target, fields, random.choice(["GET"] * 14 + ["HEAD", "POST"]))


@pytest.mark.parametrize("world", ASKERS)
@pytest.mark.parametrize("name", STACKS)
def test_fast_ways_to_a_hit_give_the_answers_of_the_long_way(
    name: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is asked for each ASGI scope, one for each request; without both all goes the long way."""
    clock = ManualClock()
    site = site_of(world)
    guards = [STACKS[name]() for _ in range(3)]
    stores = [MemoryStore(clock=clock) for _ in guards]
    apps = []
    for number, (made, store) in enumerate(zip(guards, stores, strict=True)):
        if number == 1:
            monkeypatch.setattr(ResponseCache, "instant", lambda self, clock: None)
        elif number == 2:
            monkeypatch.setattr("keyguard.chain.may_decide", lambda guard: False)
        stack = Keyguard(*made, store=store, clock=clock)
        if number == 0 and any(isinstance(guard, APIKeys) for guard in made):
            key = stack.keys.issue("acme").key.reveal()
        else:
            key = "none" if number == 0 else key
        for entry, value in stores[0].scan("") if number else ():
            store.execute([Put(entry, value)])
        apps.append(getattr(stack, world)(site))
    caches = [next(guard for guard in made if isinstance(guard, ResponseCache)) for made in guards]
    for seed in range(150):
        random = Random(f"{name} {seed}")
        ask = drawn(random, key)
        answers = [ASKERS[world](app, ask, lint=False) for app in apps]
        told = [(answer.status, sorted(answer.headers), answer.body) for answer in answers]
        assert told[0] == told[1] == told[2], (seed, ask)
        counted = [cache.stats() for cache in caches]
        assert counted[0] == counted[1] == counted[2], (seed, ask)
        clock.advance(random.choice([0, 0, 0, 0, 0, 0.3, 0.6, 1, 2]))
    assert counted[0].hits > 5


def test_a_plain_hit_needs_no_second_look_with_a_key_or_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under ASGI one look at the head decides, for whoever may have the entry."""
    cache = ResponseCache()
    guard = Keyguard(APIKeys(optional=True), cache)
    app = guard.asgi(site_of("asgi"))
    asks = [Ask("/open", fields) for fields in ((), (("X-API-Key", guard.keys.issue("acme").key.reveal()),))]
    for ask in asks * 2:
        ask_asgi(app, ask)
    monkeypatch.setattr(RequestReader, "glance", lambda self, request: pytest.fail("looked again"))
    assert [ask_asgi(app, ask).body for ask in asks] == [b"/open was here"] * 2
    assert cache.stats().hits == 5


@pytest.mark.parametrize("kind", [iter, tuple])
def test_a_head_that_can_be_read_once_is_read_once(kind: Any) -> None:
    """ "An iterable" of headers: what a look for a hit has read, the guards further in would not see."""
    guard = Keyguard(ResponseCache(), APIKeys())
    app = guard.asgi(site_of("asgi"))
    key = guard.keys.issue("acme").key.reveal()

    async def given(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "headers": kind(list(scope["headers"]))}, receive, send)

    assert [ask_asgi(given, Ask("/open", (("X-API-Key", key),)), lint=False).status for _ in range(3)] == [200] * 3
    assert ask_asgi(given, Ask("/closed"), lint=False).status == 401
