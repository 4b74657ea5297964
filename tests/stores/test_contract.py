"""The contract of stores: what ours have, and what one is asked for that has no more than it must."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from keyguard.ops import AsyncStore, ManagedStore, Op, Store, run, tiers_of, traits_of
from keyguard.ops.store import asked_in_loop, close_in_loop, is_store, keep_decisions
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore

if TYPE_CHECKING:

    def _held_by_the_type_checker(
        memory: MemoryStore, file: SQLiteStore, redis: RedisStore, sql: PostgresStore
    ) -> None:
        tier = Leased(memory)
        stores: list[Store] = [memory, file, redis, sql, tier]
        asynchronous: list[AsyncStore] = [redis, sql, tier]
        managed: list[ManagedStore] = [file, redis, sql]
        assert stores
        assert asynchronous
        assert managed


class Least:
    """A store that has what it must."""

    def __init__(self) -> None:
        self.table: dict[str, tuple[bytes, int | None]] = {}

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        return [run(op, self.table, 0) for op in ops]

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return []


def test_a_store_that_has_no_more_than_it_must() -> None:
    traits = traits_of(Least())
    lacking = ["aexecute", "needs_asyncio", "aclose", "timeout", "place", "dump", "scratch", "close", "migrate"]
    assert [getattr(traits, name) for name in (*lacking, "store", "here", "limitations", "pool")] == [None] * 13
    assert traits.holds_values
    assert not traits.of_one_process

    async def story() -> list[Any]:
        found = await asked_in_loop(Least(), [])
        await close_in_loop(Least())
        return found

    assert asyncio.run(story()) == []


def test_the_stores_behind_a_tier() -> None:
    class Tier(Least):
        keeps_decisions = False

        def __init__(self, store: Any) -> None:
            super().__init__()
            self.store = store

    inner, last = Tier(None), Least()
    inner.store = last
    outer = Tier(inner)
    assert [*tiers_of(outer)] == [outer, inner, last]
    assert [*tiers_of(None)] == []
    keep_decisions(outer)
    assert (outer.keeps_decisions, inner.keeps_decisions, hasattr(last, "keeps_decisions")) == (True, True, False)


@pytest.mark.parametrize(("thing", "is_one"), [(Least(), True), ("memory://", False), (None, False), (run, False)])
def test_what_can_be_asked_as_a_store(thing: object, is_one: bool) -> None:
    assert is_store(thing) is is_one
