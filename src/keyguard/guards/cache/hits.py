"""Hits that only the head of a request decides: a fresh entry, answered at once, without asking any store."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TypeAlias

from keyguard.clock import SECOND, Clock
from keyguard.guard import LONG, Long
from keyguard.guards.cache.entry import Entry, Ready
from keyguard.guards.cache.serving import NO_CONDITIONS, answer, whole_fields
from keyguard.guards.cache.settings import When
from keyguard.guards.cache.storage import CacheStorage
from keyguard.guards.cache.variants import Chosen
from keyguard.http.callers import told_by_scope
from keyguard.request import SHARED_ASGI, Request, veiled
from keyguard.response import Response

Messages: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

Instant: TypeAlias = "Callable[[MutableMapping[str, Any]], Messages | None]"
"""Asked with the scope of an HTTP request; answers with the messages of a hit, or `None`."""


class Hits:
    """The plain hits of a cache."""

    def __init__(self, storage: CacheStorage, when: When | None) -> None:
        self.storage = storage
        self.reader = storage.reader
        self.when: Callable[[Request], Any] | None = when
        """A plain function: the stack does not ask here if it is async."""

    def find(self, request: Request) -> Response | Literal[Long.LONG]:
        """Return the answer from a fresh entry, if nothing but the head of the request has to be looked at.

        This is what `ResponseCache` decides by, and the fast path of its `__call__`, with the same answers.
        """
        if request.method != "GET" or (self.when is not None and not self.when(request)):
            return LONG
        reader, local = self.reader, self.storage.local
        credentials = reader.glance(request) if reader.by is None else None
        if credentials is not None:
            entry = local.plain.get(request.address())
            if entry is not None:
                if not entry.open_to_credentials:
                    identity = request.findings.identity
                    if credentials or (identity is not None and not identity.anonymous):
                        return LONG
                return self._fresh(request, entry)
            if not local.varied:
                return LONG
        if request.websocket or reader.takes_long_way(request):
            return LONG
        target = reader.target_of(request)
        slot = None if target is None else local.get(target.key)
        chosen = Chosen(request)
        for entry in () if slot is None else slot.entries:
            if not chosen.has(entry.variance):
                continue
            if not (reader.by or entry.open_to_credentials) and reader.has_credentials(request):
                return LONG
            return self._fresh(request, entry)
        return LONG

    def _fresh(self, request: Request, entry: Entry) -> Response | Literal[Long.LONG]:
        storage = self.storage
        now = request.now()
        ttl = storage.fresh_for(entry, now)
        if ttl <= 0:
            return LONG
        storage.reports.counts.hits += 1
        age = entry.lifetime - ttl
        if entry.built is None or entry.built[0] != age:
            storage.local.touch(entry.key)  # once a second is often enough to tell what is in use
        return answer(request, entry, NO_CONDITIONS, now, f"{self.reader.name}; hit; ttl={ttl}") or LONG

    @property
    def by_address(self) -> bool:
        """Whether a plain hit needs no more than the request's address."""
        return self.when is None and self.reader.by is None and not self.reader.settings.credentials

    def instant(self, clock: Clock) -> Instant:
        """Return the fast path of `find`, with the same answers, for a cache that stands outermost under ASGI.

        No request is made for it: it answers with the server's messages, or with `None` if that would need more than
        the address. All of it is one function, whose needs are its own variables: a call or a look-up of another object
        would be a tenth of its time.
        """
        storage, reader = self.storage, self.reader
        plain = storage.local.plain
        counts = storage.reports.counts

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
                or not reader.plain.issuperset(fields)
                or SHARED_ASGI in scope  # layers outside may know who asks
                or told_by_scope(scope)
            ):
                return None
            now = clock()
            ready = entry.ready
            if ready is None or not ready[0] <= now < ready[1]:
                ready = self._prepare(entry, now)
                if ready is None:
                    return None
            counts.hits += 1
            # A list of its own for each: what stands outside may change it.
            return (
                {"type": "http.response.start", "status": ready[2], "headers": ready[3].copy()},
                {"type": "http.response.body", "body": ready[4]},
            )

        return messages

    def _prepare(self, entry: Entry, now: int) -> Ready | None:
        """Make an entry's answer ready for as long as it stays the same: a second at most."""
        storage = self.storage
        ttl = storage.fresh_for(entry, now)
        if ttl <= 0:
            return None
        age = entry.lifetime - ttl
        begin, end = now, entry.received + (age - entry.age + 1) * SECOND
        if storage.shared is not None:
            end = min(end, entry.checked + storage.bounds.local_ttl)
        storage.local.touch(entry.key)  # once a second is often enough to tell what is in use
        status = f"{self.reader.name}; hit; ttl={ttl}"
        built = entry.built
        if built is not None and built[:2] == (age, status) and type(built[3][0][0]) is bytes:
            raw = built[3]
        else:
            fields = whole_fields(entry, age, status)
            raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
            entry.built = None
        entry.ready = begin, end, entry.status, raw, entry.body
        return entry.ready
