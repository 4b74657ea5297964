"""Operations on what a ledger of usage keeps: counts that many processes add to, each addition once.

A value is JSON: `{"v":1,"w":writers,"c":counts}`.

- `counts`: kind -> name -> slot -> a whole number. A slot is a minute of an hour, an hour of a day, or `""` for all.
- `writers`: the token of each process that has added something, with the number of its last addition and the second of
  that by the store's clock. An addition whose number is not above the last one has been made already: it may be sent
  again by whoever does not know whether it arrived.

A value of a later version is left alone, and told of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from keyguard.clock import SECOND
from keyguard.ops.op import DROPPABLE, Change, Op

Counts: TypeAlias = dict[str, dict[str, dict[str, int]]]
"""Kind -> name -> slot -> a whole number."""

USAGE_VERSION: Final = 1

OTHER: Final = "\0"
"""The name under which is counted what has no row of its own."""

WRITERS = 64
"""Of one value that are remembered. There are more if an app has more processes, or they live shorter than an hour."""
QUIET = 3 * 3600
"""Seconds after which a writer may be forgotten: nobody sends an addition again so late (`UNSURE`)."""
UNSURE = 2 * 3600
"""Seconds after which an addition is given up of which it is not known whether it arrived."""
_FEW = 8  # writers, that are not worth forgetting

LATEST = "l"
"""The kind whose numbers are moments, of which the latest stays: others are added up."""


class UsageRow(NamedTuple):
    """How many names of one kind a value holds at most, and how the names of those without a row are made."""

    most: int
    common: bool = False
    """Whether a name has fields, divided by U+001F, of which only the last is replaced by `other`."""


class UsagePart(NamedTuple):
    """What is added to one value."""

    key: str
    counts: Counts
    rows: Mapping[str, UsageRow]
    """The kinds whose names are bounded. The largest rows stay."""
    expires: int
    """The time, in microseconds, from which on nobody needs the value."""
    longest: int
    """Microseconds that it lives at most from now on: a clock that is wrong keeps nothing for good."""


class Added(NamedTuple):
    """The outcome of `AddUsage`."""

    at: int
    """The store's time, in microseconds."""
    later: tuple[str, ...] = ()
    """The keys of values of a later version, to which nothing was added."""
    damaged: tuple[str, ...] = ()
    """The keys of values that could not be read, and were begun anew."""


class AddUsage(Op[Added]):
    """Add to some values of one pool, to each of them once.

    `token` names the process and `seq` is the number of its addition: higher than all before it for each of the keys.
    If it failed, or its reply was lost, the same object may be executed again within `UNSURE` seconds.
    """

    __slots__ = ("parts", "seq", "token")

    def __init__(self, token: str, seq: int, parts: Sequence[UsagePart]) -> None:
        self.token = token
        self.seq = seq
        self.parts = tuple(parts)
        self.keys = tuple([part.key for part in parts])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Added, Sequence[Change]]:
        changes: list[Change] = []
        later: list[str] = []
        damaged: list[str] = []
        second = now // SECOND
        for part, value in zip(self.parts, old):  # noqa: B905 - the store hands in one value a key
            found = usage_value(value)
            if found is None:
                damaged.append(part.key)
                found = _empty()
            elif found["v"] != USAGE_VERSION:
                later.append(part.key)
                continue
            writers, counts = found["w"], found["c"]
            writer = writers.get(self.token)
            if writer is not None and writer[0] >= self.seq:
                continue
            add_counts(counts, part.counts)
            for kind, row in part.rows.items():
                names = counts.get(kind)
                if names is not None and len(names) > row.most + (OTHER in names):
                    counts[kind] = bounded(names, row)
            writers[self.token] = [self.seq, second]
            if len(writers) > _FEW:
                _forget(writers, second)
            ttl = min(max(part.expires - now, SECOND), part.longest)
            changes.append((part.key, usage_bytes(found), ttl, DROPPABLE))
        return Added(now, tuple(later), tuple(damaged)), changes


def usage_value(value: bytes | None) -> dict[str, Any] | None:
    """Return a value that is stored, an empty one for none; `None` if it cannot be read."""
    if value is None:
        return _empty()
    try:
        found = json.loads(value)
        if found["v"] == USAGE_VERSION and not (isinstance(found["w"], dict) and isinstance(found["c"], dict)):
            return None
    except (ValueError, KeyError, TypeError):
        return None
    read: dict[str, Any] = found
    return read


def usage_bytes(found: Mapping[str, Any]) -> bytes:
    """Return a value as it is stored."""
    return _encode(found).encode()


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _empty() -> dict[str, Any]:
    return {"v": USAGE_VERSION, "w": {}, "c": {}}


def add_counts(counts: Counts, more: Counts) -> None:
    """Add some counts to others."""
    for kind, names in more.items():
        known = counts.setdefault(kind, {})
        latest = kind == LATEST
        for name, slots in names.items():
            row = known.get(name)
            if row is None:
                known[name] = slots.copy()
                continue
            for slot, number in slots.items():
                before = row.get(slot)
                if before is None:
                    row[slot] = number
                elif not latest:
                    row[slot] = before + number
                elif number > before:
                    row[slot] = number


def bounded(names: dict[str, dict[str, int]], row: UsageRow) -> dict[str, dict[str, int]]:
    """Return rows within their bound: the largest as they are, and the others added up under `OTHER`.

    So no row ever says more than there was, and their sum is the sum of all.
    """
    if row.common:
        return _bounded_in_common(names, row.most)
    others = names.pop(OTHER, None)
    ranked = sorted(names, key=lambda name: (-sum(names[name].values()), name))
    kept = {name: names[name] for name in ranked[: row.most]}
    rest: Counts = {"": {OTHER: {} if others is None else others}}
    for name in ranked[row.most :]:
        add_counts(rest, {"": {OTHER: names[name]}})
    kept[OTHER] = rest[""][OTHER]
    return kept


def _bounded_in_common(names: dict[str, dict[str, int]], most: int) -> dict[str, dict[str, int]]:
    kept: dict[str, dict[str, int]] = {}
    rest: Counts = {"": kept}
    for name, slots in names.items():  # in the order in which they came
        if name in kept or len(kept) < most or name.endswith(f"{_FIELD}{COMMON}"):
            kept[name] = slots
        else:
            add_counts(rest, {"": {f"{name.rpartition(_FIELD)[0]}{_FIELD}{COMMON}": slots}})
    return kept


_FIELD = "\x1f"
COMMON: Final = "other"


def _forget(writers: dict[str, list[int]], second: int) -> None:
    """Forget writers that send nothing again any more, and the oldest of too many."""
    for token in [token for token, (_, at) in writers.items() if at + QUIET < second]:
        del writers[token]
    for token in sorted(writers, key=lambda token: writers[token][1])[: max(0, len(writers) - WRITERS)]:
        del writers[token]


# -- processes ------------------------------------------------------------------------------------------------

PROCESSES = "procs|all"
"""The key of what is known of all processes."""
_MOST = 256  # processes that are remembered
_KEPT = 48 * 3600 * SECOND
"""Microseconds for which a process is remembered that has vanished."""


class NoteProcess(Op[int]):
    """Note how a process does, or that it has ended: then `facts` is `None`. Evaluates to the store's time.

    The value is JSON, `{"v":1,"p":{token: {"seen": microseconds, ...}}}`.
    """

    __slots__ = ("facts", "token")

    keys = (PROCESSES,)

    def __init__(self, token: str, facts: Mapping[str, Any] | None) -> None:
        self.token = token
        self.facts = facts

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[int, Sequence[Change]]:
        known = processes_in(old[0])
        if known is None:
            if old[0] is not None and _is_later(old[0]):
                return now, ()
            known = {}
        known.pop(self.token, None)
        if self.facts is not None:
            known[self.token] = {**self.facts, "seen": now}
        seen = {token: facts["seen"] for token, facts in known.items()}
        gone = [token for token, at in seen.items() if at + _KEPT < now]
        gone += sorted(seen, key=seen.__getitem__)[: max(0, len(seen) - _MOST)]
        kept = {token: facts for token, facts in known.items() if token not in gone}
        if not kept:
            return now, [] if old[0] is None else [(PROCESSES, None, None, None)]
        return now, [(PROCESSES, usage_bytes({"v": USAGE_VERSION, "p": kept}), _KEPT, None)]


def processes_in(value: bytes | None) -> dict[str, dict[str, Any]] | None:
    """Return the processes that are noted, by token; `None` if that is of a later version, or cannot be read."""
    if value is None:
        return {}
    try:
        found = json.loads(value)
        if found["v"] != USAGE_VERSION:
            return None
        return {str(token): facts for token, facts in found["p"].items() if isinstance(facts["seen"], int)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_later(value: bytes) -> bool:
    try:
        return bool(json.loads(value)["v"] != USAGE_VERSION)
    except (ValueError, KeyError, TypeError):
        return False
