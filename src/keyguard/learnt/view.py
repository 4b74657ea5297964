"""A group's state, as it is shown to people."""

from __future__ import annotations

from typing import NamedTuple

from keyguard.learnt.asked import Candidate
from keyguard.learnt.blocks import CAUSES, Block
from keyguard.learnt.dimension import UNITS, Dimension
from keyguard.learnt.group import Group
from keyguard.learnt.marks import Marks
from keyguard.learnt.meter import EVEN, LEARNT

_UNITS = tuple(UNITS.values())


class BlockView(NamedTuple):
    """Why and since when a group or a key is left alone."""

    cause: str
    """A word of `UpstreamCause`; `ok` if it is not."""
    since: int | None = None
    until: int | None = None
    """The moment when it is over, in microseconds of the store's time; `None` if nobody knows."""
    probe: int | None = None
    """The moment from which on one request may find out; `None` if none may."""


class DimensionView(NamedTuple):
    """One limit, as far as it is known."""

    dimension: Dimension
    limit: int
    """The units of a whole period, as fast as they are sent now."""
    remaining: int
    learnt: bool
    """Whether nobody told it: not the provider, and not who configured the pool."""
    resets_at: int | None
    """The moment when all of it is free again, in microseconds; `None` if all of it is, or nobody knows."""
    room_at: int | None
    """The moment when there is room for one unit again, in microseconds; `None` if there is."""


class GroupView(NamedTuple):
    """One limit group, as far as it is known."""

    block: BlockView
    keys: dict[str, BlockView]
    """The keys of the candidate that are blocked, by their digests."""
    dimensions: tuple[DimensionView, ...]
    sent: int
    """The number of grants so far."""
    in_flight: int


def read_group(candidate: Candidate, data: bytes | None, marks: bytes | None, now: int) -> GroupView:
    """Return what is known of a group, out of the values under `candidate.state` and its `marks_key`."""
    group, shared = Group(data, now), Marks(marks, now)
    group.configure(candidate.limits)
    group.come_to(now)
    views = [_view(block, now) for block in (shared.of(candidate.group), group.block)]
    blocked = [view for view in views if view.cause != "ok"]
    keys = {key: _view(shared.of(key), now) for key in candidate.keys}
    return GroupView(
        blocked[0] if blocked else BlockView("ok"),
        {key: view for key, view in keys.items() if view.cause != "ok"},
        tuple(
            DimensionView(
                Dimension(_UNITS[meter.unit], meter.period),
                meter.limit * meter.pace_at(now) // EVEN if meter.flags & LEARNT else meter.limit,
                meter.remaining(now),
                bool(meter.flags & LEARNT),
                meter.when if meter.when > now and not (meter.flags & LEARNT) else None,
                room if (room := meter.start(1, now)) > now else None,
            )
            for meter in group.meters
        ),
        group.number,
        group.in_flight(),
    )


def _view(block: Block | None, now: int) -> BlockView:
    if block is None or block.until <= now:
        return BlockView("ok")
    until = None if block.ends_after(now) is None else block.until
    return BlockView(CAUSES[block.cause], block.since, until, block.probe if block.probe < block.until else None)
