"""Waiting for each other: of the requests that miss the same entry, in one process and in several, one asks the app.

Within a process that is a flight (`flights.py`). Across processes it is a lease in the shared store: the leader of each
process's flight tries to get it. A leader that does not get it looks every few milliseconds whether the entry has come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import NamedTuple, Protocol

from keyguard.clock import SECOND
from keyguard.digests import digest
from keyguard.errors import StoreError
from keyguard.flow import Signal, Wait
from keyguard.guards.cache.entry import Entry
from keyguard.guards.cache.flights import HIT_FOR_MISS, LANDED, LEFT, Flight, Flights
from keyguard.guards.cache.key import Key, Target
from keyguard.guards.cache.shared import Found, Shared, new_token
from keyguard.guards.cache.shared_ops import HIT_FOR_MISS as HIT_FOR_MISS_ELSEWHERE
from keyguard.guards.cache.stats import CacheCounts
from keyguard.guards.cache.variants import Variance
from keyguard.ops import Op
from keyguard.request import CarriedRequest
from keyguard.response import Response

_POLL = 0.015  # seconds between two looks for what another process asks for
_HIT_FOR_MISS_FOR = 60 * SECOND
_HIT_FOR_MISS_ELSEWHERE_FOR = 2 * SECOND


def flight_key(target: Target, credentials: Sequence[str], variance: Variance) -> Key:
    """Return what requests that may wait for one answer share: URI, credentials, values that it varied by last time."""
    values = [text for name, value in variance for text in (name, "-" if value is None else "+" + value)]
    return (*target.key, digest(credentials) if credentials else "", *values)


class Served(NamedTuple):
    """An entry that another request has brought, and the answer from it."""

    entry: Entry
    response: Response


class Follower(Protocol):
    """A request that may be answered with an entry that another one has brought."""

    def from_entry(self, entry: Entry) -> Response | None:
        """Return the answer from an entry, if it suits this request."""
        ...

    def from_local(self) -> Served | None:
        """Return the answer from an entry that has come into this process since the request looked."""
        ...

    def from_found(self, found: Found) -> Served | None:
        """Return the answer from an entry that has come into the shared store since then."""
        ...


class Coalescing:
    """One request's part in a flight, and in the lease if there is a shared store. It has none before `join`."""

    def __init__(
        self,
        flights: Flights,
        shared: Shared | None,
        counts: CacheCounts,
        patience: float,
        request: CarriedRequest,
        target: Target,
        follower: Follower,
    ) -> None:
        self.flights = flights
        self.shared = shared
        self.counts = counts
        self.patience = patience
        """Seconds that a request waits for another one; 0: it does not wait."""
        self.request = request
        self.target = target
        self.follower = follower
        self.key: Key = ()
        self.since = 0
        """The store's time when this request got the lease; 0 if it has not."""
        self._flight: Flight | None = None
        self._token: bytes | None = None
        self._in_vain = False
        """Whether it has waited for as long as is set: then it does not wait for other processes as well."""

    # -- within this process --------------------------------------------------------------------------------

    async def join(self, key: Key) -> Response | None:
        """Return another request's answer; `None` if this one asks the app, as the leader of a flight or alone."""
        self.key = key
        request, flights = self.request, self.flights
        if flights.is_hit_for_miss(key, request.clock()):
            return None
        deadline = request.clock() + round(self.patience * SECOND)
        while True:
            flight, leads = flights.join(key)
            if leads:
                self._lead(flight)
                return self._landed(self.follower.from_local())
            left = min((deadline - request.clock()) / SECOND, self.patience)  # the clock may have been set back
            if self._in_vain or left <= 0:
                return None
            if not await Wait(flight.signal, 0, left):
                # The leader's client may read a byte a minute, or its app never answer: later requests follow another.
                flights.end(key, flight, LEFT)
                self._in_vain = True
                continue
            if flight.state == HIT_FOR_MISS:
                return None
            if flight.state == LANDED and flight.entry is not None:
                return self.follower.from_entry(flight.entry)

    def lead(self, key: Key, *, overdue: bool) -> bool:
        """Lead the flight for a key. False if another request leads it, which is not waited for.

        `overdue`: the other one has not come back in the time that is set for it; its flight ends.
        """
        self.key = key
        flight, leads = self.flights.join(key)
        if overdue and not leads:
            self.flights.end(key, flight, LEFT)
            flight, leads = self.flights.join(key)
        if leads:
            self._lead(flight)
        return leads

    def _lead(self, flight: Flight) -> None:
        self._flight = flight
        self.request.at_end(self.over)  # whatever becomes of this request, the others do not wait for ever

    def over(self) -> Awaitable[None] | None:
        """Let the others go on, at the end of the request."""
        self.end(LEFT)
        return self.release() if self._token is not None else None

    def end(self, state: int, entry: Entry | None = None) -> None:
        """End the flight, if this request leads one."""
        if self._flight is not None:
            self.flights.end(self.key, self._flight, state, entry)

    def hit_for_miss(self) -> None:
        """Note that the next answers will not be worth waiting for either."""
        if self.key:
            self.flights.hit_for_miss(self.key, self.request.clock() + _HIT_FOR_MISS_FOR)

    async def disperse(self, *, lasting: bool) -> None:
        """Send all waiting requests to the app, in other processes too. `lasting`: for a while, the next ones too."""
        if lasting:
            self.hit_for_miss()
        self.end(HIT_FOR_MISS)
        await self.release(hit_for_miss=True)
        self.request.not_at_end(self.over)

    def land(self, entry: Entry) -> None:
        """End the flight with an entry that may be shared."""
        self.flights.coalesce_again(self.key)
        self.end(LANDED, entry)

    def _landed(self, served: Served | None) -> Response | None:
        if served is None:
            return None
        self.end(LANDED, served.entry)
        return served.response

    # -- across processes -----------------------------------------------------------------------------------

    async def lease(self) -> Response | None:
        """Become the one process that asks, or return the answer of the one that did. `None`: this one asks."""
        if self.shared is None or self._flight is None or self._in_vain:
            return None
        request = self.request
        looks = int(self.patience / _POLL)  # not a deadline: the clock may be set back
        never = Signal()
        waited = request.state.waited
        try:
            holder, found = await self._try_lease(self.shared)
            while True:
                response = self._landed(self.follower.from_found(found))
                if response is not None:
                    await self._hand_over(holder)
                    return response
                if holder is None:
                    self.since = found.since
                    return None
                if holder == HIT_FOR_MISS_ELSEWHERE:
                    self.flights.hit_for_miss(self.key, request.clock() + _HIT_FOR_MISS_ELSEWHERE_FOR)
                    self.end(HIT_FOR_MISS)
                    break
                looks -= 1
                if looks < 0:
                    break
                request.state.waited = waited  # it is the app that takes so long, in another process
                await Wait(never, 0, _POLL)
                holder, found = await self.shared.poll(request, self.target, digest(self.key))
                if holder is None:
                    holder, found = await self._try_lease(self.shared)
        except StoreError:
            self.counts.errors += 1
        self._token = None  # another process has the lease, or none has: this one asks all the same
        return None

    async def lease_at_once(self) -> bool:
        """Do the same without waiting. False if there is nothing left to ask: another process has asked, or asks."""
        if self.shared is None:
            return True
        try:
            holder, found = await self._try_lease(self.shared)
            if self._landed(self.follower.from_found(found)) is not None:
                await self._hand_over(holder)
                return False
            if holder is not None:
                self._token = None
                self.end(LEFT)
                return False
            self.since = found.since
        except StoreError:
            self._token = None
        return True

    async def _try_lease(self, shared: Shared) -> tuple[bytes | None, Found]:
        """Try to become the process that asks. Returns which is, `None` for this one, and what is stored by now."""
        if self._token is None:
            self._token = new_token()
        # Half of the time that others wait: if this process dies, they have the other half to follow it.
        return await shared.lease(self.request, self.target, digest(self.key), self._token, self.patience / 2)

    async def _hand_over(self, holder: bytes | None) -> None:
        """Give up the lease, if this request got it."""
        if holder is None:
            await self.release()
        self._token = None

    def releasing(self) -> list[Op[None]]:
        """Return what gives up the lease in the same trip in which the answer is stored; then call `released`."""
        if self._token is None or self.shared is None:
            return []
        return [self.shared.releasing(self.target, digest(self.key), self._token)]

    def released(self) -> None:
        """Forget the lease."""
        self._token = None

    async def release(self, *, hit_for_miss: bool = False) -> None:
        """Give up the lease. `hit_for_miss`: other processes do not wait for the next one either."""
        token, self._token = self._token, None
        if token is not None and self.shared is not None:
            try:
                await self.shared.release(self.target, digest(self.key), token, hit_for_miss=hit_for_miss)
            except StoreError:
                self.counts.errors += 1  # it expires
