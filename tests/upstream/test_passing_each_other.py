"""Requests of several processes pass each other on their way: what is learnt although answers tell of another order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from keyguard.clock import SECOND
from keyguard.learnt import Seen, dimension_of
from keyguard.ops import Grant
from tests.upstream.test_choices import Provider

RPM = dimension_of("rpm")


class Bucket(Provider):
    """A provider of sixty requests a minute, which come back evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.of = self.group()
        self.full_at = self.clock()

    def counts(self, grant: Grant) -> None:
        """Count a request, and tell its answer."""
        self.full_at = max(self.full_at, self.clock()) + SECOND
        self.tell(self.of, grant, seen=self.fields())

    def refuses(self, grant: Grant) -> None:
        self.tell(self.of, grant, "exhausted", wait=0, seen=self.fields())

    def fields(self) -> list[Seen]:
        reset = max(0, self.full_at - self.clock())
        return [Seen(RPM, 60, 60 - -(-reset // SECOND), reset)]

    def at_once(self) -> list[Grant]:
        """Return as many grants as there are to be had now."""
        found = []
        while isinstance(grant := self.acquire(self.of, ahead=0), Grant):
            found.append(grant)
        return found

    def had(self, seconds: int) -> int:
        """Return how many are granted in a time in which all ask that may."""
        found = 0
        for _ in range(10 * seconds):
            for grant in self.at_once():
                found += 1
                self.counts(grant)
            self.clock.advance("0.1 seconds")
        return found

    def grants(self, many: int) -> list[Grant]:
        return [self.grant(self.of, ahead=0) for _ in range(many)]


@pytest.fixture
def bucket() -> Bucket:
    bucket = Bucket()
    bucket.counts(bucket.grant(bucket.of))
    bucket.clock.advance("60 seconds")
    return bucket


def remaining(bucket: Bucket) -> int:
    (requests,) = bucket.view(bucket.of).dimensions
    return int(requests.remaining)


def test_those_that_are_under_way_count_although_another_was_given_back(bucket: Bucket) -> None:
    first, second, third, fourth = bucket.grants(4)
    bucket.tell(bucket.of, fourth, "unsent", "none")
    bucket.counts(third)
    assert remaining(bucket) <= 57, "the first two are still to be counted"
    bucket.counts(second)
    bucket.counts(first)
    assert 55 <= remaining(bucket) <= 57


ORDERS: dict[str, Callable[[list[Grant]], Iterable[Grant]]] = {
    "in turn": lambda grants: grants,
    "the last one first": reversed,
    "some are late": lambda grants: [*grants[5:], *reversed(grants[:5])],
}


@pytest.mark.parametrize("arriving", ORDERS)
def test_a_bucket_is_not_taken_for_a_window_in_whatever_order_they_arrive(bucket: Bucket, arriving: str) -> None:
    for _ in range(2):
        for grant in ORDERS[arriving](bucket.grants(20)):
            bucket.counts(grant)
        bucket.clock.advance("1 second")
        for grant in bucket.grants(1):
            bucket.counts(grant)
        bucket.clock.advance("10 seconds")
        (known,) = bucket.fields()
        assert abs(remaining(bucket) - (known.remaining or 0)) <= 1


def test_a_bucket_is_not_taken_for_a_window_since_most_were_refused(bucket: Bucket) -> None:
    for _ in range(3):
        for number, grant in enumerate(bucket.at_once()):
            (bucket.refuses if number else bucket.counts)(grant)
        bucket.clock.advance("1 second")
    bucket.clock.advance("50 seconds")
    assert remaining(bucket) >= 50


def test_one_that_came_a_moment_early_costs_no_pace_and_others_who_share_the_limit_do(bucket: Bucket) -> None:
    bucket.had(5)
    bucket.full_at += SECOND // 10
    (grant,) = bucket.grants(1)
    bucket.refuses(grant)
    assert 28 <= bucket.had(30) <= 30
    bucket.full_at += 2 * SECOND
    (grant,) = bucket.grants(1)
    bucket.refuses(grant)
    assert 18 <= bucket.had(30) <= 25


def test_one_that_came_early_long_after_another_costs_no_pace_either(bucket: Bucket) -> None:
    for _ in range(3):
        bucket.had(60)
        bucket.full_at += SECOND // 10
        (grant,) = bucket.grants(1)
        bucket.refuses(grant)
        assert 28 <= bucket.had(30) <= 30
        bucket.clock.advance("120 seconds")
