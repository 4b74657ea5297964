"""The flow of one request to a provider, from its first key to the answer that its caller gets.

Rules:
- A key is asked for in one trip, and what the last answer told goes along with it: a rotation is one trip.
- What an answer means decides what follows. No key is sent a request twice unless the answer, or the state that it was
  learnt into, says that it works again.
- What may have run at the provider is not sent again: after a 5xx only if that was asked for, after a connection that
  failed then never. No more is a body that is made while it is sent.
- All waiting is within the request's own time, and in line with the others of this process (`booking.py`).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.learnt import NoGrant
from keyguard.upstream.answers import Answer, Asked, Result, UpstreamOutcome
from keyguard.upstream.booking import Booking, why
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.giving_up import LASTING, fields_of, synthetic
from keyguard.upstream.parts import Held, PoolParts
from keyguard.upstream.settling import Settle
from keyguard.upstream.steps import Discard, ReadBody, Send
from keyguard.upstream.told import EXHAUSTION_FIELD

Cause = UpstreamCause

_TRIES = 3
"""How often a request is sent at most while connections fail; and while the provider is overloaded."""
_UNREACHABLE = (SECOND // 2, 30 * SECOND)
_OVERLOAD = (SECOND // 5, 8 * SECOND)
"""The first and the longest pause, as `PoolParts.backoff` takes them."""


async def attempt(pool: PoolParts, asked: Asked) -> Result:
    """Send a request with the first key that has room, and go on until there is an answer for its caller."""
    course = _Course(pool, asked)
    try:
        result = await course.run()
        if course.last is not None and course.last.answer is not result.answer:
            await Discard(course.last.answer)
        return result
    finally:
        course.booking.end()


class _Refused(NamedTuple):
    """An answer that is an error, and what it means."""

    answer: Answer
    verdict: Verdict
    held: Held


class _Course:
    """The course of one request."""

    def __init__(self, pool: PoolParts, asked: Asked) -> None:
        self.pool = pool
        self.asked = asked
        self.booking = Booking(pool, asked)
        self.attempts = 0
        self.last: _Refused | None = None
        self.counts: Counter[UpstreamCause] = Counter()
        self.tried: set[str] = set()

    async def run(self) -> Result:
        while True:
            held = await self.booking.granted()
            if isinstance(held, NoGrant):
                return self.give_up(held)
            self.attempts += 1
            self.tried.add(held.key.id)
            self.booking.sent = True
            answer = await Send(held.key, self.attempts)
            if answer.error is not None:
                result = await self.failed(held, answer)
            elif answer.status < 400 and answer.event is None:
                result = self.succeeded(held, answer)
            else:
                result = await self.refused(held, answer)
            if result is not None:
                return result

    # -- what an answer means -----------------------------------------------------------------------------------

    def succeeded(self, held: Held, answer: Answer) -> Result:
        """Learn from the fields, and return the answer."""
        pool, booking = self.pool, self.booking
        verdict = pool.judge.answer(answer.status, answer.headers, b"", pool.clock(), self.asked.model)
        booking.learn(verdict._replace(cause=Cause.OK))
        settle = Settle(pool, held)
        return Result(answer, self.outcome(held, Cause.OK, None), settle=settle)

    async def failed(self, held: Held, answer: Answer) -> Result | None:
        """Try again if nothing was sent; else the caller gets the exception."""
        assert answer.error is not None
        if answer.error.sent:
            self.booking.learn(Verdict(Cause.SYSTEM, Scope.ENDPOINT))
            return Result(answer, self.outcome(held, Cause.SYSTEM, None))
        self.booking.give_back()
        if not self.may_go_on(Cause.UNREACHABLE) or not await self.backed_off(Cause.UNREACHABLE, _UNREACHABLE):
            return Result(answer, self.outcome(held, Cause.UNREACHABLE, None))
        return None

    async def refused(self, held: Held, answer: Answer) -> Result | None:
        """Learn what an error means, and go on where another key or a pause may help."""
        pool = self.pool
        if answer.event is not None:
            body = answer.event[1]
            verdict = pool.judge.event(*answer.event, pool.clock())
        else:
            body = await ReadBody(answer)
            verdict = pool.judge.answer(answer.status, answer.headers, body, pool.clock(), self.asked.model)
        if not verdict.known:
            kind = pool.judge.fingerprint(answer.status, body)
            pool.telling.unknown(f"{kind}, taken for {verdict.cause}", held.key.id, held.group)
        self.booking.learn(verdict)
        last, self.last = self.last, _Refused(answer, verdict, held)
        if last is not None:
            await Discard(last.answer)
        if verdict.cause in (Cause.REQUEST, Cause.OK) or (verdict.cause == Cause.SYSTEM and not pool.replay):
            return self.returned(self.last)
        if not self.asked.replayable:
            return self.returned(self.last, told=True)
        return await self.reaction(self.last)

    async def reaction(self, last: _Refused) -> Result | None:
        """Return what the caller gets, or `None` to ask for the next key."""
        booking, verdict, held = self.booking, last.verdict, last.held
        cause = verdict.cause
        if cause == Cause.BILLING or (cause == Cause.INVALID and verdict.scope == Scope.GROUP):
            booking.avoid(held.group)
        elif cause == Cause.INVALID:
            booking.avoided.add(held.key.id)
        elif cause == Cause.UNSUPPORTED:
            booking.avoided.add(held.key.id)
            if self.counts[cause]:
                return self.returned(last)
        elif cause == Cause.TOO_LARGE:
            self.avoid_not_larger(last)
            if all(key.id in booking.avoided for group in self.pool.groups for key in group.keys):
                return self.returned(last, (("x-should-retry", "false"),))
        if not self.may_go_on(cause):
            return self.give_up(None)
        if cause in (Cause.OVERLOAD, Cause.SYSTEM):
            booking.later.add(held.group)
            if len(self.tried) > 1:  # one other key at most: none of them is to blame
                others = [key.id for group in self.pool.groups for key in group.keys if key.id not in self.tried]
                booking.avoided.update(others)
            if not await self.backed_off(cause, _OVERLOAD, verdict.wait or 0):
                return self.give_up(None)
        return None

    def may_go_on(self, cause: UpstreamCause) -> bool:
        """Count what happened, and tell whether the request may be sent once more."""
        self.counts[cause] += 1
        most = {Cause.OVERLOAD: _TRIES, Cause.UNREACHABLE: _TRIES, Cause.SYSTEM: 2}.get(cause)
        return self.attempts < self.pool.max_attempts and (most is None or self.counts[cause] < most)

    async def backed_off(self, cause: UpstreamCause, bounds: tuple[int, int], least: int = 0) -> bool:
        """Pause, longer each time; return false at once if there is no time for it."""
        span = least + self.pool.backoff(*bounds, self.counts[cause])
        if span > self.booking.left():
            return False
        await self.booking.pause(span)
        return True

    def avoid_not_larger(self, last: _Refused) -> None:
        """Leave out the groups of which no larger limit is known than that for which the request is too large."""
        without, asked = self.pool.without_store, self.booking
        here = without.limits(last.held.candidate)
        asked.avoid(last.held.group)
        for group in self.pool.groups:
            known = without.limits(self.pool.candidate(asked.model_class, group, group.keys))
            of = [last.verdict.dimension] if last.verdict.dimension else [*here]
            if not any(one in here and known.get(one, 0) > here[one] for one in of):
                asked.avoid(group.name)

    # -- the end ------------------------------------------------------------------------------------------------

    def returned(self, last: _Refused, fields: tuple[tuple[str, str], ...] = (), *, told: bool = False) -> Result:
        """Return an error as it came; `told` if the caller is to be known as one that found no room."""
        cause, wait = last.verdict.cause, last.verdict.wait
        if told and cause != Cause.SYSTEM:
            fields = (*fields, (EXHAUSTION_FIELD, self.booking.tell_exhausted(cause, wait, self.attempts)))
        return Result(last.answer, self.outcome(last.held, cause, wait), fields=fields)

    def give_up(self, refused: NoGrant | None) -> Result:
        """Return the last answer if it says why, else one of the pool's own. `refused` is why no key has room."""
        last = self.last
        if last is not None and (refused is None or not refused.causes):  # no key is left that may be tried
            cause, wait = last.verdict.cause, last.verdict.wait
            if cause == Cause.UNSUPPORTED:  # it may be the caller who names no model that there is
                return self.returned(last)
        else:
            assert refused is not None
            cause, wait = why(refused)
        held = last.held if last else None
        outcome = self.outcome(held, cause, wait)
        id = self.booking.tell_exhausted(cause, wait, self.attempts)
        wait = None if cause in LASTING else wait
        if last is not None and last.verdict.cause == cause:
            return Result(last.answer, outcome, fields=fields_of(id, wait, last.answer))
        return Result(None, outcome, synthetic(id, cause, wait))

    def outcome(self, held: Held | None, cause: UpstreamCause, wait: int | None) -> UpstreamOutcome:
        key, group = (held.key.id, held.group) if held else (None, None)
        waited = self.booking.waited / SECOND
        return UpstreamOutcome(key, group, self.attempts, waited, cause, self.pool.moment(wait))
