"""Learning about a group from the answers to its requests.

Rules:
- What the fields of an answer tell is as of the moment at which its own request was let go: what was booked since comes
  on top. Requests that are under way pass each other, so it tells no more than bounds; what we count ourselves stays as
  it is within them. If nothing else is under way they are one unit apart, since fields tell whole units.
- A request that was refused although there was room as far as we knew slows the pace down, once for all that were
  under way then. If its own fields say that there was room, a shorter window is told nowhere: then bursts are capped.
  If they say that there was none, requests may just have passed each other: the first time, what was lacking is kept
  free from then on, which costs nothing, and only the next one slows the pace down.
- A limit that is told nowhere begins at its first refusal, with the rate that was really had.
- A request that was let go before a block was known neither ends it nor makes it longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from keyguard.clock import SECOND
from keyguard.learnt.asked import Grant, Report
from keyguard.learnt.blocks import CAUSES, EXHAUSTED, HOUR, RAMP, Block
from keyguard.learnt.dimension import UNITS, Dimension, spent_of
from keyguard.learnt.group import UNIT_PLACES, Group
from keyguard.learnt.marks import Marks
from keyguard.learnt.meter import CONFIGURED, EVEN, LEARNT, MOST_UNITS, TOLD, WINDOW, Meter
from keyguard.learnt.seen import Seen

_UNITS = tuple(UNITS.values())
_MINUTE = Dimension("requests", 60 * SECOND)
_LATENCY = SECOND // 4
"""The time of an answer's way back that a window's end is put off by, at most."""
_LONGEST = 32 * 24 * HOUR
_WORKS = ("ok", "request")
"""Causes of answers that a key gives which works."""
_BLOCKING = {"exhausted", "quota", "ramp", "billing", "invalid", "unsupported"}


def costs_of(cost: Mapping[str, int]) -> tuple[int, ...]:
    """Return what a request costs, of each unit in the order of `UNITS`."""
    costs = [spent_of(cost, unit) for unit in _UNITS]
    if min(costs) < 0 or max(costs) > MOST_UNITS:
        costs = [max(0, min(units, MOST_UNITS)) for units in costs]
    return tuple(costs)


def learn(group: Group, marks: Marks, report: Report, now: int) -> None:
    """Learn from a report of a grant."""
    grant, cause = report.grant, report.cause
    costs = costs_of(dict(grant.cost))
    if cause == "enable":
        _enable(group, marks, report)
        return
    group.changed = True
    if cause == "settled":
        _settle(group, grant, costs, report.spent, now)
        return
    if grant.number:
        group.answered = min(group.answered + 1, group.number)
    if cause == "unsent":
        _undo(group, marks, report, costs, now)
        return
    if grant.number:
        for seen in report.seen:
            _correct(group, grant, seen, now)
        _settle(group, grant, costs, report.spent, now)
    if cause in _WORKS:
        for block in _blocks(group, marks, report):
            if block.open(grant.at, grant.probe):
                marks.changed = True
    elif cause in _BLOCKING:
        _refused(group, marks, report, costs, now)


def _blocks(group: Group, marks: Marks, report: Report) -> Sequence[Block]:
    """Return what may block the request of a report."""
    shared = [marks.of(report.candidate.group), marks.of(report.grant.key)]
    return [group.block, *[block for block in shared if block is not None]]


def _enable(group: Group, marks: Marks, report: Report) -> None:
    for block in _blocks(group, marks, report):
        if block.cause:
            block.clear()
            group.changed = marks.changed = True


def _undo(group: Group, marks: Marks, report: Report, costs: Sequence[int], now: int) -> None:
    grant = report.grant
    if grant.number:
        for place, units in enumerate(costs):
            group.booked[place] = max(0, group.booked[place] - units)
        for meter in group.meters:
            if costs[meter.unit]:
                meter.give_back(costs[meter.unit], grant.at, now)
    if grant.probe:
        for block in _blocks(group, marks, report):
            if block.cause and block.since <= grant.at:
                block.probe, marks.changed = min(block.probe, now), True


def _settle(group: Group, grant: Grant, costs: Sequence[int], spent: Mapping[str, int] | None, now: int) -> None:
    """Correct what was booked by what was spent, where no provider tells what it counts."""
    if not spent:
        return
    for meter in group.meters:
        unit = _UNITS[meter.unit]
        if meter.flags & TOLD or (unit not in spent and unit != "tokens"):
            continue
        booked, units = costs[meter.unit], costs_of(spent)[meter.unit]
        if units > booked:
            meter.book(units - booked, now, now)
        elif booked > units > 0:
            meter.give_back(booked - units, grant.at, now)


# -- what the fields tell ---------------------------------------------------------------------------------------------


def _correct(group: Group, grant: Grant, seen: Seen, now: int) -> None:
    meter = group.meter(seen.dimension)
    limit = seen.limit if seen.limit is not None and seen.limit > 0 else meter.told if meter else 0
    if not limit:
        return
    limit = min(limit, MOST_UNITS)
    new = meter is None or not meter.flags & TOLD or meter.told != limit
    if meter is None:
        meter = group.add(seen.dimension, TOLD, limit)
        if meter is None:
            return
    if new:
        # What was configured holds if it is lower.
        meter.limit = min(limit, meter.limit) if meter.flags & CONFIGURED else limit
        if meter.flags & LEARNT:
            meter.flags, meter.pace = meter.flags & ~LEARNT, EVEN
        meter.flags, meter.told = meter.flags | TOLD, limit
    if seen.remaining is None or seen.remaining < 0:
        return
    since = group.booked[meter.unit] - grant.booked[meter.unit] if len(grant.booked) == len(_UNITS) else 0
    if since < 0:
        since = 0  # the state is another one than that which gave the grant
    # Rounded up: what was given back is not booked any more, and those under way would count as none.
    passed = group.in_flight() * -(-group.booked[meter.unit] // max(1, group.number))
    sent = min(now, grant.at + grant.start)
    reset = seen.reset if seen.reset is not None and 0 <= seen.reset <= _LONGEST else None
    if reset is not None and grant.booked and meter.limit == meter.told:
        new = _tell_kind(meter, sent + reset, grant.booked[meter.unit] - passed, group.booked[meter.unit]) or new
    left = min(seen.remaining, meter.limit)
    if meter.is_window():
        _correct_window(meter, left, since, passed, sent, reset, now, new)
    else:
        _correct_bucket(meter, left, since, passed, sent, now, new)


def _correct_bucket(meter: Meter, left: int, since: int, passed: int, sent: int, now: int, new: bool) -> None:
    full = sent + meter.span(meter.limit - left)
    if since > meter.limit and not new:
        return
    low = full + meter.span(max(0, since - passed))
    high = max(full, now) + meter.span(since + passed + 1)
    if new and meter.limit == meter.told:
        meter.when = full + meter.span(since + passed)
    elif meter.when < low:
        meter.when = low
    elif meter.when > high and meter.limit == meter.told:
        meter.when = high


def _correct_window(
    meter: Meter, left: int, since: int, passed: int, sent: int, reset: int | None, now: int, new: bool
) -> None:
    used = meter.limit - left
    if reset is not None:
        end = sent + reset
        late = end + min(now - sent, _LATENCY)
        if new or end - meter.when > meter.period // 2:
            meter.when, meter.used = late, used + since
        elif meter.when - end > meter.period // 2:
            return  # that of a window before
        else:
            meter.when = min(max(meter.when, end), late)
    low, high = used + max(0, since - passed), used + since + passed
    if meter.used < low:
        meter.used = low
    elif meter.used > high and meter.limit == meter.told:
        meter.used = high


def _tell_kind(meter: Meter, end: int, least: int, most: int) -> bool:
    """Find out by two ends that were told whether it is a window: its end stands still although units were spent.

    `least` units were counted for sure when the answer was made, and `most` at most: requests pass each other, and in
    what is under way an end that stands still proves nothing. Return whether it is another kind than before.
    """
    if not meter.end_then or most < meter.booked_then:
        meter.end_then, meter.booked_then = end, most
        return False
    grown, moved = meter.span(max(0, least - meter.booked_then)), end - meter.end_then
    if grown < 3 * SECOND:
        return False
    window = moved >= -SECOND and 3 * moved < grown
    bucket = 3 * moved >= 2 * grown and moved < meter.period // 2
    if not window:
        meter.end_then, meter.booked_then = end, most
    if window == meter.is_window() or not (window or bucket):
        return False
    meter.flags ^= WINDOW
    return True


# -- refusals ---------------------------------------------------------------------------------------------------------


def _refused(group: Group, marks: Marks, report: Report, costs: Sequence[int], now: int) -> None:
    grant, cause, wait = report.grant, CAUSES.index(report.cause), report.wait
    told = [seen for seen in report.seen if (seen.remaining or 0) >= 0 and seen.remaining is not None]
    short = [seen for seen in told if (seen.remaining or 0) < costs[UNIT_PLACES[seen.dimension.unit]]]
    hidden = bool(told) and not short and cause == EXHAUSTED
    if cause in (EXHAUSTED, RAMP) and grant.number and grant.at > group.slowed:
        group.slowed = now
        _slow_down(group, report, costs, short, hidden, now)
    if cause == EXHAUSTED and wait is None:
        if short and any(group.meter(seen.dimension) for seen in short):
            return  # what is counted here says when there is room
        wait = SECOND if hidden else None
    block = _block_of(group, marks, report)
    if block is not None:
        block.close(cause, None if wait is None else max(0, wait), grant.at, grant.probe, now)


def _block_of(group: Group, marks: Marks, report: Report) -> Block | None:
    scope, candidate = report.scope, report.candidate
    if scope == "key" and report.cause in ("invalid", "billing", "unsupported"):
        return marks.made(report.grant.key)
    if scope == "group" and candidate.group:
        return marks.made(candidate.group)
    return group.block if scope in ("group", "model") else None


def _slow_down(
    group: Group, report: Report, costs: Sequence[int], short: Sequence[Seen], hidden: bool, now: int
) -> None:
    if hidden:
        meters = [m for m in group.meters if _UNITS[m.unit] == "requests"] or group.meters
        least = min(meters, key=lambda m: m.period, default=None)
        if least is not None:
            least.cap_burst(group.burst(least.unit), now)
        return
    if short:
        for seen in short:
            meter = group.meter(seen.dimension)
            if meter is not None and not meter.is_window() and meter.period <= HOUR:
                lacking = costs[meter.unit] - (seen.remaining or 0)
                if not meter.put_off(lacking, now):
                    meter.slow_down(now)
        return
    meter = group.meter(report.dimension) if report.dimension is not None else None
    meters = [meter] if meter is not None else [m for m in group.meters if m.period <= HOUR and not m.is_window()]
    if not meters:
        begun = _begin(group, report, now)
        meters = [begun] if begun is not None else []
    for meter in meters:
        if meter.flags & LEARNT:
            had = group.had(meter.unit, now)
            if meter.limit * meter.pace_at(now) // EVEN > 2 * had:
                meter.limit, meter.pace, meter.set_at = had, EVEN, now
        meter.slow_down(now)


def _begin(group: Group, report: Report, now: int) -> Meter | None:
    """Begin to learn a limit that is told nowhere."""
    dimension = report.dimension
    if dimension is None or dimension.period > HOUR:
        dimension = _MINUTE
    meter = group.add(dimension, LEARNT, group.had(UNIT_PLACES[dimension.unit], now))
    if meter is not None:
        meter.limit = min(MOST_UNITS, max(1, meter.limit * max(1, dimension.period // SECOND) // 60))
        meter.set_at, meter.paced = now, now
    return meter
