"""Algorithms of limits: pure arithmetic over one caller's state.

Rules for every algorithm:
- State is bytes, or `None` for a caller never seen or long gone. Time is an argument: whole microseconds.
- A refusal charges nothing. It says how long a caller who is alone must wait: at that moment the same request is
  admitted, and a microsecond earlier it is not.
- Time may be set back. Units taken in the future count as taken now then: no caller is forgiven anything, and
  nobody waits longer than one period.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias, Union

from keyguard.clock import SECOND

NEVER: Final = -1
"""The wait of a request that waiting does not help: it costs more than the limit ever allows, or than a balance that
nothing fills by itself has left."""

JSON: TypeAlias = Union[bool, int, float, str, "list[JSON]", "dict[str, JSON]", None]
"""Plain data."""

Taking: TypeAlias = tuple[bytes | None, int, int, int, int]
"""The result of `Limit.take`: `(state, ttl, remaining, reset, wait)`.

A plain tuple: with names it would cost a third more time to decide (tried: 0.5 of 1.4 microseconds).

- `state`: the state to write, or `None` if nothing changed.
- `ttl`: microseconds after which that state means nothing any more.
- `remaining`: units that may still be taken now.
- `reset`: microseconds until more units come back; 0 if none are spent.
- `wait`: 0 if admitted; else microseconds until a lone caller is admitted, or `NEVER`.
"""


class Limit:
    """At most `quota` units in `period` microseconds. Immutable, and shared by all callers."""

    __slots__ = ("code", "period", "quota", "text")

    kind: ClassVar[str] = ""
    """By what name it is written down (`keyguard.rates.description`); empty if it cannot be. Not inherited."""
    script: ClassVar[str] = ""
    """By what name stores know a faster way to ask this kind of limit; empty if they do not.

    It is not inherited: a subclass may mean something else."""
    steady: ClassVar[bool] = True
    """Whether its `numbers` are the same at all times."""
    may_be_forgotten: ClassVar[bool] = True
    """Whether a store at its memory bound may forget a caller who has spent little, and fold together those who have
    spent more."""
    rolling: ClassVar[bool] = True
    """Whether it counts over the last `period`, which fields of responses tell then. If not, no period is longer."""
    returns: ClassVar[bool] = True
    """Whether all that is spent comes back by itself in time, and not in part or by grants alone."""
    keeps_grants: ClassVar[bool] = False
    """Whether units that are granted beyond what is spent are kept. Otherwise, a grant gives back what is spent."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for name in ("kind", "script"):
            if name not in vars(cls):
                setattr(cls, name, "")
        if "take_quickly" not in vars(cls):
            cls.take_quickly = Limit.take_quickly  # type: ignore[method-assign]  # as with scripts

    def __init__(self, quota: int, period: int, text: str, code: str) -> None:
        self.quota = quota
        self.period = period
        self.text = text
        """The rate in words, such as `5000/day`; stands in the limit's public name."""
        self.code = code
        """Algorithm and period. States of two limits with one code mean the same, whatever their quota."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.text}>"

    @property
    def max_cost(self) -> int:
        """The units that it ever admits at once."""
        return self.quota

    @property
    def durable(self) -> bool:
        """Whether its states are worth surviving a crash of a database: a short one costs a caller nothing anew."""
        return self.period >= 3600 * SECOND

    def terms(self) -> dict[str, JSON]:
        """Return what it was made of, as plain data."""
        raise NotImplementedError

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        """Return what a script must know of this limit at a time: four numbers of 64 bits."""
        raise NotImplementedError

    def half_spent(self, state: bytes, now: int) -> bool:
        """Tell whether at least half of the units are taken. A store at its memory bound keeps such callers in mind."""
        return self.take(state, now, 0)[2] * 2 <= self.max_cost

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        """Decide about a request that costs `cost` units (0 asks without taking)."""
        raise NotImplementedError

    def take_quickly(self, places: list[Any], place: int, now: int, cost: int) -> list[int] | Taking | None:
        """Take at least one unit from a state in memory, and change it in place: fast path of `take`, same answers.

        From `place` on, `places` are `expiry, note, state`: when the state lapses; a number of the limit's own, which
        is 0 if anything but this method has written the state; and the state.

        Return `[now, remaining, back, expiry, grown]`, with the moment when more units come back and the bytes by which
        the state is longer than before; or the taking if it is refused; or `None` if `take` has to decide. Then nothing
        is changed.

        A kind of limit may have a quicker text of its own. It is not inherited: a subclass may mean something else.
        """
        state = places[place + 2] if places[place] > now else None
        taking = kept, ttl, remaining, reset, wait = self.take(state, now, cost)
        if wait:
            return taking if kept is None else None
        if kept is None:
            return None
        grown = len(kept) - len(places[place + 2])
        places[place : place + 3] = now + ttl, 0, kept
        return [now, remaining, now + reset, now + ttl, grown]

    def share(self, among: int) -> Limit:
        """Return the part of this limit that each of so many processes may admit by itself; at least one unit."""
        raise NotImplementedError

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        """Charge `cost` units, at least one, whatever is left: the work is done. Return the new state and its ttl.

        How much debt a caller can have is the algorithm's business; it is bounded.
        """
        raise NotImplementedError

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        """Return the state without a charge of `cost` made at `taken_at`, or `None` if that cannot be found any more.

        Only called before that charge has expired by itself. It never touches another request's charge.
        """
        raise NotImplementedError

    def merge(self, one: bytes, other: bytes) -> bytes:
        """Return a state at least as spent as either. A store at its memory bound folds callers together so."""
        raise NotImplementedError

    # -- what people change by hand ---------------------------------------------------------------------------

    def spent(self, state: bytes | None, now: int) -> int:
        """Count the units that are spent. More than the limit after a charge; less than 0 if it keeps grants."""
        raise NotImplementedError

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        """Grant so many units, at least one, and return the new state and its ttl; `(None, 0)` if nothing is spent.

        Units that were taken last come back first, since they would take longest by themselves.
        """
        raise NotImplementedError

    def set_spent(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        """Set the units that are spent, from 0 to `max_cost`, and return the same."""
        less = self.spent(state, now) - units
        if less < 0:
            return self.charge(state, now, -less)
        # The state as of now, also if nothing changes.
        return self.granted(state, now, less) if less or units == 0 else self.charge(state, now, 0)
