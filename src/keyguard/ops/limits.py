"""Operations on limits: taking from several at once, and settling what it costs in the end."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

from keyguard.clock import SECOND
from keyguard.flow import Step
from keyguard.ops.holds import HELD_WAIT, NO_ROOM, Holds, ask, held_key
from keyguard.ops.op import Change, Op
from keyguard.process.tokens import new_token
from keyguard.rates.limit import NEVER, Limit, Taking


class Demand:
    """`cost` units of the limit that is counted under `key`.

    With a `lease` they are not taken but held: until they are settled, or that many microseconds have passed since the
    lease was last renewed. `holds` says that units of this limit may be held, if not by this demand then by others of
    the same caller: they count as if they were spent.
    """

    __slots__ = ("cost", "holds", "key", "lease", "limit", "name")

    def __init__(
        self, name: str, key: str, limit: Limit, cost: int = 1, lease: int = 0, *, holds: bool = False
    ) -> None:
        self.name = name
        """The limit's public name."""
        self.key = key
        self.limit = limit
        self.cost = cost
        self.lease = lease
        self.holds = holds or lease > 0


class Taken:
    """The outcome of `Take`."""

    __slots__ = ("at", "demands", "held", "moments", "refused", "takings")

    def __init__(
        self,
        demands: Sequence[Demand],
        takings: Sequence[Taking],
        at: int,
        refused: bool,
        held: Sequence[int] = (),
        moments: Sequence[int] = (),
    ) -> None:
        self.demands = demands
        self.takings = takings
        """One for each demand, in order. A hold has the time to live of its lease, and no state."""
        self.at = at
        """The store's time of the decision, in microseconds."""
        self.refused = refused
        self.held = held
        """For each demand, the units that others held before; empty if none can be held."""
        self.moments = moments
        """For each demand, the time at which it was decided, if servers with times of their own did; else empty."""

    def part(self, places: Sequence[int]) -> Taken:
        """Return the same for the demands at some places, of an outcome that was not refused."""
        held, moments = ([of[place] for place in places] if of else () for of in (self.held, self.moments))
        demands, takings = [self.demands[place] for place in places], [self.takings[place] for place in places]
        return Taken(demands, takings, self.at, False, held, moments)

    @property
    def in_use(self) -> list[Demand]:
        """The demands that were not met although enough is left: what is missing is held, and not spent."""
        return [
            demand
            for demand, taking, held in zip(self.demands, self.takings, self.held)  # noqa: B905 - may be empty
            if held and taking[4] == HELD_WAIT
        ]

    @property
    def refusing(self) -> list[Demand]:
        """The demands that were not met."""
        return [demand for demand, taking in zip(self.demands, self.takings, strict=True) if taking[4]]

    @property
    def wait(self) -> int:
        """Microseconds until a lone caller that asks for the same is admitted; `NEVER` if it cannot be."""
        waits = [taking[4] for taking in self.takings]
        return NEVER if NEVER in waits else max(waits, default=0)


class Take(Op[Taken]):
    """Take from several limits at once: from all of them, or from none."""

    __slots__ = ("_joined", "demands", "form", "leases")

    def __init__(self, demands: Sequence[Demand]) -> None:
        self.demands = demands
        keys = [demand.key for demand in demands]
        holding = [held_key(demand.key) for demand in demands if demand.holds]
        self.keys = (*keys, *holding) if holding else tuple(keys)
        self.leases = bool(holding) and any(demand.lease for demand in demands)
        """Whether some of the demands hold what they ask for."""
        self.form: Any = None
        """The form that a store gave the demands, kept for the next request of the same caller."""
        self._joined: tuple[Take, Take] | None = None

    def joined_with(self, other: Take) -> Take | None:
        """Return the operation that takes from the limits of both, or from none; `None` if they share a counter.

        The last one is kept, for the next request of the same caller.
        """
        known = self._joined
        if known is None or known[0] is not other:
            if not set(self.keys).isdisjoint(other.keys):
                return None
            known = self._joined = other, Take([*self.demands, *other.demands])
        return known[1]

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Taken, Sequence[Change]]:
        held: tuple[int, ...] = ()
        if len(old) > len(self.demands):
            if self.leases or any(old[len(self.demands) :]):
                return _take_beside_holds(self.demands, old, now)
            old = old[: len(self.demands)]
            held = (0,) * len(old)  # nothing is held at the moment, as nearly always
        takings = []
        changes: list[Change] = []
        refused = False
        for demand, state in zip(self.demands, old):  # noqa: B905 - the store hands in one value a key
            limit = demand.limit
            taking = limit.take(state, now, demand.cost)
            takings.append(taking)
            if taking[4]:
                refused = True
            elif taking[0] is not None:
                changes.append((demand.key, taking[0], taking[1], limit))
        if refused:
            changes = self._without_charges(old, now, takings)
        return Taken(self.demands, takings, now, refused, held), changes

    def _without_charges(self, old: Sequence[bytes | None], now: int, takings: list[Taking]) -> list[Change]:
        # Nothing is charged, but a state that was moved because time was set back must be kept: otherwise each
        # refusal would start the caller's wait anew. The limits that would have admitted report what is left.
        changes: list[Change] = []
        for place, (demand, state) in enumerate(zip(self.demands, old, strict=True)):
            if not takings[place][4]:
                takings[place] = demand.limit.take(state, now, 0)
            kept, ttl = takings[place][:2]
            if kept is not None:
                changes.append((demand.key, kept, ttl, demand.limit))
        return changes


def _take_beside_holds(
    demands: Sequence[Demand], old: Sequence[bytes | None], now: int
) -> tuple[Taken, Sequence[Change]]:
    """Take as `Take` says, if units of some of the limits may be held."""
    states = iter(old[len(demands) :])
    standing = [Holds(next(states), now) if demand.holds else None for demand in demands]
    held = [0 if holds is None else holds.units for holds in standing]
    takings = []
    for demand, state, units, holds in zip(demands, old, held, standing):  # noqa: B905 - the holds come after the states
        if holds is not None and holds.full and demand.lease and demand.cost:
            takings.append(NO_ROOM)
        else:
            takings.append(ask(demand.limit, state, now, demand.cost, units))
    refused = any(taking[4] for taking in takings)
    changes: list[Change] = []
    for place, (demand, state, holds) in enumerate(zip(demands, old, standing)):  # noqa: B905 - as above
        if refused and not takings[place][4]:  # it would have admitted, and tells what is left
            takings[place] = ask(demand.limit, state, now, 0, held[place])
        ttl = takings[place][1]
        charged = 0 if refused or demand.lease else demand.cost
        if charged or state is not None:  # a state may have to be moved, since time was set back
            kept, ttl, _, _, _ = demand.limit.take(state, now, charged)
            if kept is not None:
                changes.append((demand.key, kept, ttl, demand.limit))
        if holds is not None:
            if demand.lease and demand.cost and not refused:
                ttl = demand.lease + holds.add(demand.cost, demand.lease, now)
            if holds.changed:
                changes.append(holds.change(held_key(demand.key), now))
        takings[place] = (None, ttl, *takings[place][2:])
    return Taken(demands, takings, now, refused, tuple(held)), changes


def hold_of(demand: Demand, taking: Taking, at: int) -> int:
    """Return the number of what a demand holds; 0, which no hold has, if it asked for no units and holds nothing."""
    return at + taking[1] - demand.lease if demand.cost else 0


class Settle(Op[None]):
    """Charge in the end `costs` for what a `Take` took: one number of units a demand, or none for a refund of it all.

    Units taken above the cost are given back, as far as they have not expired, and no other request's units with them.
    If too few were taken, the rest is charged now, whatever is left of the limit: the work has been done.

    Units that are held are released, and the cost is charged now, also if the lease has ended meanwhile.

    A settlement happens once. If it failed, or its reply was lost, the same object may be executed again within
    `REMEMBERED`: it has a token, and the store remembers it under a key of its own beside the counters. One that only
    releases what is held needs none, and may be executed again at any time.
    """

    __slots__ = ("costs", "taken", "token")

    def __init__(self, taken: Taken, costs: Sequence[int] = ()) -> None:
        if costs and len(costs) != len(taken.demands):
            raise ValueError(f"Settle needs a cost for each of {len(taken.demands)} demands, not {len(costs)}")
        self.taken = taken
        self.costs = costs or (0,) * len(taken.demands)
        self.token = new_token()
        keys = [demand.key for demand in taken.demands]
        holding = [held_key(demand.key) for demand in taken.demands if demand.lease]
        if keys and (len(holding) < len(keys) or any(self.costs)):
            holding.append(f"{SETTLED}|{keys[0].partition('|')[2]}")
        self.keys = (*keys, *holding)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        taken = self.taken
        changes: list[Change] = []
        if taken.refused or not old:
            return None, changes
        once = self.keys[-1].startswith(f"{SETTLED}|")
        settled = (old[-1] or b"") if once else b""
        if settled and _remembers(settled, self.token, now):
            return None, changes
        states = iter(old[len(taken.demands) :])
        told = zip(taken.demands, taken.takings, taken.moments or repeat(taken.at), self.costs, old, strict=False)
        for demand, taking, at, cost, state in told:
            limit = demand.limit
            if demand.lease:
                holds = Holds(next(states), now)
                holds.release(hold_of(demand, taking, at))
                if holds.changed:
                    changes.append(holds.change(held_key(demand.key), now))
                if cost:
                    left, ttl = limit.charge(state, now, cost)
                    changes.append((demand.key, left if ttl else None, ttl or None, limit))
            elif cost > demand.cost:
                left, ttl = limit.charge(state, now, cost - demand.cost)
                changes.append((demand.key, left, ttl, limit))
            elif cost < demand.cost and state is not None and at <= now < at + taking[1]:
                back = limit.give_back(state, now, at, demand.cost - cost)
                if back is not None:
                    _, ttl, _, _, _ = limit.take(back, now, 0) if back else (None, 0, 0, 0, 0)
                    # A state that means nothing from now on is deleted: without a time to live it would stay for good.
                    changes.append((demand.key, back if ttl else None, ttl or None, limit))
        if changes and once:
            changes.append((self.keys[-1], _with_token(settled, self.token, now), REMEMBERED, _TOKENS))
        return None, changes


class Renew(Op[bool]):
    """Have the leases of what a `Take` holds begin anew. Evaluates to whether any of it is still held.

    A hold that was released, or has lapsed, stays so.
    """

    __slots__ = ("taken",)

    def __init__(self, taken: Taken) -> None:
        self.taken = taken
        self.keys = tuple([held_key(demand.key) for demand in taken.demands if demand.lease])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        taken = self.taken
        changes: list[Change] = []
        found = False
        if taken.refused:  # it holds nothing
            return found, changes
        states = iter(old)
        for demand, taking, at in zip(taken.demands, taken.takings, taken.moments or repeat(taken.at), strict=False):
            if not demand.lease:
                continue
            holds = Holds(next(states), now)
            if holds.renew(hold_of(demand, taking, at), demand.lease, now):
                found = True
            if holds.changed:
                changes.append(holds.change(held_key(demand.key), now))
        return found, changes


REMEMBERED = 10 * SECOND
"""Microseconds for which a store knows a settlement by its token."""

SETTLED = "rl:settled"
"""The pool of what was settled: a caller's last settlements, a token of eight bytes and the time of each."""
_MAX_SETTLED = 32  # of one caller; more would cost more memory than a caller's counters


def _remembers(state: bytes, token: bytes, now: int) -> bool:
    """Tell whether the token is one of a settlement that is young enough to be repeated."""
    at = state.find(token)
    while at >= 0:
        if not at % 16:
            return int.from_bytes(state[at + 8 : at + 16], "little") + REMEMBERED > now
        at = state.find(token, at + 1)
    return False


def _with_token(state: bytes, token: bytes, now: int) -> bytes:
    """Return the tokens with one more, and without the oldest ones that need not be known any more."""
    first = max(0, len(state) - 16 * (_MAX_SETTLED - 1))
    while first < len(state) and int.from_bytes(state[first + 8 : first + 16], "little") + REMEMBERED <= now:
        first += 16
    return state[first:] + token + now.to_bytes(8, "little")


class _Tokens(Limit):
    """The tokens, for a store at its memory bound: the first to be forgotten, since a repetition is rare."""

    __slots__ = ()

    def half_spent(self, state: bytes, now: int) -> bool:
        return False


_TOKENS = _Tokens(1, REMEMBERED, "settlements", "settled")


# -- without the store ----------------------------------------------------------------------------------------


class TakeHere(Step[Taken]):
    """Take from this process's share of the limits, while the store is out of order."""

    __slots__ = ("demands",)

    def __init__(self, demands: Sequence[Demand]) -> None:
        self.demands = demands


class SettleHere(Step[None]):
    """Release what `TakeHere` holds: it was never in the store, and is not settled there."""

    __slots__ = ("taken",)

    def __init__(self, taken: Taken) -> None:
        self.taken = taken


class Degraded(Step[None]):
    """Note that a guard decided without the store; `what` is its name and what it did, such as `key allowed`."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what
