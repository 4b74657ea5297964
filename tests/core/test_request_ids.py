"""Request ids: one a response, whoever sets it, and never another request's."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, ResponseCache
from keyguard.http.meanings import names_request
from keyguard.testing import ManualClock
from tests.drivers.test_asgi_driver import websocket
from tests.support.cache_worlds import Origin, Reply, Seen, World, world
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

NAME = "x-request-id"


@pytest.fixture(params=["asgi", "wsgi"])
def either(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def refusing() -> Keyguard:
    return Keyguard(APIKeys(lookup=lambda key: Identity("ada") if key == "right" else None), RateLimit("1/hour"))


def asgi_ids(app: Any, tells: bool) -> Any:
    """Middleware as it is written everywhere: it takes the id that came, or makes one, and appends it to the head.

    `tells`: it puts a new id among the request's fields as well.
    """
    numbers = count(1)

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        sent = dict(scope["headers"]).get(NAME.encode())
        id = sent or b"made-%d" % next(numbers)
        if tells and sent is None:
            scope = {**scope, "headers": [*scope["headers"], (NAME.encode(), id)]}

        async def with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (NAME.encode(), id)]}
            await send(message)

        await app(scope, receive, with_id)

    return middleware


def wsgi_ids(app: Any, tells: bool) -> Any:
    numbers = count(1)

    def middleware(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        sent = environ.get("HTTP_X_REQUEST_ID")
        id = sent or f"made-{next(numbers)}"
        if tells:
            environ["HTTP_X_REQUEST_ID"] = id

        def with_id(status: str, headers: Any, exc_info: Any = None) -> Any:
            return start_response(status, [*headers, ("X-Request-ID", id)], exc_info)

        body: Iterable[bytes] = app(environ, with_id)
        return body

    return middleware


WORLDS: dict[str, tuple[Callable[..., Any], Callable[..., Answer], Any]] = {
    "asgi": (asgi_ids, ask_asgi, asgi_app),
    "wsgi": (wsgi_ids, ask_wsgi, wsgi_app),
}
SENT = (("X-Request-ID", "of-the-client"),)
KEYED = (("X-API-Key", "right"),)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("sent", [(), SENT])
def test_where_middleware_outside_sets_it_it_stands_once(
    name: str, tells: bool, sent: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "keyguard")
    ids, ask, app = WORLDS[name]
    guard = refusing()
    app = ids(guard.asgi(app) if name == "asgi" else guard.wsgi(app), tells)
    answers = [ask(app, Ask("/", (*sent, *keyed))) for keyed in ((), KEYED, KEYED)]
    assert [answer.status for answer in answers] == [401, 200, 429]
    assert [answer.all(NAME) for answer in answers] == (
        [["of-the-client"]] * 3 if sent else [["made-1"], ["made-2"], ["made-3"]]
    )
    told = [json.loads(answer.body)["instance"] for answer in answers if answer.status != 200]
    if sent or tells:  # the same id stands in the body and in the log
        assert told == [answers[0].get(NAME), answers[2].get(NAME)]
    assert all(f"request={id}" in caplog.text for id in told)


@pytest.mark.parametrize("name", WORLDS)
def test_where_middleware_between_two_layers_or_inside_sets_it_it_stands_once(name: str) -> None:
    ids, ask, app = WORLDS[name]
    module: Any = keyguard.asgi if name == "asgi" else keyguard.wsgi
    inner = module.RateLimit(ids(app, True), "1/hour")
    outer = module.IPFilter(ids(inner, True), deny=["203.0.113.0/24"])
    answers = [ask(outer, Ask("/", SENT)) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 429]
    assert answers[1].all(NAME) == ["of-the-client"]


def test_with_starlette_s_middleware_class_it_stands_once() -> None:
    class Ids(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            response = await call_next(request)
            response.headers.append("X-Request-ID", "set-outside")
            return response

    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("x"))])
    app.add_middleware(refusing().asgi)
    app.add_middleware(Ids)
    assert [ask_asgi(app, Ask("/", key)).all(NAME) for key in ((), KEYED)] == [["set-outside"]] * 2


@pytest.mark.parametrize("name", WORLDS)
def test_where_nobody_else_does_refusals_may_tell_it_in_a_field(name: str) -> None:
    _, ask, app = WORLDS[name]
    guard = Keyguard(APIKeys(lookup=lambda key: None), request_id_header="X-Request-ID")
    guarded = guard.asgi(app) if name == "asgi" else guard.wsgi(app)
    assert ask(guarded, Ask("/", SENT)).all(NAME) == ["of-the-client"]
    made = ask(guarded, Ask("/"))
    assert made.all(NAME) == [json.loads(made.body)["instance"]]
    assert ask(guarded, Ask("/", method="HEAD")).get(NAME)
    assert ask(guarded, Ask("/", (("X-Request-ID", "no id\x7f"),))).get(NAME) != "no id\x7f"
    with pytest.raises(ConfigurationError, match="is the name of a header field"):
        Keyguard(request_id_header="X Request")


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("7c9e6679-7425-40de-944b-e07fc1f90ae7", True), ("aGVsbG8+Lw==", True), ("svc:7@host/1~a.b_c", True),
        ("two words", False), ("a,b", False), ("", False), ("x" * 129, False), ('"quoted"', False), ("<b>", False),
        ("line\x85", False),
    ],
)  # fmt: skip
def test_ids_of_the_usual_forms_are_taken_over(sent: str, taken: bool) -> None:
    answer = ask_asgi(refusing().asgi(asgi_app), Ask("/", (("X-Request-ID", sent),)))
    assert (json.loads(answer.body)["instance"] == sent) == taken


def test_a_refused_handshake_may_tell_it_too() -> None:
    guard = Keyguard(APIKeys(lookup=lambda key: None), request_id_header="X-Request-ID")
    head = next(m for m in websocket(guard.asgi(asgi_app), denial=True) if m["type"] == "websocket.http.response.start")
    assert [name for name, _ in head["headers"]].count(b"x-request-id") == 1


# -- the cache --------------------------------------------------------------------------------------------------------

OF_ONE_REQUEST = [
    "X-Request-ID", "X-Correlation-ID", "Request-Id", "X-Trace-Id", "Traceparent", "Tracestate", "Traceresponse",
    "X-Amzn-RequestId", "X-Amz-Request-Id", "X-Amzn-Trace-Id", "X-B3-TraceId", "B3", "CF-Ray", "Sentry-Trace",
    "X-Cloud-Trace-Context", "X-MS-Request-Id", "X-Span-Id", "Elastic-Apm-Traceparent",
]  # fmt: skip


@pytest.mark.parametrize("field", OF_ONE_REQUEST)
def test_a_hit_never_replays_the_id_of_who_asked_first(either: World, field: str) -> None:
    numbers = count(1)
    origin = Origin(lambda seen: (200, [("Cache-Control", "max-age=60"), (field, f"number-{next(numbers)}")], b"x"))
    app = either.wrap(Keyguard(ResponseCache(), clock=ManualClock()), either.app(origin))
    first = either.ask(app, Ask("/"))
    assert first.all(field.lower()) == ["number-1"]  # its own
    hits = [either.ask(app, Ask("/")) for _ in range(2)]
    assert all("hit" in (hit.get("cache-status") or "") for hit in hits)
    assert [hit.all(field.lower()) for hit in hits] == [[], []]


def test_an_answer_that_the_app_has_confirmed_tells_the_confirming_request_s_id(either: World) -> None:
    numbers = count(1)
    clock = ManualClock()

    def answer(seen: Seen) -> Reply:
        fields = [("Cache-Control", "max-age=1"), ("ETag", '"1"'), ("X-Request-ID", f"number-{next(numbers)}")]
        return (304, fields, b"") if "if-none-match" in seen.fields else (200, fields, b"x")

    app = either.wrap(Keyguard(ResponseCache(), clock=clock), either.app(Origin(answer)))
    assert either.ask(app, Ask("/")).all(NAME) == ["number-1"]
    clock.advance(10)
    confirmed = either.ask(app, Ask("/"))
    assert (confirmed.status, confirmed.all(NAME)) == (200, ["number-2"])
    assert either.ask(app, Ask("/")).all(NAME) == []


def test_the_names_of_proxies_and_older_modules_are_known_too() -> None:
    for name in (
        "X-Req-Id", "X-Unique-ID", "X-Opaque-Id", "X-Global-Transaction-Id", "X-Vercel-Id", "X-Amz-Cf-Id", "X-Amz-Id-2",
        "X-Azure-Ref", "Rndr-Id", "Server-Timing", "Uber-Trace-Id", "X-Datadog-Trace-Id", "Apigw-RequestId",
    ):  # fmt: skip
        assert names_request(name), name


def test_fields_that_are_of_the_resource_stay() -> None:
    for name in ("X-Item-Id", "Transaction-Id", "ETag", "X-Requested", "X-Request-Cost", "Retrace-Id-Of", "X-B3"):
        assert not names_request(name)
