"""What operators do about limits: they look, set back, grant and set, on every store; and each change is noted."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits.storage import MemoryStorage

from keyguard import (
    APIKeys,
    Concurrency,
    ConfigurationError,
    Keyguard,
    Limits,
    LimitUse,
    RateLimit,
    StoreError,
    credits,
    quota,
    smooth,
)
from keyguard.keys import KeyRegistry
from keyguard.ops import Adjust, Adjustment, Demand, Note, Take, keeps_count
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.limits import LimitsStore
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, Reference, play
from keyguard.testing.conformance.drawing import LIMITS
from tests.support.every_store import KINDS, store_of
from tests.support.servers import Proxy, RedisServer

ADDRESS = "198.51.100.1"
"""The address from which `play` asks."""


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return store_of(request.param, request, tmp_path)


def told(uses: tuple[LimitUse, ...]) -> dict[str, tuple[int, int]]:
    """What is spent and what is left, by limit."""
    return {use.name: (use.spent, use.remaining) for use in uses}


def statuses(stack: Keyguard, times: int, **how: Any) -> list[int]:
    return [play(stack, **how).status for _ in range(times)]


# -- on every store ---------------------------------------------------------------------------------------------


def test_a_caller_who_is_out_of_units_is_let_go_on(store: Any) -> None:
    """All three kinds of change, of the three ways in which units are counted."""
    stack = Keyguard(RateLimit("5/day", "40/hour", smooth("6/30 days", burst=6), by="ip"), store=store)
    assert statuses(stack, 6) == [200] * 5 + [429]
    names = "ip:5/day", "ip:40/hour", "ip:6/30 days smooth"
    assert told(stack.limits.peek(ADDRESS)) == {names[0]: (5, 0), names[1]: (5, 35), names[2]: (5, 1)}

    change = stack.limits.grant(ADDRESS, 2, limit="ip:5/day", actor="ada")
    assert (change.before.spent, change.after.spent, change.after.remaining, change.given) == (5, 3, 2, 2)
    assert stack.limits.set(ADDRESS, 40, limit="ip:40/hour").after.remaining == 0
    assert statuses(stack, 1) == [429]
    assert stack.limits.set(ADDRESS, 2, limit="ip:40/hour").given == 38
    assert statuses(stack, 2) == [200, 429]  # the even pace has had its six
    assert told(stack.limits.peek(ADDRESS)) == {names[0]: (4, 1), names[1]: (3, 37), names[2]: (6, 0)}

    assert [one.after.spent for one in stack.limits.reset(ADDRESS, actor="bob")] == [0, 0, 0]
    assert statuses(stack, 6) == [200] * 5 + [429]
    found = stack.audit.list()
    assert [(one.action, one.actor, one.limit, one.caller) for one in found[:3]] == [
        ("limits.grant", "ada", names[0], ADDRESS),
        ("limits.set", "app", names[1], ADDRESS),
        ("limits.set", "app", names[1], ADDRESS),
    ]
    assert {(one.action, one.actor, one.limit) for one in found[3:]} == {
        ("limits.reset", "bob", name) for name in names
    }
    assert found[0].before == {"spent": 5, "remaining": 0}
    assert found[0].after == {"spent": 3, "remaining": 2, "asked": 2}
    assert abs(found[0].at - change.after.at) < timedelta(seconds=1)


def test_quotas_and_credits_go_beyond_their_limit_by_a_grant(store: Any) -> None:
    month, balance = (
        RateLimit(quota("3/year"), by="subject", name="year"),
        RateLimit(credits(2), by="subject", name="balance"),
    )
    stack = Keyguard(APIKeys(), month, balance, store=store)
    sent = {"X-API-Key": stack.keys.issue("acme").key.reveal()}
    assert statuses(stack, 3, headers=sent) == [200, 200, 429]
    (used,) = stack.limits.peek("acme", limit="balance")
    assert (used.remaining, used.more_at, used.works_at) == (0, None, None)  # nothing but a grant helps
    change = stack.limits.grant("acme", 10, limit="balance")
    assert (change.given, change.after.spent, change.after.remaining) == (10, -8, 10)
    assert statuses(stack, 2, headers=sent) == [200, 429]
    assert stack.limits.grant("acme", 10, limit="year").after.remaining == 10
    assert statuses(stack, 10, headers=sent) == [200] * 9 + [429]
    assert told(stack.limits.peek("acme")) == {"year:3/year": (2, 1), "balance:2 credits": (2, 0)}
    stack.limits.set("acme", 1, limit="balance")
    assert statuses(stack, 2, headers=sent) == [200, 429]
    stack.limits.reset("acme")
    assert told(stack.limits.peek("acme")) == {"year:3/year": (0, 3), "balance:2 credits": (0, 2)}


def test_the_same_under_an_event_loop(store: Any) -> None:
    async def story() -> None:
        stack = Keyguard(RateLimit("5/day", by="ip"), store=store)
        limits = stack.limits
        assert (await limits.aset(ADDRESS, 5)).after.remaining == 0
        assert (await limits.agrant(ADDRESS, 1)).after.remaining == 1
        assert [use.remaining for use in await limits.apeek(ADDRESS)] == [1]
        assert [one.after.remaining for one in await limits.areset(ADDRESS)] == [5]
        assert len(await stack.audit.alist(action="limits")) == 3
        if hasattr(store, "aclose"):
            await store.aclose()

    asyncio.run(story())


def test_changes_that_meet_requests_lose_none(store: Any) -> None:
    """While a caller is served, each change counts once and each request counts once."""
    stack = Keyguard(RateLimit("100000/day", by="ip"), store=store)
    stack.limits.set(ADDRESS, 1000)
    served: list[int] = []
    thread = threading.Thread(target=lambda: served.extend(statuses(stack, 60)))
    thread.start()
    given = [stack.limits.grant(ADDRESS, 10).given for _ in range(20)]
    thread.join()
    assert (served, given) == ([200] * 60, [10] * 20)
    assert told(stack.limits.peek(ADDRESS)) == {"ip:100000/day": (860, 99140)}


_LIMITS = [limit for limit in LIMITS if limit.kind and keeps_count(limit)]
_STEPS = st.tuples(
    st.sampled_from(["take", "hold", "reset", "grant", "set"]), st.integers(0, 200), st.integers(0, 40_000_000)
)


@settings(max_examples=60)
@given(st.integers(0, len(_LIMITS) - 1), st.lists(_STEPS, max_size=25))
def test_what_is_spent_held_and_left_is_the_limit_at_every_step(place: int, steps: list[tuple[Any, int, int]]) -> None:
    """And what a caller is told of the moment when it works again is true."""
    clock = ManualClock()
    store, limit = Reference(clock), _LIMITS[place]
    key = f"rl:sum:{limit.code}|a"
    for verb, units, pause in steps:
        clock.advance(timedelta(microseconds=pause))
        if verb in ("take", "hold"):
            store.execute([Take([Demand("a", key, limit, units, 5_000_000 * (verb == "hold"), holds=True)])])
        elif verb == "set":
            store.execute([Adjust([Adjustment(key, limit, "set", min(units, limit.max_cost))])])
        else:
            store.execute([Adjust([Adjustment(key, limit, verb, max(1, units))])])
        (count,) = store.execute([Adjust([Adjustment(key, limit)])])[0].after
        assert count.remaining == max(0, limit.max_cost - count.spent - count.held)
        one = Take([Demand("a", key, limit, 1, holds=True)])
        assert count.wait == one.apply([store.value(name) for name in one.keys], clock())[0].wait
        if verb == "set" and not limit.keeps_grants:
            assert count.spent == min(units, limit.max_cost)


# -- whom it concerns -------------------------------------------------------------------------------------------


def test_a_key_is_named_by_its_id_or_by_itself_and_stands_for_its_subject(store: Any) -> None:
    issued = KeyRegistry(store).issue("acme", subject="acme-eu", plan="pro")
    plans = {"pro": "3/day", "free": "1/day"}
    stack = Keyguard(
        APIKeys(optional=True, guesses=None),
        RateLimit("5/day", by="key"),
        RateLimit(plans=plans, default="free"),
        RateLimit("50/day", by="ip"),
        store=store,
    )
    key = issued.key.reveal()
    assert statuses(stack, 4, headers={"X-API-Key": key}) == [200] * 3 + [429]
    expected = {"key:5/day": (3, 2), "subject:3/day": (3, 0)}
    for caller in (issued.record.id, key):
        assert told(stack.limits.peek(caller)) == expected
    assert told(stack.limits.peek("acme-eu")) == expected
    assert told(stack.limits.peek("acme-eu", by="subject")) == {"subject:3/day": (3, 0)}
    assert told(stack.limits.peek("acme-eu", plan="free")) == {"subject:1/day": (3, 0), "key:5/day": (3, 2)}
    stack.limits.grant(key, 1, limit="subject")
    assert statuses(stack, 2, headers={"X-API-Key": key}) == [200, 429]
    assert [one.caller for one in stack.audit.list(action="limits")] == ["acme-eu"]
    assert statuses(stack, 2) == [200, 429]  # without a key, by address
    assert told(stack.limits.peek(ADDRESS)) == {"key:5/day": (1, 4), "subject:1/day": (1, 0), "ip:50/day": (5, 45)}
    assert [use.caller for use in stack.limits.peek(f"@{ADDRESS}")] == [f"@{ADDRESS}"] * 2
    for one in stack.limits.reset(ADDRESS, limit="subject"):
        assert one.after.caller == f"@{ADDRESS}"
    assert statuses(stack, 2) == [200, 429]


@pytest.mark.parametrize(
    ("client", "named"),
    [
        ("2001:db8::1", "2001:db8::ffff"),
        ("2001:db8::1", "[2001:DB8:0:0::2]"),
        ("2001:db8::1", "2001:db8::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.9:1234"),
        (None, "unknown"),
    ],
)
def test_an_address_counts_as_its_requests_do(client: str | None, named: str) -> None:
    stack = Keyguard(RateLimit("5/day", by="ip"), store=MemoryStore())
    play(stack, client=client)
    assert [use.spent for use in stack.limits.peek(named, by="ip")] == [1]
    assert [use.spent for use in stack.limits.peek(named)] == [1]


def test_callers_of_a_function_are_named_by_what_it_returns() -> None:
    def tenant(request: Any) -> Any:
        return request.headers.get("x-tenant")

    def number(request: Any) -> Any:
        return int(request.headers.get("x-number", "0")), "eu"

    stack = Keyguard(RateLimit("5/day", by=tenant), RateLimit("9/day", by=number), store=MemoryStore())
    play(stack, headers={"X-Tenant": "acme", "X-Number": "7"})
    assert {use.spent for use in stack.limits.peek("acme", limit="tenant")} == {1}
    assert {use.spent for use in stack.limits.peek((7, "eu"), limit="number")} == {1}
    (use,) = stack.limits.peek("acme", limit="tenant", by="function")
    assert use.caller.startswith("#")
    assert use.by.endswith("tenant")
    assert [again.spent for again in stack.limits.peek(use.caller, limit="tenant")] == [1]


def test_an_address_that_has_guessed_too_often_is_let_try_again() -> None:
    stack = Keyguard(APIKeys(guesses="2/day"), store=MemoryStore())
    wrong = {"X-API-Key": "kg_live_wrong"}
    assert statuses(stack, 3, headers=wrong) == [401, 401, 429]
    (use,) = stack.limits.peek(ADDRESS)
    assert (use.name, use.spent, use.remaining) == ("keys-guesses:2/day", 2, 0)
    stack.limits.reset(ADDRESS)
    fresh = Keyguard(APIKeys(guesses="2/day"), store=stack.store)  # a process remembers such a refusal for a moment
    assert statuses(fresh, 3, headers=wrong) == [401, 401, 429]


def test_what_is_held_is_told_and_left_alone() -> None:
    store = MemoryStore()
    stack = Keyguard(RateLimit("5/day", by="ip"), store=store)
    key = f"rl:ip:{window(5, 86_400_000_000, '').code}|{ADDRESS}"
    store.execute([Take([Demand("ip", key, window(5, 86_400_000_000, "5/day"), 4, lease=60_000_000)])])
    (use,) = stack.limits.peek(ADDRESS)
    assert (use.spent, use.held, use.remaining) == (0, 4, 1)
    assert stack.limits.set(ADDRESS, 1).after.remaining == 0
    stack.limits.reset(ADDRESS)
    assert [(use.held, use.remaining) for use in stack.limits.peek(ADDRESS)] == [(4, 1)]


# -- when -------------------------------------------------------------------------------------------------------


def test_it_says_when_units_come_back_and_when_it_works_again() -> None:
    clock = ManualClock(datetime(2026, 3, 1, tzinfo=UTC))
    stack = Keyguard(RateLimit("2/minute", by="ip"), store=MemoryStore(clock=clock), clock=clock)
    (use,) = stack.limits.peek(ADDRESS)
    assert (use.more_at, use.works_at, use.at) == (None, None, datetime(2026, 3, 1, tzinfo=UTC))
    play(stack)
    clock.advance(10)
    play(stack)
    (use,) = stack.limits.peek(ADDRESS)
    assert use.more_at == use.works_at == datetime(2026, 3, 1, 0, 1, tzinfo=UTC)
    assert (use.rate, use.limit, use.by, use.caller) == ("2/minute", 2, "ip", ADDRESS)
    clock.advance(50)
    (use,) = stack.limits.peek(ADDRESS)
    assert (use.spent, use.works_at) == (1, None)


def test_a_grant_of_a_window_gives_no_more_than_is_spent_and_says_so() -> None:
    stack = Keyguard(RateLimit("5/day", by="ip"), store=MemoryStore())
    statuses(stack, 3)
    change = stack.limits.grant(ADDRESS, 100)
    assert (change.given, change.after.remaining) == (3, 5)
    assert [one.after["asked"] for one in stack.audit.list()] == [100]


# -- what is wrong ----------------------------------------------------------------------------------------------

KEY_WITH_A_SLIP = "kg_live_4fK2mQ9xTzLb_" + "x" * 38


@pytest.mark.parametrize(
    ("method", "args", "settings", "message"),
    [
        ("peek", [ADDRESS], {"limit": "key"}, "no limit is called 'key': there are ip:5/day, ip:9/hour, subject:7/day"),
        ("peek", ["example.org"], {"by": "ip"}, "this is not an address .*: 'example.org'"),
        ("peek", ["203.0.113.0/24"], {"by": "ip"}, "this is not an address"),
        (
            "peek",
            ["203.0.113.9"],
            {"by": "address"},
            "by is 'ip', 'key', 'subject', 'function', or None, not 'address'",
        ),
        ("peek", ["x"], {"by": "key"}, "this caller counts by key, and these limits by ip, subject: say by="),
        ("peek", [7], {}, "this caller counts by function, and these limits by ip, subject"),
        ("peek", [7], {"by": "ip"}, "by ip a caller is a text, not int"),
        ("peek", [1j], {}, "a `by` function returns"),
        ("peek", [""], {}, "a caller is an address"),
        ("peek", ["x" * 2000], {}, "a caller is an address"),
        ("peek", [KEY_WITH_A_SLIP], {}, "this looks like a key, and its checksum does not fit"),
        ("peek", [ADDRESS], {"plan": 7}, "a plan is a text, not 7"),
        ("grant", [ADDRESS, 1], {}, "name one limit: there are ip:5/day, ip:9/hour"),
        ("set", [ADDRESS, 1], {"limit": "ip"}, "name one limit: there are ip:5/day, ip:9/hour"),
        ("grant", ["acme", 0], {}, "units are a whole number from 1 to 1000000000000, not 0"),
        ("grant", ["acme", -1], {}, "units are a whole number"),
        ("grant", ["acme", 1.5], {}, "units are a whole number"),
        ("grant", ["acme", True], {}, "units are a whole number"),
        ("grant", ["acme", 10**13], {}, "units are a whole number"),
        ("grant", ["acme", "7"], {}, "units are a whole number"),
        ("set", ["acme", -1], {}, "spent is a whole number from 0 to 7 of subject:7/day, not -1"),
        ("set", ["acme", 8], {}, "spent is a whole number from 0 to 7"),
        ("set", ["acme", float("nan")], {}, "spent is a whole number from 0 to 7"),
        ("reset", ["acme"], {"actor": ""}, "actor is a printable text"),
    ],
)
def test_what_is_not_possible_is_said_and_changes_nothing(
    method: str, args: list[Any], settings: dict[str, Any], message: str
) -> None:
    limits = RateLimit("5/day", "9/hour", by="ip"), RateLimit("7/day", by="subject")
    stack = Keyguard(APIKeys(optional=True, guesses=None), *limits, store=MemoryStore())
    play(stack)
    with pytest.raises(ValueError, match=message) as caught:
        getattr(stack.limits, method)(*args, **settings)
    assert KEY_WITH_A_SLIP not in str(caught.value)
    assert stack.audit.list() == []
    assert told(stack.limits.peek(ADDRESS)) == {"ip:5/day": (1, 4), "ip:9/hour": (1, 8), "subject:7/day": (1, 6)}


def test_a_subject_stands_for_its_keys_if_limits_count_these() -> None:
    stack = Keyguard(
        APIKeys(), RateLimit("5/day", by="key"), RateLimit("9/day", by=lambda r: "all", name="all"), store=MemoryStore()
    )
    first, second, revoked, other = (stack.keys.issue(owner) for owner in ("acme", "acme", "acme", "else"))
    stack.keys.revoke(revoked.record.id)
    statuses(stack, 2, headers={"X-API-Key": first.key.reveal()})
    statuses(stack, 1, headers={"X-API-Key": other.key.reveal()})
    limits = stack.limits
    spent = {first.record.id: 2, second.record.id: 0}
    assert {use.caller: use.spent for use in limits.peek("acme", limit="key:5/day")} == spent
    assert {use.caller: use.spent for use in asyncio.run(limits.apeek("acme")) if use.name == "key:5/day"} == spent
    assert told(limits.peek("all", by="function")) == {"all:9/day": (3, 6)}
    for change in (limits.grant, limits.set):
        with pytest.raises(ValueError, match=f"several: name one of {first.record.id}, {second.record.id}$"):
            change("acme", 1, limit="key")
    assert limits.grant(first.record.id, 1, limit="key").given == 1
    limits.reset("acme", limit="key")
    assert {use.caller: use.spent for use in limits.peek("acme", limit="key")} == dict.fromkeys(spent, 0)
    assert told(limits.peek(other.record.id, limit="key")) == {"key:5/day": (1, 4)}
    assert limits.set("else", 5, limit="key").after.caller == other.record.id  # it has one key
    assert told(limits.peek("an id of a look-up", limit="key")) == {"key:5/day": (0, 5)}


def test_a_subject_stands_for_its_keys_also_where_other_limits_count_the_subject() -> None:
    stack = Keyguard(
        APIKeys(),
        RateLimit(plans={"pro": "5/day", "free": "1/day"}, default="free", by="key", name="paced"),
        RateLimit("9/day", by="subject", name="all"),
        store=MemoryStore(),
    )
    first, second = stack.keys.issue("acme", plan="pro"), stack.keys.issue("acme", plan="free")
    other = stack.keys.issue("else", plan="pro")
    for issued in (first, first, second, other):
        statuses(stack, 1, headers={"X-API-Key": issued.key.reveal()})
    limits = stack.limits

    def spent(uses: Any) -> set[tuple[str, str, int]]:
        return {(use.name, use.caller, use.spent) for use in uses}

    of_keys = {("paced:5/day", first.record.id, 2), ("paced:1/day", second.record.id, 1)}
    assert (
        spent(limits.peek("acme")) == spent(asyncio.run(limits.apeek("acme"))) == {("all:9/day", "acme", 3), *of_keys}
    )
    assert spent(limits.peek("acme", limit="paced")) == of_keys
    assert spent(limits.peek("acme", limit="all")) == {("all:9/day", "acme", 3)}
    assert limits.grant("acme", 1, limit="all").given == limits.grant("acme", 1).given == 1
    with pytest.raises(ValueError, match=f"several: name one of {first.record.id}, {second.record.id}$"):
        limits.grant("acme", 1, limit="paced")
    assert limits.set("else", 5, limit="paced").after.caller == other.record.id
    limits.reset("acme")
    assert {use.spent for use in limits.peek("acme")} == {0}
    assert spent(limits.peek("else")) == {("all:9/day", "else", 1), ("paced:5/day", other.record.id, 5)}
    assert told(limits.peek("no such subject")) == {"all:9/day": (0, 9)}


def test_a_plan_that_nobody_knows_must_be_said() -> None:
    stack = Keyguard(
        APIKeys(lookup=lambda key: None),
        RateLimit(plans={"pro": "5/day", "staff": None}, default="1/day"),
        store=MemoryStore(),
    )
    with pytest.raises(ValueError, match="depends on the caller's plan, which no key in the store tells: say plan="):
        stack.limits.peek("acme")
    assert [use.name for use in stack.limits.peek("acme", plan="pro")] == ["subject:5/day"]
    assert [use.name for use in stack.limits.peek("acme", plan="other")] == ["subject:1/day"]
    assert stack.limits.peek("acme", plan="staff") == ()


def test_plans_of_guards_with_one_name_are_not_mixed_up() -> None:
    def facts(name: str, plans: dict[str, Any]) -> list[Any]:
        guard = RateLimit(plans=plans, default="1/day", name=name)
        return [replace(each, guard="subject") for counters in guard.counters for each in counters.facts]

    both = [*facts("shop", {"pro": "5/day"}), *facts("back office", {"gold": "7/day"})]
    limits = Limits(MemoryStore(), both, clock=ManualClock())
    assert [use.name for use in limits.peek("acme", plan="pro")] == ["shop:5/day", "back office:1/day"]


def test_slots_are_shown_and_nothing_of_them_is_granted() -> None:
    stack = Keyguard(Concurrency(3, by="ip"), store=MemoryStore())
    assert told(stack.limits.peek(ADDRESS)) == {"ip:3 at a time": (0, 3)}
    for change in (stack.limits.grant, stack.limits.set):
        with pytest.raises(ValueError, match="nothing of ip:3 at a time can be granted or set"):
            change(ADDRESS, 1)
    assert stack.audit.list() == []


def test_limits_that_a_function_chooses_are_not_known() -> None:
    stack = Keyguard(RateLimit(lambda request: "5/day", by="ip", name="chosen"), store=MemoryStore())
    assert stack.limits.peek(ADDRESS) == ()
    with pytest.raises(ValueError, match="a function chooses the limit 'chosen' on each request"):
        stack.limits.reset(ADDRESS, limit="chosen")


def test_a_storage_of_the_limits_library_lets_nobody_look() -> None:
    stack = Keyguard(RateLimit("5/day", by="ip"), store=LimitsStore(MemoryStorage()))
    with pytest.raises(ConfigurationError, match="lets nobody look at what is spent"):
        stack.limits.peek(ADDRESS)


def test_a_store_that_fails_leaves_open_whether_something_was_changed() -> None:
    class Broken(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            raise StoreError("it is gone")

    stack = Keyguard(RateLimit("5/day", by="ip"), store=Broken())
    with pytest.raises(StoreError, match=r"it is gone\. Whether anything was changed is not known: look before"):
        stack.limits.reset(ADDRESS)


@pytest.mark.parametrize("mode", ["reset once", "cut once", "drop"])
def test_a_change_whose_reply_is_lost_is_made_once(
    mode: str, valkey: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(valkey.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}?timeout=0.5&namespace=lost-{mode[:3]}-{tmp_path.name}"
        store: Any = open_store(url)
        stack = Keyguard(RateLimit("100/day", by="ip"), store=store)
        stack.limits.set(ADDRESS, 50)
        swapping, modes = store._wire._swapping, [mode, ""]

        def breaking(*args: Any) -> Any:
            proxy.mode = modes.pop(0) if modes else ""
            return swapping(*args)

        reading = store._wire._reading

        def mended(*args: Any) -> Any:
            proxy.mode = ""
            return reading(*args)

        monkeypatch.setattr(store._wire, "_swapping", breaking)
        monkeypatch.setattr(store._wire, "_reading", mended)
        change = stack.limits.grant(ADDRESS, 10)
        assert (change.before.spent, change.after.spent) == (50, 40)
        assert told(stack.limits.peek(ADDRESS)) == {"ip:100/day": (40, 60)}
        assert [one.after["spent"] for one in stack.audit.list()] == [50, 40]
        store.close()


def test_a_change_that_is_executed_again_changes_nothing_more(store: Any) -> None:
    limit = window(100, 86_400_000_000, "100/day")
    keys = [f"rl:again:{limit.code}|{caller}" for caller in ("a", "b")]
    store.execute([Adjust([Adjustment(key, limit, "set", 50) for key in keys])])
    note = Note("audit|again", 1_000_000, lambda adjusted: repr(adjusted.after).encode())
    grant = Adjust([Adjustment(key, limit, "grant", 10) for key in keys], [note])
    first = store.execute([grant])[0]
    again = store.execute([grant])[0]
    assert [count.spent for count in first.before + first.after] == [50, 50, 40, 40]
    assert (again.before, again.after) == (first.before, first.after)
    looked = store.execute([Adjust([Adjustment(key, limit) for key in keys])])[0]
    assert [count.spent for count in looked.after] == [40, 40]
    assert [value for _, value in store.scan("audit|")] == [repr(first.after).encode()]
