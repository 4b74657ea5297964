"""The contents of the servers, for operators: listed by a client of redis-py's, never on a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from redis.exceptions import ClusterCrossSlotError, MovedError, RedisClusterException, RedisError

from keyguard.clock import SECOND, Clock
from keyguard.errors import StoreError
from keyguard.stores.redis.names import Names
from keyguard.stores.redis.url import Servers

_ROUNDS = 300
"""So often the names of a server are asked for a page, `_COUNT` of them each time: it takes a fraction of a second."""
_COUNT = 1000
_TOGETHER = 100
"""Values that are asked for in one trip: a value may be large."""


def listed(servers: Servers, names: Names, prefix: str, clock: Clock | None) -> list[tuple[str, bytes, int | None]]:
    """Return every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
    with _asking(servers) as client:
        return sorted(_walk(client, names, prefix, _now(client, servers) if clock is None else clock()))


def some_listed(
    servers: Servers, names: Names, prefix: str, clock: Clock | None, most: int
) -> tuple[list[tuple[str, bytes]], bool]:
    """Return so many at most of the living values whose keys start with `prefix`, and whether these are all."""
    found: list[tuple[str, bytes]] = []
    with _asking(servers) as client:
        now = _now(client, servers) if clock is None else clock()
        listed, whole = _some_names(client, servers, names.pattern_of(prefix), most + 1)
        for place in range(0, len(listed), _COUNT):
            batch = listed[place : place + _COUNT]
            values = client.mget_nonatomic(batch) if servers.cluster else client.mget(batch)
            for name, entry in zip(batch, values, strict=True):
                (key,) = names.keys_of(name, ())
                expiry = 0 if entry is None else int.from_bytes(entry[:8], "little")
                if entry is not None and key.startswith(prefix) and (not expiry or expiry > now):
                    found.append((key, entry[8:]))
    return found[:most], whole and len(found) <= most


def _some_names(client: Any, servers: Servers, pattern: bytes, most: int) -> tuple[list[bytes], bool]:
    """Return so many names at most, and whether these are all. A server that holds many others is not asked for all."""
    if servers.cluster:
        walk = client.scan_iter(match=pattern, count=_COUNT)
        found = set(islice(walk, most + 1))
        return list(found)[:most], len(found) <= most
    names: set[bytes] = set()
    cursor = 0
    for _ in range(_ROUNDS):
        cursor, more = client.scan(cursor, match=pattern, count=_COUNT)
        names.update(more)
        if cursor == 0 or len(names) > most:
            break
    return list(names)[:most], cursor == 0 and len(names) <= most


@contextmanager
def _asking(servers: Servers) -> Iterator[Any]:
    try:
        client = servers.client()
        try:
            yield client
        finally:
            client.close()
    except (MovedError, ClusterCrossSlotError) as error:
        raise node_of_a_cluster(servers) from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise StoreError(f"Redis: {error}") from error


def _now(client: Any, servers: Servers) -> int:
    seconds, micros = client.time(**({"target_nodes": "random"} if servers.cluster else {}))
    return int(seconds) * SECOND + int(micros)


def _walk(client: Any, names: Names, prefix: str, now: int) -> Iterator[tuple[str, bytes, int | None]]:
    found = list(set(client.scan_iter(match=names.pattern_of(prefix), count=_COUNT)))
    for place in range(0, len(found), _TOGETHER):
        batch = found[place : place + _TOGETHER]
        asked = client.pipeline(transaction=False)
        for name in batch:
            (asked.hgetall if names.is_hash(name) else asked.get)(name)
        for name, held in zip(batch, _replies(asked), strict=True):
            if names.is_hash(name):
                entries = {field: entry for field, entry in held.items() if field != b"!"}
            else:
                entries = {} if held is None else {b"": held}
            for key, entry in zip(names.keys_of(name, entries), entries.values(), strict=False):
                expiry = int.from_bytes(entry[:8], "little")
                if key.startswith(prefix) and (not expiry or expiry > now):
                    yield key, entry[8:], expiry - now if expiry else None


def _replies(asked: Any) -> list[Any]:
    """Return the replies to what was asked together. Raises the first error as the server said it, without the name."""
    replies: list[Any] = asked.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def cleared(servers: Servers, names: Names) -> None:
    """Delete everything in a namespace."""
    client = servers.client()
    try:
        found = iter(client.scan_iter(match=names.pattern, count=_COUNT))
        while batch := list(islice(found, _COUNT)):
            asked = client.pipeline(transaction=False)
            for name in batch:
                asked.delete(name)
            _replies(asked)
    finally:
        client.close()


def node_of_a_cluster(servers: Servers) -> StoreError:
    """Return the error of a server that is a node of a cluster, though the URL says nothing of one."""
    scheme = "rediss+cluster" if servers.secure else "redis+cluster"
    return StoreError(f"Redis: this server is a node of a cluster: write {scheme}:// in the store's URL")
