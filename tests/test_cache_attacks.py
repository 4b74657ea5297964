"""Attacks on the response cache, and accidents that look like them: each of these went through once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.testing import ManualClock
from tests.cache_worlds import Origin, Reply, Seen, World, world
from tests.harness import Answer, Ask, ask_wsgi

WORLDS = ("asgi", "wsgi")


@pytest.fixture(params=WORLDS)
def earth(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def ask(target: str = "/x", **headers: str) -> Ask:
    return Ask(target, tuple((name.replace("_", "-"), value) for name, value in headers.items()))


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
