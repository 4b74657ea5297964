"""The places of a key: how each is read, challenged, explained to who used another one, and taken off for the app."""

from __future__ import annotations

import asyncio
import json
import logging
from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import (
    APIKeys,
    ConfigurationError,
    Identity,
    Keyguard,
    Overload,
    RateLimit,
    Request,
    Response,
    ResponseCache,
)
from keyguard.keys.credentials import Sources
from keyguard.keys.places import place_of
from keyguard.stores.memory import MemoryStore
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

EVERYWHERE = (
    *("authorization", "authorization:Token", "x-api-key", "basic:user", "cookie:session", "query:api_key"),
    "subprotocol:api-key",
)


async def echo_asgi(scope: Any, receive: Any, send: Any) -> None:
    fields = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    seen = json.dumps({"query": scope["query_string"].decode(), "fields": fields}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(seen))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": seen})


def echo_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    fields = {name[5:].lower().replace("_", "-"): value for name, value in environ.items() if name[:5] == "HTTP_"}
    assert environ["REQUEST_URI"].partition("?")[2] == environ["QUERY_STRING"]
    seen = json.dumps({"query": environ["QUERY_STRING"], "fields": fields}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(seen)))])
    return [seen]


WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(echo_asgi), ask),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(echo_wsgi), ask),
}


def owner(key: str) -> Identity | None:
    return Identity("ada", key_id="k1") if key.startswith("good") else None


def basic(pair: str) -> str:
    return "Basic " + b64encode(pair.encode("latin-1")).decode()


# source, field, target, status
READ: list[tuple[str, tuple[str, str] | None, str, int]] = [
    ("authorization", ("Authorization", "Bearer good"), "/", 200),
    ("authorization:Bearer", ("Authorization", "bearer good"), "/", 200),
    ("authorization:Token", ("Authorization", "Token good"), "/", 200),
    ("authorization:Token", ("Authorization", "TOKEN  good"), "/", 200),
    ("Authorization:token", ("Authorization", "Token good"), "/", 200),
    ("authorization:Token", ("Authorization", "Bearer good"), "/", 401),
    ("authorization:Token", ("Authorization", "good"), "/", 401),
    ("authorization:Token", ("Authorization", "Tokens good"), "/", 401),
    ("authorization:Token", ("Authorization", "Token bad"), "/", 401),
    ("basic:user", ("Authorization", basic("good:")), "/", 200),
    ("basic:user", ("Authorization", basic("good:whatever")), "/", 200),
    ("basic:user", ("Authorization", basic("good")), "/", 401),
    ("basic:user", ("Authorization", basic(":good")), "/", 401),
    ("basic:user", ("Authorization", "Basic good"), "/", 401),
    ("basic:user", ("Authorization", "Basic %%%"), "/", 401),
    ("basic:password", ("Authorization", basic("x-access-token:good")), "/", 200),
    ("basic:password", ("Authorization", basic("a:good:colon")), "/", 200),
    ("basic:password", ("Authorization", basic("good:")), "/", 401),
    ("cookie:session", ("Cookie", 'a=1; session="good"; b=2'), "/", 200),
    ("cookie:session", ("Cookie", "sessions=good"), "/", 401),
    ("query:api_key", None, "/?a=1&api_key=good", 200),
    ("query:api_key", None, "/?%61pi_key=good", 200),
    ("subprotocol:api-key", ("Sec-WebSocket-Protocol", "chat, api-key.good"), "/", 200),
    ("subprotocol:api-key", ("Sec-WebSocket-Protocol", "chat, api-keys.good"), "/", 401),
    ("subprotocol:api-key", ("Sec-WebSocket-Protocol", "good"), "/", 401),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("source", "field", "target", "status"),
    READ,
    ids=[f"{source} {field or target}" for source, field, target, _ in READ],
)
def test_a_key_is_read_where_it_is_said_to_stand(
    world: str, source: str, field: tuple[str, str] | None, target: str, status: int
) -> None:
    guard = Keyguard(APIKeys(lookup=owner, sources=[source]))
    ask = Ask(target, () if field is None else (field,))
    for _ in range(2):  # a key that is known takes another way
        assert WORLDS[world](guard, ask).status == status


PLACES: dict[str, Callable[[str], tuple[tuple[str, str] | None, str]]] = {
    "authorization": lambda key: (("Authorization", f"Bearer {key}"), ""),
    "authorization:Token": lambda key: (("Authorization", f"Token {key}"), ""),
    "x-api-key": lambda key: (("X-API-Key", key), ""),
    "basic:user": lambda key: (("Authorization", basic(f"{key}:")), ""),
    "cookie:session": lambda key: (("Cookie", f"session={key}"), ""),
    "query:api_key": lambda key: (None, f"?api_key={key}"),
    "subprotocol:api-key": lambda key: (("Sec-WebSocket-Protocol", f"api-key.{key}"), ""),
}


def asking(*placed: tuple[str, str]) -> Ask:
    parts = [PLACES[place](key) for place, key in placed]
    return Ask("/" + "".join(query for _, query in parts), tuple(field for field, _ in parts if field is not None))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("one", PLACES)
@pytest.mark.parametrize("other", PLACES)
def test_two_different_keys_are_refused_wherever_they_stand(world: str, one: str, other: str) -> None:
    guard = Keyguard(APIKeys(lookup=owner, sources=EVERYWHERE))
    if one != "query:api_key" or other != one:
        assert WORLDS[world](guard, asking((one, "good-1"), (other, "good-2"))).status == 400
    assert WORLDS[world](guard, asking((one, "good-1"))).status == 200
    if one != other:
        assert WORLDS[world](guard, asking((one, "good-1"), (other, "good-1"))).status == 200


@pytest.mark.parametrize(
    "source",
    [
        *("", ":", "a b", "cookie:", "query:", "basic:", "basic:key", "authorization:", "authorization:Basic"),
        *("authorization:a b", "header:x", "subprotocol:", "subprotocol:a b", "Cookie:", 7, None, b"x-api-key"),
    ],
)
def test_what_is_no_source_does_not_start(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="source"):
        APIKeys(sources=[source])


# -- what a 401 says ---------------------------------------------------------------------------------------------------

CHALLENGES: list[tuple[tuple[str, ...], list[str]]] = [
    (("authorization", "x-api-key"), ['Bearer realm="api"']),
    (("authorization:Token",), ['Token realm="api"']),
    (("basic:user", "basic:password"), ['Basic realm="api"']),
    (("x-api-key", "authorization:Token", "authorization"), ['Token realm="api"', 'Bearer realm="api"']),
    (("x-api-key",), ['ApiKey realm="api"']),
    (("cookie:session", "query:k"), ['ApiKey realm="api"']),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("sources", "challenges"), CHALLENGES, ids=[" ".join(sources) for sources, _ in CHALLENGES])
def test_challenges_are_of_the_schemes_that_are_read(
    world: str, sources: tuple[str, ...], challenges: list[str]
) -> None:
    guard = Keyguard(APIKeys(sources=sources))
    assert WORLDS[world](guard, Ask()).all("www-authenticate") == challenges
    place = next(one for one in sources if one in PLACES)
    told = [one + ', error="invalid_token"' if one.startswith("Bearer") else one for one in challenges]
    assert WORLDS[world](guard, asking((place, "kg_bad"))).all("www-authenticate") == told


MISTAKEN = [
    "Token kg_live_secret-in-here",
    "Basic " + b64encode(b"kg_live_secret-in-here:").decode(),
    "kg_live_secret-in-here",
    "ApiKey kg_live_secret-in-here",
    "",
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("value", MISTAKEN)
def test_who_sends_another_scheme_is_told_what_the_field_must_look_like(
    world: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = WORLDS[world](Keyguard(APIKeys()), Ask(headers=(("Authorization", value),)))
    detail = json.loads(answer.body)["detail"]
    assert (answer.status, answer.get("www-authenticate")) == (401, 'Bearer realm="api"')
    assert "'Authorization: Bearer KEY' or 'X-API-Key: KEY'" in detail
    assert "What stands in Authorization has another form." in detail
    assert "reason=other-scheme" in caplog.text
    assert "secret" not in caplog.text
    assert not any(part in answer.body for part in (b"secret", b64encode(b"kg_live_secret-in-here:")))


@pytest.mark.parametrize("world", WORLDS)
def test_each_place_is_told_as_it_is_written(world: str) -> None:
    guard = Keyguard(APIKeys(sources=[*EVERYWHERE[1:], "basic:password"]))
    detail = json.loads(WORLDS[world](guard, Ask(headers=(("Authorization", "Digest x"),))).body)["detail"]
    for form in (
        *("Authorization: Token KEY", "X-API-Key: KEY", "Authorization: Basic base64(KEY:)", "Cookie: session=KEY"),
        *("?api_key=KEY", "Sec-WebSocket-Protocol: api-key.KEY", "Authorization: Basic base64(:KEY)"),
    ):
        assert f"'{form}'" in detail


@pytest.mark.parametrize("world", WORLDS)
def test_who_sends_nothing_is_told_so(world: str) -> None:
    assert json.loads(WORLDS[world](Keyguard(APIKeys()), Ask()).body)["detail"] == "Send an API key."


# -- taken off ---------------------------------------------------------------------------------------------------------

STRIPPED: list[tuple[tuple[tuple[str, str], ...], str, dict[str, str], str]] = [
    ((("X-API-Key", "good"),), "/", {}, ""),
    ((("Authorization", "Token good"),), "/", {}, ""),
    ((("Authorization", basic("good:pw")),), "/", {}, ""),
    ((("Authorization", "Bearer good, Digest a=b"),), "/", {"authorization": "Digest a=b"}, ""),
    ((("Cookie", "session=good"),), "/", {}, ""),
    ((("Cookie", "a=1; session=good; b=2"),), "/", {"cookie": "a=1; b=2"}, ""),
    ((("Cookie", "session=good; b=2; session=good"),), "/", {"cookie": "b=2"}, ""),
    ((("Cookie", "a=1; sessions=2; session = good"),), "/", {"cookie": "a=1; sessions=2"}, ""),
    ((), "/?api_key=good", {}, ""),
    ((), "/?a=%41&api_key=good&b=%2B+&%61pi_key=good&c", {}, "a=%41&b=%2B+&c"),
    ((), "/?api_key=good&a=1", {}, "a=1"),
    ((("Sec-WebSocket-Protocol", "chat, api-key.good"),), "/", {"sec-websocket-protocol": "chat"}, ""),
    ((("X-API-Key", "good"), ("Cookie", "session=good; a=1")), "/?api_key=good&x=2", {"cookie": "a=1"}, "x=2"),
    ((("X-API-Key", "good"), ("Accept", "*/*"), ("X-Other", "good")), "/", {"accept": "*/*", "x-other": "good"}, ""),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("way", ["short", "mark", "long"])
@pytest.mark.parametrize(
    ("fields", "target", "left", "query"), STRIPPED, ids=[f"{fields} {target}" for fields, target, _, _ in STRIPPED]
)
def test_the_app_does_not_see_the_key(
    world: str, way: str, fields: Any, target: str, left: dict[str, str], query: str
) -> None:
    seen: list[bool] = []

    async def around(request: Request, forward: Any) -> Response:
        seen.append("good" in str(dict(request.headers)) + str(request.raw_query) or bool(request.cookies))
        response: Response = await forward(request)
        return response

    more: dict[str, list[Any]] = {"short": [], "mark": [RateLimit("100/s", by="key")], "long": [around]}
    guard = Keyguard(APIKeys(lookup=owner, sources=EVERYWHERE, strip=True), *more[way])
    for _ in range(2):
        answer = WORLDS[world](guard, Ask(target, fields))
        assert answer.status == 200
        told = json.loads(answer.body)
        assert told["query"] == query
        assert {name: value for name, value in told["fields"].items() if name != "host"} == left


@pytest.mark.parametrize("world", WORLDS)
def test_without_it_the_app_sees_all(world: str) -> None:
    guard = Keyguard(APIKeys(lookup=owner, sources=EVERYWHERE))
    told = json.loads(WORLDS[world](guard, asking(("x-api-key", "good"), ("query:api_key", "good"))).body)
    assert (told["query"], told["fields"]["x-api-key"]) == ("api_key=good", "good")


@pytest.mark.parametrize("world", WORLDS)
def test_it_is_taken_off_where_no_key_is_needed_as_well(world: str) -> None:
    guard = Keyguard(APIKeys(lookup=owner, public=["/open"], strip=True))
    told = json.loads(WORLDS[world](guard, Ask("/open", (("X-API-Key", "whatever"),))).body)
    assert "x-api-key" not in told["fields"]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("order", ["cache inside", "cache outside", "cache in a layer of its own"])
def test_a_cache_mixes_nobody_up_though_the_app_sees_no_key(world: str, order: str) -> None:
    """What it sees of the request depends on where it stands; that somebody was known, it sees everywhere."""
    calls: list[int] = []

    async def app_asgi(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        head = [(b"cache-control", b"max-age=60"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"%02d" % len(calls)})

    def app_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        calls.append(1)
        start_response("200 OK", [("Cache-Control", "max-age=60"), ("Content-Length", "2")])
        return [b"%02d" % len(calls)]

    keys = APIKeys(lookup=lambda key: Identity(key) if key.startswith("good") else None, strip=True)
    app: Any = app_asgi if world == "asgi" else app_wsgi
    if order == "cache in a layer of its own":
        app = getattr(Keyguard(ResponseCache(), store=MemoryStore()), world)(app)
        guard = Keyguard(keys)
    else:
        guard = Keyguard(*([keys, ResponseCache()] if order == "cache inside" else [ResponseCache(), keys]))
    app = getattr(guard, world)(app)
    send = ask_asgi if world == "asgi" else ask_wsgi
    asked = [send(app, Ask(headers=(("X-API-Key", f"good-{number}"),))).body for number in (1, 2, 1)]
    assert asked == [b"01", b"02", b"03"]


@pytest.mark.parametrize("world", WORLDS)
def test_what_fails_after_it_tells_no_key_either(world: str, caplog: pytest.LogCaptureFixture) -> None:
    async def failing(request: Request, forward: Any) -> Response:
        await forward(request)
        raise KeyError("good-secret-key")

    guard = Keyguard(APIKeys(lookup=owner, strip=True), failing)
    assert WORLDS[world](guard, Ask(headers=(("X-API-Key", "good-secret-key"),))).status == 503
    assert "good-secret-key" not in caplog.text
    assert "a guard failed" in caplog.text


def test_a_websocket_is_opened_by_a_subprotocol_which_the_app_does_not_see() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["subprotocols"], dict(scope["headers"]).get(b"sec-websocket-protocol")))
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "chat"})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    guarded = Keyguard(APIKeys(lookup=owner, sources=["subprotocol:api-key"], strip=True)).asgi(app)
    for key in ("good", "bad"):
        value = f"chat, api-key.{key}".encode()
        scope = {
            **Ask(headers=(("Sec-WebSocket-Protocol", value),)).scope(),
            "type": "websocket",
            "scheme": "ws",
            "subprotocols": ["chat", f"api-key.{key}"],
        }
        del scope["method"]
        asyncio.run(guarded(scope, receive, send))
    assert seen == [(["chat"], b"chat")]
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]


def test_servers_do_not_write_the_key_into_their_access_log() -> None:
    """They write it from the scope that they gave."""
    scope = Ask("/?api_key=good&a=1").scope()

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            pass

        await Keyguard(APIKeys(lookup=owner, sources=["query:api_key"], strip=True)).asgi(echo_asgi)(
            scope, receive, send
        )

    asyncio.run(run())
    assert scope["query_string"] == b"a=1"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("why", ["not in its plan", "there is no such key", "two keys", "the app is too busy"])
def test_nor_of_a_request_that_is_refused(why: str, kind: str) -> None:
    text = {"there is no such key": "bad", "two keys": "good&api_key=better"}.get(why, "good")
    limits: list[Any] = [RateLimit(plans={"free": 0}, default="free")] if "plan" in why else []
    statuses = {"not in its plan": 403, "there is no such key": 401, "two keys": 400}
    outer: list[Any] = [Overload(min_in_flight=1, max_in_flight=1)] if "busy" in why else []
    guard = Keyguard(*outer, APIKeys(lookup=owner, sources=["query:api_key"], strip=True), *limits)
    held = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await held.wait()

    async def run(scope: Any) -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": f"{kind}.request" if kind == "http" else "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await guarded(scope, receive, send)
        return sent

    async def story() -> None:
        busy = asyncio.create_task(run(Ask("/?api_key=good").scope())) if outer else None
        await asyncio.sleep(0)
        scope = {**Ask(f"/?a=1&api_key={text}").scope(), "type": kind, "subprotocols": []}
        (first, *_) = await run(scope)
        assert first.get("status") == (statuses.get(why, 503) if kind == "http" else None)
        assert scope["query_string"] == b"a=1"
        if busy is not None:
            busy.cancel()
            await asyncio.gather(busy, return_exceptions=True)

    guarded = guard.asgi(app)
    asyncio.run(story())


@pytest.mark.parametrize("long", [False, True])
def test_nor_under_wsgi(long: bool) -> None:
    """Servers write it from the environ that they gave."""

    async def around(request: Request, forward: Any) -> Response:
        response: Response = await forward(request)
        return response

    guards: list[Any] = [around] if long else []
    guard = Keyguard(*guards, APIKeys(lookup=owner, sources=["query:api_key"], strip=True))
    environ = {**Ask("/?a=1&api_key=bad").environ(), "RAW_URI": "/?a=1&api_key=bad"}
    started: list[str] = []
    guard.wsgi(lambda environ, start: [])(environ, lambda status, *_: started.append(status) or bytes)
    assert started[0].startswith("401")
    assert (environ["QUERY_STRING"], environ["RAW_URI"]) == ("a=1", "/?a=1")


@pytest.mark.parametrize("source", ["basic", "Bearer", "cookie", "query", "subprotocol"])
def test_a_kind_of_place_alone_is_no_place(source: str) -> None:
    with pytest.raises(ConfigurationError, match="alone is not a source: write '"):
        APIKeys(sources=[source])


TEXTS = st.text(st.sampled_from("ab=&;, %.-_kK6B1TBokenearsic:+\"'"), max_size=60)


@given(TEXTS, st.sampled_from(EVERYWHERE[1:]))
def test_what_is_left_holds_no_key(text: str, source: str) -> None:
    place = place_of(source.replace("api_key", "k").replace("session", "k").replace("api-key", "k"), "")
    found: set[str] = set()
    place.read(text, found)
    left = place.without(text)
    if left is not None:
        again: set[str] = set()
        place.read(left, again)
        assert again == set()
        assert (left == text) or found or place.scheme == "Basic"


def test_sources_tell_their_schemes_once() -> None:
    assert Sources(["authorization", "authorization:bearer", "basic:user", "basic:password"]).schemes == (
        "Bearer",
        "Basic",
    )
