"""Hits that only the head of a request decides: a fresh entry, answered at once, without asking any store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Literal, TypeAlias

from keyguard.clock import SECOND, Clock
from keyguard.guard import LONG, Long
from keyguard.guards.cache.entry import Entry, Ready
from keyguard.guards.cache.serving import whole_fields
from keyguard.guards.cache.settings import When
from keyguard.guards.cache.storage import CacheStorage
from keyguard.guards.cache.variants import MAX_VALUE, Chosen
from keyguard.http.callers import NAMELESS_KEYS, told_by_scope
from keyguard.request import SHARED_ASGI, CarriedRequest, veiled
from keyguard.response import Response

Messages: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

Instant: TypeAlias = "Callable[[MutableMapping[str, Any]], Messages | None]"
"""Asked with the scope of an HTTP request; answers with the messages of a hit, or `None`."""
Look: TypeAlias = "Callable[[MutableMapping[str, Any], Clock, bool], Ready | None]"
"""Asked with the scope of a GET, the clock, and whether the caller is known to be somebody."""
RawFields: TypeAlias = "Callable[[Iterable[tuple[str, str]]], list[Any]]"


class Hits:
    """The plain hits of a cache."""

    def __init__(self, storage: CacheStorage, when: When | None) -> None:
        self.storage = storage
        self.reader = storage.reader
        self.when: Callable[[CarriedRequest], Any] | None = when
        """A plain function: the stack does not ask here if it is async."""
        by_address = self.reader.by is None and not self.reader.settings.credentials
        self._look = self._looking() if by_address else None

    def find(self, request: CarriedRequest) -> Response | Literal[Long.LONG]:
        """Return the answer from a fresh entry, if nothing but the head of the request has to be looked at.

        This is what `ResponseCache` decides by, and the fast path of its `__call__`, with the same answers.
        """
        if request.method != "GET" or (self.when is not None and not self.when(request)):
            return LONG
        if self._look is not None and request.shared is SHARED_ASGI:
            identity = request.state.identity
            ready = self._look(request.scope, request.clock, identity is not None and identity.key_id != "")
            if ready is not None:
                return _answer(request, ready)
        reader, local = self.reader, self.storage.local
        credentials = reader.glance(request) if reader.by is None else None
        if credentials is not None:
            entry = local.plain.get(request.address())
            if entry is not None:
                if not entry.open_to_credentials:
                    identity = request.state.identity
                    if credentials or (identity is not None and not identity.anonymous):
                        return LONG
                return self.fresh(request, entry)
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
            return self.fresh(request, entry)
        return LONG

    def fresh(self, request: CarriedRequest, entry: Entry) -> Response | Literal[Long.LONG]:
        """Return all of a whole entry, if it is fresh and the store need not be asked."""
        now = request.clock()
        ready = entry.ready
        if ready is None or not ready[0] <= now < ready[1] or ready[2] is not request.shared:
            ready = self._prepare(entry, now, request.shared, request.raw_fields)
            if ready is None:
                return LONG
        self.storage.reports.counts.hits += 1
        return _answer(request, ready)

    def instant(self, clock: Clock) -> Instant | None:
        """Return what answers plain hits of a cache that stands outermost under ASGI, if their address is enough.

        No request is made for it: it answers with the server's messages, or with `None`.
        """
        look = self._look
        if look is None or self.when is not None:
            return None

        def messages(scope: MutableMapping[str, Any]) -> Messages | None:
            if scope["method"] != "GET" or SHARED_ASGI in scope:  # layers outside may know who asks
                return None
            ready = look(scope, clock, False)
            if ready is None:
                return None
            # A list of its own for each: what stands outside may change it.
            return (
                {"type": "http.response.start", "status": ready[4], "headers": ready[3].copy()},
                {"type": "http.response.body", "body": ready[5]},
            )

        return messages

    def _looking(self) -> Look:
        """Return the fast path of `find` for a GET under ASGI, with the same answers; `None` leaves it to `find`.

        All of it is one function, whose needs are its own variables: a call or a look-up of another object would be a
        tenth of its time.
        """
        storage, reader = self.storage, self.reader
        counts = storage.reports.counts

        def look(scope: MutableMapping[str, Any], clock: Clock, known: bool) -> Ready | None:
            plain, bearing, headers = reader.plain, reader.bearing, scope["headers"]
            if headers.__class__ is not list:  # it may be gone after one look
                return None
            host = None
            credentials = False
            for name, value in headers:
                if name not in plain:
                    if name == b"host" and host is None:
                        host = value
                    elif name in bearing and not credentials and len(value) <= MAX_VALUE:
                        credentials = True
                    else:  # nothing is known of it, or it came twice
                        return None
            query = scope.get("query_string")
            try:  # as `ASGIRequest.address` has it
                entry = storage.local.plain.get(
                    (
                        scope["path"],
                        query and veiled(query),
                        host,
                        scope["raw_path"],
                        scope["root_path"],
                        scope["scheme"],
                    )
                )
            except KeyError:  # a server that says less
                return None
            if entry is None or ((credentials or known) and not entry.open_to_credentials):
                return None
            if (scope.get("state") or scope.get("extensions") or not NAMELESS_KEYS.issuperset(scope)) and told_by_scope(
                scope
            ):
                return None
            now = clock()
            ready = entry.ready
            if ready is None or not ready[0] <= now < ready[1] or ready[2] is not SHARED_ASGI:
                ready = self._prepare(entry, now, SHARED_ASGI, _encoded)
                if ready is None:
                    return None
            counts.hits += 1
            return ready

        return look

    def _prepare(self, entry: Entry, now: int, world: str, raw_fields: RawFields) -> Ready | None:
        """Make an entry's head ready for as long as it stays the same: a second at most. `None` if it is not fresh."""
        storage = self.storage
        ttl = storage.fresh_for(entry, now)
        if ttl <= 0:
            return None
        age = entry.lifetime - ttl
        end = entry.received + (age - entry.age + 1) * SECOND
        if storage.shared is not None:
            end = min(end, entry.checked + storage.bounds.local_ttl)
        storage.local.touch(entry.key)  # once a second is often enough to tell what is in use
        fields = whole_fields(entry, age, f"{self.reader.name}; hit; ttl={ttl}")
        entry.ready = now, end, world, raw_fields(fields), entry.status, entry.body
        return entry.ready


def _answer(request: CarriedRequest, ready: Ready) -> Response:
    response = Response(ready[4], request.headers_of(ready[3]), ready[5])
    response.sized = request.state.cached = True
    return response


def _encoded(fields: Iterable[tuple[str, str]]) -> list[Any]:
    """Return fields as `raw_fields` of a request does under ASGI."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]
