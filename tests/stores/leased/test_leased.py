"""Two tiers: what is leased is never more than the limit, costs few trips, and refuses next to nobody in vain."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.storage import MemoryStorage

from keyguard import ConfigurationError, Keyguard, RateLimit
from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.ops import Demand, Settle, Take
from keyguard.rates import Limit, smooth, window
from keyguard.stores import open_store
from keyguard.stores.leased import Leased, leases
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.stores.redis import RedisStore
from keyguard.testing import ManualClock, play
from tests.support.servers import RedisServer


class Counted(MemoryStore):
    """A shared store that counts the trips to it."""

    trips = 0

    def execute(self, ops: Any) -> list[Any]:
        self.trips += 1
        return super().execute(ops)


def take(limit: Limit, cost: int = 1, key: str = "x") -> Take:
    return Take([Demand("d", f"rl:l:{limit.code}|{key}", limit, cost)])


def workers(count: int, clock: ManualClock) -> tuple[Counted, list[Leased]]:
    shared = Counted(clock=clock)
    return shared, [Leased(shared, workers=count, clock=clock) for _ in range(count)]


def most_in_a_window(admitted: list[int], period: int) -> int:
    most = start = 0
    for end, moment in enumerate(admitted):
        while admitted[start] <= moment - period:
            start += 1
        most = max(most, end - start + 1)
    return most


@settings(max_examples=50)
@given(
    quota=st.integers(33, 400),
    count=st.integers(1, 5),
    load=st.floats(0.3, 3),
    seed=st.integers(0, 10_000),
    costs=st.sampled_from([(1,), (1, 1, 2), (1, 5)]),
)
def test_never_more_than_the_limit(quota: int, count: int, load: float, seed: int, costs: tuple[int, ...]) -> None:
    """Over-admission is exactly 0, in any window, whatever worker the requests come to."""
    source, clock = random.Random(seed), ManualClock()
    _, tier = workers(count, clock)
    limit = window(quota, 60 * SECOND, f"{quota}/minute")
    admitted = []
    for _ in range(int(2.5 * quota * load)):
        clock.advance(source.expovariate(1) * 60 / quota / load)
        cost = source.choice(costs)
        taken = source.choice(tier).execute([take(limit, cost)])[0]
        if not taken.refused:
            admitted += [clock()] * cost
    assert most_in_a_window(admitted, limit.period) <= quota


@settings(max_examples=40)
@given(quota=st.integers(33, 400), count=st.integers(1, 3), load=st.floats(0.8, 2), seed=st.integers(0, 10_000))
def test_never_more_than_the_limit_where_requests_give_back_late(
    quota: int, count: int, load: float, seed: int
) -> None:
    """A unit that came back in a later slice was spent again there, and lapsed with the slice it was taken in."""
    source, clock = random.Random(seed), ManualClock()
    _, tier = workers(count, clock)
    limit = window(quota, 60 * SECOND, f"{quota}/minute")
    admitted: dict[int, int] = {}
    open_requests = []
    for number in range(int(2.5 * quota * load)):
        clock.advance(source.expovariate(1) * 60 / quota / load)
        worker = source.choice(tier)
        taken = worker.execute([take(limit)])[0]
        if not taken.refused:
            admitted[number] = clock()
            open_requests.append((number, worker, taken))
        if open_requests and source.random() < 0.3:
            number, worker, taken = open_requests.pop(source.randrange(len(open_requests)))
            worker.execute([Settle(taken)])
            del admitted[number]
    assert most_in_a_window(sorted(admitted.values()), limit.period) <= quota


def test_what_is_given_back_after_its_slice_is_not_charged_in_the_end() -> None:
    clock = ManualClock()
    shared, (tier, *_) = workers(1, clock)
    limit = window(100, 3200 * SECOND, "100/3200 seconds")  # a slice has 100 seconds
    taken = [tier.execute([take(limit)])[0] for _ in range(30)]
    clock.advance(250)
    assert not tier.execute([take(limit)])[0].refused
    for one in taken:
        tier.execute([Settle(one)])
    tier.close()
    assert shared.execute([take(limit, 0)])[0].takings[0][2] == 99


def test_what_was_taken_under_a_wide_limit_is_not_spent_under_a_narrow_one() -> None:
    """As where a function chooses the limit, and the counter is the same."""
    clock = ManualClock()
    _, (tier, *_) = workers(1, clock)
    guard = Keyguard(
        RateLimit(lambda request: "40/minute" if request.path == "/x" else "1000/minute", by="ip", name="n"),
        store=tier,
        clock=clock,
    )
    statuses = [play(guard, path=path).status for _ in range(100) for path in ("/y", "/x")]
    assert statuses[::2] == [200] * 100
    assert statuses[1::2] == [200] * 20 + [429] * 80


def run(load: float, *, quota: int = 10_000, count: int = 4, periods: int = 2) -> tuple[int, int, int, int]:
    """`(requests, admitted with leases, admitted without, trips)` of even traffic at `load` times the limit."""
    source, clock = random.Random(1), ManualClock()
    shared, tier = workers(count, clock)
    alone = MemoryStore(clock=clock)
    limit = window(quota, 60 * SECOND, f"{quota}/minute")
    requests = int(quota * load * periods)
    admitted = exact = 0
    for _ in range(requests):
        clock.advance(source.expovariate(1) * 60 / quota / load)
        admitted += not source.choice(tier).execute([take(limit)])[0].refused
        exact += not alone.execute([take(limit)])[0].refused
    return requests, admitted, exact, shared.trips


def test_at_eighty_percent_load_it_saves_nearly_all_trips() -> None:
    requests, admitted, exact, trips = run(0.8)
    assert trips <= 0.05 * requests
    assert abs(admitted - exact) <= 0.01 * exact


def test_above_the_limit_it_refuses_few_in_vain() -> None:
    requests, admitted, exact, trips = run(1.5)
    assert 0.98 * exact <= admitted <= exact
    assert trips < requests


class Distant(Counted):
    """The trips of one turn of the event loop arrive together."""

    async def aexecute(self, ops: Any) -> list[Any]:
        await asyncio.sleep(0)
        return self.execute(ops)


def test_many_in_flight_do_not_take_it_all_for_one_worker() -> None:
    """Each of 64 trips asked for a lease of its own: half of the limit lay with workers that had no use for it."""
    clock = ManualClock()
    shared = Distant(clock=clock)
    tier = [Leased(shared, workers=4, clock=clock) for _ in range(4)]
    one = take(window(1000, 60 * SECOND, "1000/minute"))

    async def ask(worker: Leased) -> int:
        admitted = 0
        for _ in range(10):
            answer = worker.aexecute([one])
            taken = (answer if isinstance(answer, list) else await answer)[0]
            admitted += not taken.refused
        return admitted

    async def story() -> int:
        return sum(await asyncio.gather(*[ask(worker) for worker in tier for _ in range(64)]))

    assert 980 <= asyncio.run(story()) <= 1000


class Far(Counted):
    """A shared store that an event loop waits for."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.answering = asyncio.Event()
        self.failing = False

    async def aexecute(self, ops: Any) -> list[Any]:
        await self.answering.wait()
        await asyncio.sleep(0)
        if self.failing:
            raise StoreError("as told")
        return self.execute(ops)


def in_flight(tell: Callable[[Far, Leased, Take], Awaitable[Any]]) -> Any:
    async def story() -> Any:
        clock = ManualClock()
        shared = Far(clock)
        shared.answering.set()
        tier = Leased(shared, workers=1, clock=clock)
        many = take(window(10_000, 60 * SECOND, "10000/minute"))
        for _ in range(100):  # what this worker uses is known
            await asked(tier, many)
        clock.advance(60 / 32)
        return await tell(shared, tier, many)

    return asyncio.run(story())


async def asked(tier: Leased, op: Take) -> Any:
    answer = tier.aexecute([op])
    return (answer if isinstance(answer, list) else await answer)[0]


def test_many_at_a_time_share_a_trip() -> None:
    async def tell(shared: Far, tier: Leased, op: Take) -> int:
        before = shared.trips
        answers = await asyncio.gather(*[asked(tier, op) for _ in range(64)])
        assert not any(taken.refused for taken in answers)
        return shared.trips - before

    assert in_flight(tell) == 1


def test_a_trip_that_fails_fails_those_who_go_themselves_and_keeps_nobody_waiting() -> None:
    async def tell(shared: Far, tier: Leased, op: Take) -> Any:
        shared.failing = True
        answers = await asyncio.gather(*[asked(tier, op) for _ in range(20)], return_exceptions=True)
        assert all(isinstance(answer, StoreError) for answer in answers)
        shared.failing = False
        assert not (await asked(tier, op)).refused

    in_flight(tell)


def test_a_trip_whose_client_leaves_lets_the_others_go() -> None:
    async def tell(shared: Far, tier: Leased, op: Take) -> Any:
        shared.answering.clear()
        first, *others = [asyncio.ensure_future(asked(tier, op)) for _ in range(20)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        shared.answering.set()
        answers = await asyncio.gather(*others)
        assert not any(taken.refused for taken in answers)
        assert first.cancelled()

    in_flight(tell)


def test_threads_share_a_trip_too() -> None:
    clock = ManualClock()
    shared = Counted(clock=clock)
    tier = Leased(shared, workers=1, clock=clock)
    many = take(window(10_000, 60 * SECOND, "10000/minute"))
    for _ in range(100):
        tier.execute([many])
    clock.advance(60 / 32)
    begun, going = threading.Event(), threading.Event()
    plain = shared.execute

    def execute(ops: Any) -> list[Any]:
        begun.set()
        assert going.wait(20)
        return plain(ops)

    shared.execute = execute  # type: ignore[method-assign]
    before = shared.trips
    leader = threading.Thread(target=tier.execute, args=([many],))
    leader.start()
    assert begun.wait(20)
    tier._patience = 20
    others = [threading.Thread(target=tier.execute, args=([many],)) for _ in range(20)]
    for other in others:
        other.start()
    going.set()
    for thread in (leader, *others):
        thread.join(20)
    assert shared.trips - before == 1


def test_a_refusal_is_remembered_until_the_moment_it_named_for_five_seconds_at_most() -> None:
    clock = ManualClock()
    shared, (tier, *_) = workers(4, clock)
    guard = Keyguard(RateLimit("40/minute"), store=tier, clock=clock)
    while (answer := play(guard)).status == 200:
        pass
    trips = shared.trips
    wait = int(answer.header("Retry-After") or 0)
    for second in range(wait - 1):
        answer = play(guard)
        assert answer.status == 429
        assert int(answer.header("Retry-After") or 0) == wait - second
        clock.advance(1)
    assert wait > 50
    assert shared.trips - trips <= wait / 5
    clock.advance(1)
    assert play(guard).status == 200


def test_who_is_let_go_on_by_hand_is_refused_no_more() -> None:
    """At once if it was done by this process, else within five seconds."""
    clock = ManualClock()
    _, (here, there) = workers(2, clock)
    guards = [Keyguard(RateLimit("40/day"), store=tier, clock=clock) for tier in (here, there)]
    for guard in guards:
        while play(guard).status == 200:
            pass
    (change,) = guards[0].limits.reset("198.51.100.1")
    assert (change.before.remaining, change.after.remaining) == (0, 40)
    assert play(guards[0]).status == 200
    assert play(guards[1]).status == 429
    clock.advance(5)
    assert play(guards[1]).status == 200


def test_what_a_guard_further_in_refuses_costs_no_lease() -> None:
    clock = ManualClock()
    shared, (tier, *_) = workers(1, clock)
    limit = window(1000, 60 * SECOND, "1000/minute")
    for _ in range(50):
        taken = tier.execute([take(limit)])[0]
        tier.execute([Settle(taken)])
    tier.close()
    assert shared.execute([take(limit, 0)])[0].takings[0][2] == 1000


@pytest.mark.parametrize("asynchronous", [False, True])
def test_unspent_units_go_back_on_a_clean_stop(asynchronous: bool, valkey: RedisServer) -> None:
    shared = RedisStore(valkey.url, namespace=f"lease{asynchronous}", timeout=1)
    limit = window(1_000_000, 86_400 * SECOND, "1000000/day")
    if asynchronous:

        async def story() -> None:
            tier = Leased(shared, workers=2)
            for _ in range(100):
                answer = tier.aexecute([take(limit)])
                taken = (answer if isinstance(answer, list) else await answer)[0]
                assert not taken.refused
            assert tier.trips < 30
            await tier.aclose()

        asyncio.run(story())
    else:
        tier = Leased(shared, workers=2)
        for _ in range(100):
            assert not tier.execute([take(limit)])[0].refused
        assert tier.trips < 30
        tier.close()
    assert shared.execute([take(limit, 0)])[0].takings[0][2] == 1_000_000 - 100
    shared.clear()
    shared.close()


def test_unspent_units_go_back_when_the_process_ends(tmp_path: Path) -> None:
    """Under WSGI nobody closes the store: gunicorn's workers just end. A child of a fork has no leases to give back."""
    url, limit = f"sqlite:///{tmp_path}/k.db", window(1_000_000, 86_400 * SECOND, "1000000/day")
    script = (
        "import os\n"
        "from keyguard.stores.leased import Leased\n"
        "from keyguard.ops import Demand, Take\n"
        "from keyguard.rates import window\n"
        f"tier = Leased({url!r}, workers=2)\n"
        "limit = window(1_000_000, 86_400_000_000, '1000000/day')\n"
        "one = Take([Demand('d', f'rl:l:{limit.code}|x', limit)])\n"
        "for _ in range(100):\n"
        "    assert not tier.execute([one])[0].refused\n"
        "assert tier.trips < 30\n"
        "if child := os.fork():\n"
        "    os.waitpid(child, 0)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert open_store(url).execute([take(limit, 0)])[0].takings[0][2] == 1_000_000 - 100


def test_limits_that_tell_every_moment_apart_make_their_trip() -> None:
    clock = ManualClock()
    shared, (tier, *_) = workers(1, clock)
    for limit in (window(5, SECOND, "5/second"), smooth("5/second", 5)):
        shared.trips = 0
        assert [tier.execute([take(limit)])[0].refused for _ in range(5)] == [False] * 5
        assert shared.trips == 5


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="number of processes"):
        Leased("memory://", workers=0)
    with pytest.raises(ConfigurationError, match="takes nothing back"):
        Leased(LimitsStore(MemoryStorage()))
    assert repr(Leased("memory://")).startswith("<Leased <MemoryStore")


def test_of_more_refusals_than_are_remembered_the_oldest_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """All were forgotten at once: then everybody who was refused made a trip again."""
    monkeypatch.setattr(leases, "_KEPT", 10)
    clock = ManualClock()
    _, (tier,) = workers(1, clock)
    limit = window(40, 3600 * SECOND, "40/hour")
    for number in range(12):
        assert not tier.execute([take(limit, 40, key=f"caller-{number}")])[0].refused
        assert tier.execute([take(limit, key=f"caller-{number}")])[0].refused
    before = tier.trips
    for number in range(2, 12):
        assert tier.execute([take(limit, key=f"caller-{number}")])[0].refused
    assert tier.trips == before
    assert tier.execute([take(limit, key="caller-0")])[0].refused
    assert tier.trips == before + 1


def test_of_more_leases_than_are_held_those_that_are_used_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_KEPT", 16)
    clock = ManualClock()
    shared, (tier,) = workers(1, clock)
    limit = window(10_000, 3600 * SECOND, "10000/hour")
    for number in range(60):
        tier.execute([take(limit, key=f"caller-{number}")])
        for _ in range(20):
            assert not tier.execute([take(limit, key="steady")])[0].refused
    names = [name for name, _ in tier._leases._leases]
    assert len(names) <= 16
    assert any(name.endswith("|steady") for name in names)
    tier.close()
    left = shared.execute([take(limit, 0, "steady")])[0].takings[0][2]
    assert left == 10_000 - 60 * 20, "what was held and not spent has gone back"
