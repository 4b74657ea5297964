"""Credits: a balance that is spent, and that a grant or the begin of a period fills again.

State: the end of the period in which the balance was last filled, and the balance. At that end it is filled up to a
number of units: so nobody has to count the periods that a caller stayed away. A balance may be below 0, after a charge
for work that was done, and above the limit, after a grant. It is kept for 20 years after it was last asked for.

If the periods are others by now, since they were edited or the clock was set back, the balance stays, and is filled at
the end of the present one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.rates.limit import JSON, NEVER, Limit, Taking
from keyguard.rates.notation import LONGEST
from keyguard.rates.quotas import MOST, STATE, Quota, checked_units

_ALWAYS = (0, 2**53)
"""The one period of a balance that is never filled: until the year 2255."""


def credits(units: int, *, refill: Quota | None = None) -> Credits:
    """Return a limit that callers spend from a balance: `credits(500, refill=quota("100/month"))`.

    A caller begins with so many units. `refill` is a quota: at the begin of each of its periods, a balance that is
    below its number is filled up to that. Without one, only a grant helps a caller who has spent all.

    Balances are never forgotten, also if a store in memory is at its bound, so they do not count by address. Raises
    `ConfigurationError` for settings that are wrong, and for a refill that is larger than the balance.
    """
    checked_units("credits", units)
    if refill is not None and type(refill) is not Quota:
        raise ConfigurationError(f"a refill is a quota, such as quota('{units}/month'), not {refill!r:.80}")
    if refill is not None and refill.quota > units:
        raise ConfigurationError(
            f"a refill of {refill.quota} is larger than the balance: at most quota('{units}/month'), for example"
        )
    return Credits(units, refill)


class Credits(Limit):
    """A balance of `quota` units for each caller."""

    __slots__ = ("filled", "refill")

    kind = "credits"
    script = "credits"
    steady = False
    may_be_forgotten = False
    keeps_grants = True
    returns = False
    rolling = False

    def __init__(self, units: int, refill: Quota | None) -> None:
        period = LONGEST if refill is None else refill.period
        super().__init__(units, period, f"{units} credits", "credits")
        self.refill = refill
        self.filled = 0 if refill is None else refill.quota
        """Up to so many units a balance is filled; 0 if it never is."""

    @classmethod
    def of_terms(cls, *, units: int, refill: Mapping[str, Any] | None) -> Credits:
        return credits(units, refill=None if refill is None else Quota.of_terms(**refill))

    def terms(self) -> dict[str, JSON]:
        return {"units": self.quota, "refill": None if self.refill is None else self.refill.terms()}

    @property
    def durable(self) -> bool:
        return True

    def present(self, now: int) -> tuple[int, int]:
        """Return the begin and the end of the present period."""
        return _ALWAYS if self.refill is None else self.refill.present(now)

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, *self.present(now), self.filled

    def half_spent(self, state: bytes, now: int) -> bool:
        return True

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        _, end = self.present(now)
        balance, filled, moved = self.quota, self.filled, False
        if state is not None:
            until, balance = STATE.unpack(state)
            if until > now:
                moved = until != end
            elif balance < filled:
                balance = filled
        wait = 0
        if cost > balance and cost:
            wait = end - now if cost <= filled else NEVER
            cost = 0
        balance -= cost
        kept = STATE.pack(end, balance) if moved or cost else None
        return kept, LONGEST, max(0, balance), end - now if 0 < filled > balance else 0, wait

    def balance(self, state: bytes | None, now: int) -> int:
        """Return the units that a caller has; below 0 for a debt."""
        if state is None:
            return self.quota
        until, balance = STATE.unpack(state)
        filled: int = max(balance, self.filled) if until <= now else balance
        return filled

    def spent(self, state: bytes | None, now: int) -> int:
        return self.quota - self.balance(state, now)

    def granted(self, state: bytes | None, now: int, units: int) -> tuple[bytes | None, int]:
        return STATE.pack(self.present(now)[1], min(MOST, self.balance(state, now) + units)), LONGEST

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        return STATE.pack(self.present(now)[1], max(-MOST, self.balance(state, now) - cost)), LONGEST

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        start, end = self.present(now)
        until, balance = STATE.unpack(state)
        if until == end and taken_at < start:  # it has been filled since
            return None
        return STATE.pack(until, balance + cost)

    def merge(self, one: bytes, other: bytes) -> bytes:
        (until, balance), (until_other, balance_other) = STATE.unpack(one), STATE.unpack(other)
        return STATE.pack(max(until, until_other), min(balance, balance_other))

    def share(self, among: int) -> Limit:
        part = _Part(max(1, self.quota // among), None if self.refill is None else self.refill.share(among))
        part.text = self.text
        return part


class _Part(Credits):
    """What a process lends by itself while the store with the balances is out of order: that may be forgotten."""

    __slots__ = ()

    may_be_forgotten = True
