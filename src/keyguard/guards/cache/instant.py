"""Plain hits in the form that an ASGI server takes, for a cache that stands outermost: no request is made of them.

It answers just what `ResponseCache.glance` would answer, and says nothing where that would need more than the address.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.clock import Clock
from keyguard.guards.cache.answers import whole_fields
from keyguard.request import SHARED

if TYPE_CHECKING:
    from keyguard.guards.cache.entry import Entry
    from keyguard.guards.cache.guard import ResponseCache

Messages: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

SECOND = 1_000_000


class Instant:
    """Asked with the scope of an HTTP request; answers with the messages of a hit, or `None`.

    All of it is one function: each call of another would be a tenth of its time.
    """

    __slots__ = ("_cache", "_clock")

    def __init__(self, cache: ResponseCache, clock: Clock) -> None:
        self._cache = cache
        self._clock = clock

    def __call__(self, scope: MutableMapping[str, Any]) -> Messages | None:
        headers = scope["headers"]
        fields = dict(headers)
        get = scope.get
        cache = self._cache
        # As `Request.address` has it.
        entry = cache.shelf.plain.get(
            (
                scope["path"],
                scope["query_string"],
                fields.get(b"host"),
                get("raw_path"),
                get("root_path"),
                get("scheme"),
            )
        )
        if (
            entry is None
            or scope["method"] != "GET"
            or len(fields) != len(headers)  # some field came twice
            or not cache.special.raw.isdisjoint(fields)
            or SHARED in scope  # layers outside may know who asks
        ):
            return None
        now = self._clock()
        held = now - entry.received
        age = entry.age + held // SECOND if held > 0 else entry.age
        ttl = entry.lifetime - age
        if ttl <= 0 or (cache.shared is not None and not 0 <= now - entry.checked < cache.local_ttl):
            return None
        cache.reports.counts.hits += 1
        built = entry.built
        if built is None or built[0] != age or built[2] is not Instant:
            cache.shelf.touch(entry.key)
            built = entry.built = (age, "", Instant, _raw(entry, age, f"{cache.name}; hit; ttl={ttl}"))
        # A list of its own for each: what stands outside may change it.
        head = {"type": "http.response.start", "status": entry.status, "headers": built[3].copy()}
        return head, {"type": "http.response.body", "body": entry.body}


def _raw(entry: Entry, age: int, status: str) -> list[tuple[bytes, bytes]]:
    fields = whole_fields(entry, age, status)
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
