"""Operations as calls of Lua scripts, replies as results. No I/O. `names` says where things are."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from struct import pack
from typing import Any, TypeAlias, TypeVar

from keyguard.clock import Clock, wall_clock
from keyguard.errors import StoreBusy
from keyguard.ops import (
    Acquire,
    Adjust,
    Adjusted,
    Authenticate,
    Authenticated,
    Change,
    CompareAndSet,
    Demand,
    Learn,
    Op,
    Put,
    Read,
    Renew,
    Settle,
    Take,
    Taken,
    is_counter,
)
from keyguard.process.tokens import new_token
from keyguard.rates.limit import Taking
from keyguard.stores.redis.calls import Call, Plan, SettleCall, TakeCall, TakeForm
from keyguard.stores.redis.choosing import chosen
from keyguard.stores.redis.demands import (
    Packed,
    Settled,
    bucket_of,
    by_bucket,
    by_node,
    demands_of,
    free,
    known,
    moments_of,
    other_time,
    packed,
    packed_change,
    renewal,
    settled_of,
    settlement,
    steady,
    taken_of,
    together,
)
from keyguard.stores.redis.scripts import HOLDS, script_name
from keyguard.stores.redis.value_calls import ValueCalls

T = TypeVar("T")
Asking: TypeAlias = Generator[list[Call], Any, T]
_TRIES = 50
_PERIODS = 3
"""How often a decision is asked whose numbers hold for another time: once, but at the very end of a period."""


class Wire(ValueCalls):
    """The names and forms of one store."""

    def __init__(self, namespace: str, clock: Clock | None, *, cluster: bool = False) -> None:
        super().__init__(namespace, clock)
        self._cluster = cluster

    # -- operations ---------------------------------------------------------------------------------------

    def plan(self, op: Op[Any]) -> Plan:
        """Return what to send for an operation."""
        if isinstance(op, (Take, Settle, Authenticate)):
            return self._decision(op)
        if isinstance(op, CompareAndSet):
            return self._commit(op)
        if isinstance(op, Read):
            return self._read(op)
        if isinstance(op, Put) and not is_counter(op.keys[0]):
            return self._put(op)
        if isinstance(op, Renew):
            return self._renew(op)
        if isinstance(op, (Acquire, Learn)):
            return self._choice(op)
        if isinstance(op, Adjust) and self._cluster:
            return self._adjust_apart(op)
        return self._swap(op)

    def turns(self, ops: Sequence[Op[Any]]) -> Iterator[list[Op[Any]]]:
        """Return operations by what may be under way together, in order.

        Operations of one trip are done in the order in which they were sent. One that may take several must not meet
        the keys of another meanwhile.
        """
        turn: list[Op[Any]] = []
        keys: set[str] = set()
        kept: set[str] = set()
        for op in ops:
            several = self._takes_several(op)
            if not kept.isdisjoint(op.keys) or (several and not keys.isdisjoint(op.keys)):
                yield turn
                turn, keys, kept = [], set(), set()
            turn.append(op)
            keys.update(op.keys)
            if several:
                kept.update(op.keys)
        if turn:
            yield turn

    def _takes_several(self, op: Op[Any]) -> bool:
        """Tell whether an operation is read, applied and written in several trips."""
        if isinstance(op, (Take, Settle, Authenticate)):
            return not known(demands_of(op))
        return not isinstance(op, (Acquire, CompareAndSet, Learn, Read, Renew)) and not (
            isinstance(op, Put) and not is_counter(op.keys[0])
        )

    def _decision(self, op: Take | Settle | Authenticate) -> Plan:
        demands = demands_of(op)
        if not known(demands):
            return self._swap(op)
        if isinstance(op, Authenticate):
            return self._authenticate_apart(op) if self._cluster and demands else self._authenticate(op)
        apart = self._cluster and len(by_bucket(demands)) > 1
        if isinstance(op, Take):
            return self._take_apart(op) if apart else self._take(op)
        return self._settle_apart(op) if apart else self._settle(op)

    def _take(self, op: Take) -> Plan:
        if not op.demands:
            ((now,),) = yield [Call("read", [], [self.now()], repeatable=True)]
            return Taken((), [], int(now), False)
        (taken,) = yield from self._taken([op.demands], [self.taking(op)])
        return taken

    def taking(self, op: Take) -> TakeCall:
        """Return the call for a `Take` of one caller whose limits the scripts know."""
        return TakeCall(self._form_of(op), self.now(), new_token())

    def simple(self, op: Op[Any]) -> TakeForm | None:
        """Return the form of the call, if `taking` can do the operation."""
        if type(op) is not Take:
            return None
        form: TakeForm | None = op.form
        if form is not None and form.owner is self and not self._cluster:
            return form if form.steady else self._form_of(op)
        return self._form_of(op) if op.demands and not self._cluster and known(op.demands) else None

    def retaking(self, op: Take, outcome: bytes, token: bytes) -> TakeCall:
        """Return the call that makes a decision at the server's time, which is what stands in place of the outcome."""
        return self._taking(op.demands, other_time(outcome), token)

    def _form_of(self, op: Take) -> TakeForm:
        form: TakeForm | None = op.form
        if form is not None and form.owner is self:
            if form.steady:
                return form
            now = (self._clock or wall_clock)()
            if form.demands.numbers == [demand.limit.numbers(now) for demand in op.demands]:
                return form
        op.form = form = TakeForm(self, self._packed(op.demands), steady=steady(op.demands))
        return form

    def _settle(self, op: Settle) -> Plan:
        if op.keys and not op.taken.refused:
            yield from self._settled([settled_of(op)], [op.token], moments_of(op.taken)[:1])
        return None

    def _renew(self, op: Renew) -> Plan:
        taken = op.taken
        groups: dict[str, list[tuple[Demand, Taking, int]]] = {}
        for demand, taking, at in zip(taken.demands, taken.takings, moments_of(taken), strict=True):
            if demand.lease and not taken.refused:
                groups.setdefault(bucket_of(demand), []).append((demand, taking, at))
        if not groups:
            return False
        calls = []
        for held in groups.values():
            hashes, args = renewal(held, self.counter)
            calls.append(Call(script_name("renew", [HOLDS]), hashes, [self.now(), *args], repeatable=True))
        return any((yield calls))

    def _settled(
        self, groups: Sequence[list[Settled]], tokens: Sequence[bytes], moments: Sequence[int]
    ) -> Asking[None]:
        """Settle each group. Demands that were told another time than the server's are asked again."""
        asked: list[tuple[int, int | None]] = [(place, None) for place in range(len(groups))]
        for _ in range(_PERIODS):
            calls = [self._settling(tokens[place], moments[place], groups[place], at) for place, at in asked]
            replies = yield [*calls]
            told = [(place, other_time(reply)) for (place, _), reply in zip(asked, replies, strict=True)]
            asked = [(place, at) for place, at in told if at is not None]
            if not asked:
                return

    def _authenticate(self, op: Authenticate) -> Plan:
        ((valid, record, outcome),) = yield [self._checking(op, op.guess)]
        if (at := other_time(outcome)) is not None:
            ((valid, record, outcome),) = yield [self._checking(op, op.guess, at)]
        taken = taken_of(() if valid else op.guess, outcome)
        if taken.refused:
            return Authenticated(False, None, taken, taken.at)
        return Authenticated(valid == 1, record or None, None, taken.at)

    def _commit(self, op: CompareAndSet) -> Plan:
        if not op.keys:
            return True
        changes: list[Change] = [(key, value, None, None) for key, value in op.values]
        (done,) = yield [self._swapping(op.keys, op.expected, changes)]
        return done == 1

    def _read(self, op: Read) -> Plan:
        if not op.keys:
            return ()
        if not self._cluster:
            ((now, *values),) = yield [self._reading(op.keys)]
            return op.apply(values, int(now))[0]
        found = yield [self._reading([key]) for key in op.keys]  # each lies where it lies
        return op.apply([value for _, value in found], int(found[0][0]))[0]

    def _choice(self, op: Acquire | Learn) -> Plan:
        if not op.keys:
            return None
        (reply,) = yield [self._choosing(op)]
        return chosen(op, reply) if isinstance(op, Acquire) else None

    def _put(self, op: Put) -> Plan:
        # Not by `_swap`: what stood there may be large, and is not wanted.
        expected = b"" if op.expected is ... else b"-" if op.expected is None else b"=" + op.expected
        args = [self.now(), packed_change(op.value, op.ttl), expected]
        (written,) = yield [Call("put", [self.value(op.keys[0])], args)]
        return written == 1

    def _swap(self, op: Op[Any]) -> Plan:
        """Any operation: read, apply, write if nothing has changed meanwhile; else again."""
        if op.likely is not None:
            result, changes = op.apply(op.likely, 0)
            if (yield [self._swapping(op.keys, op.likely, changes)]) == [1]:
                return result
        for _ in range(_TRIES):
            ((now, *values),) = yield [self._reading(op.keys)]
            result, changes = op.apply(values, int(now))
            if not changes or (yield [self._swapping(op.keys, values, changes)]) == [1]:
                return result
        raise StoreBusy("Redis: a key is being changed by others all the time")

    # -- on a cluster: what lies in several slots is not one transaction, and is compensated ----------------

    def _take_apart(self, op: Take) -> Plan:
        """Take from the counters of each caller. If one refuses, the others get back what was taken."""
        groups = by_bucket(op.demands)
        parts = yield from self._taken(groups)
        if any(part.refused for part in parts):
            admitted = [part for part in parts if not part.refused]
            if admitted:
                nothing = [settled_of(Settle(part)) for part in admitted]
                yield from self._settled(nothing, [new_token() for _ in nothing], [part.at for part in admitted])
                left = yield from self._taken([[free(demand) for demand in part.demands] for part in admitted])
                parts = [part if part.refused else left.pop(0) for part in parts]
        return together(op.demands, parts)

    def _settle_apart(self, op: Settle) -> Plan:
        """Settle the counters of each caller, each once by the same token."""
        if not op.taken.refused:
            groups, moments = by_node(op)
            yield from self._settled(groups, [op.token] * len(groups), moments)
        return None

    def _adjust_apart(self, op: Adjust) -> Plan:
        """Adjust the counters of each caller; then write the notes, which lie elsewhere."""
        at = 0
        counts: dict[str, tuple[Any, Any]] = {}
        for part in op.parts():
            adjusted: Adjusted = yield from self._swap(part)
            at = max(at, adjusted.at)
            pairs = zip(adjusted.before, adjusted.after, strict=True)
            counts |= dict(zip([each.key for each in part.adjustments], pairs, strict=True))
        before, after = zip(*[counts[each.key] for each in op.adjustments], strict=True) if counts else ((), ())
        adjusted = Adjusted(at, before, after)
        for note in op.notes:
            yield from self._put(Put(note.key, note.make(adjusted), note.ttl, expected=None))
        return adjusted

    def _taken(self, groups: Sequence[Sequence[Demand]], calls: Sequence[TakeCall] = ()) -> Asking[list[Taken]]:
        """Take from each group by itself. Demands that were told another time than the server's are asked again."""
        calls = calls or [self._taking(group) for group in groups]
        outcomes = yield [*calls]
        for _ in range(_PERIODS):
            late = [(place, at) for place, outcome in enumerate(outcomes) if (at := other_time(outcome)) is not None]
            if not late:
                break
            again = yield [self._taking(groups[place], at, calls[place].token) for place, at in late]
            for (place, _), outcome in zip(late, again, strict=True):
                outcomes[place] = outcome
        return [taken_of(group, outcome) for group, outcome in zip(groups, outcomes, strict=True)]

    def _authenticate_apart(self, op: Authenticate) -> Plan:
        """Look at the record; a wrong key is charged in a second trip, to the node of its source."""
        ((valid, record, outcome),) = yield [self._checking(op, ())]
        at = taken_of((), outcome).at
        if not valid:
            (taken,) = yield from self._taken([op.guess])
            if taken.refused:
                return Authenticated(False, None, taken, taken.at)
        return Authenticated(valid == 1, record or None, None, at)

    # -- calls --------------------------------------------------------------------------------------------

    def _taking(self, demands: Sequence[Demand], now: int | None = None, token: bytes | None = None) -> TakeCall:
        form = TakeForm(self, self._packed(demands, now=now), steady=False)
        return TakeCall(form, self.now(), token or new_token())

    def _settling(self, token: bytes, at: int, settled: Sequence[Settled], now: int | None = None) -> SettleCall:
        """Return the call that settles what was taken at a time."""
        what = self._packed([demand for demand, _, _ in settled], now=now)
        args = [self.now(), what.blob, settlement(token, at, settled), *what.fields]
        anew = partial(self._settling, token, at, settled)
        return SettleCall(script_name("settle", what.kinds), what.keys, args, anew)

    def _checking(self, op: Authenticate, guess: Sequence[Demand], now: int | None = None) -> Call:
        what, token = self._packed(guess, 2, now), new_token()
        digests = b"".join([pack("<I32s", place, digest) for place, digest in op.digests.items()])
        undo = None
        if guess:
            settle, blob = script_name("settle", what.kinds), self._packed(guess, now=now).blob
            undo = Call(settle, what.keys, [self.now(), blob, token, *what.fields])
        return Call(
            script_name("authenticate", what.kinds),
            [self.value(op.keys[0]), *what.keys],
            [self.now(), what.blob, token, digests, *what.fields],
            repeatable=True,
            undo=undo,
        )

    def _packed(self, demands: Sequence[Demand], first: int = 1, now: int | None = None) -> Packed:
        """Pack demands. `now`: the server's time, if it is known."""
        return packed(demands, self.counter, (self._clock or wall_clock)() if now is None else now, first)
