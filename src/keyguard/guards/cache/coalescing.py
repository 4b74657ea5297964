"""Waiting for each other: of the requests that miss the same entry, in one process and in several, one asks the app.

In a process that is a flight (`flights.py`). Across processes it is a lease in the shared store: the leader of each
process's flight tries to get it, and who does not looks again every few milliseconds whether the entry has come.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from keyguard.errors import StoreError
from keyguard.flow import Signal, Wait
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.flights import APART, LANDED, LEFT, Flight
from keyguard.guards.cache.key import Key, Target, digest, flight_key, places_of, variance_of
from keyguard.guards.cache.policy import Asked, Use, use
from keyguard.guards.cache.serving import Conditions, answer
from keyguard.guards.cache.shared import Found, new_token
from keyguard.guards.cache.shared_ops import APART as OTHERS_APART
from keyguard.request import Forward, Request
from keyguard.response import Response

if TYPE_CHECKING:
    from keyguard.guards.cache.guard import ResponseCache

SECOND = 1_000_000

_POLL = 0.015  # seconds between two looks for what another process asks for
_APART_FOR = 2 * SECOND


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
        self.in_vain = False
        """Whether it has waited for as long as is set: then it does not wait for other processes as well."""
        self.asked_at = 0
        self.moment = cache.flights.moment
        """What has been purged after that is not stored."""

    async def join(self) -> Response | None:
        """Another request's answer, or `None` where this one has to ask: as the leader of a flight, or alone."""
        cache, request = self.cache, self.request
        deadline = request.now() + round(cache.coalesce * SECOND)
        while True:
            flight, leads = cache.flights.join(self.key)
            if leads:
                self.lead(flight)
                return self._just_landed()
            left = min((deadline - request.now()) / SECOND, cache.coalesce)  # the clock may have been set back
            if self.in_vain or left <= 0:
                return None
            if not await Wait(flight.signal, 0, left):
                # Its client may read a byte a minute, or its app never answer: whoever comes now waits for another.
                cache.flights.end(self.key, flight, LEFT)
                self.in_vain = True
                continue
            if flight.state == APART:
                return None
            if flight.state == LANDED and flight.entry is not None:
                return self._collapsed(flight.entry)

    def _just_landed(self) -> Response | None:
        """What another flight has brought since this request looked."""
        cache = self.cache
        slot = cache.shelf.get(self.target.key)
        now = self.request.now()
        for entry in () if slot is None else slot.entries:
            if (
                entry.part is None
                and entry is not self.entry
                and not (cache.shared is not None and cache.old(entry, now))
            ):
                response = self._collapsed(entry)
                if response is not None:
                    self.end(LANDED, entry)
                    return response
        return None

    def _collapsed(self, entry: Entry) -> Response | None:
        """The answer that another request brought, if it suits this one."""
        request = self.request
        if entry.variance != variance_of(request, [name for name, _ in entry.variance]):
            return None
        # Asked again: where guards further in look for them, the leader may only just have found out.
        if not (entry.open_to_credentials or self.cache.by) and self.cache.has_credentials(request):
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
        flight = digest(self.key)
        looks = int(cache.coalesce / _POLL)  # not a deadline: the clock may be set back
        never = Signal()
        waited = request.findings.waited
        try:
            holder, found = await self.try_lease()
            while True:
                response = self.brought(found)
                if response is not None:
                    await self.hand_over(holder)
                    return response
                if holder is None:
                    self.since = found.since
                    return None
                if holder == OTHERS_APART:
                    cache.flights.set_apart(self.key, request.now() + _APART_FOR)
                    self.end(APART)
                    break
                looks -= 1
                if looks < 0:
                    break
                request.findings.waited = waited  # it is the app that takes so long, in another process
                await Wait(never, 0, _POLL)
                holder, found = await shared.poll(request, self.target, flight)
                if holder is None:
                    holder, found = await self.try_lease()
        except StoreError:
            cache.reports.counts.errors += 1
        self.token = None  # another process has it, or nobody: this one asks all the same
        return None

    def brought(self, found: Found) -> Response | None:
        """The answer from what another process has stored meanwhile, if it suits."""
        before = self.entry
        for entry in found.entries:
            known = before is not None and entry.same_as(before)
            response = None if known or entry.part is not None else self._collapsed(entry)
            if response is not None:
                self.cache.hold(self.request, self.target, entry, self.request.now())
                self.end(LANDED, entry)
                return response
        return None

    async def hand_over(self, holder: bytes | None) -> None:
        """Have nothing more to do with the lease, if this one got it."""
        if holder is None:
            await self.release(apart=False)
        self.token = None

    async def try_lease(self) -> tuple[bytes | None, Found]:
        """Try to become the one that asks: who is, `None` for this one, and what is stored by now."""
        shared = self.cache.shared
        assert shared is not None
        if self.token is None:
            self.token = new_token()
        # Half of the time that others wait: where this process dies, they have the other half to follow it.
        return await shared.lease(self.request, self.target, digest(self.key), self.token, self.cache.coalesce / 2)

    async def keep(self, entry: Entry) -> bool:
        """Store an entry, and let go of the lease in the same trip. False where it was purged meanwhile."""
        if self._outdated():
            return False
        cache, token = self.cache, self.token
        also = []
        if token is not None and cache.shared is not None:
            also.append(cache.shared.releasing(self.target, digest(self.key), token))
        kept = await cache.keep(self.request, self.target, entry, self.asked_at, *also)
        if kept.told:
            self.token = None
        if not self._outdated():
            return not kept.void
        cache.shelf.drop(self.target.key, entry)  # while it was put there
        return False

    def _outdated(self) -> bool:
        """Whether something was purged in this process after the app was asked."""
        return self.cache.flights.outdated(places_of(self.target), self.moment)

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
