"""A miss or a validation: one request's way to the app, unless another request brings the answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from keyguard.errors import StoreError
from keyguard.guards.cache.coalescing import Coalescing, Served, flight_key
from keyguard.guards.cache.decorators import ask_app
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.flights import HIT_FOR_MISS, LANDED, LEFT, Flights
from keyguard.guards.cache.keeping import Keeping, Lookup
from keyguard.guards.cache.key import Key
from keyguard.guards.cache.policy import Use, may_serve_on_error, use
from keyguard.guards.cache.serving import NO_CONDITIONS, answer
from keyguard.guards.cache.shared import Found
from keyguard.guards.cache.stats import Explanation
from keyguard.guards.cache.storage import CacheStorage
from keyguard.guards.cache.storing import validators_of, wants_events
from keyguard.guards.cache.variants import variance_of
from keyguard.refusal import Cause
from keyguard.request import Forward
from keyguard.response import Response

log = logging.getLogger("keyguard")

_ERRORS = frozenset({500, 502, 503, 504})
_NOTHING: dict[str, None] = {}
_NO_CLIENT = dict.fromkeys(("if-none-match", "if-modified-since", "range", "if-range"))
"""Fields about a client's own copy: a request in the background has no client."""


class Miss:
    """A request that cannot be answered from the cache without asking the app."""

    def __init__(
        self, storage: CacheStorage, flights: Flights, patience: float, lookup: Lookup, forward: Forward
    ) -> None:
        self.storage = storage
        self.reader = storage.reader
        self.counts = storage.reports.counts
        self.lookup = lookup
        self.forward = forward
        self.coalescing = Coalescing(
            flights, storage.shared, self.counts, patience, lookup.request, lookup.target, self
        )
        self.keeping = Keeping(storage, lookup, self.coalescing)

    # -- who asks -------------------------------------------------------------------------------------------

    async def run(self) -> Response:
        """Return another request's answer, if one asks for the same already, else the app's."""
        lookup, coalescing = self.lookup, self.coalescing
        validators = self._validators()
        waits = (
            coalescing.patience > 0
            and lookup.asked.method == "GET"
            and lookup.asked.range is None
            and lookup.reason != "request"
            and not wants_events(lookup.request.header("accept"))
            and (bool(validators) or lookup.conditions is NO_CONDITIONS)
        )
        if waits:
            response = await coalescing.join(self._flight_key())
            if response is not None:
                return response
        try:
            if lookup.since:
                response = await coalescing.lease()
                if response is not None:
                    return response
                lookup.since = coalescing.since or lookup.since
            self.counts.misses += 1
            return await self._ask(validators)
        except BaseException:
            coalescing.end(LEFT)
            raise

    async def refresh(self, *, overdue: bool) -> Response:
        """Do the same in the background, unless another request asks already. No client gets the response.

        `overdue`: the request that asked before has not come back in the time that is set for it.
        """
        lookup, coalescing = self.lookup, self.coalescing
        assert lookup.entry is not None
        entry, nothing = lookup.entry, Response(204)
        if not coalescing.lead(self._flight_key(), overdue=overdue):
            return nothing
        try:
            if lookup.since:
                if not await coalescing.lease_at_once():
                    return nothing
                lookup.since = coalescing.since or lookup.since
            return await self._ask(self._validators(), _NO_CLIENT)
        except BaseException:
            coalescing.end(LEFT)
            raise
        finally:
            entry.refreshing_since = 0

    def _flight_key(self) -> Key:
        lookup, entry = self.lookup, self.lookup.entry
        names = self.storage.varies_by(lookup.target) if entry is None else [name for name, _ in entry.variance]
        credentials = self.reader.credentials_of(lookup.request) if lookup.asked.credentials else []
        return flight_key(lookup.target, credentials, variance_of(lookup.request, names))

    # -- another request's answer -----------------------------------------------------------------------------

    def from_entry(self, entry: Entry) -> Response | None:
        """Return the answer from an entry that another request has brought, if it suits this one."""
        request, reader = self.lookup.request, self.reader
        if entry.variance != variance_of(request, [name for name, _ in entry.variance]):
            return None
        # Asked again: guards further in look for credentials too, and the leader may only just have found out.
        if not (entry.open_to_credentials or reader.by) and reader.has_credentials(request):
            return None
        now = request.clock()
        if use(self.lookup.asked, entry, now, reader.settings) not in (Use.FRESH, Use.REFRESH):
            return None
        status = f"{reader.name}; hit; ttl={entry.ttl(now)}; collapsed"
        response = answer(request, entry, self.lookup.conditions, now, status)
        if response is not None:
            self.counts.hits += 1
            self.counts.collapsed += 1
        return response

    def from_local(self) -> Served | None:
        """Return the answer from an entry that has come into this process since this request looked."""
        lookup = self.lookup
        slot = self.storage.local.get(lookup.target.key)
        now = lookup.request.clock()
        for entry in () if slot is None else slot.entries:
            if entry.part is None and entry is not lookup.entry and not self.storage.old(entry, now):
                response = self.from_entry(entry)
                if response is not None:
                    return Served(entry, response)
        return None

    def from_found(self, found: Found) -> Served | None:
        """Return the answer from an entry that another process has stored meanwhile, if one suits."""
        lookup = self.lookup
        for entry in found.entries:
            known = lookup.entry is not None and entry.same_as(lookup.entry)
            response = None if known or entry.part is not None else self.from_entry(entry)
            if response is not None:
                self.storage.hold(lookup.request, lookup.target, entry, lookup.request.clock())
                return Served(entry, response)
        return None

    # -- asking the app ---------------------------------------------------------------------------------------

    def _validators(self) -> dict[str, str | None]:
        return validators_of(self.lookup.entry) if self.lookup.asked.method == "GET" else {}

    async def _ask(self, validators: dict[str, str | None], less: Mapping[str, None] = _NOTHING) -> Response:
        """Ask the app, less some of the request's fields, and make of its answer what the rules say."""
        lookup, coalescing, keeping = self.lookup, self.coalescing, self.keeping
        request = lookup.request
        if lookup.entry is not None and keeping.purged():  # while this request waited: it is not used for anything
            lookup.entry, less = None, _NO_CLIENT if validators else less
            validators = {}
        lookup.asked_at, lookup.moment = request.clock(), self.storage.purges.moment
        try:
            with request.changed({**less, **validators}, whole_body=True):
                response = await ask_app(request, self.forward)
        except Exception:
            coalescing.end(HIT_FOR_MISS)
            if request.reached_app:
                stale = await self._instead_of_error("the app failed")
                if stale is not None:
                    log.warning("the app failed; a stale response was served", exc_info=True)
                    return stale
            raise
        keeping.learn()
        refusal = request.state.refusal
        if refusal is not None:
            coalescing.end(HIT_FOR_MISS)
            what = self._failure(refusal.cause)
            if what is not None:
                stale = await self._instead_of_error(what, response.status)
                if stale is not None:
                    request.state.refusal = None
                    return stale
            response.headers.add("Cache-Status", f"{self.reader.name}; fwd={lookup.reason}")
            return response
        if response.status == 304 and validators and lookup.entry is not None:
            return await keeping.validated(response, lookup.entry)
        if response.status in _ERRORS:
            stale = await self._instead_of_error(f"the app answered {response.status}", response.status)
            if stale is not None:
                coalescing.end(HIT_FOR_MISS)
                return stale
        if lookup.asked.method == "HEAD":
            return await keeping.headed(response)
        return await keeping.store(response)

    def _failure(self, cause: Cause) -> str | None:
        """Return in which way the app has failed if its request was refused; `None` if the caller was refused."""
        if cause is Cause.UPSTREAM:
            return "the app's own upstream is used up"
        busy = cause is Cause.OVERLOAD and self.lookup.request.reached_app
        return "the app had too much to do" if busy else None

    async def _instead_of_error(self, what: str, status: int | None = None) -> Response | None:
        """Return the stale entry, if it may stand in for an app that failed (RFC 5861, section 4)."""
        lookup, entry = self.lookup, self.lookup.entry
        now = lookup.request.clock()
        if entry is None or not may_serve_on_error(entry, now) or self.keeping.purged():
            return None
        if self.storage.shared is not None and self.storage.old(entry, now):
            try:  # the app may have taken long to fail
                found = await self.storage.shared.look(lookup.request, lookup.target)
            except StoreError:
                self.counts.errors += 1
            else:
                newer = self.from_found(found)
                if newer is not None:
                    self.coalescing.end(LANDED, newer.entry)
                    return newer.response
                if not any(map(entry.same_as, found.entries)):
                    return None
        text = f"{self.reader.name}; hit; ttl={entry.ttl(now)}; fwd={lookup.reason}"
        if status is not None:
            text += f"; fwd-status={status}"
        response = answer(lookup.request, entry, lookup.conditions, now, text)
        if response is not None:
            self.counts.stale += 1
            self.keeping.note(Explanation(False, f"{what}; the stale entry was served", "RFC 5861, section 4"))
        return response
