"""The chart of a quota: what was spent since it was renewed, the limit, the present, and a forecast."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from markupsafe import Markup

from keyguard.dashboard.looks.formats import moment, number
from keyguard.dashboard.looks.limits import heading
from keyguard.dashboard.looks.scales import short, steps_up_to, ticks
from keyguard.dashboard.looks.svg import element, path, per_cent, stretched
from keyguard.dashboard.views import Forecast, Quota

HEIGHT = 194
"""Of the part with the lines, in pixels. The times stand below it."""
_WIDTH = 1000
_ROOM = 1.25
"""The highest line is this much above the limit, or more."""
_NARROW = 0.35
"""Words that end left of such a place would leave the chart on a telephone."""


def curve(of: Quota, now: datetime) -> Markup:
    """Return the chart as SVG."""
    return _Drawing(of, now).whole()


class _Drawing:
    def __init__(self, quota: Quota, now: datetime) -> None:
        self.quota, self.now = quota, now
        guesses = quota.forecast.points if quota.forecast else ()
        most = max([quota.limit.limit * _ROOM, quota.used, *[guess.high for guess in guesses]])
        self.lines = steps_up_to(most)
        self.top = self.lines[-1]

    def whole(self) -> Markup:
        forecast = self.quota.forecast
        return element(
            "svg",
            *self.axes(),
            stretched(self.areas(forecast), _WIDTH, HEIGHT),
            *self.limit(),
            *self.present(),
            *self.pin(),
            class_="chart",
            width="100%",
            height=HEIGHT + 26,
            role="img",
            aria_label=in_words(self.quota, self.now),
        )

    def axes(self) -> Iterator[Markup]:
        for value in self.lines:
            y = self.down(value)
            yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="base" if value == 0 else "line")
            yield element("text", short(value), x=-7, y=y + 4, class_="axis end")
        yield from axis_of_time(self.quota.begins, self.quota.ends)

    def areas(self, forecast: Forecast | None) -> Iterator[Markup]:
        spent = [(self.across(at) * _WIDTH, self.down(used)) for at, used in self.spent()]
        if not spent:
            return
        under = [(spent[0][0], HEIGHT), *spent, (spent[-1][0], HEIGHT)]
        yield element("path", d=path(under, closed=True), class_="area")
        if forecast and forecast.points:
            across = [self.across(guess.at) * _WIDTH for guess in forecast.points]
            low, likely, high = (
                [*zip(across, map(self.down, values), strict=True)]
                for values in zip(*[(guess.low, guess.likely, guess.high) for guess in forecast.points], strict=True)
            )
            yield element("path", d=path([spent[-1], *high, *reversed(low)], closed=True), class_="area")
            yield element("path", d=path([spent[-1], *likely]), class_="guess")
        yield element("path", d=path(spent), class_="spent")

    def limit(self) -> Iterator[Markup]:
        y = self.down(self.quota.limit.limit)
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="limit")
        yield element("text", f"limit {number(self.quota.limit.limit)}", x=4, y=y - 6, class_="axis bad")

    def present(self) -> Iterator[Markup]:
        place = self.across(self.now)
        if place >= 1:
            return
        x = per_cent(place)
        yield element("line", x1=x, x2=x, y1=0, y2=HEIGHT, class_="now")
        left = place > _NARROW
        words = f"now, {moment(self.now, self.now)}"
        yield element("text", words, x=x, y=HEIGHT - 8, dx=-5 if left else 5, class_="axis end" if left else "axis")

    def pin(self) -> Iterator[Markup]:
        """Mark where the limit is reached: it was, or it will be."""
        forecast = self.quota.forecast
        at = self.quota.used_up_at or (forecast.likely if forecast else None)
        if at is None or not self.quota.begins <= at <= self.quota.ends:
            return
        place, y = self.across(at), self.down(self.quota.limit.limit)
        if self.quota.used_up_at:
            left, words, below = place > 1 - _NARROW, f"used up {moment(at, self.now)}", 18
        else:
            left, words, below = place > _NARROW, f"about {moment(at, self.now)}", -7
        yield element("circle", cx=per_cent(place), cy=y, r=4.5, class_="pin")
        yield element(
            "text", words, x=per_cent(place), y=y + below, dx=-9 if left else 9, class_="axis bad" + " end" * left
        )

    def spent(self) -> Iterator[tuple[datetime, int]]:
        return ((point.at, point.used) for point in self.quota.points)

    def across(self, at: datetime) -> float:
        part = (at - self.quota.begins) / (self.quota.ends - self.quota.begins)
        return min(1.0, max(0.0, part))

    def down(self, used: float) -> float:
        return HEIGHT - HEIGHT * min(used, self.top) / self.top


def axis_of_time(begin: datetime, end: datetime, height: int = HEIGHT) -> Iterator[Markup]:
    """Return the times below a chart. Every other one is left out on a telephone."""
    for place, (part, words) in enumerate(ticks(begin, end)):
        side = "" if part < 0.01 else " end" if part > 0.98 else " middle"
        yield element(
            "text", words, x=per_cent(part), y=height + 22, class_="axis" + side + (" other" if place % 2 else "")
        )


def in_words(quota: Quota, now: datetime) -> str:
    """Return what the chart shows, for those who do not see it."""
    said = f"{heading(quota.limit)}: {number(quota.used)} of {number(quota.limit.limit)} used by {moment(now, now)}"
    if quota.used_up_at:
        return f"{said}; used up at {moment(quota.used_up_at, now)}."
    if quota.forecast and quota.forecast.likely:
        return f"{said}; it will be used up at about {moment(quota.forecast.likely, now)}."
    return f"{said}." if quota.forecast is None else f"{said}; it will not be used up before it is renewed."
