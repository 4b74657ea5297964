"""What is told of a refusal: of which request, of whom, and where to read it. One table of requests, two worlds."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, Cause, IPFilter, Keyguard, RateLimit, Refusal, Request, Response, refuse
from keyguard.drivers import faults
from keyguard.http.shown_path import shown_path
from keyguard.keys import new_key
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(asgi_app), ask),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(wsgi_app), ask),
}


# -- which request it was ---------------------------------------------------------------------------------------------

SHOWN = {
    "/": "/",
    "/items": "/items",
    "/items/": "/items/",
    "/v1/chat/completions": "/v1/chat/completions",
    "/api/v12/oauth2/log-in_now.json": "/api/v12/oauth2/log-in_now.json",
    "/robots.txt": "/robots.txt",
    "/users/17/orders": "/users/{}/orders",
    "/users/2f1e7a66-6f0c-4f3c-9b3b-0d8d6d0a1b11": "/users/{}",
    "/reset/4fK2mQ9xTzLb": "/reset/{}",
    "/reset/aBcDefGhIj": "/reset/{}",
    "/reset/" + "a" * 40: "/reset/{}",
    "/who/ada@example.com": "/who/{}",
    "/files/büro": "/files/{}",
    "/a b/\n/\x1b[2J": "/{}/{}/{}",
    "/a/b/c/d/e/f/g/h": "/a/b/c/d/e/f/g/h",
    "/a/b/c/d/e/f/g/h/i/j": "/a/b/c/d/e/f/g/h/...",
    "/" + "x/" * 300: "/x/x/x/x/x/x/x/x/...",
}


@pytest.mark.parametrize(("path", "shown"), SHOWN.items(), ids=list(SHOWN.values()))
def test_paths_are_told_without_what_may_be_a_secret(path: str, shown: str) -> None:
    assert shown_path(path) == shown


@given(st.text(st.characters(exclude_characters="/"), min_size=1, max_size=60))
def test_what_is_told_of_a_segment_is_a_short_word_or_nothing(segment: str) -> None:
    shown = shown_path(f"/{segment}")
    assert shown == "/{}" or (shown[1:] == segment and segment.isascii() and sum(map(str.isdigit, segment)) <= 2)


def test_no_key_and_no_hex_secret_passes_for_a_word() -> None:
    for _ in range(200):
        for secret in (new_key().reveal(), os.urandom(16).hex(), os.urandom(8).hex()):
            assert shown_path(f"/reset/{secret}") == "/reset/{}"


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("path", ["/users/17/orders?key=secret&x=1", "/users/1%37/orders", "//users/17/orders;x=1"])
def test_a_refusal_says_which_request_it_was(world: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen: list[Refusal] = []
    guard = Keyguard(IPFilter(deny=["198.51.100.0/24"]), on_refusal=seen.append)
    assert WORLDS[world](guard, Ask(path, method="PATCH")).status == 403
    (refusal,) = seen
    assert refusal.method == "PATCH"
    assert refusal.route in ("/users/{}/orders", "//users/{}/{}")
    assert f" method=PATCH route={refusal.route}" in caplog.messages[0]
    assert "secret" not in caplog.text


def _in_fastapi(guard: Keyguard) -> Answer:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/users/{user}/orders")
    async def orders(user: str) -> None:
        async with guard.reserve(5):
            pass

    return asyncio.run(aask(guard.asgi(app), Ask("/users/ada/orders")))


def _in_flask(guard: Keyguard) -> Answer:
    from flask import Flask

    app = Flask("shop")

    @app.get("/users/<user>/orders")
    def orders(user: str) -> str:
        with guard.reserve(5):
            return ""

    return ask_wsgi(guard.wsgi(app), Ask("/users/ada/orders"))


@pytest.mark.parametrize(("ask", "route"), [(_in_fastapi, "/users/{user}/orders"), (_in_flask, "/users/<user>/orders")])
def test_a_refusal_in_a_handler_names_the_route_that_was_matched(ask: Any, route: str) -> None:
    seen: list[Refusal] = []
    guard = Keyguard(RateLimit("1/day", cost=0, name="tokens"), on_refusal=seen.append)
    assert ask(guard).status == 429
    assert [(refusal.method, refusal.route) for refusal in seen] == [("GET", route)]


# -- of whom it is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_the_holder_of_a_key_that_is_not_valid_any_more_is_told_to_the_log_alone(
    world: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock, seen = ManualClock(), list[Refusal]()
    guard = Keyguard(
        APIKeys(pepper="p" * 16, guesses=None), store=MemoryStore(clock=clock), clock=clock, on_refusal=seen.append
    )
    issued = {
        "revoked": guard.keys.issue("ada", subject="s-revoked"),
        "expired": guard.keys.issue("ada", subject="s-expired", expires="1h"),
    }
    guard.keys.revoke(issued["revoked"].record.id)
    clock.advance(timedelta(hours=2))
    answers = []
    for reason, key in issued.items():
        answers.append(WORLDS[world](guard, Ask("/", (("X-API-Key", key.key.reveal()), ("X-Request-ID", "r")))))
        refusal = seen[-1]
        assert (refusal.reason, refusal.key_id, refusal.subject) == (reason, key.record.id, f"s-{reason}")
        assert f"key={key.record.id} subject='s-{reason}'" in caplog.messages[-1]
    for text in (new_key().reveal(), "no-key-at-all"):
        answers.append(WORLDS[world](guard, Ask("/", (("X-API-Key", text), ("X-Request-ID", "r")))))
        assert seen[-1].subject == ""
    assert all(answer == answers[0] for answer in answers)  # outside nothing tells them apart


@pytest.mark.parametrize("world", WORLDS)
def test_nor_does_a_source_that_has_guessed_too_often_learn_more(world: str) -> None:
    seen: list[Refusal] = []
    guard = Keyguard(APIKeys(guesses="1/minute"), on_refusal=seen.append)
    key = guard.keys.issue("ada", subject="s")
    guard.keys.revoke(key.record.id)
    answers = [WORLDS[world](guard, Ask("/", (("X-API-Key", key.key.reveal()),))) for _ in range(3)]
    assert [answer.status for answer in answers] == [401, 429, 429]
    assert {(refusal.key_id, refusal.subject) for refusal in seen} == {(key.record.id, "s")}
    assert not any(key.record.id.encode() in answer.body for answer in answers)


def test_a_guard_of_ones_own_may_name_the_holder() -> None:
    seen: list[Refusal] = []

    def closed(request: Request) -> Response:
        return refuse(request, Cause.PERMISSION, "no", reason="mine", key_id="k1", subject="ada")

    WORLDS["wsgi"](Keyguard(closed, on_refusal=seen.append), Ask())
    assert (seen[0].key_id, seen[0].subject) == ("k1", "ada")


# -- where it can be read --------------------------------------------------------------------------------------------


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_told_in", 0)


@pytest.mark.parametrize("world", WORLDS)
def test_the_first_refusal_says_where_more_is_told(world: str, first: None, caplog: pytest.LogCaptureFixture) -> None:
    guard = Keyguard(IPFilter(deny=["198.51.100.0/24"]))
    for _ in range(3):
        WORLDS[world](guard, Ask("/who/ada?key=secret"))
    (message,) = caplog.messages
    assert "status=403 cause=address" in message
    assert "logging.getLogger('keyguard').setLevel(logging.INFO)" in message
    assert "ada" not in message


def test_it_says_nothing_if_that_is_shown_anyway(first: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard = Keyguard(IPFilter(deny=["198.51.100.0/24"]))
    for _ in range(2):
        WORLDS["wsgi"](guard, Ask())
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO"]


def test_a_forked_process_is_told_anew(
    first: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Keyguard(IPFilter(deny=["198.51.100.0/24"]))
    WORLDS["wsgi"](guard, Ask())
    monkeypatch.setattr(faults, "getpid", lambda: os.getpid() + 1)
    for _ in range(2):
        WORLDS["wsgi"](guard, Ask())
    assert len(caplog.messages) == 2
