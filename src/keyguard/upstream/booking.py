"""Room for one request: asking for it, waiting for it, and telling what came of it.

Rules:
- Whatever ends a request, cancellation at any `await` too, `Booking.end` leaves nothing behind, and awaits nothing.
- A store that is out of order is gone on without. One that has too much to do is not: it counts for the others
  meanwhile, and what was booked here would come on top. It is asked again after a pause, longer each time, by the first
  in line alone, as long as the request may wait.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from keyguard.clock import SECOND
from keyguard.errors import StoreBusy, StoreError
from keyguard.flow import Wait
from keyguard.learnt import Candidate, Grant, NoGrant
from keyguard.logs import plain
from keyguard.ops.upstream import Acquire
from keyguard.upstream.answers import Asked
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.giving_up import LASTING
from keyguard.upstream.keys import Key
from keyguard.upstream.parts import Group, Held, PoolParts
from keyguard.upstream.queue import Place
from keyguard.upstream.steps import Pause
from keyguard.upstream.told import Exhaustion, tell

_LONG = 30 * SECOND
"""A group that has no room for so many microseconds is told of as used up, though no answer said so."""
_BUSY = (SECOND // 20, 2 * SECOND)
"""The shortest pause before a busy store is asked again, and the longest that is drawn on top of it."""
_NO_ROOM = frozenset({*LASTING, UpstreamCause.EXHAUSTED, UpstreamCause.QUOTA, UpstreamCause.RAMP})


class Booking:
    """The room of one request, from its beginning to its end."""

    def __init__(self, pool: PoolParts, asked: Asked) -> None:
        self.pool = pool
        self.asked = asked
        self.model_class = pool.class_of(asked.model)
        self.deadline = pool.clock() + max(0, round(asked.max_wait * SECOND))
        self.waited = 0
        """The microseconds that it has waited."""
        self.held: Held | None = None
        """The grant of which nothing has been told yet."""
        self.sent = False
        """Whether the request was sent with that grant."""
        self.avoided: set[str] = set()
        """The ids of keys that it is not sent with any more."""
        self.later: set[str] = set()
        """The groups that come last."""
        self._cost = {"requests": 1, **asked.cost}
        self._busy = 0
        """The number of times in a row that the store had too much to do."""
        self._queue = pool.queues[self.model_class]
        self._ticket = self._queue.ticket()
        self._place: Place | None = None

    def left(self) -> int:
        """Return the microseconds that it may still wait."""
        return self.deadline - self.pool.clock()

    async def pause(self, span: int) -> None:
        """Wait for so many microseconds."""
        self.waited += span
        await Pause(span / SECOND)

    def _candidates(self) -> list[tuple[Candidate, Group]]:
        """Return the groups from which it may be sent. If no key is known to fit the model, the provider says so."""
        pool, model = self.pool, self.asked.model

        def fits(group: Group, key: Key) -> bool:
            return key.id not in self.avoided and pool.pairs.fit(key.id, model)

        def may_be_tried(group: Group, key: Key) -> bool:
            return key.id not in self.avoided

        found = pool.preferred(self.model_class, self.asked.affinity, fits, self.later)
        return found or pool.preferred(self.model_class, self.asked.affinity, may_be_tried, self.later)

    def avoid(self, group: str) -> None:
        """Use no key of a group any more."""
        self.avoided.update([key.id for one in self.pool.groups if one.name == group for key in one.keys])

    # -- room -------------------------------------------------------------------------------------------------

    async def granted(self) -> Held | NoGrant:
        """Wait for a key that has room, until it may be sent with; or return why there is none in time."""
        while True:
            found = await self._in_line()
            self._leave(in_vain=isinstance(found, NoGrant))
            if isinstance(found, NoGrant) or not found.grant.start:
                return found
            began = self.pool.clock()
            await self.pause(found.grant.start)
            if not self.pool.refused_since(found, began):
                return found
            self.give_back()  # it would be refused as the others were that were sent meanwhile

    async def _in_line(self) -> Held | NoGrant:
        if len(self._queue) and (full := self._join()) is not None:
            return full
        while True:
            if self._place is not None and not await self._is_next(self._place):
                return self._as_first_knows()
            known = self._as_first_knows()
            if self._place is not None and known.wait:  # whoever was the first left in vain: nothing else has changed
                if known.wait > self.left():
                    return known
                await self.pause(known.wait)
            found = await self._asked()
            if isinstance(found, Held) or found.wait is None:
                return found
            cause, _ = why(found)
            if cause in LASTING:
                return found
            if found.wait > self.left():
                if self._place is not None:
                    self._queue.tell(self.pool.clock() + found.wait, cause)
                return found
            if self._place is None and self._join() is not None:
                return found
            if self._place is not None and self._queue.is_first(self._place):
                self._queue.tell(self.pool.clock() + found.wait, cause)
                await self.pause(found.wait)

    def _join(self) -> NoGrant | None:
        """Stand in line; return why not, if there is no place or the first will ask too late."""
        known = self._as_first_knows()
        if known.wait is not None and known.wait <= self.left():
            self._place = self._queue.join(self._ticket)
        return None if self._place is not None else known

    async def _is_next(self, place: Place) -> bool:
        """Wait for this one's turn to ask; return whether it has come in time."""
        began = self.pool.clock()
        try:
            while True:
                seen = place.signal.count
                if self._queue.is_first(place):
                    return True
                left = self.left()
                if left <= 0 or not await Wait(place.signal, seen, left / SECOND):
                    return self._queue.is_first(place)
        finally:
            self.waited += max(0, self.pool.clock() - began)

    def _as_first_knows(self) -> NoGrant:
        asks_at, why = self._queue.told
        wait = 0 if asks_at is None else max(0, asks_at - self.pool.clock())  # without that it is asking just now
        return NoGrant(self.pool.clock(), wait, ((why, wait),))

    def _leave(self, *, in_vain: bool = False) -> None:
        if self._place is not None:
            self._queue.leave(self._place, in_vain=in_vain)
            self._place = None

    async def _asked(self) -> Held | NoGrant:
        """Ask for room once, with what is to be learnt from before."""
        pool = self.pool
        found = self._candidates()
        if not found:
            return NoGrant(pool.clock(), None, ())
        candidates = [candidate for candidate, _ in found]
        ahead = max(0, min(SECOND, self.left()))
        granted, here = await self._acquired(candidates, ahead)
        if isinstance(granted, NoGrant):
            self._tell_of(granted, found)
            return granted
        candidate, group = found[granted.candidate]
        key = pool.key_of(granted.key)
        assert key is not None, "the store grants keys that it was offered"
        self.held = Held(granted, candidate, group.name, key, here)
        self.sent = False
        return self.held

    async def _acquired(self, candidates: list[Candidate], ahead: int) -> tuple[Grant | NoGrant, bool]:
        outbox = self.pool.outbox
        taken = outbox.take()
        answered = False
        try:
            granted = await Acquire(candidates, self._cost, ahead=ahead, reports=outbox.reports(taken))
            answered = True
        except StoreBusy:
            return self._no_turn(len(candidates)), False
        except StoreError as error:
            self._busy = 0
            self.pool.telling.begins("store.failed", "", detail=plain(error))
            return self.pool.without_store.acquire(candidates, self._cost, ahead), True
        finally:
            if not answered:
                outbox.put_back(taken)
        self._busy = 0
        self.pool.telling.ends("store.failed", "")
        return granted, False

    def _no_turn(self, candidates: int) -> NoGrant:
        """Return what stands for the answer of a store that has too much to do: nobody knows, ask again after that."""
        shortest, longest = _BUSY
        self._busy += 1
        wait = shortest + self.pool.backoff(shortest, longest, self._busy)
        return NoGrant(self.pool.clock(), wait, ((UpstreamCause.BUSY, wait),) * candidates)

    def _tell_of(self, refused: NoGrant, found: list[tuple[Candidate, Group]]) -> None:
        for (cause, wait), (_, group) in zip(refused.causes, found, strict=False):
            if wait is not None and wait > _LONG and cause in ("exhausted", "quota", "ramp"):
                name = f"{self.model_class}|{group.name}"
                until = self.pool.moment(wait)
                told = UpstreamCause(cause)
                self.pool.telling.begins("key.exhausted", name, group=group.name, cause=told, until=until)

    # -- what came of it ----------------------------------------------------------------------------------------

    def learn(self, verdict: Verdict, spent: Mapping[str, int] | None = None) -> None:
        """Tell what came of the grant that is held, and tell of it whoever listens."""
        held, self.held = self.held, None
        if held is None:
            return
        self.pool.learn(held, verdict, spent)
        self._tell(held, verdict)

    def _tell(self, held: Held, verdict: Verdict) -> None:
        if verdict.scope == Scope.PAIR:
            self.pool.pairs.remember(held.key.id, self.asked.model)
        telling, name, cause = self.pool.telling, f"{self.model_class}|{held.group}", verdict.cause
        key, group, until = held.key.id, held.group, self.pool.moment(verdict.wait)
        if cause == UpstreamCause.OK:
            telling.recovered(name, key, group)
            telling.ends("key.invalid", key)
            telling.ends("group.billing", group)
            telling.ends("pool.exhausted", self.model_class)
        elif cause in (UpstreamCause.EXHAUSTED, UpstreamCause.QUOTA, UpstreamCause.RAMP):
            telling.begins("key.exhausted", name, key=key, group=group, cause=cause, until=until)
        elif cause == UpstreamCause.INVALID:
            telling.begins("key.invalid", key, key=key, group=group, cause=cause, until=until)
        elif cause == UpstreamCause.BILLING:
            telling.begins("group.billing", group, key=key, group=group, cause=cause, until=until)

    def give_back(self) -> None:
        """Give back what the grant that is held has booked: the request was not sent."""
        held, self.held = self.held, None
        if held is not None:
            self.pool.unsent(held)

    def tell_exhausted(self, cause: UpstreamCause, wait: int | None, attempts: int) -> str:
        """Tell that the request is given up, and return the id of that."""
        id = secrets.token_hex(8)
        until = None if cause in LASTING else self.pool.moment(wait)
        tell(Exhaustion(self.pool.name, cause, until, attempts, id))
        if cause in _NO_ROOM:
            self.pool.telling.begins("pool.exhausted", self.model_class, cause=cause, until=until)
        return id

    def end(self) -> None:
        """Leave nothing behind: no place in line, and no grant of which nobody hears."""
        self._leave()
        if self.sent:
            self.learn(Verdict(UpstreamCause.SYSTEM, Scope.NONE))
        else:
            self.give_back()
        self.pool.hurry()


def why(refused: NoGrant) -> tuple[UpstreamCause, int | None]:
    """Return why there is no room, and microseconds after which there is: of the group that has some first."""
    causes = [(UpstreamCause(cause), over) for cause, over in refused.causes]
    passing = [(cause, refused.wait if over is None else over) for cause, over in causes if cause not in LASTING]
    ends = [(over, cause) for cause, over in passing if over is not None]
    if ends:
        over, cause = min(ends)
        # A group that works has no room either while it is not known how much it has.
        return UpstreamCause.EXHAUSTED if cause == UpstreamCause.OK else cause, over
    return causes[0] if causes else (UpstreamCause.EXHAUSTED, refused.wait)
