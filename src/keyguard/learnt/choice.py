"""The choice of a group and a key: the first that has room, or will have in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keyguard.learnt.asked import Candidate, Grant, NoGrant
from keyguard.learnt.blocks import CAUSES, HOUR, LEASE, Block
from keyguard.learnt.group import Group
from keyguard.learnt.marks import Marks


class _Way(NamedTuple):
    """A way in which a group could be used."""

    start: int
    """The moment from which on it has room."""
    key: str
    probes: tuple[Block, ...]
    """The blocks of which this finds out whether they are over."""


class _NoWay(NamedTuple):
    cause: str
    over: int | None
    """Microseconds after which that is over."""
    wait: int | None
    """Microseconds after which somebody is let through."""


def choose(
    candidates: Sequence[Candidate],
    cost: tuple[tuple[str, int], ...],
    costs: Sequence[int],
    ahead: int,
    group_of: Callable[[Candidate], Group],
    marks: Marks,
    now: int,
) -> Grant | NoGrant:
    """Choose a group and a key, and book it."""
    best: tuple[int, Group, _Way] | None = None
    none: list[_NoWay] = []
    for place, candidate in enumerate(candidates):
        if best is not None and candidate.rank > candidates[best[0]].rank:
            break
        group = group_of(candidate)
        way = _look(candidate, group, costs, ahead, marks, now)
        if isinstance(way, _NoWay):
            none.append(way)
        elif best is None or way.start < best[2].start:
            best = (place, group, way)
            if way.start <= now:
                break
    if best is None:
        waits = [way.wait for way in none if way.wait is not None]
        return NoGrant(now, min(waits, default=None), tuple([(way.cause, way.over) for way in none]))
    place, group, (start, key, probes) = best
    group.come_to(now)
    group.book(costs, start, now)
    for block in probes:
        block.probe = now + LEASE
        marks.changed = True
    return Grant(now, place, key, start - now, group.number, cost, bool(probes), tuple(group.booked))


def _look(
    candidate: Candidate, group: Group, costs: Sequence[int], ahead: int, marks: Marks, now: int
) -> _Way | _NoWay:
    probes: list[Block] = []
    wait, cause, over = 0, "", None
    for block in (group.block, marks.of(candidate.group)) if marks.blocks else (group.block,):
        if block is None or block.until <= now:
            continue
        shut = block.wait(now)
        if shut < 0:
            probes.append(block)
        elif shut > wait:
            wait, cause, over = shut, CAUSES[block.cause], block.ends_after(now)
    key, later = _key(candidate.keys, marks, probes, now)
    if key is None:
        if later is None:
            return _NoWay("invalid", None, None)
        if later > wait:
            wait, cause, over = later, "invalid", None
    start, may_wait, meter = group.start(costs, now + wait)
    if start < 0:
        return _NoWay("too_large", None, None)
    if key is None or wait:  # a key that is tried later has a wait
        return _NoWay(cause, None if over is None else max(over, start - now), start - now)
    if start > now and (probes or not may_wait or start > now + ahead):
        cause = "quota" if meter is not None and meter.period > HOUR else "exhausted"
        return _NoWay(cause, start - now, start - now)
    return _Way(start, key, tuple(probes))


def _key(keys: Sequence[str], marks: Marks, probes: list[Block], now: int) -> tuple[str | None, int | None]:
    """Return the first key that may be used; or else after how long one may be tried."""
    if not marks.blocks:
        return (keys[0], 0) if keys else (None, None)
    waits = []
    for key in keys:
        block = marks.of(key)
        wait = 0 if block is None else block.wait(now)
        if block is None or wait == 0:
            return key, 0
        if wait < 0:
            probes.append(block)
            return key, 0
        if block.probe < block.until or block.ends_after(now) is not None:
            waits.append(wait)
    return None, min(waits, default=None)
