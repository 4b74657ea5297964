"""The ledger when things go wrong: sums stay those of the records, or what is missing is counted and told."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import timedelta
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import Cause, ConfigurationError, StoreError, Usage, UsageReader
from keyguard.clock import SECOND
from keyguard.ops import Op, Put, Read
from keyguard.ops.usage import AddUsage, UsageValue, slots_in, slots_text, with_slots
from keyguard.process.background import PATIENCE
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from keyguard.usage import pending
from keyguard.usage.names import hours_key, minutes_key, spelled
from tests.usage.records import PREFIX, Records, attached, record, refusal, taken


class Flaky(MemoryStore):
    """A store that fails when it is told to: before it has done anything, or after all, so that the reply is lost."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.faults: list[str] = []
        self.down = False

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        fault = self.faults.pop() if self.faults and any(isinstance(op, AddUsage) for op in ops) else ""
        if self.down or fault == "refused":
            raise StoreError("gone")
        results = super().execute(ops)
        if fault == "lost":
            raise StoreError("no reply")
        return results


class Site:
    """Some processes that write one ledger, by one clock."""

    def __init__(self, processes: int = 1, **more: Any) -> None:
        self.clock = ManualClock()
        self.store = Flaky(self.clock)
        self.ledgers = [Usage(self.store, **more) for _ in range(processes)]
        self.sinks = [attached(usage, self.store, self.clock) for usage in self.ledgers]
        self.reader = UsageReader(self.store, self.clock)

    def flush(self) -> None:
        """Have all of them send, until the store takes it."""
        for usage in self.ledgers:
            for _ in range(9):
                usage._ledger_here._again = 0.0
                usage.flush()
                if not usage.failure:
                    break


@settings(max_examples=25)
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 2),  # who hears of some requests
            st.integers(0, 4),  # how many
            st.sampled_from(["", "", "lost", "refused"]),  # what goes wrong with the next additions
            st.sampled_from([0, 1, 59, 600, 3500]),  # seconds that pass
            st.booleans(),  # whether it sends now
        ),
        max_size=12,
    ),
    seed=st.integers(0, 9),
)
def test_sums_are_those_of_the_records(steps: list[tuple[int, int, str, int, bool]], seed: int) -> None:
    site, records = Site(3), None
    records = Records(seed, site.clock)
    began = site.clock()
    for who, number, fault, seconds, sends in steps:
        for _ in range(number):
            site.sinks[who](records.next())
        site.store.faults += [fault] if fault else []
        if site.clock() - began < 30 * 60 * SECOND:  # all of it within what is asked about
            site.clock.advance(seconds)
        if sends:
            site.ledgers[who].flush()
    site.flush()
    records.check(site.reader)
    assert site.reader.of(None, "40 hours").complete
    assert sum(usage.dropped + usage.overflow for usage in site.ledgers) == 0


def test_a_store_that_is_down_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    (hear,), (usage,) = site.sinks, site.ledgers
    with caplog.at_level(logging.WARNING, "keyguard.usage"):
        hear(record(at=site.clock()))
        site.flush()
        site.store.down = True
        for _ in range(60):
            for _ in range(10):
                hear(record(at=site.clock()))
            site.clock.advance("1 minute")
            site.flush()
        assert "gone" in usage.failure
        site.store.down = False
        site.flush()
    found = site.reader.of("acme", "2 hours")
    assert (found.requests, found.complete, usage.failure, usage.dropped) == (601, True, "", 0)
    assert [line.getMessage().partition(":")[0] for line in caplog.records] == [
        "usage is not written down, and is added up until its store answers",
        "usage is written down again",
    ]


def at_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have real time count for the only process, and none pass but in its pauses, which are returned."""
    pauses: list[float] = []
    ledger = site.ledgers[0]._ledger_here
    ledger.stacks[:] = [stack._replace(manual=None) for stack in ledger.stacks]
    monkeypatch.setattr("keyguard.usage.ledger.pause", pauses.append)
    monkeypatch.setattr("keyguard.usage.ledger.monotonic", lambda: 1e6 + sum(pauses))
    return pauses


def test_a_store_that_comes_back_while_a_process_ends_is_told_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    pauses = at_an_end(site, monkeypatch)
    for _ in range(3):
        site.sinks[0](record(at=site.clock()))
    site.store.faults = ["refused", "lost", "refused", "lost"]
    site.ledgers[0]._ledger_here.flush(last=True)
    assert site.reader.of("acme").requests == 3
    assert len([seconds for seconds in pauses if seconds]) == 4
    assert "at the end" not in caplog.text


def test_an_end_is_not_held_up_by_a_store_that_is_down_and_what_is_lost_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    pauses = at_an_end(site, monkeypatch)
    site.sinks[0](record(at=site.clock()))
    site.store.down = True
    site.ledgers[0]._ledger_here.flush(last=True)
    assert 1 < sum(pauses) < 3
    assert caplog.messages[-1] == "usage was not written down at the end: gone"


def test_an_end_with_nothing_to_write_is_not_held_up_and_tells_of_no_loss(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    pauses = at_an_end(site, monkeypatch)
    site.store.down = True
    site.ledgers[0]._ledger_here.flush(last=True)
    assert pauses == []
    assert "at the end" not in caplog.text


def test_a_process_says_that_it_has_ended_to_a_store_that_comes_back_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    site.sinks[0](record(at=site.clock()))
    site.flush()
    assert len(site.reader.processes()) == 1
    at_an_end(site, monkeypatch)
    monkeypatch.setattr("keyguard.usage.ledger.pause", lambda seconds: setattr(site.store, "down", False))
    site.store.down = True
    site.ledgers[0]._ledger_here.flush(last=True)
    assert len(site.reader.processes()) == 0


def test_ledgers_leave_the_end_of_their_process_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that come first try their stores until so much is left, and the others once: one may be in order."""
    site = Site(processes=4)
    pauses = at_an_end(site, monkeypatch)
    monkeypatch.setattr("keyguard.usage.ledger.time_left", lambda: PATIENCE - sum(pauses))
    for usage, sink in zip(site.ledgers, site.sinks, strict=True):
        ledger = usage._ledger_here
        ledger.stacks[:] = [stack._replace(manual=None) for stack in ledger.stacks]
        sink(record(at=site.clock()))
    site.store.down = True
    for usage in site.ledgers[:3]:
        usage._ledger_here.flush(last=True)
    assert 1 < sum(pauses) < 3
    site.store.down = False
    site.ledgers[3]._ledger_here.flush(last=True)
    assert site.reader.of().requests == 1


def test_an_idle_process_tells_of_an_outage_once(caplog: pytest.LogCaptureFixture) -> None:
    """It asks the store only now and then: that it has asked nothing does not mean that the store answers."""
    site = Site()
    (usage,) = site.ledgers
    ledger = usage._ledger_here
    ledger.stacks[:] = [stack._replace(manual=None) for stack in ledger.stacks]
    site.flush()
    with caplog.at_level(logging.WARNING, "keyguard.usage"):
        site.store.down = True
        for _ in range(3):
            ledger._noted = ledger._again = -inf  # it is time to say that the process is there
            site.flush()
            ledger._again = -inf
            site.flush()  # and now there is nothing to say
            assert "gone" in usage.failure
        site.store.down = False
        ledger._noted = ledger._again = -inf
        site.flush()
    assert usage.failure == ""
    assert len(caplog.records) == 2


def test_what_there_is_no_room_for_is_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CELLS", 300)
    site = Site()
    (hear,), (usage,) = site.sinks, site.ledgers
    site.store.down = True
    for number in range(1000):
        hear(record(f"s{number}", site.clock()))
    usage.flush()
    assert 0 < usage.dropped < 1000
    site.store.down = False
    site.flush()
    found = site.reader.of()
    assert (found.requests + usage.dropped, found.complete) == (1000, False)
    assert not site.reader.of("s1").complete
    assert site.reader.processes()[0].dropped in (0, usage.dropped)


def test_many_keys_in_a_day() -> None:
    site = Site(max_subjects=50)
    (hear,), (usage,) = site.sinks, site.ledgers
    for number in range(5000):
        hear(record(f"s{number}", site.clock(), client=f"2001:db8::{number:x}"))
    for _ in range(100):
        hear(record("s7", site.clock()))
    site.flush()
    found = site.reader.of()
    assert (found.requests, found.complete, usage.overflow) == (5100, False, 4950)
    assert site.reader.of("s7").requests == 101
    assert site.reader.of("s4000").requests == 0
    assert site.reader.top(1)[0].subject == "s7"
    assert len(found.by_client) <= 48
    assert sum(use.requests for use in found.by_client) + found.other["clients"] == 5100
    assert site.store.stats().bytes < 200_000
    site.clock.advance("1 day")  # another day has room for others
    hear(record("s4000", site.clock()))
    site.flush()
    assert site.reader.of("s4000", "1 hour").requests == 1


def test_a_thousand_routes() -> None:
    site = Site()
    (hear,) = site.sinks
    for number in range(1000):
        hear(record(at=site.clock(), route=f"/{number}", taken=(taken(),)))
    for _ in range(5):
        hear(record(at=site.clock(), route="/busy"))
    site.flush()
    found = site.reader.of("acme")
    assert found.by_route[0].route == "/busy"
    assert len(found.by_route) == 64
    assert sum(use.requests for use in found.by_route) + found.other["routes"] == found.requests == 1005
    assert found.units == {PREFIX: 1000}


def test_clocks_that_differ_by_ten_minutes() -> None:
    site = Site()
    late = ManualClock(site.clock.now - timedelta(minutes=10))
    early = ManualClock(site.clock.now + timedelta(minutes=10))
    for clock in (late, early):
        usage = Usage(site.store)
        hear = attached(usage, site.store, clock)
        usage.begin()
        clock.advance(2)  # it learns the store's time
        site.clock.advance(2)
        hear(record(at=clock()))
        usage.flush()
    found = site.reader.of("acme", "1 minute")
    assert found.requests == 2
    assert found.last is not None
    assert timedelta(0) <= found.until - found.last <= timedelta(seconds=3)
    assert sum(sum(bucket.requests.values()) for bucket in found.buckets) == 2


def test_values_of_a_later_version_are_left_alone_and_told(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    (hear,), (usage,) = site.sinks, site.ledgers
    who, hour = spelled("acme"), site.clock() // SECOND // 3600
    later, damaged = hours_key(who, hour // 24), minutes_key(who, hour)
    site.store.execute([Put(later, b'{"v":2,"new":[]}'), Put(damaged, b"no JSON")])
    hear(record(at=site.clock()))
    hear(record("beta", site.clock()))
    with caplog.at_level(logging.WARNING, "keyguard.usage"):
        site.flush()
    ((kept,),) = site.store.execute([Read(later)])
    assert json.loads(kept) == {"v": 2, "new": []}
    found = site.reader.of("acme", "1 hour")
    assert (found.requests, found.complete, usage.overflow) == (1, False, 1)
    site.flush()
    assert site.reader.of("beta").requests == 1
    assert "a later keyguard has written" in caplog.text
    assert "could not be read" in caplog.text


def test_a_process_that_vanishes_is_told_and_one_that_ends_is_not() -> None:
    site = Site(2)
    for hear in site.sinks:
        hear(record(at=site.clock()))
    site.flush()
    assert [one.vanished for one in site.reader.processes()] == [False, False]
    site.ledgers[0].close()
    assert len(site.reader.processes()) == 1
    site.ledgers[1]._ledger_here.store = None  # as if it had been killed
    site.clock.advance("2 minutes")
    assert [(one.vanished, one.ok) for one in site.reader.processes()] == [(True, True)]
    assert not site.reader.of("acme", "1 hour").complete
    assert site.reader.of("acme", "1 minute").complete


def test_an_end_writes_all_and_a_new_beginning_goes_on() -> None:
    site = Site()
    (hear,), (usage,) = site.sinks, site.ledgers
    for _ in range(3):
        usage.begin()
        hear(record(at=site.clock()))
        usage.close()
    assert site.reader.of("acme").requests == 3


def test_what_listens_and_what_contributes() -> None:
    site = Site()
    (hear,), (usage,) = site.sinks, site.ledgers
    heard: list[int] = []
    left = {"a\x1fx": 2, "b\x1fx": 0}
    usage.listen(lambda records: heard.append(len(records)))
    usage.listen(lambda records: 1 / 0)
    usage.contribute("host", lambda: left)
    usage.contribute("broken", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    hear(record(at=site.clock()))
    site.flush()
    site.flush()
    assert heard == [1]
    assert site.reader.read_total("host") == {"a\x1fx": 4}
    left = {f"c{number}\x1f{number}": 1 for number in range(1500)}
    site.flush()
    totals = site.reader.read_total("host")
    assert totals is not None
    assert sum(totals.values()) == 1504
    assert site.reader.read_total("broken") is None


def test_when_keys_were_last_used() -> None:
    site = Site()
    (hear,) = site.sinks
    hear(record(at=site.clock()))
    hear(record(at=site.clock() + 5 * SECOND, key_id="second"))
    site.flush()
    site.clock.advance("30 days")
    hear(record(at=site.clock(), key_id="second"))
    site.flush()
    used = site.reader.last_used("acme", "nobody")
    assert set(used) == {"id-acme", "second"}
    assert used["second"] - used["id-acme"] == timedelta(days=30)


def test_what_stays_charged_and_what_does_not() -> None:
    site = Site()
    (hear,) = site.sinks
    at = site.clock()
    hear(record(at=at, taken=(taken(5),)))
    hear(refusal(at=at))
    hear(record(at=at, outcome="refused", cause=Cause.OVERLOAD, reason="too-busy", taken=(taken(3),)))
    hear(record(at=at, outcome="failed", cause=Cause.FAULT, reason="app-failed", taken=(taken(2),)))
    hear(record(at=at, outcome="refused", cause=Cause.CREDENTIALS, reason="revoked"))
    site.flush()
    found = site.reader.of("acme")
    assert found.units == {PREFIX: 7}
    assert found.by_cause == {"credentials": 1, "overload": 1, "usage": 1}
    assert {(use.cause, use.name) for use in found.by_rule} == {
        *{("usage", "key:100/hour"), ("overload", "too-busy"), ("credentials", "revoked")}
    }


def test_a_span_further_back_than_minutes_are_kept() -> None:
    site = Site()
    (hear,) = site.sinks
    hear(record(at=site.clock()))
    site.flush()
    site.clock.advance("5 days")
    hear(record(at=site.clock(), route="/new"))
    site.flush()
    found = site.reader.of("acme", "7 days")
    assert (found.requests, len(found.by_route), found.complete) == (2, 2, True)
    assert found.buckets[0].seconds == 3600
    assert site.reader.of("acme", "1 hour").requests == 1
    assert site.reader.of("acme", site.clock.now - timedelta(days=6), bucket="1 day").buckets[0].seconds == 86400


@given(
    st.dictionaries(st.integers(0, 59), st.integers(1, 99), max_size=5),
    st.dictionaries(st.integers(0, 59), st.integers(1, 99), min_size=1, max_size=5),
)
def test_numbers_by_slot_are_added_whatever_their_order(one: dict[int, int], other: dict[int, int]) -> None:
    text, more = slots_text(one), " ".join(f"{slot}:{count}" for slot, count in other.items())
    sums = {slot: one.get(slot, 0) + other.get(slot, 0) for slot in {*one, *other}}
    assert slots_in(with_slots(text, more)) == sums


def test_values_stay_small() -> None:
    site = Site()
    (hear,) = site.sinks
    for minute in range(120):
        hear(record(at=site.clock(), taken=(taken(),), route=f"/{minute % 5}"))
        site.clock.advance("1 minute")
        site.flush()
    sizes = [len(value) for key, value in site.store.scan(f"u:{spelled('acme')}|") if UsageValue.read(value)]
    assert max(sizes) < 2000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"every": 0}, "every"),
        ({"every": "2 hours"}, "every"),
        ({"minutes": "1 minute"}, "minutes"),
        ({"hours": "1h"}, "hours"),
        ({"max_subjects": 0}, "max_subjects"),
        ({"max_subjects": True}, "max_subjects"),
        ({"store": "nowhere://"}, "scheme"),
    ],
)
def test_wrong_settings_stop_the_start(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Usage(**wrong)


@pytest.mark.parametrize("since", ["x", -5, "-1h", float("nan"), None])
def test_since_when_is_no_moment(since: Any) -> None:
    with pytest.raises(ConfigurationError, match="since"):
        Site().reader.of("acme", since)
