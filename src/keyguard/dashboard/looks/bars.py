"""The chart of requests over time: bars in six kinds, what was refused on top, the unfinished bar paler."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from markupsafe import Markup

from keyguard.dashboard.looks.curve import axis_of_time
from keyguard.dashboard.looks.formats import day, hour, number
from keyguard.dashboard.looks.scales import short, steps_up_to
from keyguard.dashboard.looks.svg import element, per_cent, stretched
from keyguard.dashboard.looks.words import SERIES, SERIES_OF, SPANS, Series
from keyguard.dashboard.views import Bucket, Requests

HEIGHT = 154
_SLOT = 100
_WIDE = 84
"""Of a slot of 100, a bar takes this much."""
_GAP = 1
"""The pixel between two kinds in a bar."""


class Bar(NamedTuple):
    """The requests of one span of time, by what charts show."""

    when: str
    counts: Mapping[Series, int]
    finished: bool


class Chart(NamedTuple):
    """All bars, and their sums."""

    bars: tuple[Bar, ...]
    totals: Mapping[Series, int]
    words: str
    """`the last 24 hours`."""
    drawing: Markup

    def rows(self) -> Markup:
        """Return the rows of the same as a table, the latest first."""
        return Markup("\n".join([_row(bar) for bar in reversed(self.bars)]))


def _row(of: Bar) -> str:
    cells = "".join([f'<td class="number">{number(count)}</td>' for count in of.counts.values()])
    return f'<tr><th scope="row">{of.when}{"" if of.finished else ", so far"}</th>{cells}</tr>'  # words of ours alone


def chart(of: Requests) -> Chart:
    """Return the chart of requests, which has one bucket or more, and the numbers of which it is made."""
    begin, end = of.buckets[0].at, of.buckets[-1].at + of.buckets[-1].span
    many = _midnight(begin) != _midnight(end)
    bars = tuple(Bar(when(bucket, many), _by_series(bucket.counts), bucket.finished) for bucket in of.buckets)
    totals: Mapping[Series, int] = {kind: sum(bar.counts[kind] for bar in bars) for kind in SERIES}
    words = SPANS[of.span][1]
    return Chart(bars, totals, words, _drawn(bars, begin, end, f"Requests in {words}: {in_words(totals)}."))


def when(of: Bucket, many: bool) -> str:
    """Return the span of a bar: `12:00 to 12:15`, with its day if there are many, or the day alone."""
    if of.span.days:
        return day(of.at)
    return f"{day(of.at) + ', ' if many else ''}{hour(of.at)} to {hour(of.at + of.span)}"


def in_words(counts: Mapping[Series, int]) -> str:
    """Return how many requests of each kind there were; kinds without any are left out."""
    return ", ".join(f"{number(counts[kind])} {SERIES[kind].lower()}" for kind in SERIES if counts[kind]) or "none"


def _by_series(counts: Mapping[str, int]) -> Mapping[Series, int]:
    found: dict[Series, int] = dict.fromkeys(SERIES, 0)
    for kind, count in counts.items():
        found[SERIES_OF.get(kind, "fault")] += count
    return found


def _drawn(bars: tuple[Bar, ...], begin: datetime, end: datetime, words: str) -> Markup:
    lines = steps_up_to(max(sum(bar.counts.values()) for bar in bars))
    return element(
        "svg",
        *_grid(lines),
        *axis_of_time(begin, end, HEIGHT),
        stretched(_columns(bars, lines[-1]), _SLOT * len(bars), HEIGHT),
        *_titles(bars),
        class_="chart",
        width="100%",
        height=HEIGHT + 26,
        role="img",
        aria_label=f"{words} The same stands in the table below.",
    )


def _midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def _grid(lines: list[int]) -> Iterator[Markup]:
    for value in lines:
        y = HEIGHT - HEIGHT * value / lines[-1]
        yield element("line", x1="0", x2="100%", y1=y, y2=y, class_="base" if value == 0 else "line")
        yield element("text", short(value), x=-7, y=y + 4, class_="axis end")


def _columns(bars: tuple[Bar, ...], top: int) -> Iterator[Markup]:
    """Return one path for each kind, and another one for its unfinished bars: a chart is some ten elements."""
    for finished in (True, False):
        drawn: dict[Series, list[str]] = {kind: [] for kind in SERIES}
        for place, bar in enumerate(bars):
            if bar.finished is finished:
                for kind, y, height in _stacked(bar, top):
                    x = place * _SLOT + (_SLOT - _WIDE) // 2
                    drawn[kind].append(f"M{x} {y:.1f}h{_WIDE}v{height:.1f}h-{_WIDE}z")
        for kind in SERIES:
            if drawn[kind]:
                yield element("path", d="".join(drawn[kind]), class_=kind if finished else f"{kind} unfinished")


def _stacked(bar: Bar, top: int) -> Iterator[tuple[Series, float, float]]:
    """Return where the kinds of a bar stand. What there is at all is at least a pixel high."""
    below = float(HEIGHT)
    for kind in SERIES:
        if count := bar.counts.get(kind, 0):
            height = max(HEIGHT * count / top, 1 + _GAP)
            below = max(0.0, below - height)
            yield kind, below, height - _GAP


def _titles(bars: tuple[Bar, ...]) -> Iterator[Markup]:
    width = per_cent(1 / len(bars))
    for place, bar in enumerate(bars):
        words = f"{bar.when}: {in_words(bar.counts)}{'' if bar.finished else ', so far'}"
        where = f'x="{per_cent(place / len(bars))}" y="0" width="{width}" height="{HEIGHT}"'
        yield Markup(f'<rect {where} class="over"><title>{words}</title></rect>')  # no word of anybody else's
