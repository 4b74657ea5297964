"""Choices of an upstream group and key: what is chosen, for how long something is left alone, and what is learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from keyguard.clock import SECOND
from keyguard.learnt import Dimension, Seen, dimension_of, group_key, id_of, marks_key, read_group
from keyguard.ops import Acquire, Candidate, Grant, Learn, NoGrant, Report
from keyguard.testing import ManualClock, Reference

RPM, TPM = dimension_of("rpm"), dimension_of("tpm")
HOUR = 3600


class Provider:
    """A store and its clock, and groups whose answers a story tells."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Reference(self.clock)

    def group(
        self,
        name: str = "a",
        keys: int = 1,
        rank: int = 0,
        limits: Mapping[str, int] | None = None,
        model: str = "*",
    ) -> Candidate:
        configured = tuple((dimension_of(word), limit) for word, limit in (limits or {}).items())
        names = tuple(id_of(f"{name}{number}") for number in range(keys))
        return Candidate(group_key("p", model, name), names, configured, rank, id_of(name))

    def acquire(self, *groups: Candidate, tokens: int = 0, ahead: int = SECOND, told: Sequence[Report] = ()) -> Any:
        cost = {"tokens": tokens} if tokens else {}
        return self.store.execute([Acquire(groups, cost, ahead=ahead, reports=told)])[0]

    def grant(self, *groups: Candidate, **options: Any) -> Grant:
        grant = self.acquire(*groups, **options)
        assert isinstance(grant, Grant), grant
        return grant

    def refusal(self, *groups: Candidate, **options: Any) -> NoGrant:
        none = self.acquire(*groups, **options)
        assert isinstance(none, NoGrant), none
        return none

    def tell(self, group: Candidate, grant: Grant, cause: str = "ok", scope: str = "model", **told: Any) -> None:
        if "wait" in told:
            told["wait"] *= SECOND
        self.store.execute([Learn([Report(group, grant, cause=cause, scope=scope, **told)])])

    def view(self, group: Candidate) -> Any:
        marks = self.store.value(marks_key(group.state))
        return read_group(group, self.store.value(group.state), marks, self.clock())

    def works(self, group: Candidate) -> None:
        """Have a group whose requests succeed."""
        self.tell(group, self.grant(group))


@pytest.fixture
def provider() -> Provider:
    return Provider()


def seconds(microseconds: int | None) -> float | None:
    return None if microseconds is None else microseconds / SECOND


def test_the_first_group_that_has_room_is_chosen(provider: Provider) -> None:
    one, two = provider.group("a", limits={"rpm": 2}), provider.group("b")
    found = [provider.grant(one, two).candidate for _ in range(3)]
    assert found == [0, 0, 1]


def test_a_limit_that_nobody_told_is_free_but_for_the_first_answers(provider: Provider) -> None:
    """Four at once until one answer came, so that a key that is dead is not asked by all."""
    group = provider.group()
    grants = [provider.grant(group) for _ in range(4)]
    none = provider.refusal(group)
    assert (none.wait, none.causes) == (SECOND, (("exhausted", SECOND),))
    provider.tell(group, grants[0])
    assert all(provider.grant(group).start == 0 for _ in range(500))


def test_room_is_booked_ahead_by_a_second_at_most(provider: Provider) -> None:
    group = provider.group(limits={"rpm": 120})
    provider.works(group)
    for _ in range(119):
        provider.grant(group)
    assert [seconds(provider.grant(group).start) for _ in range(2)] == [0.5, 1.0]
    assert seconds(provider.refusal(group).wait) == 1.5


def test_a_rank_that_has_room_in_time_comes_before_the_next(provider: Provider) -> None:
    first, spare = provider.group("a", limits={"rpm": 60}), provider.group("b", rank=1)
    provider.works(first)
    for _ in range(59):
        provider.grant(first)
    assert [provider.grant(first, spare).candidate for _ in range(3)] == [0, 1, 1]


BLOCKS: list[tuple[str, dict[str, Any], float, str, float | None]] = [
    # the cause, what its answer tells, when somebody is let through again, the cause, and when it is over
    ("exhausted", {"wait": 7}, 7, "exhausted", 7),
    ("exhausted", {}, 5, "exhausted", 5),
    ("ramp", {}, 5, "ramp", 5),
    ("quota", {"wait": 36}, 36, "quota", 36),
    ("quota", {"wait": 7200}, HOUR, "quota", 7200),
    ("quota", {}, 60, "quota", None),
    ("billing", {}, 60, "billing", None),
    ("billing", {"wait": 9 * 86400}, HOUR, "billing", 9 * 86400),
    ("billing", {"wait": 400 * 86400}, HOUR, "billing", 31 * 86400),
    ("invalid", {"scope": "key"}, HOUR, "invalid", None),
    ("invalid", {"scope": "group"}, HOUR, "invalid", None),
]


@pytest.mark.parametrize(("cause", "told", "wait", "why", "over"), BLOCKS)
def test_for_how_long_a_group_is_left_alone(
    provider: Provider, cause: str, told: dict[str, Any], wait: float, why: str, over: float | None
) -> None:
    group = provider.group()
    provider.works(group)
    provider.clock.advance("1 second")
    provider.tell(group, provider.grant(group), cause, **told)
    none = provider.refusal(group)
    assert (seconds(none.wait), none.causes[0][0], seconds(none.causes[0][1])) == (wait, why, over)
    provider.clock.advance(wait - 0.000001)
    provider.refusal(group)
    provider.clock.advance(0.000001)
    provider.grant(group)


@pytest.mark.parametrize("cause", ["overload", "unreachable", "system", "request", "too_large", "unsupported", "new"])
def test_what_is_not_about_the_group_does_not_block_it(provider: Provider, cause: str) -> None:
    group = provider.group()
    for scope in ("endpoint", "request", "none", "pair"):
        provider.tell(group, provider.grant(group), cause, scope)
    assert provider.grant(group).start == 0


def hits(provider: Provider, group: Candidate, cause: str, hours: float, **told: Any) -> list[float]:
    """The seconds at which requests were let through, if all are answered so, and one comes each second."""
    found, begin = [], provider.clock()
    while provider.clock() < begin + hours * HOUR * SECOND:
        found_now = provider.acquire(group)
        if isinstance(found_now, Grant):
            found.append((provider.clock() - begin) / SECOND)
            provider.tell(group, found_now, cause, **told)
            provider.clock.advance("1 second")
        else:
            wait = found_now.wait
            provider.clock.advance(hours * HOUR if wait is None else max(wait, SECOND) / SECOND)
    return found


def test_how_often_dead_groups_and_keys_are_asked(provider: Provider) -> None:
    assert len(hits(provider, provider.group("a"), "billing", 1)) == 6
    assert len(hits(provider, provider.group("b"), "billing", 24)) == 29
    assert len(hits(provider, provider.group("c"), "invalid", 1, scope="key")) == 1
    assert len(hits(provider, provider.group("d"), "invalid", 24 * 300, scope="key")) == 2
    assert len(hits(provider, provider.group("e"), "exhausted", 7999 / HOUR, wait=7999)) <= 3


def test_one_probe_at_a_time_goes_and_it_opens_the_group_again(provider: Provider) -> None:
    group = provider.group()
    provider.tell(group, provider.grant(group), "billing", "group")
    provider.clock.advance("60 seconds")
    probe = provider.grant(group)
    assert probe.probe
    none = provider.refusal(group)
    assert none.causes == (("billing", None),)
    provider.tell(group, probe)
    assert not provider.grant(group).probe


def test_a_probe_whose_process_died_is_followed_by_another(provider: Provider) -> None:
    group = provider.group()
    provider.tell(group, provider.grant(group), "billing", "group")
    provider.clock.advance("60 seconds")
    provider.grant(group)
    wait = provider.refusal(group).wait
    assert wait is not None
    provider.clock.advance(wait / SECOND)
    assert provider.grant(group).probe


def test_a_probe_that_was_not_sent_is_followed_at_once(provider: Provider) -> None:
    group = provider.group()
    provider.tell(group, provider.grant(group), "billing", "group")
    provider.clock.advance("60 seconds")
    provider.tell(group, provider.grant(group), "unsent", "none")
    assert provider.grant(group).probe


def test_requests_under_way_neither_end_a_block_nor_count_as_more_refusals(provider: Provider) -> None:
    group = provider.group()
    provider.works(group)
    grants = [provider.grant(group) for _ in range(8)]
    provider.clock.advance("1 second")
    for grant in grants[:5]:
        provider.tell(group, grant, "billing")
    provider.clock.advance("1 second")
    for grant in grants[5:]:
        provider.tell(group, grant, "ok")
    assert seconds(provider.refusal(group).wait) == 59


def test_a_running_block_is_not_shortened(provider: Provider) -> None:
    group = provider.group()
    grants = [provider.grant(group) for _ in range(2)]
    provider.tell(group, grants[0], "exhausted", wait=100)
    provider.tell(group, grants[1], "exhausted", wait=3)
    assert seconds(provider.refusal(group).wait) == 100


def test_keys_are_invalid_and_groups_without_money_in_all_model_classes(provider: Provider) -> None:
    small, large = provider.group(model="small", keys=2), provider.group(model="gpt/large", keys=2)
    grant = provider.grant(small)
    provider.tell(small, grant, "invalid", "key")
    assert provider.grant(large).key != grant.key
    provider.tell(small, provider.grant(small), "billing", "group")
    assert provider.refusal(large).causes == (("billing", None),)
    provider.clock.advance("2 seconds")
    provider.tell(small, provider.grant(provider.group("other")), "exhausted", "model")


def test_all_of_twenty_groups_are_reached_by_the_reports_of_one_request(provider: Provider) -> None:
    groups = [provider.group(f"g{number}") for number in range(20)]
    told: list[Report] = []
    for number in range(20):
        grant = provider.grant(*groups, told=told)
        assert grant.candidate == number
        told = [Report(groups[number], grant, cause="billing", scope="group")]
    none = provider.refusal(*groups, told=told)
    assert (none.causes, seconds(none.wait)) == ((("billing", None),) * 20, 60)


def test_all_of_twenty_keys_of_one_group_are_reached(provider: Provider) -> None:
    group, told, seen = provider.group(keys=20), [], []
    for _ in range(20):
        grant = provider.grant(group, told=told)
        told = [Report(group, grant, cause="invalid", scope="key")]
        seen.append(grant.key)
    assert seen == [*group.keys]
    assert provider.refusal(group, told=told).causes == (("invalid", None),)


@pytest.mark.parametrize(("cause", "scope"), [("invalid", "key"), ("billing", "group"), ("quota", "model")])
def test_people_enable_a_key_and_a_group_again(provider: Provider, cause: str, scope: str) -> None:
    group = provider.group()
    provider.tell(group, provider.grant(group), cause, scope)
    provider.refusal(group)
    provider.tell(group, Grant(0, 0, group.keys[0], 0, 0, ()), "enable")
    assert not provider.grant(group).probe


def test_time_that_is_set_back_an_hour_changes_nothing(provider: Provider) -> None:
    blocked, counted = provider.group("a"), provider.group("b", limits={"rpm": 60})
    provider.tell(blocked, provider.grant(blocked), "exhausted", wait=50)
    provider.works(counted)
    for _ in range(59):
        provider.grant(counted)
    provider.clock.advance(-3600)
    assert seconds(provider.refusal(blocked, ahead=0).wait) == 50
    assert seconds(provider.refusal(counted, ahead=0).wait) == 1
    provider.clock.advance("20 seconds")
    assert seconds(provider.refusal(blocked, ahead=0).wait) == 30
    assert [provider.acquire(counted, ahead=0).__class__ for _ in range(21)] == [Grant] * 20 + [NoGrant]


def test_fields_tell_the_limit_and_what_was_booked_since_comes_on_top(provider: Provider) -> None:
    group = provider.group()
    grants = [provider.grant(group, tokens=100) for _ in range(3)]
    provider.tell(group, grants[0], seen=[Seen(TPM, 1000, 900, 6 * SECOND)])
    (tokens,) = provider.view(group).dimensions
    assert (tokens.dimension, tokens.limit, tokens.learnt) == (TPM, 1000, False)
    assert tokens.remaining <= 700
    assert provider.refusal(group, tokens=1001).causes == (("too_large", None),)


def test_a_window_is_known_by_its_end_that_stands_still(provider: Provider) -> None:
    """In a bucket, units come back all the time; in a window, at its end."""
    for kind, free in (("window", 0), ("bucket", 30)):
        group, left = provider.group(kind), 60.0
        for second in range(30):
            grant = provider.grant(group)
            left -= 1 if kind == "window" else 0.5
            reset = 60 - second if kind == "window" else int(60 - left)
            provider.tell(group, grant, seen=[Seen(RPM, 60, int(left), reset * SECOND)])
            provider.clock.advance("1 second" if kind == "window" else "0.5 seconds")
        grants = 0
        while isinstance(provider.acquire(group, ahead=0), Grant):
            grants += 1
        assert abs(grants - (30 if kind == "window" else 45)) <= 2
        provider.clock.advance("25 seconds")
        assert (provider.acquire(group, ahead=0).__class__ is Grant) == bool(free)


def test_a_limit_that_is_told_nowhere_begins_with_the_rate_that_was_had(provider: Provider) -> None:
    group = provider.group()
    for second in range(30):
        for _ in range(4):
            grant = provider.grant(group)
        provider.tell(group, grant)
        provider.clock.advance("1 second" if second < 29 else "0 seconds")
    provider.tell(group, provider.grant(group), "exhausted")
    (requests,) = provider.view(group).dimensions
    assert requests.learnt
    assert requests.dimension == RPM
    assert 0.6 * 240 <= requests.limit <= 0.8 * 240
    provider.clock.advance("5 seconds")
    found = 0
    for _ in range(100):
        while isinstance(provider.acquire(group, ahead=0), Grant):
            found += 1
        provider.clock.advance("0.1 seconds")
    assert 24 <= found <= 36


def test_a_refusal_that_tells_of_room_caps_bursts(provider: Provider) -> None:
    group = provider.group()
    provider.works(group)
    grants = [provider.grant(group) for _ in range(20)]
    for grant in grants[:10]:
        provider.tell(group, grant, seen=[Seen(RPM, 600, 590, 1 * SECOND)])
    for grant in grants[10:]:
        provider.tell(group, grant, "exhausted", seen=[Seen(RPM, 600, 590, 1 * SECOND)])
    provider.clock.advance("60 seconds")
    burst = 0
    while isinstance(provider.acquire(group, ahead=0), Grant):
        burst += 1
    assert 3 <= burst <= 10


@pytest.mark.parametrize("seconds_later", ["0 seconds", "1 second"])
def test_a_burst_counts_although_all_of_it_is_answered(provider: Provider, seconds_later: str) -> None:
    group = provider.group()
    provider.works(group)
    for number in range(20):
        cause = "exhausted" if number == 19 else "ok"
        grant = provider.grant(group)
        if number == 19:
            provider.clock.advance(seconds_later)
        provider.tell(group, grant, cause, seen=[Seen(RPM, 600, 590, 1 * SECOND)])
    provider.clock.advance("60 seconds")
    burst = 0
    while isinstance(provider.acquire(group, ahead=0), Grant):
        burst += 1
    assert 3 <= burst <= 10


def test_a_request_that_was_not_sent_gives_its_units_back(provider: Provider) -> None:
    group = provider.group(limits={"rpm": 1})
    provider.tell(group, provider.grant(group), "unsent", "none")
    assert provider.grant(group).start == 0


def test_what_was_spent_in_the_end_counts_where_no_fields_tell(provider: Provider) -> None:
    group = provider.group(limits={"tpm": 1000})
    grant = provider.grant(group, tokens=1000)
    provider.tell(group, grant)
    provider.refusal(group, tokens=800)
    provider.tell(group, grant, "settled", "none", spent={"tokens": 200})
    assert provider.grant(group, tokens=800).start == 0


def test_what_is_configured_holds_if_it_is_lower_than_what_is_told(provider: Provider) -> None:
    group = provider.group(limits={"rpm": 10})
    for _ in range(10):
        grant = provider.grant(group, ahead=0)
        provider.tell(group, grant, seen=[Seen(RPM, 500, 499, 100_000)])
    provider.refusal(group, ahead=0)
    assert provider.view(group).dimensions[0].limit == 10


@pytest.mark.parametrize("odd", [Seen(RPM, -1, -1, 0), Seen(RPM, 0, 5), Seen(Dimension("tokens", 10**18), 5, 5)])
def test_fields_that_cannot_be_true_tell_nothing(provider: Provider, odd: Seen) -> None:
    group = provider.group()
    provider.tell(group, provider.grant(group), seen=[odd])
    assert provider.view(group).dimensions == ()


def test_a_state_of_a_later_version_is_left_alone(provider: Provider) -> None:
    group = provider.group()
    provider.store.table[group.state] = (b"\x02later", None)
    provider.store.table[marks_key(group.state)] = (b"\x02later", None)
    for _ in range(10):
        provider.tell(group, provider.grant(group), "invalid", "key")
    assert provider.store.value(group.state) == provider.store.value(marks_key(group.state)) == b"\x02later"
