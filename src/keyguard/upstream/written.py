"""What a pool writes down of itself in its store, for commands that know nothing but the store's URL.

It is JSON with a version, `1`, under `up:{pool}|=`: the groups, the ids and digests of their keys, and the limits that
were configured; no secret. A process writes it with the first reports that it sends, so no request waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.learnt import Candidate, Dimension, dimension_of, group_key, id_of, marks_key
from keyguard.ops import Put, Store
from keyguard.upstream.parts import OTHERS, PoolParts

_VERSION = 1
_LASTS = 90 * 86400 * SECOND
_NOTE = "="


class WrittenKey(NamedTuple):
    """A key of a pool, without its secret."""

    id: str
    digest: str


class WrittenGroup(NamedTuple):
    """The keys of one limit group."""

    name: str
    rank: int
    keys: tuple[WrittenKey, ...]
    limits: tuple[tuple[Dimension, int], ...]


class WrittenPool(NamedTuple):
    """A pool, as far as its store knows it."""

    name: str
    groups: tuple[WrittenGroup, ...]
    models: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The model classes, which have states of their own."""
        return (*self.models, OTHERS)

    def digest_of(self, key: WrittenKey) -> str:
        """Return what stands for a key in the store."""
        return key.digest

    def candidate(self, model_class: str, group: WrittenGroup, keys: Sequence[WrittenKey]) -> Candidate:
        """Return a group as operations name it, with some of its keys."""
        state = group_key(self.name, model_class, group.name)
        return Candidate(state, tuple([key.digest for key in keys]), group.limits, group.rank, id_of(group.name))


def writing(parts: PoolParts) -> Put:
    """Return the operation that writes a pool down."""
    groups = [
        {
            "name": group.name,
            "rank": group.rank,
            "keys": [{"id": key.id, "digest": parts.digest_of(key)} for key in group.keys],
            "limits": {str(dimension): limit for dimension, limit in group.limits},
        }
        for group in parts.groups
    ]
    told = {"v": _VERSION, "name": parts.name, "models": parts.models, "groups": groups}
    shared = marks_key(group_key(parts.name, OTHERS, parts.groups[0].name))
    return Put(f"{shared.partition('|')[0]}|{_NOTE}", json.dumps(told, separators=(",", ":")).encode(), _LASTS)


def read_pools(store: Store) -> list[WrittenPool]:
    """Return the pools that are written down in a store, by name.

    Raises `StoreError` if one cannot be read, or was written by a later keyguard.
    """
    found = [_read(value) for key, value in _notes(store)]
    return sorted(found, key=lambda pool: pool.name)


def _notes(store: Store) -> Iterable[tuple[str, bytes]]:
    return [(key, value) for key, value in store.scan("up:") if key.partition("|")[2] == _NOTE]


def _read(data: bytes) -> WrittenPool:
    try:
        told: dict[str, Any] = json.loads(data)
        if told["v"] != _VERSION:
            raise StoreError(f"a pool was written down by a later keyguard, in version {told['v']!r:.20}")
        groups = [
            WrittenGroup(
                str(one["name"]),
                int(one["rank"]),
                tuple([WrittenKey(str(key["id"]), str(key["digest"])) for key in one["keys"]]),
                tuple([(dimension_of(word), int(limit)) for word, limit in one["limits"].items()]),
            )
            for one in told["groups"]
        ]
        return WrittenPool(str(told["name"]), tuple(groups), tuple(map(str, told["models"])))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError("what a pool has written down is damaged: its app writes it anew when it starts") from error
