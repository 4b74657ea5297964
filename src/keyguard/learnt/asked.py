"""Questions to the states of limit groups, their answers, and what is told of those later: plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keyguard.learnt.dimension import Dimension
from keyguard.learnt.seen import Seen


class Candidate(NamedTuple):
    """A limit group from which a request may be sent."""

    state: str
    """The key of its state: `group_key`."""
    keys: tuple[str, ...]
    """The digests of its keys, those that are tried first in front: `id_of`. No secret stands in a store."""
    limits: tuple[tuple[Dimension, int], ...] = ()
    """The limits that were configured; others are learnt."""
    rank: int = 0
    """Groups of a higher rank are chosen only if none of a lower one has room in time."""
    group: str = ""
    """The id of the group in all model classes, an `id_of`; if it is empty, no cause is about more than this class."""


class Grant(NamedTuple):
    """Leave to send one request with one key."""

    at: int
    """The store's time, in microseconds."""
    candidate: int
    """The place of the group among the candidates."""
    key: str
    start: int
    """Microseconds from `at` before which it must not be sent: room was booked ahead."""
    number: int
    """The number of this grant in its group; 0 for what is told of a group without a grant."""
    cost: tuple[tuple[str, int], ...]
    """The units that were booked, by unit."""
    probe: bool = False
    """Whether this is the one request that finds out whether a blocked group or key works again."""
    booked: tuple[int, ...] = ()
    """All that the group ever booked, this grant with it, by unit in the order of `UNITS`: what a later answer tells is
    as of its own grant."""


class NoGrant(NamedTuple):
    """No group has room in time."""

    at: int
    wait: int | None
    """Microseconds after which a lone caller is given a grant, be it as a probe; `None` if waiting does not help."""
    causes: tuple[tuple[str, int | None], ...]
    """Of each candidate: why, in the words of `UpstreamCause`, and microseconds after which that is over, `None` if
    nobody knows."""


class Report:
    """The outcome of a grant, to be learnt from."""

    __slots__ = ("candidate", "cause", "dimension", "grant", "scope", "seen", "spent", "wait")

    def __init__(
        self,
        candidate: Candidate,
        grant: Grant,
        *,
        cause: str = "ok",
        scope: str = "none",
        wait: int | None = None,
        seen: Sequence[Seen] = (),
        dimension: Dimension | None = None,
        spent: Mapping[str, int] | None = None,
    ) -> None:
        """`cause`, `scope`, `wait`, `seen` and `dimension` are those of a `Verdict`; `spent` are the units that the
        request cost in the end, if that is known.

        Three causes more: `unsent` for a request that was not sent, whose units come back; `settled` for a grant that
        was reported before, and of which `spent` is known now; `enable` for what people do: the key and the group of
        the grant are no longer blocked.
        """
        self.candidate = candidate
        self.grant = grant
        self.cause = cause
        self.scope = scope
        self.wait = wait
        self.seen = tuple(seen)
        self.dimension = dimension
        self.spent = spent
