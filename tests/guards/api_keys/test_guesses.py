"""Guessing keys: wrong ones are counted against their source, and lock out nobody who sends a right one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit
from keyguard.keys import new_key
from keyguard.ops import Op
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.every_store import KINDS, SHARED, store_of, url_of
from tests.support.harness import Answer, Ask, aask, asgi_app, ask_wsgi, wsgi_app


def ask_of(key: str) -> Ask:
    return Ask(headers=(("X-API-Key", key),))


def told_to_come_again(answer: Answer) -> bool:
    """On a busy machine a store has no turn for everybody: nothing is said of the key then, and nothing charged."""
    return answer.status == 503 and b'"overload"' in answer.body


def in_threads(app: Any, keys: Sequence[str]) -> list[int]:
    """The statuses of requests that are sent all at once, each from a thread."""
    statuses: dict[int, int] = {}
    together = threading.Barrier(len(keys))

    def one(number: int, key: str) -> None:
        together.wait(30)
        answer = ask_wsgi(app, ask_of(key))
        while told_to_come_again(answer):
            answer = ask_wsgi(app, ask_of(key))
        statuses[number] = answer.status

    threads = [threading.Thread(target=one, args=each) for each in enumerate(keys)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [statuses[number] for number in range(len(keys))]


async def in_tasks(app: Any, keys: Sequence[str]) -> list[int]:
    async def one(key: str) -> int:
        answer = await aask(app, ask_of(key))
        while told_to_come_again(answer):
            answer = await aask(app, ask_of(key))
        return answer.status

    return await asyncio.gather(*[one(key) for key in keys])


def ended(store: Any) -> Callable[[], Any]:
    """Closes a store's connections of this event loop."""

    async def close() -> None:
        if hasattr(store, "aclose"):
            await store.aclose()

    return close


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return store_of(request.param, request, tmp_path)


# -- keys of the registry -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_thirty_right_keys_at_once_that_nobody_has_seen_pass(store: Any, world: str) -> None:
    """Of one address, which has sent more wrong ones than it may."""
    guard = Keyguard(APIKeys(guesses="5/minute; 10/hour"), store=store)
    keys = [guard.keys.issue(f"customer {number}").key.reveal() for number in range(30)]
    for _ in range(7):
        play(guard, headers={"X-API-Key": new_key().reveal()})
    assert play(guard, headers={"X-API-Key": new_key().reveal()}).status == 429
    if world == "threads":
        assert in_threads(guard.wsgi(wsgi_app), keys) == [200] * 30
        return

    async def story() -> list[int]:
        statuses = await in_tasks(guard.asgi(asgi_app), keys)
        await ended(store)()
        return statuses

    assert asyncio.run(story()) == [200] * 30


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_wrong_keys_at_once_are_all_counted(store: Any, world: str) -> None:
    guard = Keyguard(APIKeys(guesses="5/minute"), store=store)
    keys = [new_key().reveal() for _ in range(12)]
    if world == "threads":
        statuses = in_threads(guard.wsgi(wsgi_app), keys)
    else:

        async def story() -> list[int]:
            found = await in_tasks(guard.asgi(asgi_app), keys)
            await ended(store)()
            return found

        statuses = asyncio.run(story())
    assert sorted(statuses) == [401] * 5 + [429] * 7


def test_a_worker_that_has_not_seen_a_key_accepts_it_among_the_guesses_of_a_neighbour(store: Any) -> None:
    workers = [Keyguard(APIKeys(), store=store) for _ in range(3)]
    key = workers[0].keys.issue("acme").key.reveal()
    for number in range(24):
        play(workers[number % 3], headers={"X-API-Key": new_key().reveal()})
    for worker in workers:
        assert play(worker, headers={"X-API-Key": new_key().reveal()}).status == 429
        assert play(worker, headers={"X-API-Key": key}).status == 200


class Counting(MemoryStore):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[str] = []

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        self.asked += [type(op).__name__ for op in ops]
        return super().execute(ops)

    def trips(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


def test_the_work_that_a_source_can_make_is_bounded() -> None:
    """A right key is one trip, and a key whose checksum is wrong none, once its source is over its limit."""
    clock = ManualClock()
    store = Counting(clock=clock)
    guard = Keyguard(APIKeys(guesses="3/minute"), store=store, clock=clock)
    keys = [guard.keys.issue("acme").key.reveal() for _ in range(2)]
    store.trips()

    def ask(key: str) -> tuple[int, list[str]]:
        return play(guard, headers={"X-API-Key": key}).status, store.trips()

    assert ask(keys[0]) == (200, ["Authenticate"])
    assert ask("nonsense") == (401, ["Take"])
    assert ask(new_key().reveal()) == (401, ["Authenticate", "Take"])
    assert ask("nonsense") == (401, ["Take"])
    assert ask("nonsense") == (429, ["Take"])
    assert ask("other nonsense") == (429, [])
    assert ask(new_key(env="test").reveal()) == (429, [])
    assert ask(new_key().reveal()) == (429, ["Authenticate"])
    assert ask(keys[1]) == (200, ["Authenticate"])
    clock.advance(11)  # it is a short memory: the limit is the store's
    assert ask("nonsense") == (429, ["Take"])


def test_what_is_remembered_of_a_refusal_keeps_its_word() -> None:
    clock = ManualClock()
    guard = Keyguard(APIKeys(guesses="1/8 seconds"), store=MemoryStore(clock=clock), clock=clock)

    def ask() -> tuple[int, str | None]:
        answer = play(guard, headers={"X-API-Key": "nonsense"})
        return answer.status, answer.header("Retry-After")

    assert ask() == (401, None)
    seen = []
    for _ in range(8):
        seen.append(ask())
        clock.advance(1)
    assert seen == [(429, str(seconds)) for seconds in (8, 7, 6, 5, 4, 3, 2, 1)]
    assert ask() == (401, None)


def test_other_sources_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.guards.api_keys.guesses._MOST", 400)
    clock = ManualClock()
    store = Counting(clock=clock)
    guard = Keyguard(APIKeys(guesses="1/minute"), store=store, clock=clock)
    for number in range(500):
        for _ in range(2):
            play(guard, headers={"X-API-Key": "nonsense"}, client=f"10.0.{number // 250}.{number % 250}")
    store.trips()
    play(guard, headers={"X-API-Key": "nonsense"}, client="10.0.1.249")
    assert store.trips() == []
    play(guard, headers={"X-API-Key": "nonsense"}, client="10.0.0.0")
    assert store.trips() == ["Take"], "the one that was refused longest ago made room"


def test_unknown_and_wrong_keys_ask_the_same() -> None:
    store = Counting()
    guard = Keyguard(APIKeys(), store=store)
    key = guard.keys.issue("acme").key.reveal()
    from tests.support.table import _other_secret

    store.trips()
    asked = []
    for sent in (new_key().reveal(), _other_secret(key)):
        answer = play(guard, headers={"X-API-Key": sent})
        asked.append((answer.status, answer.body[:80], store.trips()))
    assert asked[0] == asked[1]


def test_right_keys_take_nothing_from_the_guesses() -> None:
    store = Counting()
    guard = Keyguard(APIKeys(guesses="1/minute"), store=store)
    for _ in range(10):
        assert play(guard, headers={"X-API-Key": guard.keys.issue("acme").key.reveal()}).status == 200
    assert [key for key, _ in store.scan("guess:")] == []


# -- exempt, and off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", [None, lambda key: Identity(key) if key.startswith("right") else None])
def test_networks_can_be_exempt_and_guesses_uncounted(lookup: Any) -> None:
    store = Counting()

    def statuses(client: str | None, **options: Any) -> list[int]:
        guard = Keyguard(APIKeys(lookup=lookup, **options), store=store)
        return [play(guard, headers={"X-API-Key": f"wrong {n}"}, client=client).status for n in range(4)]

    exempt = {"guesses": "2/minute", "guess_exempt": ["10.0.0.0/8", "2001:db8::/32"]}
    assert statuses("10.1.2.3", **exempt) == [401] * 4
    assert statuses("::ffff:10.1.2.4", **exempt) == [401] * 4
    assert statuses("2001:db8::1", **exempt) == [401] * 4
    assert store.trips() == []
    assert statuses("11.1.2.3", **exempt) == [401, 401, 429, 429]
    assert statuses(None, **exempt) == [401, 401, 429, 429], "an address that is not known is on no list"
    store.trips()
    assert statuses("11.1.2.4", guesses=None) == [401] * 4
    assert store.trips() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guess_exempt": ["10.0.0.1/8"]}, "guess_exempt: .*did you mean"),
        ({"guess_exempt": 5}, "guess_exempt: networks are a list"),
        ({"guesses": 5}, "guesses is a rate"),
        ({"guesses": ""}, "rate"),
    ],
)
def test_a_wrong_setting_stops_the_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        APIKeys(**options)


# -- look-ups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_thirty_right_keys_at_once_pass_where_a_look_up_decides(store: Any, world: str) -> None:
    asked: list[str] = []

    def lookup(key: str) -> Identity | None:
        asked.append(key)
        time.sleep(0.02)
        return Identity(key) if key.startswith("right") else None

    guard = Keyguard(APIKeys(lookup=lookup), store=store)  # 20 a minute
    keys = [f"right {number}" for number in range(30)]
    wrong = [f"wrong {number}" for number in range(24)]
    if world == "threads":
        app = guard.wsgi(wsgi_app)
        assert in_threads(app, keys) == [200] * 30
        assert sorted(in_threads(app, wrong)) == [401] * 20 + [429] * 4
    else:

        async def story() -> tuple[list[int], list[int]]:
            app = guard.asgi(asgi_app)
            found = await in_tasks(app, keys), await in_tasks(app, wrong)
            await ended(store)()
            return found

        right, others = asyncio.run(story())
        assert right == [200] * 30
        assert sorted(others) == [401] * 20 + [429] * 4
    assert len(asked) == 50, "what was refused was not looked up"


@pytest.mark.slow
@pytest.mark.parametrize("kind", SHARED)
def test_they_pass_in_several_processes_that_share_a_limit(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """What the look-ups of one process hold is wanted by the others, which have none of their own to wait for."""
    from keyguard.stores import open_store

    url = url_of(kind, request, tmp_path)

    def lookup(key: str) -> Identity | None:
        time.sleep(0.1)
        return Identity(key) if key.startswith("right") else None

    stores: list[Any] = [open_store(url) for _ in range(3)]
    apps = [Keyguard(APIKeys(lookup=lookup, guesses="2/minute"), store=one).wsgi(wsgi_app) for one in stores]
    statuses: list[int] = []

    def one(app: Any, key: str) -> None:
        answer = ask_wsgi(app, ask_of(key))
        while told_to_come_again(answer):
            answer = ask_wsgi(app, ask_of(key))
        statuses.append(answer.status)

    for kind_of_key, expected in (("right", [200] * 9), ("wrong", [401] * 2 + [429] * 7)):
        statuses.clear()
        threads = [
            threading.Thread(target=one, args=(app, f"{kind_of_key} {place} {number}"))
            for place, app in enumerate(apps)
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == expected
    for opened in stores:
        opened.close()


def test_a_source_that_has_guessed_too_often_does_not_wait() -> None:
    async def lookup(key: str) -> Identity | None:
        return None

    async def story() -> list[int]:
        app = Keyguard(APIKeys(lookup=lookup, guesses="2/minute")).asgi(asgi_app)
        statuses = await in_tasks(app, [f"wrong {number}" for number in range(5)])
        began = asyncio.get_running_loop().time()
        statuses += await in_tasks(app, [f"wrong {number}" for number in range(200)])
        assert asyncio.get_running_loop().time() - began < 5
        return statuses

    statuses = asyncio.run(story())
    assert statuses.count(401) == 2
    assert statuses.count(429) == 203


def test_look_ups_that_take_too_long_blame_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a turn and gets none is told of overload, and nothing is charged."""
    from keyguard.guards.api_keys import look_ups

    monkeypatch.setattr(look_ups, "PATIENCE", 0.1)
    monkeypatch.setattr(look_ups, "_LOOKS", 3)

    async def story() -> list[int]:
        end = asyncio.Event()

        async def lookup(key: str) -> Identity | None:
            await end.wait()
            return Identity(key)

        app = Keyguard(APIKeys(lookup=lookup, guesses="2/minute")).asgi(asgi_app)
        asks = [asyncio.create_task(aask(app, ask_of(f"right {number}"))) for number in range(4)]
        done: list[int] = []
        while len(done) < 2:
            await asyncio.sleep(0.01)
            done = [ask.result().status for ask in asks if ask.done()]
        assert done == [503, 503]
        end.set()
        statuses = [(await ask).status for ask in asks]
        return [*statuses, *await in_tasks(app, [f"right {number}" for number in range(10, 20)])]

    statuses = asyncio.run(story())
    assert sorted(statuses[:4]) == [200, 200, 503, 503]
    assert statuses[4:] == [200] * 10


def test_a_client_that_leaves_in_the_line_holds_up_nobody() -> None:
    async def story() -> list[int]:
        end = asyncio.Event()

        async def lookup(key: str) -> Identity | None:
            await end.wait()
            return Identity(key)

        app = Keyguard(APIKeys(lookup=lookup, guesses="1/minute")).asgi(asgi_app)
        asks = [asyncio.create_task(aask(app, ask_of(f"right {number}"))) for number in range(5)]
        await asyncio.sleep(0.05)
        for gone in (asks[1], asks[3]):  # the first in the line, and one behind it
            gone.cancel()
        await asyncio.sleep(0.01)
        end.set()
        return [(await asks[number]).status for number in (0, 2, 4)]

    assert asyncio.run(story()) == [200] * 3


def test_a_client_that_leaves_during_its_look_up_has_not_guessed() -> None:
    async def story() -> int:
        begun, end = asyncio.Event(), asyncio.Event()

        async def lookup(key: str) -> Identity | None:
            begun.set()
            await end.wait()
            return Identity(key)

        app = Keyguard(APIKeys(lookup=lookup, guesses="1/minute")).asgi(asgi_app)
        left = asyncio.create_task(aask(app, ask_of("right")))
        await begun.wait()
        left.cancel()
        await asyncio.sleep(0)
        end.set()
        return (await aask(app, ask_of("right too"))).status

    assert asyncio.run(story()) == 200


def test_a_limit_by_address_before_the_keys_still_counts_beside(tmp_path: Path) -> None:
    guard = Keyguard(RateLimit("5/minute", by="ip"), APIKeys(guesses="2/minute"), store=MemoryStore())
    key = guard.keys.issue("acme").key.reveal()
    statuses = [play(guard, headers={"X-API-Key": "nonsense"}).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    assert play(guard, headers={"X-API-Key": key}).status == 200


def customers(key: str) -> Identity | None:
    return Identity("ada") if key == "of a customer" else None


def staff(key: str) -> Identity | None:
    return Identity("bob") if key == "of the staff" else None


def test_wrong_keys_of_one_look_up_lock_nobody_out_of_another() -> None:
    """Two apps on one store, callers of both behind one address."""
    store = MemoryStore()
    one, other = [Keyguard(APIKeys(lookup=lookup, guesses="3/minute"), store=store) for lookup in (customers, staff)]
    assert [play(one, headers={"X-API-Key": f"wrong {n}"}).status for n in range(5)] == [401] * 3 + [429] * 2
    assert play(one, headers={"X-API-Key": "of a customer"}).status == 429
    assert play(other, headers={"X-API-Key": "of the staff"}).status == 200
    # Workers of one app count together, and so do look-ups that were given one name.
    again = Keyguard(APIKeys(lookup=customers, guesses="3/minute"), store=store)
    assert play(again, headers={"X-API-Key": "of a customer"}).status == 429
    named = [
        Keyguard(APIKeys(lookup=lookup, guesses="1/minute", name="x"), store=store) for lookup in (customers, staff)
    ]
    assert [play(guard, headers={"X-API-Key": "wrong"}).status for guard in named] == [401, 429]
