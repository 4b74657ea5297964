"""The pure state of alerts: whatever processes do, and in whatever order, all is decided once and delivered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.ops import DecideAlerts, FireAlert, LeaseDeliveries, ListenAgain, Op, ResolveAlert, SettleDelivery
from keyguard.ops.alert_state import DIGEST, FULL, KEY, MOST_OPEN, MOST_PAST, read_state
from keyguard.ops.alerting import Leased, Told
from keyguard.ops.op import run
from keyguard.rates.limit import NEVER

ABOUT = {"type": "keyguard.limit.threshold", "severity": "warning", "subject": "acme", "limit": "day", "facts": {}}
LEASE = 30 * SECOND


class Table:
    """A store, and the time."""

    def __init__(self) -> None:
        self.table: dict[str, tuple[bytes, int | None]] = {}
        self.now = 10**15
        self.decided: list[dict[str, Any]] = []
        """Each notice that an operation said it has made."""

    def do(self, op: Op[Any]) -> Any:
        result = run(op, self.table, self.now)
        for each in result if isinstance(op, DecideAlerts) else [result]:
            if isinstance(each, Told | Leased):
                self.decided += each.notices
        return result

    def fire(self, id: str, level: int, period: str = "1", to: tuple[str, ...] = ("hook",), **more: Any) -> Told:
        told: Told = self.do(FireAlert(id, level, period, about={**ABOUT, **more.pop("about", {})}, to=to, **more))
        return told

    def lease(self, who: str = "p1", to: tuple[str, ...] = ("hook",), **more: Any) -> Leased:
        leased: Leased = self.do(LeaseDeliveries(who, LEASE, to, **more))
        return leased

    @property
    def state(self) -> dict[str, Any]:
        return read_state(self.table[KEY][0] if KEY in self.table else None)


def test_a_level_is_told_of_once_whoever_sees_it() -> None:
    table = Table()
    assert [len(table.fire("a", level).notices) for level in (50, 50, 80, 50, 100, 90)] == [1, 0, 1, 0, 1, 0]


def test_what_was_seen_before_another_period_began_changes_nothing() -> None:
    table = Table()
    table.fire("a", 100, "1", seen=5)
    table.fire("a", 50, "2", seen=9)
    assert table.fire("a", 100, "1", seen=7).notices == ()
    assert table.state["open"]["a"]["level"] == 50


def test_what_was_seen_before_it_was_over_does_not_open_it_anew() -> None:
    table = Table()
    table.fire("a", 80, seen=5)
    assert table.do(ResolveAlert("a", 4)).notices == ()  # that was before
    assert len(table.do(ResolveAlert("a", 9)).notices) == 1
    assert table.fire("a", 80, seen=8).notices == ()
    assert len(table.fire("a", 80, seen=10).notices) == 1


def test_an_alert_whose_end_has_come_is_over_whoever_comes_next() -> None:
    table = Table()
    table.fire("a", 80, until=table.now + SECOND)
    table.now += SECOND
    assert [one["severity"] for one in table.lease().notices] == ["resolved"]
    assert table.lease().notices == ()
    assert table.fire("a", 80, until=table.now).notices == ()  # a late word about the period that has passed


def test_who_leases_and_dies_is_followed_by_another() -> None:
    table = Table()
    table.fire("a", 80)
    (mine,) = table.lease("p1").due
    assert table.lease("p2").due == ()
    table.now += LEASE
    (theirs,) = table.lease("p2").due
    assert (theirs.id, theirs.number) == (mine.id, mine.number)
    assert table.do(SettleDelivery(mine.number, 5, who="p1")) is False  # it is not the first one's any more
    assert table.do(SettleDelivery(mine.number, who="p1")) is True  # unless it came through after all
    assert table.do(SettleDelivery(mine.number, who="p2")) is False


def test_what_has_failed_is_due_again_later() -> None:
    table = Table()
    table.fire("a", 80)
    (due,) = table.lease().due
    table.do(SettleDelivery(due.number, 5 * SECOND, who="p1"))
    assert table.lease().due == ()
    table.now += 5 * SECOND
    assert [one.tries for one in table.lease().due] == [1]
    table.do(SettleDelivery(due.number, NEVER, who="p1"))
    assert table.state["due"] == []
    assert table.state["what"] == {}
    assert table.state["open"]["a"]["notices"][0]["to"]["hook"][0] == "given up"


def test_quiet_hours_hold_back_but_what_is_loud() -> None:
    table = Table()
    table.fire("a", 80)
    table.fire("b", 0, about={"loud": True})
    assert [one.notices[0]["alert"] for one in table.lease(quiet=True).due] == ["b"]
    assert [one.notices[0]["alert"] for one in table.lease().due] == ["a"]


def test_more_than_twenty_are_one_and_stay_one() -> None:
    table = Table()
    for number in range(DIGEST + 1):
        table.fire(f"a{number}", 80)
    (due,) = table.lease().due
    assert due.many == DIGEST + 1
    table.do(SettleDelivery(due.number, 0, who="p1"))
    table.fire("later", 80)
    again = table.lease().due
    assert [one.many for one in again] == [1, DIGEST + 1]  # what is new comes first
    assert again[1].id == due.id
    for one in again:
        table.do(SettleDelivery(one.number, who="p1"))
    assert {alert["notices"][0]["to"]["hook"][0] for alert in table.state["open"].values()} == {"sent"}


def test_receivers_take_turns() -> None:
    table = Table()
    for number in range(8):
        table.fire(f"a{number}", 80, to=("slow",))
    table.fire("b", 80, to=("hook",))
    assert [one.to for one in table.lease(to=("slow", "hook")).due].count("hook") == 1


def test_what_was_not_tried_does_not_count_as_tried() -> None:
    table = Table()
    table.fire("a", 80)
    (due,) = table.lease().due
    table.do(SettleDelivery(due.number, 5 * SECOND, who="p1", tried=False))
    assert table.state["open"]["a"]["notices"][0]["to"]["hook"][0] == "waiting"
    table.now += 5 * SECOND
    assert [one.tries for one in table.lease().due] == [0]


def test_a_receiver_that_is_gone_gets_nothing_more_until_it_listens_again() -> None:
    table = Table()
    for id in "ab":
        table.fire(id, 80, to=("hook", "mail"))
    due = table.lease(to=("hook",)).due
    table.do(SettleDelivery(due[0].number, NEVER, who="p1", gone=True))
    table.fire("c", 80, to=("hook",))
    table.now += LEASE
    assert table.lease(to=("hook",)).due == ()
    assert len(table.lease(to=("mail",)).due) == 2
    assert table.do(ListenAgain("hook")) is True
    table.fire("d", 80, to=("hook",))
    assert [one.notices[0]["alert"] for one in table.lease(to=("hook",)).due] == ["d"]


def test_there_are_never_more_than_so_many() -> None:
    table = Table()
    fires = [FireAlert(f"a{number}", 80, "1", about=ABOUT, to=["hook"]) for number in range(MOST_OPEN + 20)]
    for begin in range(0, len(fires), 40):
        results = table.do(DecideAlerts(fires[begin : begin + 40]))
    assert [told.full for told in results[-21:]] == [False] + [True] * 20
    state = table.state
    assert len(state["open"]) == MOST_OPEN + 1
    assert [one["alert"] for one in table.decided].count(FULL) == 1
    table.do(DecideAlerts([ResolveAlert(f"a{number}") for number in range(MOST_OPEN)]))
    assert table.state["open"] == {}
    assert len(table.state["past"]) == MOST_PAST
    assert [one["alert"] for one in table.decided].count(FULL) == 2
    assert table.fire("a1", 80, seen=table.now + 1).full is False


def test_what_nobody_delivers_is_given_up_after_days() -> None:
    table = Table()
    table.fire("a", 80, to=("of another app",))
    table.now += 4 * 86400 * SECOND
    table.lease()
    assert table.state["due"] == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"v":1}',
        pytest.param(b"[" * 100_000, id="deep"),
        b'{"v":1,"n":0,"open":{"a":{}},"past":[],"due":[]}',
    ],
)
def test_a_damaged_value_counts_as_none(data: bytes) -> None:
    table = Table()
    table.table[KEY] = (data, None)
    assert len(table.fire("a", 80).notices) == 1
    assert len(table.lease().due) == 1


def test_the_value_of_a_later_keyguard_is_left_as_it_is() -> None:
    table = Table()
    text = json.dumps({"v": 2, "alerts": "in another form"}).encode()
    table.table[KEY] = (text, None)
    told = table.fire("a", 80)
    assert (told.notices, told.full) == ((), True)
    assert table.lease().due == ()
    assert table.table[KEY] == (text, None)


# -- whatever happens -------------------------------------------------------------------------------------------------

PROCESSES = st.sampled_from(["p1", "p2", "p3", "p4"])
STEPS = st.one_of(
    st.tuples(
        st.just("fire"),
        st.sampled_from("abcdefgh"),
        st.sampled_from([50, 80, 90, 100]),
        st.sampled_from("123"),
        st.integers(-20, 0),  # seconds ago that it was seen
        st.sampled_from([None, 5, 100]),  # seconds until it is over
    ),
    st.tuples(st.just("many"), st.sampled_from([1, 5, 25, 60])),
    st.tuples(st.just("resolve"), st.sampled_from("abcdefgh"), st.integers(-20, 0)),
    st.tuples(st.just("lease"), PROCESSES, st.booleans()),
    st.tuples(st.just("settle"), PROCESSES, st.sampled_from(["sent", "lost", "again", "dies", "dies"])),
    st.tuples(st.just("wait"), st.integers(0, 40)),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=60))
def test_all_is_decided_once_and_delivered_at_least_once(steps: list[tuple[Any, ...]]) -> None:
    table = Table()
    held: dict[str, list[Any]] = {}
    ends: dict[int, tuple[str, int]] = {}
    came: list[tuple[str, tuple[str, ...]]] = []

    def lease(who: str, quiet: bool) -> None:
        for due in table.lease(who, quiet=quiet).due:
            holder, end = ends.get(due.number, ("", 0))
            assert end <= table.now, f"{who} leases what {holder} holds"
            ends[due.number] = who, table.now + LEASE
            of = next(one["of"] for one in table.state["due"] if one["n"] == due.number)
            assert (len(of), [*of[:50]]) == (due.many, [one["id"] for one in due.notices])
            held.setdefault(who, []).append((due, tuple(of)))

    def settle(who: str, outcome: str) -> None:
        if not held.get(who):
            return
        due, of = held[who].pop(0)
        if outcome == "dies":
            return
        if outcome in ("sent", "lost"):
            came.append((due.id, of))
        if outcome != "lost":  # else it came through, and the store never heard of it
            table.do(SettleDelivery(due.number, None if outcome == "sent" else 3 * SECOND, who=who))
            ends.pop(due.number, None)

    for step in steps:
        match step:
            case ("fire", id, level, period, ago, lasts):
                until = None if lasts is None else table.now + lasts * SECOND
                table.fire(id, level, period, seen=table.now + ago * SECOND, until=until)
            case ("many", number):
                fires = [FireAlert(f"many {each}", 80, "1", about=ABOUT, to=["hook"]) for each in range(number)]
                table.do(DecideAlerts(fires))
            case ("resolve", id, ago):
                table.do(ResolveAlert(id, table.now + ago * SECOND))
            case ("lease", who, quiet):
                lease(who, quiet)
            case ("settle", who, outcome):
                settle(who, outcome)
            case ("wait", seconds):
                table.now += seconds * SECOND
        json.loads(table.table[KEY][0] if KEY in table.table else b"{}")
    table.now += 100 * SECOND
    for _ in range(200):  # the last process sends all that is left
        lease("p5", False)
        if not held.get("p5"):
            break
        while held["p5"]:
            settle("p5", "sent")
    else:
        raise AssertionError("there is no end to it")
    ids = [one["id"] for one in table.decided]
    assert len(set(ids)) == len(ids), "decided twice"
    assert {id for _, of in came for id in of} == set(ids), "not delivered"
    digests: dict[str, set[tuple[str, ...]]] = {}
    for id, of in came:
        digests.setdefault(id, set()).add(of)
    assert all(len(contents) == 1 for contents in digests.values()), "one webhook-id with two contents"
    for id in {one["alert"] for one in table.decided}:
        told = [(one["period"], one["since"], one["level"]) for one in table.decided if one["alert"] == id]
        assert len({*told}) >= len(told) / 2, "a level is told of once, and once more that it is over"
    assert table.state["due"] == []
    assert table.state["what"] == {}
