"""Plain hits in the form that an ASGI server takes, for a cache that stands outermost: no request is made of them.

It answers just what `ResponseCache.decider` would answer, and says nothing where that would need more than the address.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from keyguard.clock import Clock
from keyguard.guards.cache.entry import Ready
from keyguard.guards.cache.serving import whole_fields
from keyguard.http.callers import told_by_scope
from keyguard.request import SHARED_ASGI, veiled

if TYPE_CHECKING:
    from keyguard.guards.cache.entry import Entry
    from keyguard.guards.cache.storage import Holding

Messages: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

SECOND = 1_000_000


Instant: TypeAlias = "Callable[[MutableMapping[str, Any]], Messages | None]"
"""Asked with the scope of an HTTP request; answers with the messages of a hit, or `None`."""


def instant(cache: Holding, fresh_for: Callable[[Entry, int], int], clock: Clock) -> Instant:
    """The hits of a cache that belongs to its stack already.

    All of it is one function, and what it needs are its own variables: a call or a look-up of another object would be a
    tenth of its time.
    """
    plain = cache.shelf.plain
    counts = cache.reports.counts

    def messages(scope: MutableMapping[str, Any]) -> Messages | None:
        headers = scope["headers"]
        fields = dict(headers)
        query = scope.get("query_string")
        try:  # as `Request.address` has it
            entry = plain.get(
                (
                    scope["path"],
                    query and veiled(query),
                    fields.get(b"host"),
                    scope["raw_path"],
                    scope["root_path"],
                    scope["scheme"],
                )
            )
        except KeyError:  # a server that says less
            return None
        if (
            entry is None
            or scope["method"] != "GET"
            or len(fields) != len(headers)  # some field came twice
            or not cache.plain.issuperset(fields)
            or SHARED_ASGI in scope  # layers outside may know who asks
            or told_by_scope(scope)
        ):
            return None
        now = clock()
        ready = entry.ready
        if ready is None or not ready[0] <= now < ready[1]:
            ready = _prepare(cache, fresh_for, entry, now)
            if ready is None:
                return None
        counts.hits += 1
        # A list of its own for each: what stands outside may change it.
        return (
            {"type": "http.response.start", "status": ready[2], "headers": ready[3].copy()},
            {"type": "http.response.body", "body": ready[4]},
        )

    return messages


def _prepare(cache: Holding, fresh_for: Callable[[Entry, int], int], entry: Entry, now: int) -> Ready | None:
    """Make an entry's answer ready for as long as it stays the same: a second at most."""
    ttl = fresh_for(entry, now)
    if ttl <= 0:
        return None
    age = entry.lifetime - ttl
    begin, end = now, entry.received + (age - entry.age + 1) * SECOND
    if cache.shared is not None:
        end = min(end, entry.checked + cache.local_ttl)
    cache.shelf.touch(entry.key)  # once a second is often enough to tell what is in use
    status = f"{cache.name}; hit; ttl={ttl}"
    built = entry.built
    if built is not None and built[:2] == (age, status) and type(built[3][0][0]) is bytes:
        raw = built[3]
    else:
        fields = whole_fields(entry, age, status)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        entry.built = None
    entry.ready = begin, end, entry.status, raw, entry.body
    return entry.ready
