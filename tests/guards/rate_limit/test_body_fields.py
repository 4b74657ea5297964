"""Limits by a field of the body: it is read once, the app gets all of it, and nobody can choose not to be counted."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    ConfigurationError,
    Keyguard,
    RateLimit,
    Request,
    ResponseCache,
    form_field,
    json_field,
)
from keyguard.drivers.wsgi.ahead import InputAhead
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

JSON, FORM = ("Content-Type", "application/json"), ("Content-Type", "application/x-www-form-urlencoded")


class LogIn(BaseModel):
    username: str


async def echo_asgi(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        assert message["type"] == "http.request"
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def echo_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
    length = environ.get("CONTENT_LENGTH")
    body = environ["wsgi.input"].read(*([int(length)] if length else []))
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(echo_asgi), ask, lint=False),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(echo_wsgi), ask, lint=False),
}


def post(body: bytes | Any, *fields: tuple[str, str], sized: bool = True) -> Ask:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    length = [("Content-Length", str(len(data)))] if sized else []
    return Ask("/login", (*(fields or (JSON,)), *length), "POST", body=data)


def limit(by: Any = None, **settings: Any) -> RateLimit:
    return RateLimit("1/hour", by=by or json_field("username"), methods=["POST"], **settings)


@pytest.mark.parametrize("world", WORLDS)
def test_each_name_has_a_count_of_its_own_and_the_app_gets_the_body(world: str) -> None:
    guard = Keyguard(limit())
    for name in ("ada", "grace"):
        body = json.dumps({"username": name, "password": "pw"}).encode()
        for status in (200, 429):
            answer = WORLDS[world](guard, post(body))
            assert answer.status == status
            assert (answer.body == body) is (status == 200)
        assert "username" in (answer.get("ratelimit-policy") or "")
    assert WORLDS[world](guard, Ask("/login")).status == 200  # another method


SAME = ["ada", " Ada ", "ADA", "\u0410da", "áda", "a\u0301da", "ａｄａ", "a\u200bda"]


@pytest.mark.parametrize("world", WORLDS)
def test_nobody_has_two_names_by_writing_one_in_another_way(world: str) -> None:
    guard = Keyguard(limit())
    told = [WORLDS[world](guard, post({"username": name})).status for name in SAME]
    # The fourth has a letter of another alphabet, which no database takes for the same.
    assert told == [200, 429, 429, 200, 429, 429, 429, 429]
    exact = Keyguard(limit(json_field("username", ignore_case=False)))
    assert [WORLDS[world](exact, post({"username": name})).status for name in ("a", " a ", "A")] == [200, 429, 200]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("field", "one", "same", "other"),
    [
        (json_field("id"), {"id": 7}, {"id": "7"}, {"id": 8}),
        (json_field("id"), {"id": 7}, {"id": 7.0}, {"id": 7.5}),
        (json_field("/user/email"), {"user": {"email": "a@b"}}, {"user": {"email": "A@B"}}, {"user": {"email": "c@b"}}),
        (json_field("/0/name"), [{"name": "a"}, {"name": "x"}], [{"name": "a"}], [{"name": "b"}]),
        (json_field("/a~1b/~0"), {"a/b": {"~": "x"}}, {"a/b": {"~": "X"}}, {"a/b": {"~": "y"}}),
        (json_field("a.b"), {"a.b": "x"}, {"a.b": "x", "a": {"b": "y"}}, {"a.b": "y"}),
        (json_field("org", "user"), {"org": "o", "user": "u"}, {"user": "u", "org": "O"}, {"org": "ou", "user": ""}),
    ],
    ids=repr,
)
def test_fields_of_json_are_named(world: str, field: Any, one: Any, same: Any, other: Any) -> None:
    guard = Keyguard(limit(field))
    assert [WORLDS[world](guard, post(body)).status for body in (one, same, other)] == [200, 429, 200]


@pytest.mark.parametrize("world", WORLDS)
def test_fields_of_forms_are_read(world: str) -> None:
    guard = Keyguard(limit(form_field("e mail")))
    bodies = [b"e+mail=a%40b&pw=x", b"pw=y&e%20mail=A@b", b"e+mail=c%40b"]
    assert [WORLDS[world](guard, post(body, FORM)).status for body in bodies] == [200, 429, 200]


@pytest.mark.parametrize("world", WORLDS)
def test_both_types_are_one_count(world: str) -> None:
    guard = Keyguard(limit(json_field("email") | form_field("email")))
    assert WORLDS[world](guard, post({"email": "a"})).status == 200
    assert WORLDS[world](guard, post(b"email=a", FORM)).status == 429


UNREADABLE: dict[str, tuple[Ask, int]] = {
    "nothing": (post(b""), 400),
    "no type": (post(b'{"username": "ada"}', ("X-No", "type")), 415),
    "another type": (post(b'{"username": "ada"}', ("Content-Type", "text/plain")), 415),
    "a form": (post(b"username=ada", FORM), 415),
    "a form with files": (post(b"--x\r\n", ("Content-Type", "multipart/form-data; boundary=x")), 415),
    "two types": (post(b'{"username": "ada"}', ("Content-Type", "application/json, text/plain")), 415),
    "another charset": (post(b'{"username": "ada"}', ("Content-Type", "application/json; charset=latin-1")), 415),
    "compressed": (post(b'{"username": "ada"}', JSON, ("Content-Encoding", "gzip")), 415),
    "broken": (post(b'{"username": "ada"'), 400),
    "two values": (post(b'{"username": "ada"} {}'), 400),
    "a name twice": (post(b'{"username": "ada", "username": "grace"}'), 400),
    "a name twice, escaped": (post(b'{"username": "ada", "\\u0075sername": "grace"}'), 400),
    "not UTF-8": (post(b'{"username": "\xff"}'), 400),
    "UTF-16": (post('{"username": "ada"}'.encode("utf-16")), 400),
    "a mark before it": (post(b'\xef\xbb\xbf{"username": "ada"}'), 400),
    "not a number": (post(b'{"username": NaN}'), 400),
    "nested": (post(b"[" * 9000), 400),
    "long digits": (post(b'{"username": ' + b"1" * 5000 + b"}"), 400),
    "no such member": (post({"user": "ada"}), 400),
    "another case": (post({"Username": "ada"}), 400),
    "a list": (post(["username"]), 400),
    "null": (post({"username": None}), 400),
    "a list in it": (post({"username": ["ada"]}), 400),
    "an object in it": (post({"username": {"$ne": ""}}), 400),
    "true": (post({"username": True}), 400),
    "a long name": (post({"username": "ada" + " " * 2000}), 400),
    "too long": (post({"username": "ada", "more": "x" * 17000}), 413),
    "no length": (Ask("/login", (JSON, ("Content-Length", "ten")), "POST", body=b"{}"), 400),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_read_shares_one_count_or_is_refused(world: str, what: str) -> None:
    ask, status = UNREADABLE[what]
    if what == "no length" and world == "wsgi":
        return  # the app of this test reads by it, and no server lets it through
    guard = Keyguard(limit())
    first = WORLDS[world](guard, ask)
    assert (first.status, first.body) == (200, ask.body)  # the app says what it thinks of it
    assert WORLDS[world](guard, ask).status == 429
    assert WORLDS[world](guard, UNREADABLE["broken"][0]).status == 429
    assert WORLDS[world](guard, post({"username": "ada"})).status == 200
    refused = WORLDS[world](Keyguard(limit(json_field("username", unreadable="refuse"))), ask)
    assert refused.status == status
    assert json.loads(refused.body)["cause"] == "request"


@pytest.mark.parametrize(
    "body", [b"username=a&username=b", b"user=a", b"username=%ff", b"us%65rname=a&username=a", b""]
)
@pytest.mark.parametrize("world", WORLDS)
def test_what_cannot_be_read_of_a_form_does_as_well(world: str, body: bytes) -> None:
    guard = Keyguard(limit(form_field("username")))
    told = [WORLDS[world](guard, post(one, FORM)).status for one in (body, b"", b"username=a", b"username=a")]
    assert told == [200, 429, 200, 429]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(("size", "status"), [(15, 200), (16, 200), (17, 413), (100, 413), (5000, 413)])
def test_the_bound_is_exact_with_a_length_and_without(world: str, sized: bool, size: int, status: int) -> None:
    body = b'{"x": "' + b"a" * (size - 9) + b'"}'
    assert len(body) == size
    guard = Keyguard(limit(json_field("x", unreadable="refuse", max_bytes=16)))
    ask = post(body, JSON, *([] if sized else [("Transfer-Encoding", "chunked")]), sized=sized)
    if world == "asgi":
        assert ask_asgi(guard.asgi(echo_asgi), ask, lint=False).status == status
        return
    told: list[int] = []
    environ = ask.environ() | {"wsgi.input_terminated": True}
    parts = list(guard.wsgi(echo_wsgi)(environ, lambda line, fields, exc=None: told.append(int(line[:3]))))
    assert told == [status]
    if status == 200:
        assert b"".join(parts) == body


# -- the body, as the app gets it -------------------------------------------------------------------------------------


def test_the_app_gets_the_same_messages_and_hears_that_the_client_has_left() -> None:
    sent: list[dict[str, Any]] = [
        {"type": "http.request", "body": b'{"user', "more_body": True},
        {"type": "http.request", "more_body": True},
        {"type": "http.disconnect"},
    ]
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not seen or seen[-1]["type"] != "http.disconnect":
            seen.append(await receive())

    async def run() -> None:
        left = list(sent)

        async def receive() -> Any:
            return left.pop(0)

        async def send(message: Any) -> None:
            pass

        await Keyguard(limit()).asgi(app)(post(b"", sized=False).scope(), receive, send)

    asyncio.run(run())
    assert seen == sent


@pytest.mark.parametrize("sizes", [(1, 1, 1), (100,), (0, 3, 100)])
def test_what_comes_behind_the_bound_is_read_by_the_app_alone(sizes: tuple[int, ...]) -> None:
    """A long body is not kept: no more is read ahead than the bound and one message."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append("app")
        await echo_asgi(scope, receive, send)

    async def run() -> Answer:
        guarded = Keyguard(limit(json_field("x", max_bytes=2))).asgi(app)
        messages: list[Any] = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
        messages.append({"type": "http.request", "body": b"end", "more_body": False})
        sent: list[Any] = []

        async def receive() -> Any:
            asked.append("receive")
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await guarded(post(b"", sized=False).scope(), receive, send)
        return Answer(sent[0]["status"], [], sent[1]["body"])

    answer = asyncio.run(run())
    assert answer.body == b"x" * sum(sizes) + b"end"
    ahead, total = asked.index("app"), 0
    for place, size in enumerate(sizes, 1):
        total += size
        if total > 2:
            assert ahead == place
            break


def test_an_error_of_receive_is_the_apps_to_hear() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(OSError, match="gone"):
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> Any:
            raise OSError("gone")

        async def send(message: Any) -> None:
            sent.append(message)

        await Keyguard(limit()).asgi(app)(post(b"", sized=False).scope(), receive, send)
        return sent

    assert asyncio.run(run())[0]["status"] == 200


def test_a_client_that_waits_to_be_asked_is_not_asked_for_what_is_refused() -> None:
    """`Expect: 100-continue`: servers answer it when the body is first read."""
    guard = Keyguard(limit(json_field("x", unreadable="refuse", max_bytes=10)))
    ask = post(b"x" * 11, JSON, ("Expect", "100-continue"))

    class Unasked(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("the body was asked for")

    environ = ask.environ() | {"wsgi.input": Unasked()}
    told: list[str] = []
    list(guard.wsgi(echo_wsgi)(environ, lambda status, fields, exc=None: told.append(status)))
    assert [line[:3] for line in told] == ["413"]


class Slow(io.BytesIO):
    """Gives no more than three bytes at a time, as a socket may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3 if size is None or size < 0 else min(size, 3))


READS = st.lists(
    st.tuples(st.sampled_from(["read", "readline", "readlines", "iter"]), st.sampled_from([None, -1, 0, 1, 2, 5, 100])),
    min_size=1,
    max_size=8,
)


@given(
    st.binary(max_size=30) | st.lists(st.sampled_from([b"a", b"\n", b"bc"]), max_size=20).map(b"".join),
    READS,
    st.data(),
)
def test_a_replayed_stream_reads_as_the_stream_itself(body: bytes, reads: list[tuple[str, Any]], data: Any) -> None:
    chunked = data.draw(st.booleans())
    most = data.draw(st.integers(1, 40))
    environ: dict[str, Any] = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}
    environ |= {"HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {"CONTENT_LENGTH": str(len(body))}
    ahead, plain = InputAhead(environ), io.BytesIO(body)
    for _ in range(data.draw(st.integers(0, 2))):
        got, unread = ahead.read_ahead(most)
        assert (got == body and unread is None) if len(body) <= most else (got == b"" and unread is not None)
    for method, size in reads:
        if method == "iter":
            assert b"".join(ahead) == plain.read()
        elif method == "readlines":
            assert b"".join(ahead.readlines(size)) == b"".join(plain.readlines(size))
        else:
            assert getattr(ahead, method)(size) == getattr(plain, method)(size)


def test_a_body_that_ends_too_early_is_not_read_and_the_app_gets_what_is_there() -> None:
    body = b'{"username": "ada"}'
    environ: dict[str, Any] = {"wsgi.input": Slow(body), "CONTENT_LENGTH": str(len(body) + 5)}
    ahead = InputAhead(environ)
    got, unread = ahead.read_ahead(100)
    assert (got, unread is None) == (b"", False)
    assert ahead.read(len(body) + 5) == body
    assert ahead.read(5) == b""


def test_a_stream_that_fails_fails_for_the_app() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(3)
            if not data:
                raise OSError("gone")
            return data

    ahead = InputAhead({"wsgi.input": Failing(b"abcde"), "CONTENT_LENGTH": "9"})
    assert ahead.read_ahead(100)[1] is not None
    assert ahead.read(9) == b"abcde"
    with pytest.raises(OSError, match="gone"):
        ahead.read(4)


def test_without_a_length_nothing_is_read_of_a_stream_that_may_not_end() -> None:
    class Endless(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("read")

    assert InputAhead({"wsgi.input": Endless()}).read_ahead(10)[1] is not None
    assert InputAhead({}).read_ahead(10)[1] is not None


# -- with the other guards, and in frameworks --------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("query", ["?username=victim", "?user%6eame=victim", "?a=1&username"])
def test_a_name_in_the_query_does_not_stand_for_the_one_in_the_body(world: str, query: str) -> None:
    """Flask's `request.values` would read it first: each of these would be an attempt on one name."""
    guard = Keyguard(limit(form_field("username")))
    asked = []
    for name in (b"username=a", b"username=b"):
        ask = post(name, FORM)
        asked.append(WORLDS[world](guard, Ask("/login" + query, ask.headers, "POST", body=name)).status)
    assert asked == [200, 429]


@pytest.mark.parametrize("world", WORLDS)
def test_two_limits_read_the_body_once(world: str) -> None:
    guard = Keyguard(limit(), limit(json_field("username", "tenant", max_bytes=100), name="both"), RateLimit("9/hour"))
    bodies = [{"username": "a", "tenant": "t"}, {"username": "a", "tenant": "t"}, {"username": "b", "tenant": "t"}]
    answers = [WORLDS[world](guard, post(body)) for body in bodies]
    assert [answer.status for answer in answers] == [200, 429, 200]
    assert json.loads(answers[2].body) == bodies[2]
    assert '"ip:9/hour";r=7' in (answers[2].get("ratelimit") or "")


@pytest.mark.parametrize("world", WORLDS)
def test_layers_read_it_one_after_the_other(world: str) -> None:
    inner = getattr(Keyguard(limit(), name="inner"), world)(echo_asgi if world == "asgi" else echo_wsgi)
    app = getattr(Keyguard(limit(name="outer"), ResponseCache(), name="outer"), world)(inner)
    send = ask_asgi if world == "asgi" else ask_wsgi
    told = [send(app, post({"username": "a"}), lint=False) for _ in range(2)]
    assert [(answer.status, answer.body[:13]) for answer in told] == [(200, b'{"username": '), (429, told[1].body[:13])]


@pytest.mark.parametrize("world", WORLDS)
def test_failed_log_ins_are_counted_by_name(world: str) -> None:
    async def app_asgi(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        status = 200 if json.loads(message["body"])["password"] == "right" else 401
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def app_wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        right = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))["password"] == "right"
        start_response("200 OK" if right else "401 Unauthorized", [("Content-Length", "0")])
        return []

    guard = Keyguard(
        ResponseCache(),
        RateLimit("2/hour", by=json_field("username"), methods=["POST"], count="failures", name="log-in"),
    )
    app = guard.asgi(app_asgi) if world == "asgi" else guard.wsgi(app_wsgi)
    send = ask_asgi if world == "asgi" else ask_wsgi

    def log_in(name: str, password: str) -> int:
        return send(app, post({"username": name, "password": password}), lint=False).status

    assert [log_in("ada", "right") for _ in range(5)] == [200] * 5
    assert [log_in("ada", "wrong") for _ in range(3)] == [401, 401, 429]
    assert [log_in("grace", "right"), log_in("ada", "right")] == [200, 429]


def test_a_websocket_has_no_body() -> None:
    guard = Keyguard(RateLimit("1/hour", by=json_field("x"), methods=["GET"]))
    scope = {**Ask().scope(), "type": "websocket", "scheme": "ws"}
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])

        for _ in range(2):
            await guard.asgi(app)({**scope}, receive, send)

    asyncio.run(run())
    assert sent == ["websocket.accept", "websocket.close"]


def test_fastapi_gets_its_model() -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()

    @app.post("/login")
    async def login(data: LogIn) -> str:
        return data.username

    app.add_middleware(Keyguard(RateLimit("2/hour", by=json_field("username"), methods=["POST"])).asgi)  # type: ignore[arg-type]
    with TestClient(app) as client:
        told = [client.post("/login", json={"username": "ada"}) for _ in range(3)]
        assert [(answer.status_code, answer.json()) for answer in told[:2]] == [(200, "ada")] * 2
        assert told[2].status_code == 429
        assert client.post("/login", content=b"{}", headers={"Content-Type": "application/json"}).status_code == 422


def test_flask_gets_its_form() -> None:
    from flask import Flask, request

    app = Flask("shop")

    @app.post("/login")
    def login() -> str:
        return request.form["username"]

    app.wsgi_app = Keyguard(limit(form_field("username"))).wsgi(app.wsgi_app)  # type: ignore[method-assign]
    client = app.test_client()
    told = [client.post("/login", data={"username": "ada", "password": "x"}) for _ in range(2)]
    assert [answer.status_code for answer in told] == [200, 429]
    assert told[0].data == b"ada"
    big = client.post("/login", data={"username": "b", "more": "x" * 100_000})
    assert (big.status_code, big.data) == (200, b"b")


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: json_field(), "names of fields"),
        (lambda: json_field(""), "names of fields"),
        (lambda: form_field(7), "names of fields"),
        (lambda: json_field("/a~b"), "JSON pointer"),
        (lambda: json_field("a", max_bytes=0), "max_bytes is 1 to"),
        (lambda: json_field("a", max_bytes=True), "max_bytes is 1 to"),
        (lambda: json_field("a", max_bytes=2**21), "max_bytes is 1 to"),
        (lambda: json_field("a", ignore_case="no"), "ignore_case is True or False"),
        (lambda: json_field("a", unreadable="pass"), "'share' or 'refuse'"),
        (lambda: json_field("a") | json_field("b"), "go together if"),
        (lambda: json_field("a") | form_field("b", ignore_case=False), "go together if"),
        (lambda: json_field("a") | form_field("b", "c"), "go together if"),
        (lambda: RateLimit("1/s", by=json_field("a")), r"needs methods=\['POST'\]"),
        (lambda: RateLimit("1/s", when=json_field("a")), "when is a function of the request"),
        (lambda: Ban(by=json_field("a")), "alone: anybody can send the name"),
        (lambda: Concurrency(1, by=json_field("a")), "alone: anybody can send the name"),
    ],
)
def test_what_is_wrong_does_not_start(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()


def test_a_field_that_another_function_asks_for_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def by(request: Request) -> Any:
        return await json_field("username")(request)

    assert WORLDS["asgi"](Keyguard(RateLimit("1/hour", by=by)), post({"username": "a"})).status == 503
    assert "are given to RateLimit(by=...) as they are" in caplog.text


def test_a_stack_without_such_limits_leaves_the_body_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert receive is given

    async def given() -> Any: ...

    async def send(message: Any) -> None: ...

    asyncio.run(Keyguard(RateLimit("9/s")).asgi(app)(post(b"").scope(), given, send))


def test_operators_name_callers_as_they_log_in() -> None:
    guard = Keyguard(limit(name="log-in"))
    assert [WORLDS["wsgi"](guard, post({"username": " Ada "})).status for _ in range(2)] == [200, 429]
    assert [use.spent for use in guard.limits.peek("ada", by="function")] == [1]
    guard.limits.reset("ada", by="function")
    assert WORLDS["wsgi"](guard, post({"username": "ada"})).status == 200


@pytest.mark.parametrize("world", WORLDS)
def test_who_is_refused_further_out_is_not_read(world: str) -> None:
    guard = Keyguard(APIKeys(), limit())
    assert WORLDS[world](guard, post({"username": "a"})).status == 401
