"""`Keyguard(enabled=False)`: nothing is guarded, handlers work as before, and a warning says so."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from flask import Flask
from starlette.testclient import TestClient

from keyguard import APIKeys, ConfigurationError, Identity, IPFilter, Keyguard, RateLimit, ResponseCache
from keyguard.stores.memory import MemoryStore
from keyguard.testing import play


def stack(**options: Any) -> Keyguard:
    limits = RateLimit("1/minute", by="key"), RateLimit("5/day", by="key", cost=0, name="tokens")
    return Keyguard(IPFilter(deny=["198.51.100.0/24"]), APIKeys(), *limits, store="memory://", **options)


def test_nothing_is_guarded_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "keyguard"):
        guard = stack(enabled=False)
    assert [record.getMessage() for record in caplog.records] == [
        f"{guard!r} is not enabled: it guards nothing, and every request goes to the app. For production take "
        "enabled=False away"
    ]
    assert [play(guard).status for _ in range(3)] == [200] * 3
    assert play(guard).header("ratelimit") is None


def test_one_that_is_enabled_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert play(stack(enabled=True)).status == 403
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


@pytest.mark.parametrize("wrong", ["false", "", 0, 1, None])
def test_it_is_true_or_false(wrong: Any) -> None:
    """A text from the environment, say, is neither."""
    with pytest.raises(ConfigurationError, match="enabled is True or False"):
        stack(enabled=wrong)


def test_wrong_settings_stay_errors() -> None:
    with pytest.raises(ConfigurationError, match="put APIKeys"):
        Keyguard(RateLimit("1/minute", by="key"), store="memory://", enabled=False)


def handle(guard: Keyguard) -> dict[str, Any]:
    """What a handler may do with its guard."""
    state = guard.here()
    guard.charge(3, "tokens")
    with guard.reserve(1000, "tokens") as hold:
        hold.settle(7)
    assert state.identity is not None
    return {"who": state.identity.subject, "limits": len(state.limits), "pressure": state.pressure}


NOTHING = {"who": "", "limits": 0, "pressure": 0.0}


def test_handlers_work_under_fastapi() -> None:
    guard, app = stack(enabled=False), FastAPI()
    app.add_middleware(guard.asgi)

    @app.get("/")
    async def home() -> dict[str, Any]:
        async with guard.reserve(2, "tokens"):
            return handle(guard)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json(handle(guard))

    with TestClient(app) as client:
        assert client.get("/").json() == NOTHING
        with client.websocket_connect("/ws") as socket:
            assert socket.receive_json() == NOTHING


def test_handlers_work_under_flask() -> None:
    guard, app = stack(enabled=False), Flask(__name__)
    app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]
    app.get("/")(lambda: handle(guard))
    assert app.test_client().get("/").json == NOTHING


def test_a_function_of_an_app_can_be_called_by_itself() -> None:
    assert handle(stack(enabled=False)) == NOTHING


def test_what_handlers_do_wrongly_stays_wrong() -> None:
    guard = stack(enabled=False)
    with pytest.raises(ValueError, match="charge"):
        guard.charge(-1, "tokens")
    with pytest.raises(ConfigurationError, match="no RateLimit of this stack is called 'token'"):
        guard.charge(1, "token")
    hold = guard.reserve(1, "tokens")
    with pytest.raises(RuntimeError, match="belongs inside"):
        hold.settle(1)
    with hold:
        hold.settle(1)
        with pytest.raises(RuntimeError, match="said once"):
            hold.settle(1)
    with pytest.raises(RuntimeError, match="entered once"), hold:
        pass


def test_nothing_is_charged_when_it_is_enabled_later() -> None:
    """Both use one store: what the one did not count, the other does not know."""
    store = MemoryStore()
    guard = Keyguard(APIKeys(), RateLimit("5/day", by="key"), store=store, enabled=False)
    key = guard.keys.issue("acme").key.reveal()
    assert play(guard, headers={"X-API-Key": key}).status == 200
    assert [use.spent for use in guard.limits.peek(key)] == [0]


def test_no_cached_answer_is_served() -> None:
    guard = Keyguard(ResponseCache(ttl=60, public=True), store="memory://", enabled=False)
    assert [play(guard).header("cache-status") for _ in range(2)] == [None, None]


def test_rules_at_routes_let_all_pass() -> None:
    guard, app = Keyguard(APIKeys(), store="memory://", enabled=False), FastAPI()
    app.add_middleware(guard.asgi)

    @app.get("/", dependencies=[Depends(guard.limit("1/minute"))])
    @guard.limit("1/hour")
    def home(
        caller: Identity = Depends(guard.key(scopes=["write"])),  # noqa: B008
    ) -> str:
        return caller.subject

    with TestClient(app) as client:
        assert [(answer.status_code, answer.json()) for answer in [client.get("/"), client.get("/")]] == [(200, "")] * 2
    flask = Flask(__name__)
    guard.init_app(flask)
    flask.get("/")(guard.limit("1/minute", name="other")(guard.key()(lambda: "ok")))
    assert [flask.test_client().get("/").status_code for _ in range(2)] == [200, 200]
