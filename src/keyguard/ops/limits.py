"""Operations on limits: taking from several at once, and settling what it costs in the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.clock import SECOND
from keyguard.flow import Step
from keyguard.ops.op import Change, Op
from keyguard.process.tokens import new_token
from keyguard.rates.limit import NEVER, Limit, Taking


class Demand:
    """`cost` units of the limit that is counted under `key`."""

    __slots__ = ("cost", "key", "limit", "name")

    def __init__(self, name: str, key: str, limit: Limit, cost: int = 1) -> None:
        self.name = name
        """The limit's public name."""
        self.key = key
        self.limit = limit
        self.cost = cost


class Taken:
    """The outcome of `Take`."""

    __slots__ = ("at", "demands", "refused", "takings")

    def __init__(self, demands: Sequence[Demand], takings: Sequence[Taking], at: int, refused: bool) -> None:
        self.demands = demands
        self.takings = takings
        """One for each demand, in order."""
        self.at = at
        """The store's time of the decision, in microseconds."""
        self.refused = refused

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

    __slots__ = ("demands", "form")

    def __init__(self, demands: Sequence[Demand]) -> None:
        self.demands = demands
        self.keys = tuple([demand.key for demand in demands])
        self.form: Any = None
        """The form that a store gave the demands, kept for the next request of the same caller."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Taken, Sequence[Change]]:
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
        return Taken(self.demands, takings, now, refused), changes

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


class Settle(Op[None]):
    """Charge in the end `costs` for what a `Take` took: one number of units a demand, or none for a refund of it all.

    Units taken above the cost are given back, as far as they have not expired, and no other request's units with them.
    If too few were taken, the rest is charged now, whatever is left of the limit: the work has been done.

    A settlement happens once. If it failed, or its reply was lost, the same object may be executed again within
    `REMEMBERED`: it has a token, and the store remembers it under a key of its own beside the counters.
    """

    __slots__ = ("costs", "taken", "token")

    def __init__(self, taken: Taken, costs: Sequence[int] = ()) -> None:
        if costs and len(costs) != len(taken.demands):
            raise ValueError(f"Settle needs a cost for each of {len(taken.demands)} demands, not {len(costs)}")
        self.taken = taken
        self.costs = costs or (0,) * len(taken.demands)
        self.token = new_token()
        keys = [demand.key for demand in taken.demands]
        if keys:
            keys.append(f"{SETTLED}|{keys[0].partition('|')[2]}")
        self.keys = tuple(keys)

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[None, Sequence[Change]]:
        taken = self.taken
        changes: list[Change] = []
        if taken.refused or not old:
            return None, changes
        settled = _remembered(old[-1] or b"", now)
        if self.token in settled:
            return None, changes
        for demand, taking, cost, state in zip(taken.demands, taken.takings, self.costs, old, strict=False):
            limit = demand.limit
            if cost > demand.cost:
                left, ttl = limit.charge(state, now, cost - demand.cost)
                changes.append((demand.key, left, ttl, limit))
            elif cost < demand.cost and state is not None and taken.at <= now < taken.at + taking[1]:
                back = limit.give_back(state, now, taken.at, demand.cost - cost)
                if back is not None:
                    _, ttl, _, _, _ = limit.take(back, now, 0) if back else (None, 0, 0, 0, 0)
                    # A state that means nothing from now on is deleted: without a time to live it would stay for good.
                    changes.append((demand.key, back if ttl else None, ttl or None, limit))
        if changes:
            settled[self.token] = now
            kept = b"".join([token + at.to_bytes(8, "little") for token, at in [*settled.items()][-_MAX_SETTLED:]])
            changes.append((self.keys[-1], kept, REMEMBERED, _TOKENS))
        return None, changes


REMEMBERED = 10 * SECOND
"""Microseconds for which a store knows a settlement by its token."""

SETTLED = "rl:settled"
"""The pool of what was settled: a caller's last settlements, a token of eight bytes and the time of each."""
_MAX_SETTLED = 32  # of one caller; more would cost more memory than a caller's counters


def _remembered(state: bytes, now: int) -> dict[bytes, int]:
    """Read the tokens of settlements that are young enough to be repeated, each with its time."""
    pairs = [(state[at : at + 8], int.from_bytes(state[at + 8 : at + 16], "little")) for at in range(0, len(state), 16)]
    return {token: at for token, at in pairs if at + REMEMBERED > now}


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


class Degraded(Step[None]):
    """Note that a guard decided without the store; `what` is its name and what it did, such as `key allowed`."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what
