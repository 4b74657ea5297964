"""Refusals whose bodies a function of the app writes: all else about them stays as it is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import APIKeys, Ban, ConfigurationError, Keyguard, RateLimit, Refusal, Response, blocking
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(asgi_app), ask),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(wsgi_app), ask),
}
REQUEST_ID = ("X-Request-ID", "r")


def ours(refusal: Refusal) -> dict[str, Any]:
    return {"error": {"code": refusal.cause, "message": refusal.detail, "request": refusal.request_id, "ü": 1}}


def as_html(refusal: Refusal) -> Response:
    head = [("Content-Type", "text/html; charset=utf-8"), ("X-Docs", "https://example.com/errors")]
    more = [("Retry-After", "1"), ("Cache-Control", "public"), ("WWW-Authenticate", "None"), ("RateLimit", "x")]
    return Response(200, [*head, *more, ("Content-Length", "1")], b"<h1>no</h1>")


FORMS: list[tuple[Callable[[Refusal], Any], str, bytes]] = [
    (ours, "application/json", b'{"error": {"code": "usage", "message": "The limit'),
    (lambda refusal: [refusal.status], "application/json", b"[429]"),
    (lambda refusal: "nö", "text/plain; charset=utf-8", "nö".encode()),
    (lambda refusal: b"\x00", "application/octet-stream", b"\x00"),
    (as_html, "text/html; charset=utf-8", b"<h1>no</h1>"),
    (lambda refusal: None, "application/problem+json", b'{"type": "https://iana.org'),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("render", "kind", "begins"), FORMS, ids=[kind for _, kind, _ in FORMS])
def test_the_body_is_what_the_function_returns(
    world: str, render: Any, kind: str, begins: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Refusal] = []
    answers = []
    for function in (None, render):
        guard = Keyguard(
            RateLimit("1/hour", name="all"),
            render_refusal=function,
            on_refusal=seen.append,
            request_id_header="X-Request-ID",
        )
        for _ in range(2):
            answer = WORLDS[world](guard, Ask(headers=(REQUEST_ID, ("Accept", "text/html, */*"))))
        answers.append(answer)
    plain, rendered = answers
    assert rendered.status == 429
    assert rendered.get("content-type") == (kind if kind != "application/problem+json" else plain.get("content-type"))
    assert rendered.body.startswith(begins) or kind == "application/problem+json"
    assert rendered.get("content-length") == str(len(rendered.body))
    for name in ("cache-control", "retry-after", "ratelimit", "ratelimit-policy", "x-request-id"):
        if name != "ratelimit":
            assert rendered.all(name) == plain.all(name), name
        assert len(rendered.all(name)) == 1
    assert rendered.get("cache-control") == "no-store"
    assert rendered.get("x-docs") == ("https://example.com/errors" if render is as_html else None)
    assert [(one.cause, one.reason, one.status) for one in seen] == [("usage", "limit-reached", 429)] * 2
    assert len([line for line in caplog.messages if line.startswith("refused: cause=usage")]) == 2


@pytest.mark.parametrize("world", WORLDS)
def test_each_refusal_is_rendered_and_keeps_its_challenge(world: str) -> None:
    guard = Keyguard(Ban(after="1/minute", of=401), APIKeys(guesses=None), render_refusal=ours)
    ask = Ask(headers=(("X-API-Key", "wrong"),))
    told = [WORLDS[world](guard, ask) for _ in range(3)]
    assert [(answer.status, json.loads(answer.body)["error"]["code"]) for answer in told] == [
        (401, "credentials"),
        (401, "credentials"),
        (429, "address"),
    ]
    assert told[0].get("www-authenticate") == 'Bearer realm="api", error="invalid_token"'
    head = WORLDS[world](guard, Ask(headers=(("X-API-Key", "wrong"),), method="HEAD"))
    assert (head.status, head.body) == (429, b"")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    "result",
    [7, object, Response(200, [("X", "y")], b""), {"a": float("nan")}, {"a": {1}}, ValueError("oops"), "\ud800"],
    ids=["number", "class", "no type", "nan", "set", "error", "surrogate"],
)
def test_if_it_fails_the_body_stays_what_it_was_and_the_log_tells_once(
    world: str, result: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def render(refusal: Refusal) -> Any:
        if isinstance(result, Exception):
            raise result
        return result

    guard = Keyguard(APIKeys(), render_refusal=render)
    for _ in range(3):
        answer = WORLDS[world](guard, Ask())
        assert (answer.status, answer.get("content-type")) == (401, "application/problem+json")
        assert json.loads(answer.body)["detail"] == "Send an API key."
    assert caplog.text.count("render_refusal failed") == 1


def _fastapi(guard: Keyguard) -> Answer:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    async def view() -> None:
        async with guard.reserve(5):
            pass

    return asyncio.run(aask(guard.asgi(app), Ask()))


def _plain_asgi(guard: Keyguard) -> Answer:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with guard.reserve(5):
            pass

    return asyncio.run(aask(guard.asgi(app), Ask()))


def _flask(guard: Keyguard) -> Answer:
    from flask import Flask

    app = Flask("shop")

    @app.get("/")
    def view() -> str:
        with guard.reserve(5):
            return ""

    return ask_wsgi(guard.wsgi(app), Ask())


def _plain_wsgi(guard: Keyguard) -> Answer:
    def app(environ: Any, start_response: Any) -> Any:
        with guard.reserve(5):
            return []

    return ask_wsgi(guard.wsgi(app), Ask())


@pytest.mark.parametrize("ask", [_fastapi, _plain_asgi, _flask, _plain_wsgi])
def test_refusals_in_handlers_are_rendered_too(ask: Callable[[Keyguard], Answer]) -> None:
    seen: list[Refusal] = []
    guard = Keyguard(RateLimit("1/day", cost=0, name="tokens"), render_refusal=ours, on_refusal=seen.append)
    answer = ask(guard)
    assert (answer.status, answer.get("content-type")) == (429, "application/json")
    assert json.loads(answer.body)["error"]["code"] == "usage"
    assert answer.get("cache-control") == "no-store"
    assert len(seen) == 1


def test_a_layer_of_one_guard_has_it_too() -> None:
    import keyguard.wsgi

    app = keyguard.wsgi.APIKeys(wsgi_app, render_refusal=ours)
    assert json.loads(ask_wsgi(app, Ask()).body)["error"]["code"] == "credentials"


async def asynchronous(refusal: Refusal) -> str:
    return ""


def of_two(refusal: Refusal, request: Any) -> str:
    return ""


@pytest.mark.parametrize(
    "function",
    ["text", 7, asynchronous, blocking(ours), of_two, lambda: ""],
    ids=["text", "number", "async", "blocking", "two", "none"],
)
def test_what_cannot_be_called_does_not_start(function: Any) -> None:
    with pytest.raises(ConfigurationError, match="render_refusal"):
        Keyguard(APIKeys(), render_refusal=function)
