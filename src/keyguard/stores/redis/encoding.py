"""Operations as calls of Lua scripts, replies as results. No I/O.

Where things are, with `ns` for the namespace:

    ns:c:{bucket}        a hash of one caller's counters, a field for each pool; the field `!` has the tokens of its
                         last decisions: what makes each happen exactly once
    ns:v:{pool}|bucket   a plain value, an API key's record above all; those of a pool share a slot, so that a change
                         of two records is one transaction on a cluster too

The braces are the hash tag of a cluster: counters of one caller live on one node. An entry is its expiry (eight bytes,
microseconds, 0 for never) and the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct, pack
from typing import Any, TypeAlias

from keyguard.clock import Clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import (
    Authenticate,
    Authenticated,
    Change,
    Commit,
    Demand,
    Op,
    Put,
    Read,
    Settle,
    Take,
    Taken,
    is_counter,
)
from keyguard.process.tokens import new_token
from keyguard.rates.gcra import Smooth
from keyguard.rates.limit import Limit, Taking
from keyguard.rates.window import WindowLog, WindowSlices
from keyguard.stores.redis.calls import Call, Plan, SettleCall, TakeCall, TakeForm

_DEMAND = Struct("<BB3QQ")
_VERDICT = Struct("<qq")
_FOUR = Struct("<4q")
_MOST = 2**52  # more is more than any limit has
_TRIES = 50


Settled: TypeAlias = tuple[Demand, Taking, int]
"""A demand, what was taken for it, and what it costs in the end."""


class Wire:
    """The names and forms of one store."""

    def __init__(self, namespace: str, clock: Clock | None, *, cluster: bool = False) -> None:
        self._counters = f"{namespace}:c:"
        self._values = f"{namespace}:v:"
        self.pattern = f"{namespace}:[cv]:*"
        self.values = f"{namespace}:v:*"
        """What matches the names of all that is no counter, of which there are many."""
        self._clock = clock
        self._cluster = cluster
        self._forms: dict[Limit, tuple[int, int, int, int] | None] = {}

    # -- names --------------------------------------------------------------------------------------------

    def counter(self, key: str) -> tuple[bytes, bytes]:
        """The hash of a counter, and its field."""
        pool, _, bucket = key.partition("|")
        return _bytes(f"{self._counters}{_tag(bucket)}"), _bytes(pool)

    def value(self, key: str) -> bytes:
        """The name of a plain value."""
        pool, bar, bucket = key.partition("|")
        return _bytes(f"{self._values}{_tag(pool)}{bar}{bucket}")

    def place(self, key: str) -> tuple[bytes, bytes]:
        """The name of a key and its field; the field is empty where it is no counter."""
        return self.counter(key) if is_counter(key) else (self.value(key), b"")

    def keys_of(self, name: bytes, fields: Iterable[bytes]) -> list[str]:
        """The keys that stand under a name that the server listed."""
        text = name.decode("utf-8", "surrogatepass")
        if text.startswith(self._counters):
            bucket = _untagged(text[len(self._counters) :])
            return [f"{field.decode('utf-8', 'surrogatepass')}|{bucket}" for field in fields if field != b"!"]
        pool, closed, rest = text[len(self._values) :].partition("}")
        while closed and rest[:1] not in ("|", ""):  # a brace in the pool's own name
            more, closed, rest = rest.partition("}")
            pool += "}" + more
        return [_untagged(pool + "}") + rest]

    def is_hash(self, name: bytes) -> bool:
        """Whether counters stand under this name."""
        return name.startswith(self._counters.encode())

    def now(self) -> bytes:
        """The time that scripts are told; nothing where they ask the server."""
        return b"" if self._clock is None else b"%d" % self._clock()

    # -- operations ---------------------------------------------------------------------------------------

    def plan(self, op: Op[Any]) -> Plan:
        """What to send for an operation."""
        if isinstance(op, (Take, Settle, Authenticate)):
            return self._decision(op)
        if isinstance(op, Commit):
            return self._commit(op)
        if isinstance(op, Read):
            return self._read(op)
        if isinstance(op, Put) and not is_counter(op.keys[0]):
            return self._put(op)
        return self._swap(op)

    def turns(self, ops: Sequence[Op[Any]]) -> Iterator[list[Op[Any]]]:
        """Operations by what may be under way together, in order.

        What takes one trip is done in the order in which it was sent. What may take several must not meet the keys of
        another meanwhile.
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
        """Whether it is read, applied and written in several trips."""
        if isinstance(op, (Take, Settle, Authenticate)):
            return not self._knows(_demands(op))
        return not isinstance(op, (Commit, Read)) and not (isinstance(op, Put) and not is_counter(op.keys[0]))

    def _decision(self, op: Take | Settle | Authenticate) -> Plan:
        demands = _demands(op)
        if not self._knows(demands):
            return self._swap(op)
        if isinstance(op, Authenticate):
            return self._authenticate_apart(op) if self._cluster and demands else self._authenticate(op)
        apart = self._cluster and len(_by_bucket(demands)) > 1
        if isinstance(op, Take):
            return self._take_apart(op) if apart else self._take(op)
        return self._settle_apart(op) if apart else self._settle(op)

    def _take(self, op: Take) -> Plan:
        if not op.demands:
            ((now,),) = yield [Call("read", [], [self.now()], repeatable=True)]
            return Taken((), [], int(now), False)
        (outcome,) = yield [self.taking(op)]
        return taken_of(op.demands, outcome)

    def taking(self, op: Take) -> Call:
        """The call for a `Take` of one caller whose limits the scripts know."""
        return TakeCall(self._form_of(op), self.now(), new_token())

    def simple(self, op: Op[Any]) -> TakeForm | None:
        """The form of the call, where the operation is one `taking`."""
        if type(op) is not Take:
            return None
        form: TakeForm | None = op.form
        if form is not None and form.owner is self and not self._cluster:
            return form
        return self._form_of(op) if op.demands and not self._cluster and self._knows(op.demands) else None

    def _form_of(self, op: Take) -> TakeForm:
        form: TakeForm | None = op.form
        if form is None or form.owner is not self:
            form = op.form = TakeForm(self, *self._demands(op.demands, 1))
        return form

    def _settle(self, op: Settle) -> Plan:
        if op.keys and not op.taken.refused:
            yield [
                self._settling(op.token, [*zip(op.taken.demands, op.taken.takings, op.costs, strict=True)], op.taken.at)
            ]
        return None

    def _authenticate(self, op: Authenticate) -> Plan:
        ((valid, record, outcome),) = yield [self._checking(op, op.guess)]
        taken = taken_of(() if valid else op.guess, outcome)
        if taken.refused:
            return Authenticated(False, None, taken, taken.at)
        return Authenticated(valid == 1, record or None, None, taken.at)

    def _commit(self, op: Commit) -> Plan:
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

    def _put(self, op: Put) -> Plan:
        # Not by `_swap`: what stood there may be large, and is not wanted.
        expected = b"" if op.expected is ... else b"-" if op.expected is None else b"=" + op.expected
        args = [self.now(), _change(op.value, op.ttl), expected]
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
        groups = _by_bucket(op.demands)
        outcomes = yield [self._taking(group) for group in groups]
        parts = [taken_of(group, outcome) for group, outcome in zip(groups, outcomes, strict=True)]
        if any(part.refused for part in parts):
            admitted = [part for part in parts if not part.refused]
            if admitted:
                yield [
                    self._settling(
                        new_token(), [(*pair, 0) for pair in zip(part.demands, part.takings, strict=True)], part.at
                    )
                    for part in admitted
                ]
                outcomes = yield [self._taking([_free(demand) for demand in part.demands]) for part in admitted]
            parts = [part if part.refused else taken_of(part.demands, outcomes.pop(0)) for part in parts]
        found = {
            demand.key: taking
            for part in parts
            for demand, taking in zip(part.demands, part.takings, strict=True)
        }  # fmt: skip
        at = max(part.at for part in parts)
        return Taken(op.demands, [found[demand.key] for demand in op.demands], at, any(part.refused for part in parts))

    def _settle_apart(self, op: Settle) -> Plan:
        """Settle the counters of each caller, each once by the same token."""
        taken = op.taken
        groups: dict[str, list[Settled]] = {}
        for settled in zip(taken.demands, taken.takings, op.costs, strict=True):
            groups.setdefault(_bucket(settled[0]), []).append(settled)
        if not taken.refused:
            yield [self._settling(op.token, group, taken.at) for group in groups.values()]
        return None

    def _authenticate_apart(self, op: Authenticate) -> Plan:
        """Look at the record; a wrong key is charged in a second trip, to the node of its source."""
        ((valid, record, outcome),) = yield [self._checking(op, ())]
        at = taken_of((), outcome).at
        if not valid:
            (outcome,) = yield [self._taking(op.guess)]
            taken = taken_of(op.guess, outcome)
            if taken.refused:
                return Authenticated(False, None, taken, taken.at)
        return Authenticated(valid == 1, record or None, None, at)

    # -- calls --------------------------------------------------------------------------------------------

    def _taking(self, demands: Sequence[Demand]) -> Call:
        keys, blob, fields = self._demands(demands, 1)
        return TakeCall(TakeForm(self, keys, blob, fields), self.now(), new_token())

    def _settling(self, token: bytes, settled: Sequence[Settled], at: int) -> Call:
        """Return the call that settles what was taken at a time: `(demand, taking, cost in the end)` each."""
        keys, blob, fields = self._demands([demand for demand, _, _ in settled], 1)
        told = token + at.to_bytes(8, "little")
        for demand, taking, cost in settled:
            told += pack("<qq", taking[1], min(_MOST, max(-_MOST, cost - demand.cost)))
        return SettleCall("settle", keys, [self.now(), blob, told, *fields], repeatable=True)

    def _checking(self, op: Authenticate, guess: Sequence[Demand]) -> Call:
        hashes, blob, fields = self._demands(guess, 2)
        token = new_token()
        digests = b"".join([pack("<I32s", place, digest) for place, digest in op.digests.items()])
        undo = None
        if guess:
            undo = Call("settle", hashes, [self.now(), self._demands(guess, 1)[1], token, *fields])
        return Call(
            "authenticate",
            [self.value(op.keys[0]), *hashes],
            [self.now(), blob, token, digests, *fields],
            repeatable=True,
            undo=undo,
        )

    def _reading(self, keys: Sequence[str]) -> Call:
        places = [self.place(key) for key in keys]
        names, fields = [name for name, _ in places], [field for _, field in places]
        return Call("read", names, [self.now(), *fields], repeatable=True)

    def _swapping(self, keys: Sequence[str], expected: Sequence[bytes | None], changes: Sequence[Change]) -> Call:
        new = {key: _change(value, ttl) for key, value, ttl, _ in changes}
        names, args = [], [self.now()]
        for key, value in zip(keys, expected, strict=True):
            name, field = self.place(key)
            names.append(name)
            args += [field, b"" if value is None else b"=" + value, new.get(key, b"")]
        return Call("swap", names, args)

    # -- demands ------------------------------------------------------------------------------------------

    def _knows(self, demands: Sequence[Demand]) -> bool:
        """Whether the scripts know the algorithms of these limits."""
        return all(self._form(demand.limit) is not None for demand in demands)

    def _form(self, limit: Limit) -> tuple[int, int, int, int] | None:
        try:
            return self._forms[limit]
        except KeyError:
            if len(self._forms) > 4096:
                self._forms.clear()
            form = self._forms[limit] = _form(limit)
            return form

    def _demands(self, demands: Sequence[Demand], first: int) -> tuple[list[bytes], bytes, list[bytes]]:
        """The hashes, each once; the demands packed; their fields. The first hash is number `first` of the keys."""
        keys: list[bytes] = []
        fields: list[bytes] = []
        blob = b""
        for demand in demands:
            name, field = self.counter(demand.key)
            if name not in keys:
                keys.append(name)
            fields.append(field)
            form = self._forms[demand.limit]
            assert form is not None
            kind, a, b, c = form
            blob += _DEMAND.pack(kind, keys.index(name) + first, a, b, c, min(demand.cost, _MOST))
        return keys, blob, fields


def _form(limit: Limit) -> tuple[int, int, int, int] | None:
    """How the scripts know a limit: the kind of algorithm and three numbers; `None` where they do not."""
    kind = type(limit)
    if kind is WindowLog:
        return 1, limit.quota, limit.period, 0
    if isinstance(limit, WindowSlices) and kind is WindowSlices:
        return 2, limit.quota, limit.width, limit.period
    if isinstance(limit, Smooth) and kind is Smooth:
        return 3, limit.pace, limit.room, limit.burst
    return None


def taken_of(demands: Sequence[Demand], outcome: bytes) -> Taken:
    """What an outcome says of the demands. Raises `StoreError` where the decision was called off."""
    if len(outcome) < 16:
        raise StoreError("Redis: the decision was called off")
    at, refused = _VERDICT.unpack_from(outcome)
    takings: list[Taking] = [(None, *four) for four in _FOUR.iter_unpack(outcome[16:])]
    return Taken(demands, takings, at, refused == 1)


def _change(value: bytes | None, ttl: int | None) -> bytes:
    return b"-" if value is None else b"+" + (ttl or 0).to_bytes(8, "little") + value


def _demands(op: Take | Settle | Authenticate) -> Sequence[Demand]:
    if isinstance(op, Authenticate):
        return op.guess
    return op.demands if isinstance(op, Take) else op.taken.demands


def _free(demand: Demand) -> Demand:
    return Demand(demand.name, demand.key, demand.limit, 0)


def _bucket(demand: Demand) -> str:
    return demand.key.partition("|")[2]


def _by_bucket(demands: Sequence[Demand]) -> list[list[Demand]]:
    groups: dict[str, list[Demand]] = {}
    for demand in demands:
        groups.setdefault(_bucket(demand), []).append(demand)
    return [*groups.values()]


def _tag(text: str) -> str:
    """A hash tag. The dot keeps it from being empty, which would mean that there is none."""
    return f"{{.{text}}}" if text[:1] in ("", ".", "}") else f"{{{text}}}"


def _untagged(tag: str) -> str:
    text = tag[1:-1]
    return text[1:] if text[:1] == "." else text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
