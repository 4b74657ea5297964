"""No answer of one caller's reaches another, unless the app or its developer said that it is for everybody.

The grid: {where the credential stands} x {what the app says of caching} x {who asks next} x {where the cache stands}
x {settings} x {ASGI, WSGI} x {stores}. What must happen in a cell is told by `allowed`, from RFC 9111, section 3.5,
alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from keyguard import APIKeys, Identity, IPFilter, Keyguard, RateLimit, ResponseCache, wsgi
from keyguard.errors import ConfigurationError
from keyguard.stores import open_store
from keyguard.testing import ManualClock
from tests.support.cache_worlds import Origin, Seen, World, world
from tests.support.harness import Answer, Ask
from tests.support.servers import RedisServer, wait_until

WORLDS = ["asgi", "wsgi"]
START = datetime(2027, 1, 15, 8, tzinfo=UTC)
DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # the same moment


@pytest.fixture(params=WORLDS)
def either(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


# -- the grid ---------------------------------------------------------------------------------------------------

ALICE, BOB, WRONG = "alices-secret", "bobs-secret", "nobodys-secret"
OWNERS = {ALICE: Identity("alice", "1"), BOB: Identity("bob", "2")}


class Place(NamedTuple):
    """Where a credential stands."""

    sources: tuple[str, ...]
    """Where `APIKeys` reads; empty where the credential is the app's own affair, and `APIKeys` lets everybody in."""
    field: str
    """The header field; empty for the query."""
    text: str


PLACES = {
    "Bearer": Place(("authorization", "x-api-key"), "authorization", "Bearer {}"),
    "Basic": Place((), "authorization", "Basic {}"),
    "X-API-Key": Place(("authorization", "x-api-key"), "x-api-key", "{}"),
    "a field of its own": Place(("X-Token",), "x-token", "{}"),
    "cookie source": Place(("cookie:token",), "cookie", "a=b; token={}"),
    "query source": Place(("query:token",), "", "token={}"),
    "session cookie": Place((), "cookie", "session={}"),
}

SAYS: dict[str, list[tuple[str, str]]] = {
    "max-age": [("Cache-Control", "max-age=60")],
    "public": [("Cache-Control", "public, max-age=60")],
    "s-maxage": [("Cache-Control", "s-maxage=60")],
    "must-revalidate": [("Cache-Control", "max-age=60, must-revalidate")],
    "private": [("Cache-Control", "private, max-age=60")],
    "no-store": [("Cache-Control", "no-store, public, max-age=60")],
    "no-cache, ETag": [("Cache-Control", "no-cache, public"), ("ETag", '"1"')],
    "private field": [("Cache-Control", 'private="x-who", max-age=60'), ("X-Who", "{}")],
    "public, private field": [("Cache-Control", 'public, private="x-who", max-age=60'), ("X-Who", "{}")],
    "public, Vary": [("Cache-Control", "public, max-age=60"), ("Vary", "Authorization, X-API-Key")],
    "stale-while-revalidate": [("Cache-Control", "max-age=60, stale-while-revalidate=60")],
    "nothing": [],
    "Set-Cookie": [("Cache-Control", "public, max-age=60"), ("Set-Cookie", "s={}")],
}
FOR_EVERYBODY = {"public", "s-maxage", "must-revalidate", "public, private field", "public, Vary"}
"""What may be stored of a request with credentials, and used for others (RFC 9111, section 3.5)."""

FRESH = {"max-age", "private field", "stale-while-revalidate"}
"""What else may be used for a while: by everybody, where its developer says that it is public."""

SECONDS = {"other": BOB, "none": None, "wrong": WRONG, "same": ALICE}

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ttl": {"ttl": 30},
    "public": {"public": True},
    "by key": {"by": "key"},
    "by subject": {"by": "subject"},
}

POSITIONS = ["inside", "outside", "outermost layer", "innermost layer"]
"""Of the cache: in one stack with `APIKeys` or as a layer of its own, within it or around it."""


def allowed(place: str, says: str, settings: str, guarded: bool, second: str) -> bool:
    """Whether the second caller may get what the first one was answered.

    `guarded`: whether `APIKeys` stands in front of the cache and lets nobody in without a key.
    """
    if settings.startswith("by"):
        return False
    if place == "query source":
        return False  # another URL
    if says not in FOR_EVERYBODY and not (settings == "public" and says in FRESH):
        return False
    if says == "public, Vary" and PLACES[place].field in ("authorization", "x-api-key"):
        return False  # the second request differs in what was chosen by
    own = not PLACES[place].sources  # APIKeys knows nothing of it
    return own or second == "other" or not guarded


def credentials(place: str, secret: str | None, path: str) -> Ask:
    at = PLACES[place]
    if secret is None:
        return Ask(path)
    text = at.text.format(secret)
    return Ask(path, ((at.field, text),)) if at.field else Ask(f"{path}?{text}")


def reply(seen: Seen) -> Any:
    """All that the request carries of credentials, in the body."""
    carried = " ".join(seen.fields.get(name, "") for name in ("authorization", "x-api-key", "x-token", "cookie"))
    says = SAYS[seen.path.split("/")[1].replace("_", " ")]
    who = carried.encode().hex()  # hex: no secret of the request itself is a valid field value by accident
    headers = [(name, value.format(who)) for name, value in says]
    return 200, [("Date", DATE), *headers], f"{carried} {seen.query}".encode()


def shows(answer: Answer, place: str, secret: str) -> bool:
    """Whether an answer tells anything of a caller."""
    at = PLACES[place].text.format(secret)
    told = answer.body + repr(answer.headers).encode()
    return secret.encode() in told or at.encode().hex().encode() in told


def stack(made: World, position: str, place: str, settings: str, store: Any, clock: Any, open_to_all: bool) -> Any:
    """The app with its guards."""
    keys: dict[str, Any] = {"lookup": OWNERS.get, "guesses": "1000000/minute", "optional": open_to_all}
    if PLACES[place].sources:
        keys["sources"] = PLACES[place].sources
    cache = {"local_ttl": 0, **SETTINGS[settings]}
    options = {"store": store, "clock": clock}
    app = made.app(Origin(reply))
    if position == "inside":
        return made.wrap(Keyguard(APIKeys(**keys), ResponseCache(**cache), **options), app)
    if position == "outside":
        return made.wrap(Keyguard(ResponseCache(**cache), APIKeys(**keys), **options), app)
    names = [("APIKeys", keys), ("ResponseCache", cache)]
    for name, arguments in names if position == "outermost layer" else reversed(names):
        app = made.layer(name, app, **arguments, **options)
    return app


def places_of(settings: str) -> list[str]:
    """A cookie is a credential where the app has said nothing of its answers, or where those are each caller's own."""
    return [place for place in PLACES if place != "session cookie" or settings in ("ttl", "by key", "by subject")]


def said_of(place: str, settings: str) -> list[str]:
    if settings == "ttl" and place != "session cookie":
        return ["nothing", "Set-Cookie"]
    return list(SAYS)


def said_here(name: str, store: str, settings: str, turn: int, said: list[str]) -> list[str]:
    """What is asked about in this world and store: stores differ in where an entry is kept, not in what is kept."""
    every = 5 if settings == "ttl" else 8  # with `ttl` the app says less, so that there are fewer cells
    shared = {0: "sqlite", every // 2: "redis"}.get(turn % every)
    if store == "memory":
        return [] if shared else said[(turn + WORLDS.index(name)) % 2 :: 2]
    return said if store == shared else []


STORES = [*[(name, "memory") for name in WORLDS], ("asgi", "sqlite"), ("wsgi", "redis")]


@pytest.mark.parametrize("settings", list(SETTINGS))
@pytest.mark.parametrize(("name", "store"), STORES)
def test_no_answer_of_one_caller_reaches_another(
    name: str, store: str, settings: str, tmp_path: Any, valkey: RedisServer
) -> None:
    """Each cell is looked at once: its world, and whether its store is a shared one, change from cell to cell."""
    clock = ManualClock(START - timedelta(seconds=1))
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/store.db?timeout=10"}
    urls["redis"] = f"{valkey.url}?namespace=leaks-{name}-{settings.replace(' ', '-')}&timeout=1"
    shared = open_store(urls[store], clock)
    # By key there is no cache outside of what finds the key: that stack does not start.
    positions = [at for at in POSITIONS if not (settings.startswith("by") and at.startswith("out"))]
    wrong: list[tuple[str, ...]] = []
    hits = 0
    with world(name, shared) as made:
        warm_up(made, shared, clock)
        turn = list(SETTINGS).index(settings)
        for position, place in itertools.product(positions, places_of(settings)):
            for open_to_all in (True, False) if PLACES[place].sources else (True,):
                turn += 1
                said = said_here(name, store, settings, turn, said_of(place, settings))
                if not said:
                    continue
                first = stack(made, position, place, settings, shared, clock, open_to_all)
                # Of two processes that share a store, one has seen nothing of the other's requests.
                then = first
                if store != "memory":
                    then = stack(made, position, place, settings, shared, clock, open_to_all)
                cells = [(says, second) for says in said for second in SECONDS]
                asks = []
                for says, second in cells:
                    path = f"/{says}/{position}/{place}/{open_to_all}/{second}".replace(" ", "_")
                    asks.append((first, credentials(place, ALICE, path)))
                    asks.append((then, credentials(place, SECONDS[second], path)))
                for (says, second), again in zip(cells, made.ask_in_turn(asks)[1::2], strict=True):
                    hits += "hit" in (again.get("cache-status") or "")
                    fault = fault_of(place, says, settings, position, open_to_all, second, again)
                    if fault:
                        wrong.append((fault, position, place, str(open_to_all), says, second))
    assert not wrong, f"{len(wrong)}: {wrong[:12]}"
    assert hits


def warm_up(made: World, store: Any, clock: ManualClock) -> None:
    """A first request, a second before the others: what a shared store holds counts from after it was first seen."""
    app = made.wrap(Keyguard(ResponseCache(), store=store, clock=clock), made.app(Origin(reply)))
    made.ask(app, Ask("/max-age/first"))
    clock.advance(1)


def fault_of(
    place: str, says: str, settings: str, position: str, open_to_all: bool, second: str, answer: Answer
) -> str | None:
    """What is wrong with the answer to the second caller."""
    got = shows(answer, place, ALICE)
    if second == "same":
        return None if answer.status == 200 and got else "not its own"
    outer = position.startswith("out")
    may = allowed(place, says, settings, not outer and not (open_to_all and second == "none"), second)
    if got != may:
        return "leaked" if got else "not shared"
    if got:
        return "a private field leaked" if answer.get("x-who") else None
    refused = PLACES[place].sources and (second == "wrong" or (second == "none" and not open_to_all))
    return None if answer.status == (401 if refused else 200) else f"answered {answer.status}"


# -- what goes on at the same time ----------------------------------------------------------------------------------

KEY = "x-api-key"
KEYS: dict[str, Any] = {"lookup": OWNERS.get, "guesses": "1000000/minute"}


def told(seen: Seen, *headers: tuple[str, str], body: str = "") -> Any:
    return 200, [("Date", DATE), *headers], f"{seen.fields.get(KEY, 'nobody')} {body}".encode()


@pytest.mark.parametrize("by", [None, "key", "subject"])
@pytest.mark.parametrize("says", ["max-age=60", "private, max-age=60", "public, max-age=60"])
def test_callers_who_ask_at_the_same_time_each_get_their_own(either: World, says: str, by: Any) -> None:
    """Both are in the app at once, where they do not share: neither waits for the other's answer."""
    shares = says.startswith("public") and by is None
    meeting = threading.Barrier(2)
    async_meeting: Any = None

    def meet() -> None:
        if not shares:
            meeting.wait(10)

    def wsgi_reply(seen: Seen) -> Any:
        meet()
        return told(seen, ("Cache-Control", says))

    async def asgi_reply(seen: Seen) -> Any:
        nonlocal async_meeting
        if not shares:
            async_meeting = async_meeting or asyncio.Barrier(2)
            await asyncio.wait_for(async_meeting.wait(), 10)
        return told(seen, ("Cache-Control", says))

    origin = Origin(asgi_reply if either.name == "asgi" else wsgi_reply)
    guard = Keyguard(APIKeys(**KEYS), ResponseCache(by=by))
    app = either.wrap(guard, either.app(origin))
    answers = either.ask_together(app, [Ask("/", ((KEY, ALICE),)), Ask("/", ((KEY, BOB),))])
    assert [answer.status for answer in answers] == [200, 200]
    if not shares:
        assert [answer.body.split()[0].decode() for answer in answers] == [ALICE, BOB]
        assert not any("collapsed" in (answer.get("cache-status") or "") for answer in answers)


@pytest.mark.parametrize("leader", [ALICE, None])
def test_who_waits_for_an_answer_does_not_get_it_where_it_turns_out_to_be_anothers(
    either: World, leader: str | None
) -> None:
    """The cache stands outermost and cannot see what is further in: at first it takes the two for the same."""
    gate, in_app = threading.Event(), threading.Event()

    def wait() -> None:
        in_app.set()
        gate.wait(10)

    def wsgi_reply(seen: Seen) -> Any:
        if len(origin.seen) == 1:
            wait()
        return 200, [("Cache-Control", "max-age=60")], seen.fields.get("x-colour", "nobody").encode()

    async def asgi_reply(seen: Seen) -> Any:
        if len(origin.seen) == 1:
            await asyncio.to_thread(wait)
        return 200, [("Cache-Control", "max-age=60")], seen.fields.get("x-colour", "nobody").encode()

    origin = Origin(asgi_reply if either.name == "asgi" else wsgi_reply)
    inner = either.layer("APIKeys", either.app(origin), **KEYS, sources=["X-Colour"], optional=True)
    hidden = iter(lambda: inner, None)
    app = either.layer("ResponseCache", lambda *arguments: next(hidden)(*arguments))
    flights = app.guard.flights

    def let_go_when_one_waits() -> None:
        wait_until(lambda: any(flight.signal._wakers for flight in flights._open.values()), "somebody to wait")
        gate.set()

    first = Ask("/", (("X-Colour", leader),) if leader else ())
    answers = either.ask_together(app, [first, Ask("/", (("X-Colour", BOB),))], let_go_when_one_waits)
    assert in_app.is_set()
    assert {answer.body for answer in answers} == {(leader or "nobody").encode(), BOB.encode()}
    again = either.ask(app, Ask("/", (("X-Colour", WRONG),)))
    assert again.status == 401


# -- what comes from the background, and what validates ---------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "key"])
def test_a_refresh_in_the_background_stays_with_whom_it_was_for(either: World, by: Any) -> None:
    clock = ManualClock(START)
    says = "max-age=10, stale-while-revalidate=60"
    origin = Origin(lambda seen: told(seen, ("Cache-Control", says), body=str(len(origin.seen))))
    guard = Keyguard(APIKeys(**KEYS, optional=True), ResponseCache(by=by), clock=clock)
    app = either.wrap(guard, either.app(origin))
    anonymous, alice, bob = Ask("/"), Ask("/", ((KEY, ALICE),)), Ask("/", ((KEY, BOB),))
    bodies = []
    for ask in (anonymous, alice):
        bodies.append(either.ask(app, ask).body.decode())
    clock.advance(20)
    for ask in (alice, anonymous, bob):
        bodies.append(either.ask(app, ask).body.decode())
        either.settle()
    for ask in (alice, anonymous, bob):
        bodies.append(either.ask(app, ask).body.decode())
        either.settle()
    whose = [body.split()[0] for body in bodies]
    assert whose == ["nobody", ALICE, ALICE, "nobody", BOB, ALICE, "nobody", BOB]


def test_a_refresh_for_a_caller_with_a_key_is_not_kept_where_it_is_private_by_then(either: World) -> None:
    """The entry is for everybody; what the background brings, for Alice alone."""
    clock = ManualClock(START)
    says = iter(["public, max-age=10, stale-while-revalidate=60", *["max-age=60"] * 5])
    origin = Origin(lambda seen: told(seen, ("Cache-Control", next(says))))
    app = either.wrap(Keyguard(APIKeys(**KEYS, optional=True), ResponseCache(), clock=clock), either.app(origin))
    either.ask(app, Ask("/"))
    clock.advance(20)
    stale = either.ask(app, Ask("/", ((KEY, ALICE),)))
    assert (stale.body, stale.get("cache-status")) == (b"nobody ", "keyguard; hit; ttl=-10")
    either.settle()
    assert [seen.fields.get(KEY) for seen in origin.seen] == [None, ALICE]
    assert either.ask(app, Ask("/")).body == b"nobody "
    assert either.ask(app, Ask("/", ((KEY, BOB),))).body.split()[0].decode() == BOB


@pytest.mark.parametrize(
    "fields",
    [(), (("Range", "bytes=0-1"),), (("If-None-Match", '"theirs"'),), (("If-Modified-Since", DATE),)],
    ids=["plain", "range", "etag", "date"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_refresh_asks_for_the_whole(either: World, method: str, fields: Any) -> None:
    """The background asks less the client's own conditions and range (RFC 5861, section 3); never with a HEAD."""
    clock = ManualClock(START)

    def reply(seen: Seen) -> Any:
        if "if-none-match" in seen.fields or "if-modified-since" in seen.fields:
            return 304, [], b""
        if "range" in seen.fields:
            return 206, [("Content-Range", "bytes 0-1/6"), ("Cache-Control", "max-age=60")], b"wh"
        return 200, [("Cache-Control", "max-age=10, stale-while-revalidate=60")], f"whole{len(origin.seen)}".encode()

    origin = Origin(reply)
    app = either.wrap(Keyguard(ResponseCache(), clock=clock), either.app(origin))
    either.ask(app, Ask("/"))
    clock.advance(20)
    either.ask(app, Ask("/", fields, method))
    either.settle()
    if method == "HEAD":
        assert len(origin.seen) == 1
        either.ask(app, Ask("/"))
        either.settle()
    assert len(origin.seen) == 2
    assert origin.seen[1].method == "GET"
    assert not {"range", "if-none-match", "if-modified-since"} & origin.seen[1].fields.keys()
    answer = either.ask(app, Ask("/"))
    assert (answer.body, answer.get("cache-status")) == (b"whole2", "keyguard; hit; ttl=10")


def test_a_cookie_that_comes_with_a_304_goes_to_who_asked_alone(either: World) -> None:
    clock = ManualClock(START)

    def reply(seen: Seen) -> Any:
        if seen.fields.get("if-none-match") == '"1"':
            return 304, [("ETag", '"1"'), ("Set-Cookie", f"s={seen.fields['x-who']}")], b""
        return 200, [("Date", DATE), ("ETag", '"1"'), ("Cache-Control", "max-age=10")], b"same for all"

    app = either.wrap(Keyguard(ResponseCache(), clock=clock), either.app(Origin(reply)))
    either.ask(app, Ask("/", (("X-Who", "first"),)))
    clock.advance(20)
    asked = either.ask(app, Ask("/", (("X-Who", "alice"),)))
    assert (asked.status, asked.body, asked.all("set-cookie")) == (200, b"same for all", ["s=alice"])
    after = either.ask(app, Ask("/", (("X-Who", "bob"),)))
    assert "hit" in (after.get("cache-status") or "")
    assert after.all("set-cookie") == []


def test_fields_of_a_304_for_a_key_are_not_kept_by_a_process_that_has_yet_to_learn_of_keys(tmp_path: Any) -> None:
    clock = ManualClock(START)

    def reply(seen: Seen) -> Any:
        fields = [("ETag", '"1"'), ("Cache-Control", "max-age=10"), ("X-Who", seen.fields.get("x-token", "nobody"))]
        return (304 if "if-none-match" in seen.fields else 200), fields, b"body"

    store = open_store(f"sqlite:///{tmp_path}/store.db?timeout=5", clock)
    with world("wsgi", store) as made:

        def process() -> Any:
            options = {"store": store, "clock": clock}
            keys = made.layer("APIKeys", Origin(reply).wsgi, **KEYS, sources=["X-Token"], optional=True, **options)
            return made.layer("ResponseCache", lambda *arguments: keys(*arguments), **options)

        made.ask(process(), Ask("/"))
        clock.advance(20)
        after_restart = process()
        assert made.ask(after_restart, Ask("/", (("X-Token", ALICE),))).status == 200
        assert made.ask(after_restart, Ask("/")).get("x-who") == "nobody"


@pytest.mark.parametrize("source", ["X-Token", "cookie:token"])
def test_a_process_that_has_just_started_knows_where_the_layers_further_in_look_for_keys(
    either: World, source: str, tmp_path: Any
) -> None:
    """What another process has stored for nobody in particular is not for a caller with a key (RFC 9111, 3.5)."""
    clock = ManualClock(START - timedelta(seconds=1))
    store = open_store(f"sqlite:///{tmp_path}/store.db?timeout=5", clock)
    warm_up(either, store, clock)
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=60")], repr(sorted(seen.fields.items())).encode()))

    def process() -> Any:
        options = {"store": store, "clock": clock}
        keys = either.layer("APIKeys", either.app(origin), **KEYS, sources=[source], optional=True, **options)
        return either.layer("ResponseCache", keys, **options)

    either.ask(process(), Ask("/"))
    assert "hit" in (either.ask(process(), Ask("/")).get("cache-status") or "")
    field = ("X-Token", ALICE) if source == "X-Token" else ("Cookie", f"token={ALICE}")
    restarted = process()
    for _ in range(2):
        assert ALICE.encode() in either.ask(restarted, Ask("/", (field,))).body
    either.close_stores(store)


def test_what_is_private_is_not_kept_for_callers_without_a_key(either: World) -> None:
    """By key, what is private is its caller's own. Callers without a key are no one caller."""
    origin = Origin(lambda seen: told(seen, ("Cache-Control", 'private="x-who", max-age=60'), ("X-Who", "me")))
    whole = Origin(lambda seen: told(seen, ("Cache-Control", "private, max-age=60"), body=str(len(whole.seen))))
    for app, expected in ((whole, [b"nobody 1", b"nobody 2"]), (origin, [b"nobody "] * 2)):
        guarded = either.wrap(Keyguard(APIKeys(**KEYS, optional=True), ResponseCache(by="key")), either.app(app))
        answers = [either.ask(guarded, Ask("/")) for _ in range(2)]
        assert [answer.body for answer in answers] == expected
    assert [answer.get("x-who") for answer in answers] == ["me", None]
    mine = [either.ask(guarded, Ask("/", ((KEY, ALICE),))) for _ in range(2)]
    assert [answer.get("x-who") for answer in mine] == ["me", "me"]


# -- keys that change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [None, "key", "subject"])
def test_a_key_that_was_revoked_or_rotated_away_gets_nothing_from_the_cache(either: World, by: Any) -> None:
    clock = ManualClock(START)
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "public, max-age=600")))
    guard = Keyguard(APIKeys(), ResponseCache(by=by), store=open_store("memory://", clock), clock=clock)
    app = either.wrap(guard, either.app(origin))
    old = guard.keys.issue("alice")
    new = guard.keys.rotate(old.record.id, overlap=0)
    gone = guard.keys.issue("bob")
    clock.advance(1)
    assert either.ask(app, Ask("/", ((KEY, gone.key.reveal()),))).status == 200
    assert "hit" in (either.ask(app, Ask("/", ((KEY, gone.key.reveal()),))).get("cache-status") or "")
    guard.keys.revoke(gone.record.id)
    clock.advance(1)
    for key in (gone, old):
        refused = either.ask(app, Ask("/", ((KEY, key.key.reveal()),)))
        assert (refused.status, refused.get("cache-status")) == (401, None)
    answer = either.ask(app, Ask("/", ((KEY, new.key.reveal()),)))
    assert answer.status == 200
    assert ("hit" in (answer.get("cache-status") or "")) == (by is None)


# -- refusals and limits --------------------------------------------------------------------------------------------

LIMIT_FIELDS = ("ratelimit", "ratelimit-policy", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
PROFILES = ["draft-11", "x-ratelimit"]


def instance(answer: Answer) -> str:
    """The id of the request that was refused."""
    return str(json.loads(answer.body)["instance"])


def test_a_refusal_is_never_stored(either: World) -> None:
    """A guard further in refuses with 401 or 429: with these an app's own answer may well be stored."""
    clock = ManualClock(START)
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "public, max-age=60")))
    guards = [ResponseCache(ttl=60, public=True, heuristic=True), APIKeys(**KEYS, scopes=None), RateLimit("1/minute")]
    app = either.wrap(Keyguard(*guards, clock=clock), either.app(origin))
    ids = []
    for key, expected in ((None, 401), (WRONG, 401), (None, 401), (ALICE, 200)):
        answer = either.ask(app, Ask("/", ((KEY, key),) if key else ()))
        assert answer.status == expected
        ids.append(instance(answer) if expected == 401 else None)
    assert len(set(ids)) == 4
    refused = [either.ask(app, Ask("/other", ((KEY, ALICE),))) for _ in range(2)]
    assert [answer.status for answer in refused] == [429, 429]
    assert all("stored" not in (answer.get("cache-status") or "") for answer in refused)
    assert instance(refused[0]) != instance(refused[1])
    assert either.ask(app, Ask("/")).status == 200  # what was stored is the app's answer alone


@pytest.mark.parametrize("layers", [False, True])
def test_limit_fields_are_never_replayed(either: World, layers: bool) -> None:
    """The limit stands within the cache: a hit costs nothing, and says nothing of it, least of all of another's."""
    clock = ManualClock(START)
    fields = [("Cache-Control", "max-age=60"), ("Retry-After", "7"), ("X-RateLimit-Limit", "3")]
    origin = Origin(lambda seen: told(seen, *fields))
    options = {"clock": clock, "store": open_store("memory://", clock)}
    if layers:
        inner = either.layer("RateLimit", either.app(origin), "2/minute", headers=PROFILES, **options)
        app = either.layer("ResponseCache", inner, **options)
    else:
        guard = Keyguard(ResponseCache(), RateLimit("2/minute", headers=PROFILES), **options)
        app = either.wrap(guard, either.app(origin))
    miss = either.ask(app, Ask("/"))
    assert miss.get("ratelimit")
    for _ in range(5):
        hit = either.ask(app, Ask("/"))
        assert "hit" in (hit.get("cache-status") or "")
        said = {name: value for name, value in hit.headers if name in (*LIMIT_FIELDS, "retry-after")}
        assert said == {"x-ratelimit-limit": "3", "retry-after": "7"}  # the app's own
    assert "r=0" in (either.ask(app, Ask("/second")).get("ratelimit") or "")
    assert either.ask(app, Ask("/third")).status == 429
    assert either.ask(app, Ask("/")).status == 200


def test_hits_count_where_the_cache_stands_within_the_limit(either: World) -> None:
    clock = ManualClock(START)
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "max-age=60")))
    guard = Keyguard(RateLimit("3/minute", headers=PROFILES), ResponseCache(), clock=clock)
    app = either.wrap(guard, either.app(origin))
    left = []
    for _ in range(3):
        answer = either.ask(app, Ask("/"))
        assert [len(answer.all(name)) for name in LIMIT_FIELDS] == [1] * 5
        left.append(answer.get("x-ratelimit-remaining"))
    assert left == ["2", "1", "0"]
    assert len(origin.seen) == 1
    assert either.ask(app, Ask("/")).status == 429


def test_callers_see_their_own_limit_beside_a_shared_answer(either: World) -> None:
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "public, max-age=60")))
    limit = RateLimit("5/minute", by="key", headers=PROFILES)
    guard = Keyguard(APIKeys(**KEYS), limit, ResponseCache(), clock=ManualClock(START))
    app = either.wrap(guard, either.app(origin))
    left = [
        either.ask(app, Ask("/", ((KEY, key),))).get("x-ratelimit-remaining") for key in (ALICE, ALICE, BOB, ALICE, BOB)
    ]
    assert left == ["4", "3", "4", "2", "3"]
    assert len(origin.seen) == 1


# -- callers whose limit is used up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_exhausted_callers_are_served_what_is_fresh_where_the_app_wants_that(
    either: World, store: str, tmp_path: Any
) -> None:
    clock = ManualClock(START - timedelta(seconds=1))
    opened = open_store("memory://" if store == "memory" else f"sqlite:///{tmp_path}/store.db?timeout=5", clock)
    warm_up(either, opened, clock)
    origin = Origin(lambda seen: told(seen, ("Cache-Control", f"{seen.path[1:].replace('_', ' ')}, max-age=60")))
    limit = RateLimit("2/minute", by="key", headers=PROFILES)
    guard = Keyguard(APIKeys(**KEYS), limit, ResponseCache(serve_exhausted=True), store=opened, clock=clock)
    app = either.wrap(guard, either.app(origin))

    def ask(path: str, key: str | None, *fields: tuple[str, str], method: str = "GET") -> Answer:
        return either.ask(app, Ask(path, (*(((KEY, key),) if key else ()), *fields), method))

    assert [ask("/public", ALICE).status for _ in range(2)] == [200, 200]
    served = ask("/public", ALICE)
    assert (served.status, served.body) == (200, f"{ALICE} ".encode())
    assert served.get("cache-status") == "keyguard; hit; ttl=60; detail=exhausted"
    assert [served.all(name) for name in ("x-ratelimit-remaining", "retry-after", "x-request-id")] == [["0"], [], []]
    assert ask("/public", ALICE, method="HEAD").status == 200
    assert ask("/public", ALICE, method="POST").status == 429
    assert ask("/public", ALICE, ("Cache-Control", "no-cache")).status == 429
    assert ask("/no-store", ALICE).status == 429
    unknown = ask("/elsewhere", ALICE)
    assert (unknown.status, unknown.get("cache-status")) == (429, None)
    assert int(unknown.get("retry-after") or "") > 0
    # Whoever was not let in is not served, whatever lies in the cache.
    assert [ask("/public", key).status for key in (None, WRONG)] == [401, 401]
    # What is one caller's own stays so.
    assert [ask("/private", BOB).status for _ in range(3)] == [200, 200, 429]
    seen = len(origin.seen)
    clock.advance(59)
    assert ask("/public", ALICE).get("cache-status") == "keyguard; hit; ttl=1; detail=exhausted"
    assert len(origin.seen) == seen


def test_exhausted_callers_get_429_for_what_is_stale(either: World) -> None:
    clock = ManualClock(START)
    says = "public, max-age=5, stale-while-revalidate=600, stale-if-error=600"
    origin = Origin(lambda seen: told(seen, ("Cache-Control", says)))
    guard = Keyguard(RateLimit("1/minute"), ResponseCache(serve_exhausted=True), clock=clock)
    app = either.wrap(guard, either.app(origin))
    statuses = []
    for seconds in (0, 1, 3, 2, 20):
        clock.advance(seconds)
        statuses.append(either.ask(app, Ask("/")).status)
    assert statuses == [200, 200, 200, 429, 429]


def test_exhausted_callers_are_refused_by_default(either: World) -> None:
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "public, max-age=60")))
    app = either.wrap(Keyguard(RateLimit("1/minute"), ResponseCache(), clock=ManualClock(START)), either.app(origin))
    assert [either.ask(app, Ask("/")).status for _ in range(2)] == [200, 429]


def test_by_key_an_exhausted_caller_is_served_what_is_the_callers_own(either: World) -> None:
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "private, max-age=60")))
    limit = RateLimit("1/minute", by="key")
    guard = Keyguard(APIKeys(**KEYS), limit, ResponseCache(by="key", serve_exhausted=True), clock=ManualClock(START))
    app = either.wrap(guard, either.app(origin))
    bodies = [either.ask(app, Ask("/", ((KEY, key),))).body.decode() for key in (ALICE, BOB, ALICE, BOB)]
    assert [body.split()[0] for body in bodies] == [ALICE, BOB, ALICE, BOB]
    assert len(origin.seen) == 2


def test_serving_exhausted_callers_goes_past_no_other_guard() -> None:
    """A guard between the limit and the cache is not asked about whom the limit refuses."""
    limit, others = RateLimit("1/minute"), [IPFilter(deny=["192.0.2.0/24"]), APIKeys()]
    for before, after in ([limit, others[0]], []), ([], [limit]), ([], []), ([limit, others[1]], []):
        with pytest.raises(ConfigurationError, match="right after the RateLimit"):
            Keyguard(*before, ResponseCache(serve_exhausted=True), *after)
    with pytest.raises(ConfigurationError, match="right after the RateLimit"):
        wsgi.ResponseCache(Origin(reply).wsgi, serve_exhausted=True)


def test_a_filter_before_the_limit_still_decides_for_exhausted_callers(either: World) -> None:
    origin = Origin(lambda seen: told(seen, ("Cache-Control", "public, max-age=60")))
    guards = [IPFilter(deny=["192.0.2.0/24"]), RateLimit("1/minute", by=lambda request: "all")]
    guard = Keyguard(*guards, ResponseCache(serve_exhausted=True), clock=ManualClock(START))
    app = either.wrap(guard, either.app(origin))
    statuses = [either.ask(app, Ask("/", client=client)).status for client in ("198.51.100.1",) * 2 + ("192.0.2.1",)]
    assert statuses == [200, 200, 403]


@pytest.mark.parametrize(("by", "shared"), [("subject", True), ("key", False)])
def test_two_keys_of_one_subject_share_by_subject_and_not_by_key(either: World, by: Any, shared: bool) -> None:
    origin = Origin(lambda seen: (200, [("Date", DATE), ("Cache-Control", "private, max-age=60")], b"acme's"))
    guard = Keyguard(APIKeys(), ResponseCache(by=by))
    app = either.wrap(guard, either.app(origin))
    first, second, others = (guard.keys.issue(owner).key.reveal() for owner in ("acme", "acme", "other"))
    asks = [Ask("/", (("X-API-Key", first),)), Ask("/", (("Authorization", f"Bearer {first}"),))]
    assert ["hit" in (either.ask(app, ask).get("cache-status") or "") for ask in asks] == [False, True]
    for key, hit in ((second, shared), (others, False)):
        assert ("hit" in (either.ask(app, Ask("/", (("X-API-Key", key),))).get("cache-status") or "")) is hit


@pytest.mark.parametrize(
    ("lax", "fields", "first", "second"),
    [
        ({"public": True}, [], Ask("/x", (("Authorization", "a"),)), Ask("/x", (("Authorization", "b"),))),
        ({"set_cookie": True}, [("Set-Cookie", "id=1")], Ask("/x"), Ask("/x")),
        ({"vary": []}, [], Ask("/x", (("X-Tenant", "a"),)), Ask("/x", (("X-Tenant", "b"),))),
        ({"ignore_query": ["tenant"]}, [], Ask("/x?a&tenant=1"), Ask("/x?a")),
    ],
)
def test_what_was_stored_by_other_rules_is_not_served(
    either: World, lax: Any, fields: Any, first: Ask, second: Ask, tmp_path: Any
) -> None:
    """Who sees that a setting leaks changes it, and the store still holds what was stored before."""
    url = f"sqlite:///{tmp_path}/cache.db?timeout=1"
    strict: dict[str, Any] = {"vary": ["X-Tenant"]} if "vary" in lax else {}

    def made(**options: Any) -> tuple[Any, Origin]:
        origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=600"), *fields], b"hello"))
        return either.wrap(Keyguard(ResponseCache(local_ttl=0, **options), store=url), either.app(origin)), origin

    before, _ = made(**lax)
    assert "stored" in (either.ask(before, first).get("cache-status") or "")
    after, origin = made(**strict)
    assert "hit" not in (either.ask(after, second).get("cache-status") or "")
    assert len(origin.seen) == 1
    again, origin = made(**lax)
    assert "hit" in (either.ask(again, first).get("cache-status") or "")
    changing = Ask(second.target, (), "DELETE")
    either.ask(after, changing)
    either.ask(again, first)
    assert len(origin.seen) == 1, "what one of them changes the other serves no more"
