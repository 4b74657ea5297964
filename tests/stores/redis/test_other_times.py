"""Quotas where the clocks of hosts and servers do not agree: the server's decides, and one trip more finds out."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest

from keyguard.clock import SECOND
from keyguard.ops import Demand, Settle, Take
from keyguard.rates import quota
from keyguard.stores.redis import RedisStore
from keyguard.testing import ManualClock
from tests.support.other_times import DAY, ahead_of_the_server, check_other_times


@pytest.mark.parametrize("server", ["valkey", "redis6", "cluster"])
def test_the_servers_clock_decides(server: str, request: pytest.FixtureRequest) -> None:
    check_other_times(request.getfixturevalue(server))


def test_callers_of_several_nodes(cluster: Any) -> None:
    """On a cluster each node may have a time of its own."""
    limit = quota("9/month")
    with closing(RedisStore(cluster.url, namespace="othernodes", timeout=1)) as store:
        demands = [Demand("q", f"rl:{limit.code}|{caller}", limit, cost) for caller, cost in zip("abcdef", [1] * 6)]  # noqa: B905
        with ahead_of_the_server(400 * DAY):
            (taken,) = store.execute([Take(demands)])
            assert [taking[2] for taking in taken.takings] == [8] * 6
            (refused,) = store.execute([Take([*demands[1:], Demand("q", demands[0].key, limit, 9)])])
        assert refused.refused
        (asked,) = store.execute([Take([Demand("q", demand.key, limit, 0) for demand in demands])])
        assert [taking[2] for taking in asked.takings] == [8] * 6, "what was taken elsewhere came back"
        store.clear()


def test_under_an_event_loop(valkey: Any) -> None:
    limit = quota("9/month")

    async def ask() -> None:
        store = RedisStore(valkey.url, namespace="otherloop", timeout=1)
        take = Take([Demand("q", f"rl:{limit.code}|a", limit)])
        with ahead_of_the_server(-400 * DAY):
            (taken,) = await store.aexecute([take])
        assert taken.takings[0][2] == 8
        (again,) = await store.aexecute([take])
        assert again.takings[0][2] == 7
        assert again.at + again.takings[0][1] == limit.present(again.at)[1]
        await store.aclose()

    asyncio.run(ask())
    with closing(RedisStore(valkey.url, namespace="otherloop", timeout=1)) as store:
        store.clear()


def test_one_trip_more_finds_out_and_no_more(valkey: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = quota("9/month")
    with closing(RedisStore(valkey.url, namespace="othertrips", timeout=1)) as store:
        trips = []
        ask = store._ask
        monkeypatch.setattr(store, "_ask", lambda calls, deadline: trips.append(len(calls)) or ask(calls, deadline))
        take = Take([Demand("q", f"rl:{limit.code}|a", limit)])
        store.execute([take])
        assert trips == [1]
        with ahead_of_the_server(60 * DAY):
            store.execute([take])
        assert trips == [1, 1, 1]
        store.execute([take])
        assert trips == [1, 1, 1, 1]
        store.clear()


def test_a_settlement_that_is_asked_for_over_a_boundary(valkey: Any) -> None:
    """What was taken in a period that is over is not given back to the next one."""
    clock = ManualClock()
    limit = quota("9/hour")
    with closing(RedisStore(valkey.url, namespace="otherends", timeout=1, clock=clock)) as store:
        take = Take([Demand("q", f"rl:{limit.code}|a", limit, 4)])
        (before,) = store.execute([take])
        clock.advance(3600)
        (after,) = store.execute([take])
        store.execute([Settle(before)])
        (asked,) = store.execute([Take([Demand("q", f"rl:{limit.code}|a", limit, 0)])])
        assert asked.takings[0][2] == after.takings[0][2] == 5
        store.execute([Settle(before, [6])])
        (asked,) = store.execute([Take([Demand("q", f"rl:{limit.code}|a", limit, 0)])])
        assert asked.takings[0][2] == 3, "work that was done costs what it cost, in the period in which that is known"
        assert limit.present(clock())[1] - limit.present(clock())[0] == 3600 * SECOND
        store.clear()


@pytest.mark.parametrize("world", ["threads", "tasks"])
def test_a_settlement_whose_reply_was_lost_before_a_boundary_is_made_after_it(valkey: Any, world: str) -> None:
    limit = quota("9/month")
    take = Take([Demand("q", f"rl:{limit.code}|a", limit, 2)])
    asking = Take([Demand("q", f"rl:{limit.code}|a", limit, 0)])

    async def ask() -> None:
        store = RedisStore(valkey.url, namespace=f"otherlost{world}", timeout=1)
        (taken,) = await store.aexecute([take])
        with ahead_of_the_server(400 * DAY):
            store._doubt(next(store._wire.plan(Settle(taken, [5]))))
        for _ in range(3):
            if world == "threads":
                store.execute([asking])
            else:
                await store.aexecute([asking])
                await asyncio.gather(*store._held)
        (left,) = await store.aexecute([asking])
        assert left.takings[0][2] == 4
        assert not store._doubts
        store.clear()
        await store.aclose()

    asyncio.run(ask())
