"""Waiting for each other: of the requests that miss the same entry, in one process and in several, one asks the app.

In a process that is a flight (`flights.py`). Across processes it is a lease in the shared store: the leader of each
process's flight tries to get it, and who does not looks again every few milliseconds whether the entry has come.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from keyguard.errors import StoreError
from keyguard.flow import Signal, Wait
from keyguard.guards.cache.answers import Conditions, answer
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.flights import APART, LANDED, LEFT, Flight
from keyguard.guards.cache.keys import Key, Target, digest, flight_key, places_of, variance_of
from keyguard.guards.cache.policy import Asked, Use, use
from keyguard.guards.cache.shared import APART as OTHERS_APART
from keyguard.guards.cache.shared import new_token
from keyguard.request import Forward, Request
from keyguard.response import Response

if TYPE_CHECKING:
    from keyguard.guards.cache.guard import ResponseCache

SECOND = 1_000_000

_POLL = 0.015  # seconds between two looks for what another process asks for


class Joining:
    """A request that needs what is not stored, or not to be used as it is, and those that need the same."""

    def __init__(
        self,
        cache: ResponseCache,
        request: Request,
        forward: Forward,
        target: Target,
        asked: Asked,
        conditions: Conditions,
        entry: Entry | None,
        since: int,
        reason: str,
    ) -> None:
        self.cache = cache
        self.request = request
        self.forward = forward
        self.target = target
        self.asked = asked
        self.conditions = conditions
        self.entry = entry
        """What is stored and may not be used without asking the app; `None` for nothing."""
        self.since = since
        self.reason = reason
        """Why the app is asked, in the words of RFC 9211, section 2.2."""
        self.key: Key = ()
        self.flight: Flight | None = None
        self.token: bytes | None = None
        self.asked_at = 0

    async def join(self) -> Response | None:
        """Another request's answer, or `None` where this one has to ask: as the leader of a flight, or alone."""
        cache, request = self.cache, self.request
        deadline = request.now() + round(cache.coalesce * SECOND)
        while True:
            flight, leads = cache.flights.join(self.key, places_of(self.target))
            if leads:
                self.lead(flight)
                return None
            left = (deadline - request.now()) / SECOND
            if left <= 0 or not await Wait(flight.signal, 0, left):
                return None
            if flight.state == APART:
                return None
            if flight.state == LANDED and flight.entry is not None:
                return self._collapsed(flight.entry)

    def _collapsed(self, entry: Entry) -> Response | None:
        """The answer that another request brought, if it suits this one."""
        request = self.request
        if entry.variance != variance_of(request, [name for name, _ in entry.variance]):
            return None
        if self.asked.credentials and not (entry.open_to_credentials or self.cache.by):
            return None
        now = request.now()
        if use(self.asked, entry, now, self.cache.settings) not in (Use.FRESH, Use.REFRESH):
            return None
        status = f"{self.cache.name}; hit; ttl={entry.ttl(now)}; collapsed"
        response = answer(request, entry, self.conditions, now, status)
        if response is not None:
            self.cache.reports.counts.hits += 1
            self.cache.reports.counts.collapsed += 1
        return response

    def lead(self, flight: Flight) -> None:
        self.flight = flight
        self.request.at_end(self._over)  # whatever becomes of it, nobody waits for ever

    def _over(self) -> Awaitable[None] | None:
        self.end(LEFT)
        return self.release(apart=False) if self.token is not None else None

    def end(self, state: int, entry: Entry | None = None) -> None:
        if self.flight is not None:
            self.cache.flights.end(self.key, self.flight, state, entry)

    async def lease(self) -> Response | None:
        """Be the one process that asks, or wait for the one that does. `None`: this one asks."""
        cache, request = self.cache, self.request
        shared = cache.shared
        assert shared is not None
        self.token = new_token()
        deadline = request.now() + round(cache.coalesce * SECOND)
        never = Signal()
        try:
            while True:
                holder = await self.try_lease()
                if holder is None:
                    return None
                if holder == OTHERS_APART or request.now() >= deadline:
                    break
                await Wait(never, 0, _POLL)
                found = await shared.look(request, self.target)
                entry = next((entry for entry in found.entries if entry.part is None), None)
                if entry is not None and (self.entry is None or entry.received > self.entry.received):
                    response = self._collapsed(entry)
                    if response is not None:
                        cache.hold(request, self.target, entry, request.now())
                        self.token = None
                        self.end(LANDED, entry)
                        return response
        except StoreError:
            cache.reports.counts.errors += 1
        self.token = None  # another process has it, or nobody: this one asks all the same
        return None

    async def try_lease(self) -> bytes | None:
        shared = self.cache.shared
        assert shared is not None
        assert self.token is not None
        return await shared.lease(self.target, digest(self.key), self.token, self.cache.coalesce)

    async def release(self, *, apart: bool) -> None:
        token, self.token = self.token, None
        if token is not None and self.cache.shared is not None:
            try:
                await self.cache.shared.release(self.target, digest(self.key), token, apart=apart)
            except StoreError:
                self.cache.reports.counts.errors += 1  # it lapses

    def flight_key(self) -> Key:
        entry, cache = self.entry, self.cache
        names = cache.varies_by(self.target) if entry is None else [name for name, _ in entry.variance]
        credentials = cache.credentials_of(self.request) if self.asked.credentials else []
        return flight_key(self.target, credentials, variance_of(self.request, names))
