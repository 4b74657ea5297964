"""Many requests at a time: who asks the app, who waits, and what happens when the one that asks comes to grief.

All of caching.md 22, and what of 20 and 21 happens while a request is on its way.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.drivers.asgi.driver import ASGIDriver
from keyguard.flow import Signal
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, aask, ask_wsgi

PATIENCE = 20  # seconds after which a test that hangs gives up


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the other side may be a thread
        await asyncio.sleep(0)


class Crowd:
    """Requests at a time, in one world. `say(number)` is what the app answers to its n-th call, once it is let."""

    def __init__(self, world: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        self.world = world
        self.clock = ManualClock()
        self.cache = ResponseCache(**options)
        self.stack = Keyguard(self.cache, store="memory://", clock=self.clock)
        self.app: Any = self.stack.asgi(self._asgi) if world == "asgi" else self.stack.wsgi(self._wsgi)
        self.runner = asyncio.Runner()
        self.control: Callable[[int], str] = lambda number: "max-age=60"
        self.parts: Callable[[int], list[bytes]] = lambda number: [b"call %d" % number]
        self.breaks: set[int] = set()
        self.breaks_late: set[int] = set()
        self.gates: dict[int, threading.Event] = {1: threading.Event()}
        """The calls that are held, and what lets them go on."""
        self.calls = 0
        self.began = threading.Semaphore(0)
        self.waits = threading.Semaphore(0)
        self._lock = threading.Lock()
        original = Signal.call_when_moved

        def counted(signal: Signal, seen: int, wake: Callable[[], None]) -> bool:
            waits = original(signal, seen, wake)
            self.waits.release()
            return waits

        monkeypatch.setattr(Signal, "call_when_moved", counted)

    def _begin(self) -> int:
        with self._lock:
            self.calls += 1
            number = self.calls
        self.began.release()
        return number

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        number = self._begin()
        if number in self.gates:
            await until(self.gates[number].is_set)
        if number in self.breaks:
            raise ZeroDivisionError
        headers = [(b"cache-control", self.control(number).encode()), (b"vary", b"foo")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self.parts(number):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if number in self.breaks_late:
            raise ZeroDivisionError
        await send({"type": "http.response.body"})

    def _wsgi(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        number = self._begin()
        if number in self.gates:
            assert self.gates[number].wait(PATIENCE)
        if number in self.breaks:
            raise ZeroDivisionError
        start_response("200 OK", [("Cache-Control", self.control(number)), ("Vary", "Foo")])
        yield from self.parts(number)
        if number in self.breaks_late:
            raise ZeroDivisionError

    def ask(self, count: int, meanwhile: Callable[[], None] | None = None, *asks: Ask) -> list[Answer | BaseException]:
        """Ask so many times at once; let the first call go when all others wait, and `meanwhile` has run."""
        requests = list(asks) or [Ask()] * count
        if self.world == "asgi":
            return self.runner.run(asyncio.wait_for(self._gathered(requests, count, meanwhile), PATIENCE))
        answers: list[Any] = [None] * len(requests)

        def one(place: int) -> None:
            try:
                answers[place] = ask_wsgi(self.app, requests[place], lint=False)
            except BaseException as error:
                answers[place] = error

        threads = [threading.Thread(target=one, args=(place,)) for place in range(len(requests))]
        threads[0].start()
        assert self.began.acquire(timeout=PATIENCE)
        for thread in threads[1:]:
            thread.start()
        for _ in range(count - 1):
            assert self.waits.acquire(timeout=PATIENCE)
        if meanwhile is not None:
            meanwhile()
        self.gates[1].set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return answers

    async def _gathered(self, requests: list[Ask], count: int, meanwhile: Callable[[], None] | None) -> Any:
        tasks = [asyncio.create_task(aask(self.app, ask, lint=False)) for ask in requests]
        for _ in range(count - 1):
            await until(lambda: self.waits.acquire(blocking=False))
        if meanwhile is not None:
            meanwhile()
        self.gates[1].set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    def get(self) -> Answer:
        if self.world == "asgi":
            return self.runner.run(aask(self.app, Ask()))
        return ask_wsgi(self.app, Ask())


@pytest.fixture
def crowd_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Crowd]]:
    made: list[Crowd] = []

    def make(world: str, **options: Any) -> Crowd:
        made.append(Crowd(world, monkeypatch, **options))
        return made[-1]

    yield make
    for crowd in made:
        crowd.runner.close()


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bodies(answers: list[Any]) -> list[bytes]:
    return [answer.body if isinstance(answer, Answer) else repr(answer).encode() for answer in answers]


@pytest.mark.parametrize(("world", "count"), [("asgi", 501), ("wsgi", 25)], indirect=["world"])
def test_22_of_many_one_asks(world: str, count: int, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world)
    answers = crowd.ask(count)
    assert crowd.calls == 1
    assert set(bodies(answers)) == {b"call 1"}
    assert sorted(answer.get("cache-status") or "" for answer in answers if isinstance(answer, Answer)) == (
        ["keyguard; fwd=uri-miss; stored"] + ["keyguard; hit; ttl=60; collapsed"] * (count - 1)
    )
    stats = crowd.cache.stats()
    assert (stats.misses, stats.collapsed, stats.hits, stats.stored) == (1, count - 1, count - 1, 1)


@pytest.mark.parametrize("control", ["private, max-age=60", "no-store"])
def test_22_what_turns_out_not_to_be_stored_lets_all_go_at_once(
    world: str, control: str, crowd_of: Callable[..., Crowd]
) -> None:
    crowd = crowd_of(world)
    crowd.control = lambda number: control
    answers = crowd.ask(6)
    assert crowd.calls == 6
    assert sorted(bodies(answers)) == [b"call %d" % number for number in range(1, 7)]
    crowd.get()  # and the next does not wait for another either
    assert not crowd.waits.acquire(blocking=False)


def test_22_a_leader_whose_app_raises_lets_all_go(world: str, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world)
    crowd.breaks = {1}
    answers = crowd.ask(4)
    assert isinstance(answers[0], ZeroDivisionError)
    assert all(isinstance(answer, Answer) for answer in answers[1:])


def test_22_a_leader_whose_app_raises_after_half_a_body(world: str, crowd_of: Callable[..., Crowd]) -> None:
    """caching.md 7: half a body is not stored, and nobody gets it but who asked."""
    crowd = crowd_of(world)
    crowd.breaks_late = {1}
    crowd.parts = lambda number: [b"half"] if number == 1 else [b"whole"]
    answers = crowd.ask(4)
    assert isinstance(answers[0], ZeroDivisionError)
    assert bodies(answers[1:]) == [b"whole"] * 3
    assert crowd.calls == 2, "one of the three leads next"
    assert crowd.get().body == b"whole"


def test_22_what_turns_out_too_large_lets_all_go_at_once(world: str, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world, max_entry_bytes=100)
    crowd.parts = lambda number: [b"x" * 60, b"y" * 60]
    meeting = threading.Barrier(4)
    if world == "wsgi":  # the others are in the app at the same time: none of them waits for another

        def met(number: int) -> str:
            if 1 < number < 6:
                meeting.wait(PATIENCE)
            return "max-age=60"

        crowd.control = met
    answers = crowd.ask(5)
    assert crowd.calls == 5
    assert {len(body) for body in bodies(answers)} == {120}
    crowd.get()
    assert crowd.calls == 6
    assert not crowd.waits.acquire(blocking=False), "they waited once, and not again for each other"


def test_22_a_leader_whose_client_leaves_hands_over_to_one_follower_asgi(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("asgi")

    async def story() -> list[Any]:
        leader = asyncio.create_task(aask(crowd.app, Ask()))
        await until(lambda: crowd.began.acquire(blocking=False))
        followers = [asyncio.create_task(aask(crowd.app, Ask())) for _ in range(3)]
        for _ in followers:
            await until(lambda: crowd.waits.acquire(blocking=False))
        leader.cancel()
        return await asyncio.gather(leader, *followers, return_exceptions=True)

    answers = crowd.runner.run(asyncio.wait_for(story(), PATIENCE))
    assert isinstance(answers[0], asyncio.CancelledError)
    assert bodies(answers[1:]) == [b"call 2"] * 3
    assert crowd.calls == 2


def test_22_a_leader_whose_client_leaves_hands_over_to_one_follower_wsgi(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("wsgi")
    crowd.gates = {}
    left: Any = crowd.app(Ask().environ(), lambda status, headers, exc_info=None: None)
    assert next(iter(left)) == b"call 1"  # it streams, and has not ended
    answers: list[Answer] = []
    followers = [threading.Thread(target=lambda: answers.append(ask_wsgi(crowd.app, Ask()))) for _ in range(3)]
    for follower in followers:
        follower.start()
    for _ in followers:
        assert crowd.waits.acquire(timeout=PATIENCE)
    left.close()
    for follower in followers:
        follower.join(PATIENCE)
    assert bodies(list(answers)) == [b"call 2"] * 3
    assert crowd.calls == 2


def test_22_nobody_waits_longer_than_a_set_time(world: str, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world, coalesce=0.01)
    released: list[bool] = []

    def let_go(number: int) -> str:
        if number == 2:  # the follower is in the app, though the leader has not come back
            released.append(crowd.gates[1].is_set())
            crowd.gates[1].set()
        return "max-age=60"

    crowd.control = let_go
    if world == "asgi":

        async def both() -> Any:
            return await asyncio.gather(*[aask(crowd.app, Ask()) for _ in range(2)])

        answers = crowd.runner.run(asyncio.wait_for(both(), PATIENCE))
    else:
        answers = []
        threads = [threading.Thread(target=lambda: answers.append(ask_wsgi(crowd.app, Ask()))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(bodies(answers)) == [b"call 1", b"call 2"]
    assert released == [False]


def test_22_who_differs_in_credentials_does_not_wait_for_the_other(world: str, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world)
    crowd.control = lambda number: "public, max-age=60"
    asks = [Ask("/", (("Authorization", f"Bearer {number}"),)) for number in range(3)]
    crowd.gates = {1: threading.Event()}
    crowd.gates[1].set()
    answers = crowd.ask(1, None, *asks)
    assert all(isinstance(answer, Answer) for answer in answers)
    assert not crowd.waits.acquire(blocking=False)


def test_22_a_follower_that_varies_asks_for_itself(world: str, crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of(world)
    answers = crowd.ask(3, None, Ask(), Ask(), Ask("/", (("Foo", "1"),)))
    assert crowd.calls == 2
    assert sorted(bodies(answers)) == [b"call 1", b"call 1", b"call 2"]


@pytest.mark.parametrize("purge", ["url", "path", "tag", "all"])
@pytest.mark.parametrize("coalesce", [10, 0])
def test_21_a_purge_while_it_is_on_its_way_keeps_it_out(
    world: str, purge: str, coalesce: int, crowd_of: Callable[..., Crowd]
) -> None:
    crowd = crowd_of(world, coalesce=coalesce)

    def purged() -> None:
        if coalesce == 0 and world == "asgi":
            assert crowd.calls == 1
        match purge:
            case "url":
                crowd.cache.purge("http://example.test/")
            case "path":
                crowd.cache.purge("/")
            case "tag":
                crowd.cache.purge(tag="a")
            case "all":
                crowd.cache.purge_all()

    if coalesce:
        assert sorted(bodies(crowd.ask(3, purged))) == [b"call 1", b"call 2", b"call 2"]
    else:
        real = crowd.control

        def while_it_is_made(number: int) -> str:
            if number == 1:
                purged()
            return real(number)

        crowd.gates, crowd.control = {}, while_it_is_made
        assert crowd.get().body == b"call 1"
    assert crowd.get().body == b"call 2"
    assert crowd.get().body == b"call 2"


def test_21_a_change_while_it_is_on_its_way_keeps_it_out(world: str, crowd_of: Callable[..., Crowd]) -> None:
    """Also where the request waits for nobody: it was sent by a client that demands a new answer."""
    crowd = crowd_of(world)
    crowd.gates = {}
    changing = Ask(method="POST")

    def change(number: int) -> str:
        if number == 2:
            if world == "asgi":
                done = threading.Thread(target=lambda: asyncio.run(aask(crowd.app, changing)))
            else:
                done = threading.Thread(target=lambda: ask_wsgi(crowd.app, changing))
            done.start()
            done.join(PATIENCE)
        return "max-age=60"

    crowd.control = change
    crowd.get()
    reload = Ask("/", (("Cache-Control", "no-cache"),))
    answer = crowd.runner.run(aask(crowd.app, reload)) if world == "asgi" else ask_wsgi(crowd.app, reload)
    assert answer.body == b"call 2"
    assert crowd.get().body == b"call 4"


# -- in the background (caching.md 20) ----------------------------------------------------------------------------


def stale(crowd: Crowd) -> None:
    crowd.control = lambda number: "max-age=60, stale-while-revalidate=60"
    crowd.gates = {}
    assert crowd.get().body == b"call 1"
    assert crowd.began.acquire(blocking=False)
    crowd.clock.advance(61)
    crowd.gates = {2: threading.Event()}


def test_20_exactly_one_refresh_wsgi(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("wsgi")
    stale(crowd)
    assert [crowd.get().body for _ in range(10)] == [b"call 1"] * 10
    assert crowd.began.acquire(timeout=PATIENCE)
    assert crowd.get().body == b"call 1"
    assert crowd.calls == 2
    crowd.gates[2].set()
    for thread in threading.enumerate():
        if thread.name == "keyguard-detached":
            thread.join(PATIENCE)
    assert crowd.get().body == b"call 2"
    assert crowd.calls == 2


def test_20_exactly_one_refresh_asgi(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("asgi")
    stale(crowd)

    async def story() -> None:
        answers = await asyncio.gather(*[aask(crowd.app, Ask()) for _ in range(50)])
        assert {answer.body for answer in answers} == {b"call 1"}
        await until(lambda: crowd.began.acquire(blocking=False))
        assert (await aask(crowd.app, Ask())).body == b"call 1"
        assert crowd.calls == 2
        crowd.gates[2].set()
        await until(lambda: not crowd.cache.flights._open)
        assert (await aask(crowd.app, Ask())).body == b"call 2"

    crowd.runner.run(asyncio.wait_for(story(), PATIENCE))
    assert crowd.calls == 2


def test_20_a_purge_during_a_refresh_keeps_it_out(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("wsgi")
    stale(crowd)
    assert crowd.get().body == b"call 1"
    assert crowd.began.acquire(timeout=PATIENCE)
    crowd.cache.purge("/")
    crowd.gates[2].set()
    for thread in threading.enumerate():
        if thread.name == "keyguard-detached":
            thread.join(PATIENCE)
    assert crowd.get().body == b"call 3"


def test_20_a_refresh_under_way_ends_before_the_app_shuts_down(crowd_of: Callable[..., Crowd]) -> None:
    crowd = crowd_of("asgi")
    stale(crowd)
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await crowd._asgi(scope, receive, send)
            return
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})

    wrapped: ASGIDriver = crowd.stack.asgi(app)

    async def story() -> None:
        asked: asyncio.Queue[Any] = asyncio.Queue()

        async def send(message: Any) -> None:
            told.append(message["type"])

        life = asyncio.create_task(wrapped({"type": "lifespan", "asgi": {"version": "3.0"}}, asked.get, send))
        await asked.put({"type": "lifespan.startup"})
        assert (await aask(wrapped, Ask())).body == b"call 1"
        await until(lambda: crowd.began.acquire(blocking=False))
        await asked.put({"type": "lifespan.shutdown"})
        for _ in range(20):
            await asyncio.sleep(0)
        assert told == ["lifespan.startup.complete"], "it waits for the refresh"
        crowd.gates[2].set()
        await life
        assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert (await aask(wrapped, Ask())).body == b"call 2"

    crowd.runner.run(asyncio.wait_for(story(), PATIENCE))
