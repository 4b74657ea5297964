"""Keys by hand: for calls that no transport of ours makes.

with pool.acquire(model="m", cost={"requests": 1, "tokens": 900}) as grant:
    response = send(..., headers={"authorization": f"Bearer {grant.key.reveal()}"})
    grant.report(response.status, response.headers, response.body)
"""

from __future__ import annotations

from collections.abc import Mapping

from keyguard.clock import SECOND, whole_seconds
from keyguard.errors import KeyguardError
from keyguard.learnt import NoGrant
from keyguard.upstream.answers import Asked, Fields, UpstreamOutcome
from keyguard.upstream.booking import Booking, why
from keyguard.upstream.causes import UpstreamCause, Verdict
from keyguard.upstream.giving_up import LASTING
from keyguard.upstream.keys import Key
from keyguard.upstream.parts import PoolParts
from keyguard.upstream.told import EXHAUSTION_FIELD
from keyguard.upstream.transports.driving import Driven, afollow, follow

_MOST = 65536


class UpstreamExhausted(KeyguardError):
    """No key of the pool has room in time, or its store had too much to do to tell.

    `headers` has the fields by which `UpstreamCauses` knows it, and `retry-after` where waiting helps.
    """

    def __init__(self, outcome: UpstreamOutcome, headers: Mapping[str, str]) -> None:
        known = outcome.cause != UpstreamCause.BUSY
        super().__init__(f"{'no key has room' if known else 'nobody knows whether a key has room'}: {outcome.cause}")
        self.outcome = outcome
        self.headers = headers


class HandGrant:
    """Leave to send one request with `key`, until its block ends."""

    def __init__(self, pool: PoolParts, booking: Booking, key: Key, group: str, model: str) -> None:
        self._pool = pool
        self._booking = booking
        self._model = model
        self.key = key
        self.group = group
        self.waited = booking.waited / SECOND
        """The seconds that it was waited for."""

    def report(
        self,
        status: int,
        headers: Mapping[str, str] | Fields | None = None,
        body: bytes = b"",
        *,
        spent: Mapping[str, int] | None = None,
    ) -> Verdict:
        """Learn from an answer, and return what it means. The first report of a grant counts.

        `body` is that of an error, decoded; `spent` are the units that the request did cost, if they are known.
        """
        fields = AnyCase(headers or {})
        told = body[:_MOST] if status >= 400 else b""
        verdict = self._pool.judge.answer(status, fields, told, self._pool.clock(), self._model)
        if not verdict.known:
            self._pool.telling.unknown(self._pool.judge.fingerprint(status, told), self.key.id, self.group)
        self._booking.learn(verdict, spent)
        return verdict

    def give_back(self) -> None:
        """Tell that the request was not sent: it has cost nothing."""
        self._booking.give_back()


class AnyCase:
    """Header fields whose names are looked up in any case."""

    def __init__(self, fields: Mapping[str, str] | Fields) -> None:
        self._fields = fields
        self._known = {name.lower(): value for name, value in fields.items()} if isinstance(fields, Mapping) else None

    def get(self, name: str, /) -> str | None:
        """Return the value of a field, or `None`."""
        return self._fields.get(name) if self._known is None else self._known.get(name.lower())


class _Acquiring:
    """The common part of blocks and awaits: from the request for a key to its end."""

    def __init__(self, pool: Driven, asked: Asked) -> None:
        self._pool = pool
        self._asked = asked
        self._booking: Booking | None = None

    def _begin(self) -> Booking:
        self._booking = Booking(self._pool.parts, self._asked)
        return self._booking

    async def _granted(self, booking: Booking) -> HandGrant:
        """Wait for room: a flow."""
        try:
            held = await booking.granted()
            if isinstance(held, NoGrant):
                raise self._exhausted(booking, held)
        except BaseException:
            booking.end()
            raise
        booking.sent = True
        return HandGrant(self._pool.parts, booking, held.key, held.group, self._asked.model)

    def _exhausted(self, booking: Booking, refused: NoGrant) -> UpstreamExhausted:
        cause, over = why(refused)
        wait = None if cause in LASTING else over
        headers = {EXHAUSTION_FIELD: booking.tell_exhausted(cause, wait, 0)}
        if wait is not None:
            headers["retry-after"] = str(whole_seconds(wait))
        until = self._pool.parts.moment(over)
        outcome = UpstreamOutcome(None, None, 0, booking.waited / SECOND, cause, until)
        return UpstreamExhausted(outcome, headers)

    def _end(self) -> None:
        if self._booking is not None:
            self._booking.end()


class Acquiring(_Acquiring):
    """A block in a thread that has a key."""

    def __enter__(self) -> HandGrant:
        return follow(self._pool.place, self._granted(self._begin()))

    def __exit__(self, *exception: object) -> None:
        self._end()


class AsyncAcquiring(_Acquiring):
    """A block in an event loop that has a key."""

    async def __aenter__(self) -> HandGrant:
        return await afollow(self._pool.place, self._granted(self._begin()))

    async def __aexit__(self, *exception: object) -> None:
        self._end()
