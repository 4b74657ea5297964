"""Values that a full memory store may drop: the oldest first, and before any caller is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from keyguard.ops import DROPPABLE, Change, CompareAndSet, Demand, Droppable, Op, Put, Read, Take
from keyguard.rates import Limit, window
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock

MIB = 1024 * 1024
SECOND = 1_000_000
HOUR = 3600 * SECOND
LIMIT = window(5, HOUR, "5/hour")


class Write(Op[bytes | None]):
    """Writes a value that may be dropped, or one that is bound otherwise. Evaluates to what stood there."""

    def __init__(
        self, key: str, value: bytes | None, ttl: int | None = HOUR, limit: Limit | Droppable | None = DROPPABLE
    ) -> None:
        self.keys = (key,)
        self.change: Change = (key, value, ttl, limit)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bytes | None, Sequence[Change]]:
        return old[0], [self.change]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> MemoryStore:
    return MemoryStore(MIB, clock=clock)


def names(store: MemoryStore, prefix: str = "u:") -> list[str]:
    return [key for key, _ in store.scan(prefix)]


def take(store: MemoryStore, caller: str) -> bool:
    return not store.execute([Take([Demand("limit", f"rl:x|{caller}", LIMIT, 1)])])[0].refused


def test_they_are_values_as_others_are(store: MemoryStore, clock: ManualClock) -> None:
    assert store.execute([Write("u:a|1", b"one"), Write("u:a|1", b"two"), Read("u:a|1")]) == [None, b"one", (b"two",)]
    assert store.scan("u:") == [("u:a|1", b"two")]
    assert store.stats().entries == 1
    clock.advance(3600)
    assert store.execute([Read("u:a|1")]) == [(None,)]
    assert store.scan("u:") == []
    store.execute([Write("u:a|1", b"one"), Write("u:a|1", None)])
    assert store.scan("u:") == []
    assert store.stats().bytes == 0


def test_a_key_stands_in_one_place_however_it_is_written(store: MemoryStore) -> None:
    ways = [
        lambda value: Write("u:a|1", value),
        lambda value: Put("u:a|1", value),
        lambda value: Write("u:a|1", value, HOUR, LIMIT),
        lambda value: Put("u:a|1", value, HOUR),
        lambda value: Write("u:a|1", value, None),
    ]
    for first in ways:
        for then in ways:
            store.execute([first(b"first"), then(b"then")])
            assert store.scan("") == [("u:a|1", b"then")]
            assert store.execute([Read("u:a|1")]) == [(b"then",)]
            assert store.stats().entries == 1
            store.execute([then(None)])
            assert (store.scan(""), store.stats().bytes, store.stats().entries) == ([], 0, 0)


def test_the_oldest_go_first_whatever_their_time_to_live(store: MemoryStore, clock: ManualClock) -> None:
    for number in range(400):
        store.execute([Write(f"u:{number:03}|m", bytes(500), HOUR), Write(f"u:{number:03}|h", bytes(500), 400 * HOUR)])
        clock.advance(1)
    store.execute([Write("u:000|m", b"again")])
    clock.advance(1)
    before = names(store)
    for number in range(400, 800):
        store.execute([Write(f"u:{number:03}|m", bytes(500), HOUR)])
    after = names(store)
    assert store.stats().bytes <= MIB
    gone = sorted(set(before) - set(after))
    assert gone == [name for name in before if name < f"u:{len(gone) // 2 + 1:03}" and name != "u:000|m"][: len(gone)]
    assert len(gone) == store.stats().dropped > 50
    assert "u:000|m" in after


def test_no_caller_is_forgotten_while_there_are_any_and_the_store_is_not_called_full(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        store.execute([Write(f"u:{number}", bytes(1000))])
    full = store.stats()
    assert (full.at_bound, full.forgotten) == (False, 0)
    assert full.dropped > 50
    for number in range(1500):
        assert take(store, f"caller-{number}")
    stats = store.stats()
    assert (stats.at_bound, stats.forgotten, stats.folded) == (False, 0, 0)
    assert stats.bytes <= MIB
    assert caplog.records == []
    for number in range(2500):
        take(store, f"more-{number}")
    stats = store.stats()
    assert stats.at_bound
    assert names(store) == []
    # Where there is no room even for one, it is the one that goes.
    for number in range(5000):
        store.execute([CompareAndSet({f"key|{number}": None}, {f"key|{number}": bytes(300)})])
    store.execute([Write("u:last", bytes(1000))])
    assert names(store) == []
    assert len(names(store, "key|")) == 5000


def test_those_that_have_lapsed_leave_by_themselves(store: MemoryStore, clock: ManualClock) -> None:
    for number in range(500):
        store.execute([Write(f"u:{number}|m", b"x", HOUR), Write(f"u:{number}|h", b"x", 100 * HOUR)])
    clock.advance(3601)
    for _ in range(30):
        clock.advance(0.02)
        store.execute([Read("another")])
    assert store.stats().entries == 500
    assert len(names(store)) == 500
    clock.advance(100 * 3600)
    for _ in range(30):
        clock.advance(0.02)
        store.execute([Read("another")])
    stats = store.stats()
    assert (stats.entries, stats.bytes, stats.dropped) == (0, 0, 0)


def test_time_that_is_set_back_loses_none(store: MemoryStore, clock: ManualClock) -> None:
    store.execute([Write("u:a", b"x")])
    clock.advance(-7200)
    store.execute([Write("u:b", b"y")])
    assert names(store) == ["u:a", "u:b"]
    clock.advance(3600)
    assert names(store) == ["u:a"]


def test_other_stores_take_it_for_a_value(tmp_path: Path, clock: ManualClock) -> None:
    store = SQLiteStore(tmp_path / "k.db", clock=clock)
    assert store.execute([Write("u:a", b"x"), Read("u:a")]) == [None, (b"x",)]
    clock.advance(3600)
    assert store.execute([Read("u:a")]) == [(None,)]
    store.close()
