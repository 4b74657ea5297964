"""The line of requests that wait for room, and the order in which keys are preferred."""

from __future__ import annotations

from collections import Counter

import pytest

from keyguard.upstream.affinity import preferred
from keyguard.upstream.causes import UpstreamCause
from keyguard.upstream.queue import Place, Queue


def places(queue: Queue, *tickets: int) -> list[Place]:
    found = [queue.join(ticket) for ticket in tickets]
    assert None not in found
    return [place for place in found if place is not None]


def test_the_first_is_whoever_began_first_whenever_it_joined() -> None:
    queue = Queue(10)
    late, early, between = places(queue, 7, 2, 5)
    assert [queue.is_first(place) for place in (late, early, between)] == [False, True, False]
    queue.leave(early)
    assert queue.is_first(between)


def test_the_next_one_is_woken_when_the_first_leaves_and_nobody_else_is() -> None:
    queue = Queue(10)
    first, second, third = places(queue, 1, 2, 3)
    queue.leave(first)
    assert [place.signal.count for place in (second, third)] == [1, 0]
    queue.leave(third)
    assert second.signal.count == 1
    queue.leave(second)
    assert len(queue) == 0


def test_it_is_left_twice_without_harm() -> None:
    queue = Queue(10)
    first, second = places(queue, 1, 2)
    queue.leave(first)
    queue.leave(first)
    assert queue.is_first(second)
    assert second.signal.count == 1


def test_it_is_bounded() -> None:
    queue = Queue(2)
    first, _ = places(queue, 1, 2)
    assert queue.join(3) is None
    queue.leave(first)
    assert queue.join(3) is not None
    assert Queue(0).join(1) is None


def test_what_the_first_was_told_holds_until_it_leaves() -> None:
    queue = Queue(10)
    (first,) = places(queue, 1)
    queue.tell(123, UpstreamCause.QUOTA)
    assert queue.told == (123, UpstreamCause.QUOTA)
    queue.leave(first)
    assert queue.told[0] is None


NAMES = [f"key-{number}" for number in range(5)]


def order(text: str, names: list[str], weights: dict[str, float] | None = None) -> list[str]:
    return preferred(names, text, str, lambda name: (weights or {}).get(name, 1.0))


def test_requests_of_one_text_have_one_order() -> None:
    assert order("user", NAMES) == order("user", NAMES[::-1])
    assert sorted(order("user", NAMES)) == NAMES


def test_without_a_key_its_requests_move_and_no_others_do() -> None:
    for number in range(200):
        before = order(f"user {number}", NAMES)
        after = order(f"user {number}", [name for name in NAMES if name != before[0]])
        assert after == before[1:]


@pytest.mark.parametrize(("weights", "share"), [({}, 0.2), ({"key-0": 4.0}, 0.5)])
def test_shares_go_by_weight(weights: dict[str, float], share: float) -> None:
    firsts = Counter([order(f"user {number}", NAMES, weights)[0] for number in range(4000)])
    assert firsts["key-0"] / 4000 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("text", ["", "x" * 1000, "\udc80", "é" * 64])
def test_any_text_will_do(text: str) -> None:
    assert sorted(order(text, NAMES)) == NAMES
