"""The verbs of the store. What must happen at once is one operation, with one meaning on every store.

`Op.apply` is the whole meaning: old values and the time in, result and changes out; no clock, no I/O. A store may
run it under a lock, in a transaction, or by compare-and-swap, and may carry a faster native version of an operation
that it holds to the same answers (`keyguard.testing.play.check_store` compares them).

Keys are text. The part before the first `|` names the key's pool, the rule it belongs to; the part after it, the
bucket, names the caller. The pools of counters begin with `rl:` or `guess:`, and always have a time to live.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from hmac import compare_digest
from types import EllipsisType
from typing import Any, Protocol, TypeAlias, TypeVar

from keyguard.clock import SECOND
from keyguard.flow import Step
from keyguard.process.tokens import new_token
from keyguard.rates.limit import NEVER, Limit, Taking
from keyguard.record_head import RECORD as RECORD
from keyguard.record_head import SEALED as SEALED
from keyguard.record_head import Head as Head
from keyguard.record_head import head_of as head_of

R = TypeVar("R")

Change: TypeAlias = tuple[str, bytes | None, int | None, Limit | None]
"""`(key, value, ttl, limit)`.

- `value`: what to write; `None` deletes.
- `ttl`: microseconds from now after which the key is as if it had never been; `None` keeps it for good.
- `limit`: what the value is a caller's state of. A store at its memory bound may ask it how much is spent, and fold
  states together; `None` where a value must never be lost.
"""


class Op(Step[R]):
    """One atomic operation on known keys."""

    __slots__ = ("keys",)

    keys: tuple[str, ...]
    """Every key it reads or writes, each once. Those that it writes and are no counters are of one pool."""
    likely: Sequence[bytes | None] | None = None
    """Values that probably stand there: where they do, a store need not read them first. What `apply` makes of them
    does not depend on the time."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[R, Sequence[Change]]:
        """Decide. `old` holds the values of `keys`, in order; `now` is the store's time in microseconds.

        Pure: the same arguments give the same answer, and nothing else is touched. A store may call it again
        when it lost a race.
        """
        raise NotImplementedError


class Store(Protocol):
    """What a storage backend supplies. Instances are safe to share between threads, and survive a fork."""

    def execute(self, ops: Sequence[Op[Any]], /) -> list[Any]:
        """Run each operation atomically, in order, and return their results.

        Raises `StoreError` where the store cannot answer. A store that must wait for a network or a lock also
        has `aexecute`, see `AsyncStore`.
        """
        ...

    def scan(self, prefix: str, /) -> Iterable[tuple[str, bytes]]:
        """Every living key that starts with `prefix`, with its value, in the order of the keys.

        For operators, never on a request.
        """
        ...


class AsyncStore(Store, Protocol):
    """A store that an event loop need not wait for."""

    def aexecute(self, ops: Sequence[Op[Any]], /) -> Any:
        """Like `execute`: the list of results where the store can answer at once, else an awaitable of it."""
        ...


def run(op: Op[R], table: MutableMapping[str, tuple[bytes, int | None]], now: int) -> R:
    """Run one operation on a mapping of `key -> (value, expiry in microseconds or None)`.

    All a simple store needs: call it under a lock. See `examples/custom_store.py`.
    """
    old: list[bytes | None] = []
    for key in op.keys:
        entry = table.get(key)
        old.append(entry[0] if entry is not None and (entry[1] is None or entry[1] > now) else None)
    result, changes = op.apply(old, now)
    for key, value, ttl, _ in changes:
        if value is None:
            table.pop(key, None)
        else:
            table[key] = (value, None if ttl is None else now + ttl)
    return result


def is_counter(key: str) -> bool:
    """Whether a key holds the state of a limit. Such keys have a time to live, and can be packed by caller."""
    return key.startswith(COUNTERS)


COUNTERS = ("rl:", "guess:")


# -- plain values ---------------------------------------------------------------------------------------------


class Read(Op[tuple[bytes | None, ...]]):
    """The values of some keys, as of one moment."""

    __slots__ = ()

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[tuple[bytes | None, ...], Sequence[Change]]:
        return tuple(old), ()


class ReadWithTime(Read):
    """The values of some keys and the store's time: `(now, values)`."""

    __slots__ = ()

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Any, Sequence[Change]]:
        return (now, tuple(old)), ()


class BestEffort(Step[list[Any]]):
    """Run operations that no decision hangs on, in one trip: the response cache's.

    They have a circuit breaker of their own, so that what fails here is not taken for a failure of keys and limits.
    Evaluates to the list of their results.
    """

    __slots__ = ("ops",)

    def __init__(self, *ops: Op[Any]) -> None:
        self.ops = ops


class CompareAndSet(Op[bool]):
    """Write all values if all keys still hold what is expected; else none. Evaluates to whether it did."""

    __slots__ = ("expected", "values")

    def __init__(self, expected: Mapping[str, bytes | None], values: Mapping[str, bytes | None]) -> None:
        if not values.keys() <= expected.keys():
            raise ValueError("CompareAndSet writes only keys that it has an expectation of")
        self.keys = tuple(expected)
        self.expected = tuple(expected.values())
        self.values = tuple(values.items())

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        if tuple(old) != self.expected:
            return False, ()
        return True, [(key, value, None, None) for key, value in self.values]


class Put(Op[bool]):
    """Write one value as it is, with its microseconds to live, `None` for ever; a value of `None` deletes.

    With `expected` it does so only if that value stands there, `None` for no value. Evaluates to whether it wrote: not
    if the same value stood there.
    """

    __slots__ = ("expected", "ttl", "value")

    def __init__(
        self, key: str, value: bytes | None, ttl: int | None = None, *, expected: bytes | EllipsisType | None = ...
    ) -> None:
        self.keys = (key,)
        self.value = value
        self.ttl = ttl
        self.expected = expected
        """The value that must stand there; `...` for any."""

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[bool, Sequence[Change]]:
        if old[0] == self.value or (self.expected is not ... and old[0] != self.expected):
            return False, ()
        return True, [(self.keys[0], self.value, self.ttl, None)]


# -- limits ---------------------------------------------------------------------------------------------------


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
        """Microseconds until a lone caller that asks for the same is admitted; `NEVER` where it cannot be."""
        waits = [taking[4] for taking in self.takings]
        return NEVER if NEVER in waits else max(waits, default=0)


class Take(Op[Taken]):
    """Take from several limits at once: from all of them, or from none."""

    __slots__ = ("demands", "form")

    def __init__(self, demands: Sequence[Demand]) -> None:
        self.demands = demands
        self.keys = tuple([demand.key for demand in demands])
        self.form: Any = None
        """What a store made of the demands, kept for the next request of the same caller."""

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

    What was taken above its cost is given back, as far as it has not expired, and no other request's units with it.
    What was taken too little is charged now, whatever is left of the limit: the work has been done.

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
            keys.append(f"{_SETTLED}|{keys[0].partition('|')[2]}")
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

_SETTLED = "rl:settled"
"""The pool of what was settled: a caller's last settlements, a token of eight bytes and the time of each."""
_MAX_SETTLED = 32  # of one caller; more would cost more memory than a caller's counters


def _remembered(state: bytes, now: int) -> dict[bytes, int]:
    """Read the tokens of settlements that are young enough to be repeated, each with its time."""
    pairs = [(state[at : at + 8], int.from_bytes(state[at + 8 : at + 16], "little")) for at in range(0, len(state), 16)]
    return {token: at for token, at in pairs if at + REMEMBERED > now}


class _Tokens(Limit):
    """What tokens are to a store at its memory bound: the first to be forgotten, for a repetition is rare."""

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


# -- API keys -------------------------------------------------------------------------------------------------


class Authenticated:
    """The outcome of `Authenticate`."""

    __slots__ = ("at", "guesses", "record", "valid")

    def __init__(self, valid: bool, record: bytes | None, guesses: Taken | None, at: int) -> None:
        self.valid = valid
        self.record = record
        """The stored record, also of a key that is not valid: for the log, never for the caller.

        If the key is not valid, it is there if the digest was right (the key has expired, say), or if the record could
        not be compared at all: a layout, a kind or a pepper version that is not among those presented."""
        self.guesses = guesses
        """Set if the key is not valid and its source has guessed too often: what refuses it, and for how long."""
        self.at = at


class Authenticate(Op[Authenticated]):
    """Check a presented key against its record, and charge the source a guess if it is wrong: one atomic decision.

    A right key is valid whatever the source has guessed before, and charges nothing: neighbours cannot lock it out. A
    wrong one that would be a guess too many is refused as such.
    """

    __slots__ = ("digests", "guess")

    def __init__(self, key: str, digests: Mapping[int, bytes], guess: Sequence[Demand] = ()) -> None:
        self.keys = (key, *[demand.key for demand in guess])
        self.digests = digests
        """The digests of the presented key, 32 bytes each, by `Head.place`: for each kind and pepper version in use."""
        self.guess = guess

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Authenticated, Sequence[Change]]:
        record = old[0]
        head = None if record is None else head_of(record)
        wanted = None if head is None else self.digests.get(head.place)
        # The same work for a key that is not there, so that time tells nothing. What is not among the digests presented
        # is never the same, whatever stands in the record.
        same = compare_digest(_NOTHING if head is None else head.digest, wanted or _NOTHING) and wanted is not None
        if same and head is not None and not head.flags and head.not_before <= now < head.not_after:
            return Authenticated(True, record, None, now), ()
        taken, charges = Take(self.guess).apply(old[1:], now)
        if taken.refused:
            return Authenticated(False, None, taken, now), charges
        told = record if same or wanted is None else None
        return Authenticated(False, told or None, None, now), charges


_NOTHING = bytes(32)
