"""Snapshots of a pool, for people and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from keyguard.learnt import BlockView, Candidate, GroupView, marks_key, read_group
from keyguard.units import as_datetime
from keyguard.upstream.causes import UpstreamCause


class DimensionSnapshot(NamedTuple):
    """One limit of a group."""

    name: str
    """The short word for it, such as `tpm`."""
    limit: int
    remaining: int
    """The units that are left, as far as the pool knows."""
    learnt: bool
    """Whether nobody told it, and the pool has found it out."""
    resets_at: datetime | None
    """The moment at which all of it is free again; `None` if all of it is, or nobody knows."""
    room_at: datetime | None
    """The moment at which there is room for one unit again; `None` if there is."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self._asdict(), "resets_at": _text(self.resets_at), "room_at": _text(self.room_at)}


class KeySnapshot(NamedTuple):
    """One key."""

    id: str
    state: str
    """`ok`, `invalid`, or `blocked` for any other cause."""
    until: datetime | None
    """The moment at which it works again; `None` if it does, or nobody knows."""
    since: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self._asdict(), "until": _text(self.until), "since": _text(self.since)}


class GroupSnapshot(NamedTuple):
    """One limit group, in one class of models."""

    name: str
    model_class: str
    """The name or the glob of the models, `*` for all that are not named."""
    rank: int
    cause: UpstreamCause
    """`ok`, or why the group is left alone."""
    until: datetime | None
    """The moment at which it works again; `None` if it does, or nobody knows."""
    keys: tuple[KeySnapshot, ...]
    dimensions: tuple[DimensionSnapshot, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        told = self._asdict()
        told["cause"] = str(self.cause)
        told["until"] = _text(self.until)
        told["keys"] = [key.as_dict() for key in self.keys]
        told["dimensions"] = [one.as_dict() for one in self.dimensions]
        return told


class PoolSnapshot(NamedTuple):
    """A pool at one moment, as far as it is known."""

    name: str
    at: datetime
    groups: tuple[GroupSnapshot, ...]
    """Each group in each class of models, those of the lowest rank first."""
    waiting: int
    """The requests of this process that wait for room."""
    store_ok: bool
    """Whether the store answered; if not, this is what the process knows by itself."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        told = self._asdict()
        told["at"] = _text(self.at)
        told["groups"] = [group.as_dict() for group in self.groups]
        return told


class Shown(Protocol):
    """A pool, as far as a snapshot needs it."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def groups(self) -> Sequence[Any]:
        """The groups, each with `name`, `rank` and `keys`; keys have an `id`."""
        ...

    def candidate(self, model_class: str, group: Any, keys: Any, /) -> Candidate: ...
    def digest_of(self, key: Any, /) -> str: ...


def names_of(pool: Shown) -> list[str]:
    """Return the keys of all states of a pool."""
    states = [candidate.state for _, _, candidate in _candidates(pool)]
    return [marks_key(states[0]), *states]


def snapshot_of(
    pool: Shown, now: int, values: Sequence[bytes | None], *, waiting: int = 0, store_ok: bool = True
) -> PoolSnapshot:
    """Return the snapshot, out of the values under `names_of` the pool, as of a moment."""
    known = dict(zip(names_of(pool), values, strict=True))
    groups = [
        _group(pool, model_class, group, read_group(candidate, known[candidate.state], values[0], now))
        for model_class, group, candidate in _candidates(pool)
    ]
    groups.sort(key=lambda group: (group.rank, group.name, group.model_class))
    return PoolSnapshot(pool.name, as_datetime(now), tuple(groups), waiting, store_ok)


def _candidates(pool: Shown) -> list[tuple[str, Any, Candidate]]:
    return [
        (model_class, group, pool.candidate(model_class, group, group.keys))
        for model_class in pool.classes
        for group in pool.groups
    ]


def _group(pool: Shown, model_class: str, group: Any, view: GroupView) -> GroupSnapshot:
    keys = tuple([_key(key.id, view.keys.get(pool.digest_of(key))) for key in group.keys])
    dimensions = [
        DimensionSnapshot(
            str(one.dimension), one.limit, one.remaining, one.learnt, _moment(one.resets_at), _moment(one.room_at)
        )
        for one in view.dimensions
    ]
    cause = UpstreamCause(view.block.cause)
    return GroupSnapshot(group.name, model_class, group.rank, cause, _moment(view.block.until), keys, tuple(dimensions))


def _key(id: str, block: BlockView | None) -> KeySnapshot:
    if block is None:
        return KeySnapshot(id, "ok", None, None)
    state = "invalid" if block.cause == UpstreamCause.INVALID else "blocked"
    return KeySnapshot(id, state, _moment(block.until), _moment(block.since))


def _moment(at: int | None) -> datetime | None:
    return None if at is None else as_datetime(at)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
