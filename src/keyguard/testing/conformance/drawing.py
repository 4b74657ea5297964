"""Random operations of every kind, over few keys, so that they meet; and time that passes so that edges are met."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from keyguard.clock import SECOND
from keyguard.manual_clock import ManualClock
from keyguard.ops import (
    RECORD,
    SEALED,
    Authenticate,
    CompareAndSet,
    Demand,
    Op,
    Put,
    Read,
    ReadWithTime,
    Renew,
    Settle,
    Take,
    Taken,
)
from keyguard.rates import Limit, Slots, credits, quota, smooth, window
from keyguard.rates.limit import Taking
from keyguard.rates.strikes import Strikes
from keyguard.rates.window import WindowLog
from keyguard.testing.conformance.by_hand import drawn_by_hand
from keyguard.testing.conformance.cached import CACHED, CacheSteps
from keyguard.testing.conformance.reference import Reference

Draw: TypeAlias = Callable[[random.Random], Op[Any]]
"""Makes a random operation of a kind that is not keyguard's own."""


class Foreign(WindowLog):
    """A limit that no store knows a faster way for: each unit costs two."""

    __slots__ = ()

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        return super().take(state, now, 2 * cost)

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        return super().give_back(state, now, taken_at, 2 * cost)

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        return super().charge(state, now, 2 * cost)


LIMITS: tuple[Limit, ...] = (
    window(3, 10 * SECOND, "3/10 seconds"),
    window(40, 60 * SECOND, "40/minute"),
    window(100_000, 86400 * SECOND, "100000/day"),
    window(33, 100, "33/100 microseconds"),
    smooth("5/second", burst=4),
    smooth("70000/second", burst=3),
    smooth("7/hour"),
    Slots(4),
    Foreign(6, 30 * SECOND, "6/30 seconds"),
    Strikes(3, 10 * SECOND, "3 strikes in 10 seconds", 5 * SECOND, 30 * SECOND),
    Strikes(50, 60 * SECOND, "50 strikes in a minute", 20 * SECOND, 20 * SECOND),
    quota("9/hour", tz="Asia/Kolkata"),
    quota("300/day"),
    credits(30, refill=quota("8/hour")),
    credits(50),
)
"""Limits of every kind: both windows, even pacing in whole microseconds and in parts, slots, strikes, a foreign one,
quotas, and credits that an hour or nothing fills."""

EDITED: tuple[tuple[Limit, ...], ...] = (
    tuple(window(quota, 60 * SECOND, f"{quota}/minute") for quota in (40, 30, 3, 1000)),
    (smooth("5/second", burst=4), smooth("60000/second", burst=3), smooth("70000/second"), smooth("2/second", 9)),
    tuple(
        Strikes(quota, 10 * SECOND, f"{quota} strikes in 10 seconds", length * SECOND, 40 * SECOND)
        for quota, length in ((3, 5), (40, 1), (1, 10))
    ),
    (quota("40/hour"), quota("3/hour"), quota("40/hour", tz="Asia/Kolkata"), quota("9/hour", tz="Asia/Kathmandu")),
    (credits(30, refill=quota("30/hour")), credits(9), credits(40, refill=quota("5/hour", tz="Asia/Kathmandu"))),
)
"""Different limits under one name, as if one were edited all the time."""

_LONG = 3 * 3600 * SECOND
_FAR = 86400 * SECOND * 40
"""Steps in time and to edges are no longer, though a balance may live for 20 years: else the centuries would pass."""

_PLAIN = ("k|1", "k|2", "k|é", "k|login")
_VALUES = (None, b"", b"\0\xff", b"-", b"=", b"+", b"some text")


class Steps(CacheSteps):
    """Draws batches of operations, and lets time pass between them."""

    def __init__(
        self,
        seed: int,
        limits: Sequence[Limit],
        together: int,
        *,
        back: bool = True,
        edited: bool = False,
        ops: Sequence[Op[Any] | Draw] = (),
    ) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.limits = limits
        self.together = together
        """How many limits are taken from at once, at most."""
        self.set_back = back
        """Whether time is set back now and then."""
        self.edited = edited
        """Whether all limits are one, under one name."""
        self.ops = ops
        self.latest = 0
        self.taken: list[Taken] = []
        self.edges: list[tuple[int, Demand]] = []
        """Moments at which a limit has room, or a state of it expires."""
        self.due: Demand | None = None
        """The limit at an edge of which the clock stands."""
        self.values: dict[str, bytes | None] = {}
        self.reference: Reference | None = None
        self.queue: list[list[Op[Any]]] = []
        """Batches to run before time is set back: a store may still hold what has expired, or may have deleted it."""
        self.back_to = 0
        """To when time is set back after that; 0 for not at all."""
        self.again = 0
        """For how many batches more the same limit is asked: time was set back."""
        self.touched: list[str] = []
        """The plain keys of the latest operation."""
        own: list[tuple[int, Callable[[], Op[Any]]]] = [
            *((12, self.take), (6, self.back), (2, self.prolong), (2, self.adjust)),
            *((3, self.read), (2, self.commit), (3, self.put)),
            *((1, self.put_counter), (2, self.record), (4, self.login)),
            *((1, self.stamp), (1, self.ensure), (2, self.enlist), (1, self.purge), (1, self.renew_purges)),
            *((3, self.lease), (3, self.release), (1, self.alert), (1, self.remember)),
            *((1, self.choose), (1, self.report)),
            *([(4, self.users)] if ops else []),
        ]
        if edited:
            own = [(12, self.take), (5, self.back), (1, self.prolong), (2, self.adjust), (1, self.put_counter)]
        self._weights, self._draws = [weight for weight, _ in own], [draw for _, draw in own]

    def pass_time(self, clock: ManualClock, reference: Reference) -> None:
        """Mostly a little, sometimes much, often to an edge; now and then time is set back."""
        self.reference = reference
        kind, now = self.random.random(), clock()
        ends = [end for _, end in reference.table.values() if end is not None and end < now + _FAR]
        ahead = sorted([edge for edge in self.edges if now < edge[0] < now + _FAR], key=lambda edge: edge[0])
        if self.queue:
            return
        if self.back_to:
            clock.advance(timedelta(microseconds=self.back_to - now))
            self.back_to = 0
            if self.edges:
                self.due, self.again = self.random.choice(self.edges[-10:])[1], 4
            return
        if self.again:
            self.again -= 1
            kind = 0.2 * kind + 0.1  # a little
        else:
            self.due = None
        if kind < 0.2:
            span = 0
        elif kind < 0.4:
            span = self.random.randrange(60)
        elif kind < 0.55 and ahead:
            moment, self.due = self.random.choice(ahead[:8])
            span = moment - now + self.random.choice([-1, 0, 0, 1])
        elif kind < 0.6 and (later := sorted(end for end in ends if end > now)):
            span = self.random.choice(later[:6]) - now + self.random.choice([-1, 0, 0, 1])
        elif kind < 0.8:
            span = self.random.randrange(SECOND)
        elif kind < 0.95:
            span = self.random.randrange(min(_LONG, self.random.choice(self.limits).period // 8))
        elif kind < 0.97 or not self.set_back:
            span = self.random.randrange(90 * SECOND)
        else:
            span = 0
            self.back_to = now - self.random.choice(
                [1, self.random.randrange(1, 20), self.random.randrange(90 * SECOND)]
            )
            expired = [
                key for key, (_, end) in reference.table.items() if end is not None and self.back_to < end <= now
            ]
            if expired:
                self.queue = [
                    [Put(key, b"in its place", SECOND) for key in expired],
                    [Put(key, None) for key in expired],
                ]
        clock.advance(timedelta(microseconds=span))
        self.latest = max(self.latest, clock())

    def batch(self) -> list[Op[Any]]:
        """Draw one operation, or a few that go in one trip: each sees what those before it did."""
        if self.queue:
            return self.queue.pop(0)
        if self.touched and self.random.random() < 0.4:
            return [ReadWithTime(*self.touched)]
        batch: list[Op[Any]] = []
        if self.due is not None and self.random.random() < 0.9:
            due = self.due
            cost = self.random.choice([0, 1, 1, due.cost, due.limit.max_cost, self.room(due.key, due.limit)])
            if self.again and self.random.random() < 0.5:
                cost = 0
            batch = [Take([Demand(due.name, due.key, due.limit, cost)])]
        batch += [self.op() for _ in range(self.random.choice([1, 1, 1, 1, 2, 3]))]
        if self.random.random() < 0.1:
            batch.append(batch[0])
        return batch

    def op(self) -> Op[Any]:
        return self.random.choices(self._draws, self._weights)[0]()

    # -- limits -----------------------------------------------------------------------------------------------

    def take(self) -> Op[Any]:
        places = self.random.sample(range(len(self.limits)), self.random.randint(1, self.together))
        demands = [self.demand(place) for place in places]
        if self.random.random() < 0.4:
            demands = [self.leased(demand) for demand in demands]
        if not self.set_back and not all(map(_known, demands)):
            demands = demands[:1]  # it compensates for what it has a faster way for, alone
        return Take(demands)

    def demand(self, place: int) -> Demand:
        limit = self.limits[place]
        key = self.counter(place)
        left = self.room(key, limit)
        cost = self.random.choice([0, 1, 1, 1, 1, 1, 2, 5, left, left + 1, limit.max_cost, limit.max_cost + 1])
        if self.random.random() < 0.05:
            cost = 256 if limit.max_cost >= 1000 else 10**12
        return Demand(limit.text, key, limit, cost)

    def leased(self, demand: Demand) -> Demand:
        """Have the units held, or taken beside what is held, or as if nothing ever were."""
        lease = self.random.choice([0, 0, 0, 1, 40, self.random.randrange(1, SECOND), 5 * SECOND, 90 * SECOND])
        return Demand(demand.name, demand.key, demand.limit, demand.cost, lease, holds=self.random.random() < 0.8)

    def room(self, key: str, limit: Limit) -> int:
        """Count the units for which there is room now: to ask for just as many, and for one more."""
        reference = self.reference
        return 1 if reference is None else limit.take(reference.value(key), reference.clock(), 0)[2]

    def counter(self, place: int) -> str:
        limit = self.limits[place]
        return f"rl:{'edited' if self.edited else place}:{limit.code}|{self.random.choice('aaabc')}"

    def back(self) -> Op[Any]:
        if not self.taken:
            return self.take()
        taken = self.taken[-1] if self.random.random() < 0.5 else self.random.choice(self.taken)
        if self.random.random() < 0.5:
            return Settle(taken)  # all of it goes back
        return Settle(taken, [self.settled(demand) for demand in taken.demands])

    def prolong(self) -> Op[Any]:
        held = [taken for taken in self.taken if any(demand.lease for demand in taken.demands)]
        return Renew(self.random.choice(held)) if held else self.take()

    def settled(self, demand: Demand) -> int:
        """Draw what a demand costs in the end: less than was taken, as much, or more, up to far too much."""
        more = [demand.cost + 1, demand.limit.max_cost, 2 * demand.limit.max_cost, 10**12]
        return self.random.choice([0, demand.cost // 2, demand.cost, demand.cost, *more])

    def adjust(self) -> Op[Any]:
        return drawn_by_hand(self.random, self.limits, self.counter, _PLAIN[1])

    # -- plain values -----------------------------------------------------------------------------------------

    def read(self) -> Op[Any]:
        kind = ReadWithTime if self.random.random() < 0.3 else Read
        return kind(*self.random.sample([*_PLAIN, *CACHED, "missing|"], self.random.randint(1, 4)))

    def commit(self) -> Op[Any]:
        names = self.random.sample(_PLAIN[:3], self.random.randint(1, 3))
        right = self.random.random() < 0.7
        expected = {name: self.values.get(name) if right else b"something else" for name in names}
        written = names[: self.random.randint(0, 3)]
        return CompareAndSet(expected, {name: self.value() for name in written})

    def value(self) -> bytes | None:
        return self.random.choice([*_VALUES, self.random.randbytes(20)])

    def put(self) -> Op[Any]:
        key = self.random.choice([*_PLAIN[:3], "rc:mark|1", "rc:mark|2", "rc:index|1"])
        ttl = self.random.choice([None, 1, 999, self.random.randrange(1, 20 * SECOND)])
        known = self.values.get(key)
        return Put(key, self.random.choice([known, self.value()]), ttl, expected=self.expected(known))

    def expected(self, known: bytes | None) -> Any:
        return self.random.choice([..., ..., None, known, known, b"something else"])

    def put_counter(self) -> Op[Any]:
        """Copy a state, as `keyguard store copy` does."""
        place = self.random.randrange(len(self.limits))
        state, ttl, *_ = self.limits[place].take(None, self.latest, 1)
        if state is None:
            return self.read()
        return Put(self.counter(place), state, max(1, ttl), expected=self.random.choice([..., None, state]))

    # -- keys -------------------------------------------------------------------------------------------------

    def record(self) -> Op[Any]:
        """Draw records of every layout, kind, version and state, most of them in force."""
        version, flags = self.random.choice([0, 0, 7]), self.random.choice([0, 0, 0, 1])
        kind = self.random.choice([0, 1, 1, 2])
        since = self.latest + self.random.choice([-SECOND, 0, 1, SECOND])
        end = self.latest + self.random.choice([-1, 0, 1, 30 * SECOND, 30 * SECOND])
        digest = self.random.choice([b"d" * 32, b"e" * 32, bytes(32)])
        sealed = SEALED.pack(2, kind, flags, version, since, end, digest, bytes(32))
        record = self.random.choice([RECORD.pack(1, version, since, end, digest), sealed])
        end_of_text = self.random.choice([b"", b"{}", b"{}", None])
        return Put("k|login", record[:-1] if end_of_text is None else record + end_of_text)

    def login(self) -> Op[Any]:
        digest = self.random.choice([b"d" * 32, b"e" * 32, bytes(32)])
        places = self.random.sample([0, 1 << 16, 7, (1 << 16) + 7], self.random.randint(0, 2))
        guesses = [self.demand(self.random.randrange(len(self.limits)))] if self.random.random() < 0.8 else []
        if not self.set_back:
            guesses = [guess for guess in guesses if _known(guess)]
        return Authenticate("k|login", dict.fromkeys([0, 1 << 16, *places], digest), guesses)

    def users(self) -> Op[Any]:
        drawn = self.random.choice(self.ops)
        return drawn if isinstance(drawn, Op) else drawn(self.random)

    def saw(self, op: Op[Any], result: Any, reference: Reference) -> None:
        """Note what came of an operation, so that later ones are about it."""
        if isinstance(op, Take):
            self.taken = [*self.taken[-20:], result]
            told = [
                (result.at + moment, demand)
                for demand, taking in zip(op.demands, result.takings, strict=True)
                for moment in (taking[1], taking[3], taking[4])
                if moment > 0
            ]
            self.edges = [*self.edges[-30:], *told]
        self.chosen(op, result)
        self.touched = [key for key in op.keys if key in _PLAIN or key in CACHED]
        for key in self.touched:
            self.values[key] = reference.value(key)


def _known(demand: Demand) -> bool:
    """Tell whether it is of a kind of limit that stores may have a faster way for."""
    return demand.limit.script != ""
