"""Clocks that people give: durations and moments go in, moments come out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, KeyRegistry, RateLimit, StoreError, open_store
from keyguard.cli import main
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from tests.support.servers import Postgres, RedisServer


def test_it_goes_only_when_it_is_told_to() -> None:
    clock = ManualClock(datetime(2030, 5, 1, 12, tzinfo=UTC))
    assert clock.now == datetime(2030, 5, 1, 12, tzinfo=UTC) == clock.now
    clock.advance("1 minute")
    clock.advance(0.5)
    clock.advance(timedelta(microseconds=1))
    assert clock.now == datetime(2030, 5, 1, 12, 1, 0, 500_001, tzinfo=UTC)
    clock.advance(-120)
    assert clock.now == datetime(2030, 5, 1, 11, 59, 0, 500_001, tzinfo=UTC)
    assert repr(clock) == "<ManualClock 2030-05-01T11:59:00.500001+00:00>"


def test_it_starts_with_a_full_hour() -> None:
    assert ManualClock().now == datetime(2027, 1, 15, 8, tzinfo=UTC)


@pytest.mark.parametrize("wrong", ["a minute", None, float("nan"), "-1 minute"])
def test_what_is_no_duration_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="duration"):
        ManualClock().advance(wrong)


@pytest.mark.parametrize("wrong", [0, datetime(2027, 1, 1), "2027"])
def test_it_starts_with_a_moment(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="start is a datetime with a time zone"):
        ManualClock(wrong)


def test_a_function_may_tell_the_time() -> None:
    now = [datetime(2027, 1, 15, 9, tzinfo=UTC)]
    store = MemoryStore(clock=lambda: now[0])
    guard = Keyguard(RateLimit("1/minute", by="ip"), store=store, clock=lambda: now[0])
    assert [play(guard).status for _ in range(2)] == [200, 429]
    now[0] += timedelta(minutes=1)
    assert play(guard).status == 200


def test_a_registry_takes_one() -> None:
    now = datetime(2027, 1, 15, 9, tzinfo=UTC)
    assert KeyRegistry(MemoryStore(), clock=lambda: now).issue("someone").record.created == now


TAKERS: dict[str, Callable[[Path, Any], Any]] = {
    "Keyguard": lambda folder, clock: Keyguard(clock=clock),
    "KeyRegistry": lambda folder, clock: KeyRegistry(MemoryStore(), clock=clock),
    "open_store": lambda folder, clock: open_store("memory://", clock=clock),
    "MemoryStore": lambda folder, clock: MemoryStore(clock=clock),
    "SQLiteStore": lambda folder, clock: SQLiteStore(folder / "k.db", clock=clock),
    "Leased": lambda folder, clock: Leased(MemoryStore(), clock=clock),
}


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize("wrong", [lambda: 7, lambda: 1_800_000_000.5, lambda: datetime(2027, 1, 1), 7])
def test_numbers_and_local_times_are_refused(taker: str, wrong: Any, tmp_path: Path) -> None:
    """A number could be seconds or less, and a time without a zone any hour."""
    with pytest.raises(ConfigurationError, match=r"clock.* a (datetime|function)"):
        TAKERS[taker](tmp_path, wrong)


# -- one that is to move a whole stack -----------------------------------------------------------------------------


def urls(folder: Path, valkey: RedisServer, postgres: Postgres) -> dict[str, str]:
    assert main(["store", "init", f"{postgres.url}?schema=moved"]) == 0
    return {
        "memory": "memory://",
        "sqlite": f"sqlite:///{folder}/k.db",
        "redis": f"{valkey.url}?namespace=moved-{folder.name}",
        "postgres": f"{postgres.url}?schema=moved",
    }


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis", "postgres"])
def test_it_moves_a_store_that_the_stack_opens(
    kind: str, tmp_path: Path, valkey: RedisServer, postgres: Postgres
) -> None:
    clock = ManualClock()
    limit = RateLimit("1/minute", by="ip")
    guard = Keyguard(APIKeys(optional=True), limit, store=urls(tmp_path, valkey, postgres)[kind], clock=clock)
    issued = guard.keys.issue("acme", expires="1 day")
    assert issued.record.created == clock.now
    sent = {"X-API-Key": issued.key.reveal()}
    assert [play(guard, headers=sent).status for _ in range(2)] == [200, 429]
    assert guard.limits.peek("198.51.100.1")[0].at == clock.now
    clock.advance("1 minute")
    assert play(guard, headers=sent).status == 200
    clock.advance("1 day")
    assert play(guard, headers=sent).status == 401


def test_it_moves_what_a_process_counts_without_the_store() -> None:
    class Broken(MemoryStore):
        def execute(self, ops: Any) -> Any:
            raise StoreError("gone")

    clock = ManualClock()
    guard = Keyguard(RateLimit("1/minute", by="ip"), store=Broken(clock=clock), clock=clock)
    assert [play(guard).status for _ in range(2)] == [200, 503]
    clock.advance("1 minute")
    assert play(guard).status == 200


def test_a_store_of_this_process_that_goes_by_another_clock_does_not_start() -> None:
    clock = ManualClock()
    for store in (MemoryStore(), MemoryStore(clock=ManualClock()), Leased(MemoryStore())):
        with pytest.raises(ConfigurationError, match=r"goes by another one: give it the same, as in MemoryStore\("):
            Keyguard(RateLimit("1/minute"), store=store, clock=clock)
