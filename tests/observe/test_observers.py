"""Observers of a stack: attached once, told of each request once, begun with the app and closed at its end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keyguard import ConfigurationError, Decision, Keyguard, RateLimit
from keyguard.observer import Observed, Sink
from keyguard.stores.memory import MemoryStore
from tests.support.harness import Ask, ask_asgi, ask_wsgi


class Listening:
    """An observer that notes what happens to it."""

    def __init__(self, *, deaf: bool = False, broken: bool = False) -> None:
        self.deaf, self.broken = deaf, broken
        self.stacks: list[Observed] = []
        self.heard: list[Decision] = []
        self.events: list[str] = []

    def attach(self, stack: Observed, /) -> Sink | None:
        self.stacks.append(stack)
        return None if self.deaf else self.hear

    def hear(self, decision: Decision) -> None:
        self.heard.append(decision)

    def begin(self) -> None:
        self.events.append("begin")
        if self.broken:
            raise OSError("no room")

    def close(self) -> None:
        self.events.append("close")
        if self.broken:
            raise OSError("no room")


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("content-length", "0")])
    return [b""]


async def live(served: Any, events: list[str]) -> None:
    """Run the lifespan of an app from its start to its end."""
    told = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(told)}

    async def send(message: Any) -> None:
        events.append(message["type"])

    await served({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


class Noting(MemoryStore):
    """A store that notes when it is closed."""

    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self.events = events

    def close(self) -> None:
        self.events.append("store closed")


def test_it_is_attached_when_the_stack_is_built_and_sees_those_before_it() -> None:
    first, second = Listening(), Listening()
    guard = Keyguard(RateLimit("2/minute", by="ip"), name="shop", usage=first, alerts=second)
    (told,) = first.stacks
    assert (told.name, told.store, told.before) == ("shop", guard.store, ())
    assert [fact.name for fact in told.facts()] == ["ip:2/minute"]
    assert told.health().ok
    assert told.cache() == {}
    assert second.stacks[0].before == (first,)


def test_each_request_is_told_once_though_two_stacks_have_the_same_observer() -> None:
    shared, outer = Listening(), Listening()
    within = Keyguard(RateLimit("1/minute", by="ip"), usage=shared)
    around = Keyguard(usage=shared, alerts=outer)
    served = around.asgi(within.asgi(app))
    assert [ask_asgi(served, Ask()).status for _ in range(2)] == [200, 429]
    for heard in (shared.heard, outer.heard):
        assert [decision.outcome for decision in heard] == ["served", "refused"]
    shared.heard.clear()
    wrapped = around.wsgi(within.wsgi(wsgi_app))
    ask_wsgi(wrapped, Ask(client="192.0.2.9"))
    assert [decision.client for decision in shared.heard] == ["192.0.2.9"]


def test_a_function_that_is_told_of_decisions_anyway_is_told_once() -> None:
    observer = Listening()
    served = Keyguard(usage=observer, on_decision=observer.hear).asgi(app)
    ask_asgi(served, Ask())
    assert len(observer.heard) == 1


def test_it_begins_with_the_app_and_is_closed_before_the_store() -> None:
    observer = Listening(deaf=True)
    guard = Keyguard(RateLimit("1/minute", by="ip"), store=Noting(observer.events), usage=observer)
    asyncio.run(live(guard.asgi(app), observer.events))
    assert observer.events == [
        *("begin", "lifespan.startup.complete"),
        *("close", "store closed", "lifespan.shutdown.complete"),
    ]


def test_without_a_lifespan_it_begins_with_the_first_request() -> None:
    observer = Listening()
    served = Keyguard(usage=observer).wsgi(wsgi_app)
    ask_wsgi(served, Ask())
    ask_wsgi(served, Ask())
    assert (observer.events, len(observer.heard)) == (["begin"], 2)


def test_a_stack_is_closed_by_hand_the_last_observer_first() -> None:
    events: list[str] = []
    usage, alerts = Listening(), Listening()
    usage.events = alerts.events = events
    guard = Keyguard(RateLimit("1/minute", by="ip"), store=Noting(events), usage=usage, alerts=alerts)
    guard.close()
    assert events == ["close", "close", "store closed"]
    asyncio.run(guard.aclose())
    assert events == ["close", "close", "store closed"] * 2


def test_one_that_fails_stops_neither_the_app_nor_the_others(caplog: pytest.LogCaptureFixture) -> None:
    broken, sound = Listening(broken=True), Listening()
    guard = Keyguard(usage=sound, alerts=broken)
    assert ask_asgi(guard.asgi(app), Ask()).status == 200
    guard.close()
    assert sound.events == ["begin", "close"]
    assert "could not begin, and the app goes on" in caplog.text
    assert "could not end as it should" in caplog.text


def test_a_test_of_the_stack_tells_it_nothing() -> None:
    observer = Listening()
    guard = Keyguard(RateLimit("1/minute", by="ip"), usage=observer)
    served = guard.asgi(app)
    with guard.testing():
        ask_asgi(served, Ask())
    assert (observer.heard, observer.events) == ([], [])
    ask_asgi(served, Ask())
    assert (len(observer.heard), observer.events) == (1, ["begin"])


@pytest.mark.parametrize(("word", "wrong"), [("usage", True), ("usage", Listening), ("alerts", "mailto:x@y.z")])
def test_what_is_no_observer_stops_the_start(word: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{word} is an object such as {word.capitalize()}\\(\\), not"):
        Keyguard(**{word: wrong})
