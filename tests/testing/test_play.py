"""`play` and `aplay`: one request through a guard, as a server of either interface sends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, Request
from keyguard.testing import ManualClock, aplay, play

BOTH = pytest.mark.parametrize("interface", ["wsgi", "asgi"])


seen: list[Any] = []


def look(request: Request) -> None:
    """A guard that notes all that it sees."""
    fields = sorted((name.lower().replace("_", "-"), value) for name, value in request.headers.items())
    seen.append((request.method, request.path, request.raw_query, fields, str(request.client), request.scheme))


CASES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    (("/a/b?c=d&e=%20",), {"method": "DELETE"}),
    (("/ä?ü=1",), {"client": None}),
    ((), {"headers": {"X-One": "1", "Content-Type": "text/x", "X_Two": "2"}, "client": "2001:db8::1"}),
    ((), {"headers": [("X-One", "1"), ("x-one", "2"), ("Accept", "é")]}),
    ((), {"underscores": ["x_two"], "headers": {"X_Two": "2"}}),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_guards_see_the_same_and_answer_the_same_over_both(number: int) -> None:
    args, options = CASES[number]
    seen.clear()
    for guard in (look, RateLimit("1/minute")):
        options |= {"clock": ManualClock()}
        answers = [play(guard, *args, interface="wsgi", **options), play(guard, *args, interface="asgi", **options)]
        answers.append(asyncio.run(aplay(guard, *args, **options)))
        told = [
            (each.status, sorted((name.lower(), value) for name, value in each.headers), each.body) for each in answers
        ]
        assert told[0] == told[1] == told[2]
        assert told[0][0] == 200
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]


@BOTH
def test_a_stack_is_played_as_it_is(interface: Any) -> None:
    guard = Keyguard(APIKeys(lookup=lambda key: Identity(key)), RateLimit("1/minute", by="key"), store="memory://")
    sent = {"X-API-Key": "k"}
    assert [play(guard, headers=sent, interface=interface).status for _ in range(2)] == [200, 429]
    with guard.testing(identity="alice") as g:
        assert [play(guard, interface=interface).status for _ in range(2)] == [200, 429]
        g.advance("1 minute")
        assert play(guard, interface=interface).body == b"ok"


def test_one_stack_counts_both() -> None:
    guard = Keyguard(RateLimit("2/minute"), store="memory://")
    assert [play(guard, interface=each).status for each in ("wsgi", "asgi", "wsgi")] == [200, 200, 429]  # type: ignore[arg-type]


@BOTH
def test_functions_that_only_a_loop_can_run_need_one(interface: Any) -> None:
    async def who(request: Request) -> str:
        await asyncio.sleep(0)
        return "all"

    limit = RateLimit("1/minute", by=who)
    if interface == "asgi":
        assert play(limit, interface="asgi").status == 200
    else:
        with pytest.raises(ConfigurationError, match="there is no event loop under WSGI"):
            play(limit)


def test_in_a_loop_it_is_awaited() -> None:
    guard = Keyguard(RateLimit("3/minute"), store="memory://")

    async def inside() -> list[int]:
        with pytest.raises(RuntimeError, match=r"await aplay\("):
            play(guard, interface="asgi")
        return [play(guard).status, (await aplay(guard)).status]

    assert asyncio.run(inside()) == [200, 200]


def test_what_it_cannot_do_is_an_error() -> None:
    with pytest.raises(ValueError, match="interface is 'wsgi' or 'asgi', not 'http'"):
        play(RateLimit("1/minute"), interface="http")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="has its settings already, and cannot be given clock"):
        play(Keyguard(), clock=ManualClock())
