"""The counter against the ledger: a caller may be barred by a counter that was charged for nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit, Usage, quota
from keyguard.ops import Demand, Take
from keyguard.ops.usage import NoteProcess
from keyguard.stack.written import read_stacks
from keyguard.testing import ManualClock
from keyguard.usage import ledger_store
from keyguard.why import LimitReport
from keyguard.why.agreement import Ledger, agreement
from tests.why.world import Shop

NOW = ManualClock().now
DAY = timedelta(days=1)


def report(spent: int, *, kind: str = "quota", **given: Any) -> LimitReport:
    midnight = NOW.replace(hour=0)
    begins = midnight if kind == "quota" else None
    members: dict[str, Any] = {
        "name": "subject:100/day", "guard": "subject", "rate": "100/day", "kind": kind, "unit": "day", "period": DAY,
        "by": "subject", "caller": "acme", "prefix": "rl:x|", "limit": 100, "spent": spent, "held": 0,
        "remaining": 100 - spent, "begins": begins,
    }  # fmt: skip
    return LimitReport(**members | given)


@pytest.mark.parametrize(
    ("counter", "ledger", "again", "state", "false"),
    [
        (100, Ledger(100, 100, True), None, "agree", False),
        (100, Ledger(97, 97, True), None, "unsettled", False),
        (100, Ledger(103, 103, True), None, "unsettled", False),
        # Once more, two intervals later: what came in between stands in the ledger and in the counter.
        (90, Ledger(95, 95, True), 97, "agree", False),
        (90, Ledger(97, 97, True), 97, "agree", False),
        (90, Ledger(98, 98, True), 97, "differ", False),
        (100, Ledger(97, 97, True), 100, "differ", True),
        # A process that has vanished may have had the rest to write.
        (100, Ledger(97, 97, False), 100, "not known", False),
        (97, Ledger(97, 97, False), 97, "agree", False),
        # The ledger is younger than the period.
        (100, Ledger(40, 40, True, NOW - timedelta(hours=1)), 100, "not known", False),
        (100, Ledger(40, 40, True, NOW - 2 * DAY), 100, "differ", True),
        # Somebody has given or taken units by hand.
        (40, Ledger(100, 100, True, None, 60, NOW), 40, "agree", False),
        (100, Ledger(20, 20, True, None, -80, NOW), 100, "agree", False),
        (100, Ledger(20, 20, True, None, -70, NOW), 100, "differ", True),
        # A window's end lies within a minute of the ledger's, and slices of it remember longer.
        (95, Ledger(90, 99, True), None, "agree", False),
        (89, Ledger(90, 99, True), None, "unsettled", False),
    ],
)
def test_what_counter_and_ledger_come_to(
    counter: int, ledger: Ledger, again: int | None, state: str, false: bool
) -> None:
    found = agreement(report(counter), ledger, NOW, again)
    assert (found.state, found.false_exhaustion, found.limit, found.counter) == (
        state,
        false,
        "subject:100/day",
        counter,
    )


def an_old_shop(folder: Path) -> Shop:
    """A shop whose ledger was begun days ago, and is written ten times a second."""
    shop = Shop(folder, RateLimit(quota("20/day"), by="subject"), every="100 ms")
    shop.ask()
    shop.rest()
    shop.clock.advance("2 days")
    return shop


def charge(shop: Shop, units: int) -> None:
    """Charge the counter, by whatever mistake, for nothing that anybody has asked."""
    (facts,) = [one for one in shop.guard.limits.facts if one.guard == "subject"]
    assert facts.limit is not None
    shop.store.execute([Take([Demand("", f"{facts.prefix}acme", facts.limit, units)])])


def test_a_counter_that_was_charged_for_nothing_is_told_of_and_left_as_it_is(tmp_path: Path) -> None:
    shop = an_old_shop(tmp_path)
    shop.ask(times=5)
    shop.rest()
    charge(shop, 15)  # by whatever mistake
    assert shop.ask().status == 429
    shop.rest()
    at_once = shop.guard.why("acme")
    assert (at_once.agreement.state, at_once.agreement.counter, at_once.agreement.ledger) == ("unsettled", 20, 5)
    found = shop.guard.why("acme", check=True)
    assert found.agreement.false_exhaustion
    assert found.agreement.because == (
        "The counter says 20, the ledger 5: 15 units were charged for requests that nobody has recorded. If that bars "
        "somebody, it is set right by hand."
    )
    assert found.agreement.because in found.details
    command = "keyguard limits set acme 5 --limit subject:20/day"
    assert f"If the ledger is right, set the counter right: {command}." in found.advice
    assert [use.spent for use in shop.guard.limits.peek("acme")] == [20]
    shop.guard.limits.set("acme", 5, limit="subject:20/day", actor="ada")
    assert shop.guard.why("acme", check=True).agreement.state == "agree"
    assert shop.ask().status == 200


def test_what_was_granted_by_hand_is_no_difference(tmp_path: Path) -> None:
    shop = an_old_shop(tmp_path)
    shop.ask(times=20)
    shop.rest()
    shop.guard.limits.grant("acme", 7, limit="subject:20/day", actor="ada")
    shop.ask(times=3)
    shop.rest()
    assert shop.guard.why("acme").agreement.state == "unsettled"
    found = shop.guard.why("acme", check=True).agreement
    assert (found.state, found.counter, found.ledger) == ("agree", 16, 16)


def test_what_is_on_its_way_has_its_time(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(quota("20/day"), by="subject"))
    shop.ask(times=4)
    assert shop.guard.why("acme").agreement.state == "unsettled"
    shop.rest()
    assert shop.guard.why("acme").agreement.state == "agree"


def test_a_process_that_has_vanished_leaves_it_unknown(tmp_path: Path) -> None:
    shop = an_old_shop(tmp_path)
    shop.ask(times=4)
    ledger = shop.usage._ledger()[0]
    ledger.execute([NoteProcess("killed", {"host": "b", "pid": 7, "every": 2.0})])
    shop.rest("2 minutes")
    charge(shop, 3)  # what it had not written
    found = shop.guard.why("acme", check=True)
    assert (found.ledger, found.agreement.state) == ("incomplete", "not known")
    assert found.agreement.because == (
        "The counter says 7, the ledger 4, which is not whole: a process has vanished, or there was no room for all."
    )


def test_a_ledger_that_began_within_the_period_vouches_for_nothing_before(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(quota("20/day"), by="subject"), every="100 ms")
    charge(shop, 10)  # without a ledger
    shop.clock.advance("1 hour")
    shop.ask(times=2)
    shop.rest()
    found = shop.guard.why("acme", check=True).agreement
    assert found.state == "not known"
    assert found.because == "The counter says 12, the ledger 2, which was begun at 09:00:02, after the limit's period."


@pytest.mark.parametrize("rate", ["30/hour", "2000/hour"])
def test_a_window_agrees_while_time_passes(rate: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(rate, by="key"))
    for _ in range(40):
        shop.ask(times=1, every="7 minutes")
    shop.rest()
    found = shop.guard.why(shop.id).agreement
    assert (found.state, found.limit) == ("agree", f"key:{rate}")


def test_short_limits_and_callers_without_a_key_are_not_compared(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit("5/minute", by="subject"), RateLimit("100/day", by="ip"))
    shop.ask(times=3)
    shop.rest()
    assert shop.guard.why("acme").agreement.state == "not compared"
    assert shop.guard.why("198.51.100.1").agreement.state == "not compared"


def test_it_is_told_by_the_store_alone_and_a_ledger_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    from keyguard.stack.diagnosing import Diagnoses
    from keyguard.usage import UsageReader

    shop = Shop(tmp_path, RateLimit(quota("20/day"), by="subject"))
    shop.ask(times=4)
    shop.rest()
    beside = ledger_store(shop.store, make=False)
    assert beside is not None
    facts = [facts for stack in read_stacks(shop.store) for facts in stack.facts]
    answers = Diagnoses(shop.store, facts, shop.guard._clock, ledger=UsageReader(beside, shop.clock))
    assert answers.of(shop.id) == shop.guard.why(shop.id)

    class Gone(UsageReader):
        def of(self, *words: Any, **more: Any) -> Any:
            from keyguard import StoreError

            raise StoreError("no answer")

    found = Diagnoses(shop.store, facts, shop.guard._clock, ledger=Gone(beside)).of(shop.id)
    assert (found.state, found.ledger, found.requests) == ("works", "unreadable", None)
    assert "The ledger cannot be read now: who has asked for what is not known." in found.details


def test_nothing_is_asked_of_a_stack_without_limits() -> None:
    guard = Keyguard(store="memory://", usage=Usage())
    found = guard.why("203.0.113.9")
    assert found.headline == ("No limit that is written down in this store counts the address, and nothing bars it.",)
