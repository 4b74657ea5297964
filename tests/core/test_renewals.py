"""What is held while a request goes on is renewed by one thread of the process, and by nobody once that has died."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from math import inf
from pathlib import Path
from typing import Any

import pytest

from keyguard import StoreError
from keyguard.ops import Demand, Put, Renew, Settle, Take, Taken
from keyguard.rates import Slots
from keyguard.renewals import Renewals
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.servers import python, wait_until
from tests.support.threads import Begun

ROOT = Path(__file__).parents[2]
LEASE = 9_000_000


class Recording:
    """A store that notes what it is asked, and can fail."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(clock=self.clock)
        self.batches: list[int] = []
        self.down = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("down")
        if all(isinstance(op, Renew) for op in ops):
            self.batches.append(len(ops))
        return self.store.execute(ops)

    def scan(self, prefix: str) -> Any:
        return self.store.scan(prefix)

    def hold(self, lease: int = LEASE) -> Taken:
        taken: Taken = self.execute([Take([Demand("", "rl:slots:slots|x", Slots(1000), 1, lease)])])[0]
        assert not taken.refused
        return taken

    @property
    def held(self) -> int:
        return int(self.execute([Take([Demand("", "rl:slots:slots|x", Slots(1000), 0, holds=True)])])[0].held[0])


class Idle(Renewals):
    """Renewals that no thread goes about: a test does."""

    def _begin(self, wake: threading.Event) -> None:
        self.begun = True


@pytest.fixture
def store() -> Recording:
    return Recording()


def test_all_are_renewed_together_every_third_of_a_lease_until_they_are_let_go(store: Recording) -> None:
    renewals = Idle()
    began = time.monotonic()
    kept = [renewals.keep(store, store.hold(), 3600) for _ in range(3)]
    assert began + 3 <= renewals.renew(began) <= time.monotonic() + 3
    assert store.batches == []
    for moment in range(1, 20):
        store.clock.advance(3)
        renewals.renew(time.monotonic() + 3 * moment)
    assert store.batches == [3] * 19
    assert store.held == 3
    kept[0].let_go()
    store.clock.advance(8.9)
    renewals.renew(time.monotonic() + 100)
    assert store.batches[-1] == 2
    store.clock.advance(0.1)
    assert store.held == 2
    for each in kept:
        each.let_go()
        each.let_go()
    assert renewals.renew(time.monotonic() + 200) == inf
    assert len(renewals) == 0


def test_what_has_been_settled_or_has_lapsed_is_not_revived(store: Recording) -> None:
    renewals = Idle()
    settled, lapsed = store.hold(), store.hold()
    for taken in (settled, lapsed):
        renewals.keep(store, taken, 3600)
    store.execute([Settle(settled)])
    store.clock.advance(9)
    renewals.renew(time.monotonic() + 9)
    assert (store.held, len(renewals)) == (0, 0)


def test_nothing_is_renewed_beyond_its_greatest_age(store: Recording) -> None:
    renewals = Idle()
    renewals.keep(store, store.hold(), 20)
    renewals.keep(store, store.hold(), 40)
    now = time.monotonic()
    assert renewals.renew(now + 21) < inf
    assert store.batches == [1]
    renewals.renew(now + 41)
    assert (store.batches, len(renewals)) == ([1], 0)


def test_many_are_renewed_in_several_calls_and_leases_of_each_length_by_themselves(store: Recording) -> None:
    renewals = Idle()
    for _ in range(250):
        renewals.keep(store, store.hold(), 3600)
    renewals.keep(store, store.hold(3 * LEASE), 3600)
    now = time.monotonic()
    renewals.renew(now + 3)
    assert store.batches == [100, 100, 50]
    renewals.renew(now + 9)
    assert sorted(store.batches[3:]) == [1, 50, 100, 100]


def test_a_store_that_is_out_of_order_is_told_of_once_and_tried_again(
    store: Recording, caplog: pytest.LogCaptureFixture
) -> None:
    renewals = Idle()
    renewals.keep(store, store.hold(), 3600)
    now = time.monotonic()
    store.down = True
    renewals.renew(now + 3)
    renewals.renew(now + 6)
    assert [record.getMessage() for record in caplog.records] == ["leases cannot be renewed at the moment: down"]
    store.down = False
    renewals.renew(now + 9)
    assert store.batches == [1]


def test_one_that_cannot_be_read_keeps_no_other_from_being_renewed(store: Recording) -> None:
    renewals = Idle()
    other = store.store.execute([Take([Demand("", "rl:slots:slots|y", Slots(9), 1, LEASE)])])[0]
    for taken in (store.hold(), other, store.hold()):
        renewals.keep(store, taken, 3600)
    store.store.execute([Put("rl:slots:slots:held|y", b"damaged", 60_000_000)])
    store.clock.advance(8)
    renewals.renew(time.monotonic() + 8)
    store.clock.advance(8)
    assert store.held == 2


def test_stores_are_let_go_when_nothing_is_held_in_them(store: Recording) -> None:
    renewals = Idle()
    renewals.keep(store, store.hold(), 3600).let_go()
    renewals.renew(time.monotonic())
    assert not [found for found in gc.get_referrers(store) if type(found).__name__ == "_Group"]


def test_a_child_renews_nothing_of_its_parents_and_begins_a_thread_of_its_own(store: Recording) -> None:
    renewals = Idle()
    kept = renewals.keep(store, store.hold(), 3600)
    renewals.begun = False
    renewals.after_fork()
    assert len(renewals) == 0
    kept.let_go()  # of a request that the parent had under way
    renewals.keep(store, store.hold(), 3600)
    assert renewals.begun


def test_one_thread_renews_for_all_and_sleeps_while_nothing_is_held(store: Recording, begun: Begun) -> None:
    renewals = Renewals()
    first = renewals.keep(store, store.hold(60_000), 3600)  # every fiftieth of a second
    second = renewals.keep(store, store.hold(600_000_000), 3600)
    wait_until(lambda: store.batches, "a lease to be renewed")
    assert [(thread.name, thread.daemon) for thread in begun.all] == [("keyguard-renewals", True)]
    for kept in (first, second):
        kept.let_go()
    wait_until(lambda: renewals._sleeps_until == inf, "it to sleep")
    seen = len(store.batches)
    renewals.keep(store, store.hold(60_000), 3600)
    wait_until(lambda: len(store.batches) > seen, "it to be woken")
    renewals.after_fork()  # and a thread of what is no more ends
    wait_until(lambda: not begun.alive(), "the thread to end")


HOLDER = """
import sys, time
from keyguard import Concurrency, Keyguard
from tests.support.harness import Ask

def app(environ, start_response):
    start_response("200 OK", [])
    return iter([b"one", b"two"])

stack = Keyguard(Concurrency(1, lease="1 second"), store=sys.argv[1])
body = stack.wsgi(app)(Ask().environ(), lambda status, headers, exc_info=None: print(status, flush=True))
next(iter(body))
time.sleep(600)
"""


def test_a_slot_outlives_its_lease_while_its_process_lives_and_is_free_after_that(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "slots.db", timeout=10)

    def held() -> int:
        demand = Demand("", "rl:ip:slots|198.51.100.1", Slots(1), 0, holds=True)
        return int(store.execute([Take([demand])])[0].held[0])

    with python("-c", HOLDER, f"sqlite:///{tmp_path}/slots.db?timeout=10", cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "200 OK\n"
        ends: set[bytes] = set()

        def renewed() -> bool:
            ends.update(value for _, value in store.scan("rl:ip:slots:held|"))
            return len(ends) > 4  # by more than a lease

        wait_until(renewed, "the lease to be renewed")
        assert held() == 1
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: held() == 0, "the slot to be free")
    store.close()
