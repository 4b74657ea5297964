"""Forecast and anomaly, with the ledger of usage behind them."""

from __future__ import annotations

import random

import pytest

from keyguard import Alerts, APIKeys, Keyguard, RateLimit, Usage, quota
from keyguard.alerts.anomaly import pace_of
from keyguard.alerts.forecast import HOUR, forecast
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_wsgi, wsgi_app

DAY = 24 * HOUR
BUSY = [0] * 8 + [10] * 10 + [0] * 6  # units of the hours of a day


def days(scale: float = 1, many: int = 7, last: int = 8) -> dict[int, float]:
    """What was used on the days before the eighth, and on that as far as its hours are given."""
    hours = {day * 24 + hour: float(units) for day in range(8 - many, 8) for hour, units in enumerate(BUSY)}
    return hours | {8 * 24 + hour: scale * units for hour, units in enumerate(BUSY[:last])}


def told(hour: float, used: float, limit: float, hours: dict[int, float]) -> object:
    now = 8 * DAY + int(hour * HOUR)
    found = forecast(hours, used=used, quota=limit, begin=8 * DAY, end=9 * DAY, now=now)
    return None if found is None else found.likely and round((found.likely - 8 * DAY) / HOUR, 1)


@pytest.mark.parametrize(
    ("hour", "used", "limit", "scale", "expected"),
    [
        (12, 40, 100, 1, 18),  # a day like the others: it is used up at its end
        (12, 40, 101, 1, None),  # or just not
        (12, 80, 100, 2, 13),  # twice as busy
        (12, 20, 60, 0.5, None),  # half as busy
        (1, 60, 100, 1, None),  # the first two hours say nothing
        (12, 20, 100, 1, None),  # nor does less than a quarter
        (12, 100, 100, 1, None),  # and then there is nothing left to say
        (20, 90, 100, 1, None),  # nobody calls in the evening
    ],
)
def test_a_day_goes_on_like_other_days_in_proportion(
    hour: float, used: float, limit: float, scale: float, expected: float | None
) -> None:
    assert told(hour, used, limit, days(scale, last=int(hour))) == expected


def test_a_range_goes_from_the_last_hour_to_the_whole_day() -> None:
    hours = days(1, last=13)
    hours[8 * 24 + 12] = 20  # the last hour was twice as busy
    found = forecast(hours, used=60, quota=100, begin=8 * DAY, end=9 * DAY, now=8 * DAY + 13 * HOUR)
    assert found is not None
    assert found.earliest is not None
    assert found.likely is not None
    assert found.earliest < found.likely
    assert found.latest is None or found.latest > found.likely
    assert found.method == "profile"


def test_with_less_than_three_days_it_is_the_trend() -> None:
    hours = {8 * 24 + hour: 10.0 * hour for hour in range(6)}
    found = forecast(hours, used=150, quota=300, begin=8 * DAY, end=9 * DAY, now=8 * DAY + 6 * HOUR)
    assert found is not None
    assert found.method == "trend"
    assert found.likely is not None
    assert 7.5 < (found.likely - 8 * DAY) / HOUR < 9


def test_a_month_is_foreseen_by_its_days() -> None:
    hours = {day * 24 + hour: float(units) for day in range(20) for hour, units in enumerate(BUSY)}
    spent = {"begin": 0, "end": 30 * DAY, "now": 20 * DAY}
    late = forecast(hours, used=2000, quota=2950, **spent)  # 100 a day
    assert late is not None
    assert late.likely is not None
    assert round(late.likely / DAY, 1) == 29.5
    never = forecast(hours, used=2000, quota=3050, **spent)
    assert never is not None
    assert never.likely is None


@pytest.mark.parametrize("seed", range(20))
def test_chance_is_no_anomaly(seed: int) -> None:
    """Minutes of callers with few and with many requests, which come independently of each other."""
    chance = random.Random(seed)
    rate = chance.choice([0.5, 3, 12, 60])

    def minute() -> int:
        return sum(chance.random() < rate / 600 for _ in range(600))

    minutes = [minute() for _ in range(150)]
    for end in range(40, 150):
        found = pace_of(minutes[:end])
        assert found is None or not found.strange, (rate, minutes[:end])


@pytest.mark.parametrize(
    ("usual", "last", "strange"),
    [(3, 8, False), (3, 30, True), (100, 160, False), (100, 250, True), (0, 9, False), (3000, 4500, False)],
)
def test_an_anomaly_is_far_from_the_usual(usual: int, last: int, strange: bool) -> None:
    found = pace_of([1, *[usual] * 100, last])
    assert found is not None
    assert found.strange is strange


def test_an_anomaly_does_not_become_the_usual_at_once() -> None:
    minutes = [20] * 60
    for _ in range(5):
        minutes.append(400)
        found = pace_of(minutes)
        assert found is not None
        assert found.strange


# -- with a stack -------------------------------------------------------------------------------------------------


class Shop:
    """A stack with a ledger, whose days go by."""

    def __init__(self, *guards: object) -> None:
        self.clock = ManualClock()
        self.clock.advance(f"{24 * 3600 - self.clock() // 1_000_000 % 86400} seconds")  # it is midnight
        self.told: list[str] = []
        alerts = Alerts(at=[100], to=[lambda message: self.told.append(f"{message.type}: {message.title}")])
        self.guard = Keyguard(
            APIKeys(),
            *guards,  # type: ignore[arg-type]
            store=MemoryStore(clock=self.clock),
            clock=self.clock,
            usage=Usage(every=2),
            alerts=alerts,
            name="shop",
        )
        self.app = self.guard.wsgi(wsgi_app)
        self.key = self.guard.keys.issue(owner="acme").key.reveal()

    def calls(self, many: int) -> None:
        for _ in range(many):
            ask_wsgi(self.app, Ask(headers=(("X-API-Key", self.key),)), lint=False)


def test_a_quota_that_will_not_last_is_told_hours_before() -> None:
    shop = Shop(RateLimit(quota("1000/day"), by="subject", cost=20, name="units"))
    for _ in range(4):
        for units in BUSY:  # 800 on each day
            shop.calls(units * 4 // 10)
            shop.clock.advance("1 hour")
    shop.told.clear()  # of the first days it knows no night
    for units in BUSY[:12]:  # and now twice as much
        for _ in range(4):
            shop.clock.advance("10 seconds")
            shop.calls(units * 2 // 10)
            shop.clock.advance("14 minutes 50 seconds")
    shop.clock.advance("10 seconds")
    (one,) = shop.told
    assert one.startswith("keyguard.limit.forecast: acme will use up units:1000/day at about ")
    alert = shop.guard.alerts.list()[0]
    assert alert.facts["method"] == "profile"
    assert "T13:" < str(alert.facts["likely"])[10:] < "T15:"


def test_far_more_requests_than_usual_are_told_of_once_and_then_that_it_is_over() -> None:
    shop = Shop()
    for _ in range(45):
        shop.calls(2)
        for _ in range(6):
            shop.clock.advance("10 seconds")
    assert shop.told == []
    for _ in range(2):
        shop.calls(40)
        for _ in range(6):
            shop.clock.advance("10 seconds")
    for _ in range(50):
        shop.clock.advance("10 seconds")
    assert sorted(shop.told) == [
        "keyguard.usage.anomaly.resolved: All callers together: as many requests as usual again",
        "keyguard.usage.anomaly.resolved: acme: as many requests as usual again",
        "keyguard.usage.anomaly: All callers together: far more requests than usual",
        "keyguard.usage.anomaly: acme: far more requests than usual",
    ]
