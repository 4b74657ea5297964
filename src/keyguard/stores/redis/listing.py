"""The contents of the servers, for operators: listed by a client of redis-py's, never on a request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from redis.exceptions import ClusterCrossSlotError, MovedError, RedisClusterException, RedisError

from keyguard.clock import SECOND, Clock
from keyguard.errors import StoreError
from keyguard.stores.redis.names import Names
from keyguard.stores.redis.url import Servers


def listed(servers: Servers, names: Names, prefix: str, clock: Clock | None) -> list[tuple[str, bytes, int | None]]:
    """Return every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
    try:
        client = servers.client()
        try:
            return sorted(_walk(client, names, prefix, _now(client, servers) if clock is None else clock()))
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
    for name in set(client.scan_iter(match=names.pattern_of(prefix), count=1000)):
        if names.is_hash(name):
            entries = client.hgetall(name)
            entries.pop(b"!", None)
            pairs = zip(names.keys_of(name, entries), entries.values(), strict=True)
        else:
            entry = client.get(name)
            pairs = zip(names.keys_of(name, ()), [] if entry is None else [entry], strict=False)
        for key, entry in pairs:
            expiry = int.from_bytes(entry[:8], "little")
            if key.startswith(prefix) and (not expiry or expiry > now):
                yield key, entry[8:], expiry - now if expiry else None


def cleared(servers: Servers, names: Names) -> None:
    """Delete everything in a namespace."""
    client = servers.client()
    try:
        for name in client.scan_iter(match=names.pattern, count=1000):
            client.delete(name)
    finally:
        client.close()


def node_of_a_cluster(servers: Servers) -> StoreError:
    """Return the error of a server that is a node of a cluster, though the URL says nothing of one."""
    scheme = "rediss+cluster" if servers.secure else "redis+cluster"
    return StoreError(f"Redis: this server is a node of a cluster: write {scheme}:// in the store's URL")
