"""Quotas and credits: what a caller is told, what is spent in each period, edits, and clocks that are set back."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, credits, quota, smooth
from keyguard.clock import SECOND
from keyguard.ops import Demand, Put, Take
from keyguard.rates import NEVER, Limit, described, limit_of
from keyguard.rates.balances import Credits
from keyguard.stores.leased import Leased
from keyguard.stores.limits import LimitsStore
from keyguard.stores.local_shares import Shares
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, Reference, play
from keyguard.testing.play import Played
from tests.support.every_store import KINDS, store_of

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86400
NOVEMBER = datetime(2026, 11, 20, 12, tzinfo=UTC)


def micros(when: datetime) -> int:
    return int(when.timestamp()) * SECOND


def at(when: datetime) -> ManualClock:
    clock = ManualClock()
    clock.advance(when - datetime.fromtimestamp(clock() // SECOND, UTC))
    return clock


class Shop:
    """A stack with keys, whose clock is advanced by hand."""

    def __init__(
        self,
        *rates: Any,
        when: datetime = NOVEMBER,
        store: Any = None,
        clock: ManualClock | None = None,
        **options: Any,
    ) -> None:
        self.clock: ManualClock = at(when) if clock is None else clock
        self.store = store or MemoryStore(clock=self.clock)
        self.limit = RateLimit(*rates, by="key", **options)
        keys = APIKeys(lookup=lambda key: Identity(key, key_id=key))
        self.stack = Keyguard(keys, self.limit, store=self.store, clock=self.clock)

    def ask(self, key: str = "ada") -> Played:
        return play(self.stack, headers={"X-API-Key": key})

    def statuses(self, many: int, key: str = "ada") -> list[int]:
        return [self.ask(key).status for _ in range(many)]


# -- what a caller is told --------------------------------------------------------------------------------------------


def test_a_quota_begins_anew_when_its_zone_has_midnight() -> None:
    shop = Shop(quota("2/month", tz="Europe/Berlin"))
    assert shop.statuses(3) == [200, 200, 429]
    refused = shop.ask()
    facts = json.loads(refused.body)
    assert facts["detail"].endswith("at 2026-11-30T23:00:00Z.")
    wait = int(refused.header("Retry-After") or "")
    assert NOVEMBER + timedelta(seconds=wait) == datetime(2026, 12, 1, tzinfo=BERLIN)
    shop.clock.advance(wait - 1)
    assert shop.ask().status == 429
    shop.clock.advance(1)
    assert shop.statuses(3) == [200, 200, 429]


def test_fields_tell_no_window_that_is_not_of_one_length() -> None:
    shop = Shop(quota("10000/month"), credits(500, refill=quota("100/month")), "10/second", name="api")
    answer = shop.ask()
    left = 10 * DAY + DAY // 2
    assert answer.header("RateLimit-Policy") == (
        '"api:10000/month";q=10000, "api:500 credits";q=500, "api:10/second";q=10;w=1'
    )
    assert (
        answer.header("RateLimit")
        == f'"api:10000/month";r=9999;t={left}, "api:500 credits";r=499, "api:10/second";r=9;t=1'
    )


def test_what_nothing_fills_has_no_moment_at_which_it_comes_back() -> None:
    shop = Shop(credits(1), name="api", headers=["draft-11", "x-ratelimit"])
    answer = shop.ask()
    assert answer.header("RateLimit") == '"api:1 credits";r=0'
    assert answer.header("X-RateLimit-Reset") is None
    refused = shop.ask()
    assert (refused.status, refused.header("Retry-After")) == (429, None)
    assert refused.header("RateLimit") == '"api:1 credits";r=0'
    facts = json.loads(refused.body)
    assert facts["cause"] == "usage"
    detail = "The balance 'api:1 credits' is too low for this request."
    assert facts["detail"] == f"{detail} Waiting does not help: only a grant of new units does."


def test_a_cost_above_what_a_balance_ever_is_is_told_apart() -> None:
    shop = Shop(credits(5), cost=lambda request: int(request.headers["cost"]), name="api")
    refused = play(shop.stack, headers={"X-API-Key": "ada", "cost": "6"})
    assert b"costs 6 units, more than 'api:5 credits' ever allows" in refused.body
    assert play(shop.stack, headers={"X-API-Key": "ada", "cost": "4"}).status == 200
    refused = play(shop.stack, headers={"X-API-Key": "ada", "cost": "2"})
    assert b"only a grant" in refused.body
    assert play(shop.stack, headers={"X-API-Key": "ada", "cost": "1"}).status == 200


def test_credits_are_filled_up_at_the_begin_of_a_period_and_not_beyond() -> None:
    shop = Shop(credits(5, refill=quota("3/month")))
    assert shop.statuses(6) == [200] * 5 + [429]
    assert shop.ask().header("Retry-After") == str(10 * DAY + DAY // 2)
    shop.clock.advance(100 * DAY)  # missed periods add nothing
    assert shop.statuses(4) == [200] * 3 + [429]
    assert shop.statuses(6, "grace") == [200] * 5 + [429]
    shop.clock.advance(400 * DAY)
    assert shop.statuses(1) == [200]


def test_a_refill_that_does_not_cover_the_cost_is_not_waited_for() -> None:
    shop = Shop(credits(5, refill=quota("1/month")), cost=2)
    assert shop.statuses(3) == [200, 200, 429]
    assert shop.ask().header("Retry-After") is None


# -- all or nothing ---------------------------------------------------------------------------------------------------

MIXED = ("3/second", quota("10/month"), credits(8), smooth("5/second", burst=9))


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_are_decided_at_once_on_every_store(kind: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    store = store_of(kind, request, tmp_path)
    limits = [rule.limit for rule in RateLimit(*MIXED, by="key").rules]
    demands = [Demand(limit.text, f"rl:mixed:{limit.code}|ada", limit, 2) for limit in limits]
    taken, refused = (store.execute([Take(demands)])[0] for _ in range(2))
    assert [taking[2] for taking in taken.takings] == [1, 8, 6, 7]
    assert [demand.name for demand in refused.refusing] == ["3/second"]
    asked = Take([Demand(demand.name, demand.key, demand.limit, 0) for demand in demands])
    assert [taking[2] for taking in store.execute([asked])[0].takings][1:3] == [8, 6], "a refusal charges nothing"


def test_a_store_of_strangers_refuses_them_at_the_start() -> None:
    from limits.storage import MemoryStorage

    for limit in (quota("5/month"), credits(5)):
        with pytest.raises(ConfigurationError, match="memory://"):
            Keyguard(RateLimit(limit, by=lambda request: "x"), store=LimitsStore(MemoryStorage()))


def test_leases_leave_them_to_the_shared_store() -> None:
    clock = at(NOVEMBER)
    shared = MemoryStore(clock=clock)
    shop = Shop(quota("3/month"), credits(2), store=Leased(shared, clock=clock), clock=clock)
    assert shop.statuses(3) == [200, 200, 429]
    assert [key for key, _ in shared.scan("rl:key:")] == ["rl:key:cal-month|ada", "rl:key:credits|ada"]


def test_a_balance_is_never_by_address() -> None:
    with pytest.raises(ConfigurationError, match="addresses have no balance"):
        RateLimit(credits(5))
    with pytest.raises(ConfigurationError, match="addresses have no balance"):
        RateLimit(plans={"free": credits(5)}, default="free", by="ip")
    with pytest.raises(ConfigurationError, match="larger than the balance"):
        credits(5, refill=quota("6/month"))
    with pytest.raises(ConfigurationError, match="a refill is a quota"):
        credits(5, refill="5/month")  # type: ignore[arg-type]
    for units in (0, -1, 1.5, True, 10**16):
        with pytest.raises(ConfigurationError, match="whole number"):
            credits(units)  # type: ignore[arg-type]


@pytest.mark.parametrize("passing", [{"optional": True}, {"public": ["/health"]}, {"paths": ["/api/*"]}])
def test_a_caller_without_a_key_has_no_balance(passing: Any) -> None:
    keys = APIKeys(lookup=lambda key: Identity(key, key_id=key), **passing)
    for by in ("key", "subject"):
        with pytest.raises(ConfigurationError, match="paths= or exempt="):
            Keyguard(keys, RateLimit(credits(5), by=by), store="memory://")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="paths= or exempt="):
        Keyguard(keys, RateLimit(plans={"pro": "5/second"}, default=credits(5)), store="memory://")
    stack = Keyguard(keys, RateLimit(credits(5), by="key", paths=["/api/paid"]), store="memory://")
    assert play(stack, "/health").status == 200
    assert play(stack, "/api/paid", headers={"X-API-Key": "ada"}).status == 200
    assert play(stack, "/api/paid").status == (503 if passing.get("optional") else 401)  # the log tells why
    plans = RateLimit(plans={"pro": credits(5)}, default="5/second")
    assert play(Keyguard(keys, plans, store="memory://"), "/health").status == 200


def test_a_month_as_text_names_the_quota() -> None:
    with pytest.raises(ConfigurationError, match=r"quota\('10000/month'\)"):
        RateLimit("10000/month")
    with pytest.raises(ConfigurationError, match="one limit a period"):
        RateLimit(quota("10000/month"), quota("9/month", tz="Europe/Berlin"))


def test_a_full_memory_store_forgets_no_balance() -> None:
    clock = at(NOVEMBER)
    store = MemoryStore(1024 * 1024, clock=clock)
    balance = credits(100)
    for name in range(3000):
        store.execute([Take([Demand("", f"rl:c:{balance.code}|{name}", balance, 1)])])
    assert store.stats().forgotten == store.stats().folded == 0
    asked = [store.execute([Take([Demand("", f"rl:c:{balance.code}|{name}", balance, 0)])])[0] for name in range(3000)]
    assert {taken.takings[0][2] for taken in asked} == {99}


def test_a_grant_is_not_forgotten_either() -> None:
    limit = quota("5/month")
    now = micros(NOVEMBER)
    state, _ = limit.granted(None, now, 3)
    assert state is not None
    assert limit.half_spent(state, now)
    assert limit.take(state, now, 8)[4] == 0, "more than the number of the quota at once, as long as it was granted"
    assert limit.take(state, now, 9)[4] == NEVER


def test_a_process_admits_its_part_while_the_store_is_out_of_order() -> None:
    """A part of a balance may be forgotten: it is no more than what this process lends meanwhile."""
    shares = Shares()
    for limit, part in ((quota("9/month"), 4), (credits(9), 4), (credits(9, refill=quota("3/month")), 4)):
        demands = [Demand("", f"rl:s{part}:{limit.code}{described(limit)}|ada", limit, 1)]
        assert [shares.take(demands, 2).refused for _ in range(part + 1)] == [False] * part + [True]
        assert limit.share(2).may_be_forgotten
        assert limit.share(100).take(None, micros(NOVEMBER), 1)[4] == 0, "at least one unit"


def test_a_function_that_makes_a_quota_for_each_request_makes_it_once() -> None:
    shop = Shop(lambda request: quota("2/month", tz="Europe/Berlin", anchor=3))
    assert shop.statuses(3) == [200, 200, 429]
    assert quota("2/month", tz="Europe/Berlin", anchor=3) is quota("2/month", tz="Europe/Berlin", anchor=3)
    with pytest.raises(ConfigurationError, match="from 1 to 31"):
        quota("2/month", tz="Europe/Berlin", anchor=[3])  # type: ignore[arg-type]
    assert quota("2/month", anchor=1) is not quota("2/month")


# -- edits ------------------------------------------------------------------------------------------------------------

MONTHLY = [
    quota("10/month"),
    quota("20/month"),
    quota("10/month", tz="Europe/Berlin"),
    quota("10/month", tz="Pacific/Auckland"),
    quota("10/month", tz="America/Los_Angeles", anchor=15),
    quota("10/month", anchor=31),
    quota("7/month", anchor=21),
]


@given(st.sampled_from(MONTHLY), st.sampled_from(MONTHLY), st.integers(0, 40 * DAY))
def test_an_edit_in_mid_period_keeps_what_was_spent(before: Limit, after: Limit, later: int) -> None:
    """And the wait that it names is right."""
    assert before.code == after.code
    now = micros(NOVEMBER) + later * SECOND
    state, ttl, *_ = before.take(None, now, 7)
    assert state is not None
    soon = now + min(ttl - 1, 3600 * SECOND)
    assert after.spent(state, soon) == 7
    kept, _, _, _, wait = after.take(state, soon, after.max_cost)
    assert wait > 0
    state = kept or state
    assert after.take(state, soon + wait - 1, after.max_cost)[4] == 1
    assert after.take(state, soon + wait, after.max_cost)[4] == 0


def test_a_balance_outlives_edits_of_its_number_and_its_refill() -> None:
    now = micros(NOVEMBER)
    state, *_ = credits(10, refill=quota("5/month")).take(None, now, 8)
    for edited in (credits(10), credits(500), credits(7, refill=quota("7/day")), credits(3)):
        assert edited.balance(state, now) == 2
    assert credits(7, refill=quota("7/day")).balance(state, now + 30 * DAY * SECOND) == 7


# -- clocks that are set back -----------------------------------------------------------------------------------------

PERIODIC: list[Any] = [
    quota("5/hour", tz="Asia/Kolkata"),
    quota("5/day", tz="Australia/Lord_Howe"),
    quota("5/week", tz="America/St_Johns", anchor="sunday"),
    quota("5/month", tz="Europe/Berlin", anchor=31),
    quota("5/year", anchor="02-29"),
    credits(5, refill=quota("4/day", tz="Europe/Berlin")),
    credits(9, refill=quota("9/month")),
]


@given(st.sampled_from(PERIODIC), st.integers(1, 5), st.integers(1, 400 * DAY))
def test_a_clock_set_back_over_a_boundary_forgives_nothing_and_blocks_for_one_period(
    limit: Any, spent: int, back: int
) -> None:
    now = micros(NOVEMBER) + 400 * DAY * SECOND
    state, *_ = limit.take(None, now, spent)
    left = limit.max_cost - spent
    earlier = now - back * SECOND
    assert limit.take(state, earlier, 0)[2] == left
    assert limit.spent(state, earlier) == spent
    kept, _, _, _, wait = limit.take(state, earlier, left + 1)
    assert 0 < wait <= limit.period or wait == NEVER
    if wait > 0:
        state = kept or state
        assert limit.take(state, earlier + wait - 1, left + 1)[4] == 1
        assert limit.take(state, earlier + wait, left + 1)[4] == 0


# -- properties -------------------------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.integers(0, 3), st.floats(0, 0.9), st.booleans()), min_size=1, max_size=25)


@given(st.sampled_from(PERIODIC), steps)
def test_never_more_than_n_in_any_period_and_waits_are_exact(limit: Any, asked: list[tuple[int, float, bool]]) -> None:
    clock = at(NOVEMBER)
    store = Reference(clock)
    key = f"rl:p:{limit.code}|ada"
    admitted: dict[tuple[int, int], int] = {}
    balance = limit.max_cost
    period = limit.present(clock())

    def take(cost: int) -> Any:
        return store.execute([Take([Demand("", key, limit, cost)])])[0].takings[0]

    for cost, pause, obey in asked:
        clock.advance(timedelta(microseconds=round(pause * limit.period)))
        present = limit.present(clock())
        if type(limit) is Credits and present != period:
            balance = max(balance, limit.filled)
        period = present
        _, _, left, _, wait = take(cost)
        if not wait:
            admitted[present] = admitted.get(present, 0) + cost
            balance -= cost
        elif obey and wait != NEVER:
            for early in (SECOND, 1):
                if wait >= early:
                    clock.advance(timedelta(microseconds=wait - early))
                    assert take(cost)[4] == early, "refused, and told the same moment"
                    clock.advance(timedelta(microseconds=early - wait))
            clock.advance(timedelta(microseconds=wait))
            assert take(cost)[4] == 0, "a lone caller that obeys is admitted"
            period = present = limit.present(clock())
            if type(limit) is Credits:
                balance = max(balance, limit.filled) - cost
            admitted[present] = admitted.get(present, 0) + cost
            _, _, left, _, _ = take(0)
        state = store.value(key)
        if type(limit) is Credits:
            assert limit.balance(state, clock()) == balance >= 0
        else:
            assert admitted.get(present, 0) == limit.spent(state, clock())
            assert max(admitted.values(), default=0) <= limit.quota
        assert left + limit.spent(state, clock()) == limit.quota


def test_a_lone_caller_over_a_change_of_clocks() -> None:
    """Of the 25 hours of a day each counts, and the hour that comes twice is two."""
    shop = Shop(quota("1/hour", tz="Europe/Berlin"), when=datetime(2026, 10, 24, 22, tzinfo=UTC))
    served = 0
    for _ in range(25 * 4):
        served += shop.ask().status == 200
        shop.clock.advance("15 minutes")
    assert served == 25


# -- as plain data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [*PERIODIC, credits(3)], ids=lambda limit: str(limit.terms()))
def test_they_are_written_down_and_read(limit: Limit) -> None:
    told = json.loads(json.dumps(described(limit)))
    made = limit_of(told)
    now = micros(NOVEMBER)
    assert (type(made), made.text, made.code, made.numbers(now)) == (
        type(limit), limit.text, limit.code, limit.numbers(now),
    )  # fmt: skip
    assert described(made) == told


def test_a_wrong_description_says_so() -> None:
    for wrong in (
        {"kind": "quota", "rate": "5/month", "tz": "Mars/Olympus", "anchor": None},
        {"kind": "quota", "rate": "5/month"},
        {"kind": "credits", "units": 5, "refill": {"rate": "9/month", "tz": "UTC", "anchor": None}},
        {"kind": "credits", "units": 5, "refill": {}},
    ):
        with pytest.raises(ConfigurationError):
            limit_of(wrong)


def test_what_is_kept_in_a_store_is_durable_and_lives_as_long_as_it_counts() -> None:
    clock = at(NOVEMBER)
    store = Reference(clock)
    for limit in (quota("5/month"), credits(5)):
        assert limit.durable
        store.execute([Take([Demand("", f"rl:d:{limit.code}|a", limit)])])
    lives = {key: ttl for key, _, ttl in store.dump("rl:")}
    assert lives == {
        "rl:d:cal-month|a": (10 * DAY + DAY // 2) * SECOND,
        "rl:d:credits|a": 20 * 365 * DAY * SECOND,
    }
    store.execute([Put("rl:d:credits|a", b"")])
