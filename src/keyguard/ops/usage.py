"""Operations on what a ledger of usage keeps: counts that many processes add to, each addition once.

A value is JSON, `{"v":1,"w":writers,"s":slotted,"c":counts}`.

- `slotted`: kind -> name -> numbers by slot, as text, `"0:12 5:3"`: a minute of an hour, or an hour of a day, and the
  number. Nearly always the last one is added to, so that the others need not be read: most of the time goes there.
- `counts`: kind -> name -> a whole number.
- `writers`: the token of each process that has added something, with the number of its last addition and the second of
  that by the store's clock. An addition whose number is not above the last one has been made already: it may be sent
  again by whoever does not know whether it arrived.

A value of a later version is left alone, and told of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from keyguard.clock import SECOND
from keyguard.ops.op import DROPPABLE, Change, Op

Counts: TypeAlias = dict[str, dict[str, int]]
"""Kind -> name -> a whole number."""
Slotted: TypeAlias = dict[str, dict[str, str]]
"""Kind -> name -> numbers by slot, as text."""

USAGE_VERSION: Final = 1

OTHER: Final = "\0"
"""The name under which is counted what has no row of its own."""

LATEST: Final = "l"
"""The kind of counts whose numbers are moments, of which the latest stays: others are added up."""

WRITERS = 64
"""Of one value that are remembered. There are more if an app has more processes, or they live shorter than an hour."""
QUIET = 3 * 3600
"""Seconds after which a writer may be forgotten: nobody sends an addition again so late (`UNSURE`)."""
UNSURE = 2 * 3600
"""Seconds after which an addition is given up of which it is not known whether it arrived."""
_FEW = 8  # writers, that are not worth forgetting


class UsageRow(NamedTuple):
    """How many names of one kind a value holds at most, and how the names of those without a row are made."""

    most: int
    common: bool = False
    """Whether a name has fields, divided by U+001F, of which only the last is replaced by `other`."""


class UsagePart(NamedTuple):
    """The amounts that are added to one value."""

    key: str
    slotted: Slotted
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
        for part, value in zip(self.parts, old):  # noqa: B905 - the store hands in one value a key
            found = UsageValue.read(value)
            if found is None:
                if is_later(value):
                    later.append(part.key)
                    continue
                damaged.append(part.key)
                found = UsageValue()
            writer = found.writers.get(self.token)
            if writer is not None and writer[0] >= self.seq:
                continue
            try:
                found.add(part)
            except (ValueError, TypeError, AttributeError):
                damaged.append(part.key)
                found = UsageValue()
                found.add(part)
            found.writers[self.token] = [self.seq, now // SECOND]
            found.forget(now // SECOND)
            ttl = min(max(part.expires - now, SECOND), part.longest)
            changes.append((part.key, found.written(), ttl, DROPPABLE))
        return Added(now, tuple(later), tuple(damaged)), changes


_SLOTS = re.compile("(?:[0-9]{1,9}:-?[0-9]{1,30}(?: |$))*")


class UsageValue:
    """A value, as it is stored."""

    __slots__ = ("counts", "slotted", "writers")

    def __init__(self) -> None:
        self.writers: dict[str, list[int]] = {}
        self.slotted: Slotted = {}
        self.counts: Counts = {}

    @classmethod
    def read(cls, value: bytes | None) -> UsageValue | None:
        """Return what is stored, an empty one for nothing; `None` if it cannot be read."""
        self = cls()
        if value is None:
            return self
        try:
            found = json.loads(value)
            if found["v"] == USAGE_VERSION:
                self.writers, self.slotted, self.counts = found["w"], found["s"], found["c"]
                if self._whole():
                    return self
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            pass
        return None

    def _whole(self) -> bool:
        """Tell whether all of it has the form in which it is written. What is no object at all raises an error."""
        return (
            all(type(seq) is type(at) is int for seq, at in self.writers.values())
            and all(_SLOTS.fullmatch(text) for names in self.slotted.values() for text in names.values())
            and all(type(number) is int for names in self.counts.values() for number in names.values())
        )

    def written(self) -> bytes:
        """Return it as it is stored."""
        return encode({"v": USAGE_VERSION, "w": self.writers, "s": self.slotted, "c": self.counts})

    def add(self, part: UsagePart) -> None:
        """Add to it, within the bounds of its rows."""
        for kind, names in part.slotted.items():
            known = self.slotted.setdefault(kind, {})
            for name, text in names.items():
                before = known.get(name)
                known[name] = text if before is None else with_slots(before, text)
        for kind, more in part.counts.items():
            counts = self.counts.setdefault(kind, {})
            if kind == LATEST:
                for name, number in more.items():
                    counts[name] = max(number, counts.get(name, 0))
            else:
                _add(counts, more)
        for kind, row in part.rows.items():
            if kind in self.slotted:
                self.slotted[kind] = _bounded_slots(self.slotted[kind], row)
            elif kind in self.counts:
                self.counts[kind] = bounded(self.counts[kind], row)

    def forget(self, second: int) -> None:
        """Forget writers that send nothing again any more, and the oldest of too many."""
        writers = self.writers
        if len(writers) <= _FEW:
            return
        for token in [token for token, (_, at) in writers.items() if at + QUIET < second]:
            del writers[token]
        for token in sorted(writers, key=lambda token: writers[token][1])[: max(0, len(writers) - WRITERS)]:
            del writers[token]


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def encode(value: object) -> bytes:
    """Return plain data as it is stored."""
    return _encode(value).encode()


def is_later(value: bytes | None) -> bool:
    """Tell whether a value is of another version."""
    try:
        return value is not None and bool(json.loads(value)["v"] != USAGE_VERSION)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _add(counts: dict[str, int], more: Mapping[str, int]) -> None:
    for name, number in more.items():
        before = counts.get(name)
        counts[name] = number if before is None else before + number


def bounded(names: dict[str, int], row: UsageRow) -> dict[str, int]:
    """Return rows within their bound: the largest as they are, and the others added up under `OTHER`.

    So no row ever says more than there was, and their sum is the sum of all.
    """
    if len(names) <= row.most + (OTHER in names):
        return names
    if row.common:
        return _bounded_in_common(names, row.most)
    others = names.pop(OTHER, 0)
    ranked = sorted(names.items(), key=_RANK)
    return {**dict(ranked[: row.most]), OTHER: others + sum(number for _, number in ranked[row.most :])}


def _RANK(pair: tuple[str, int]) -> tuple[int, str]:
    return -pair[1], pair[0]


def _bounded_slots(names: dict[str, str], row: UsageRow) -> dict[str, str]:
    if len(names) <= row.most + (OTHER in names):
        return names
    sums = {name: sum(slots_in(text).values()) for name, text in names.items()}
    kept = bounded(sums, row)
    others = names.get(OTHER, "")
    for name, text in names.items():
        if name not in kept:
            others = with_slots(others, text)
    return {**{name: text for name, text in names.items() if name in kept}, OTHER: others}


def slots_in(text: str) -> dict[int, int]:
    """Return numbers by slot. Raises `ValueError` for a text that is not of that form."""
    return {int(slot): int(number) for slot, _, number in [pair.partition(":") for pair in text.split(" ") if pair]}


def slots_text(slots: Mapping[int, int]) -> str:
    """Return numbers by slot as text."""
    return " ".join([f"{slot}:{slots[slot]}" for slot in sorted(slots)])


def with_slots(text: str, more: str) -> str:
    """Return a text with more numbers added."""
    for pair in more.split(" "):
        slot, _, number = pair.partition(":")
        head, space, last = text.rpartition(" ")
        known, _, before = last.partition(":")
        if known == slot:  # fast path, same answers
            text = f"{head}{space}{slot}:{int(before) + int(number)}"
        elif known and int(known) < int(slot):
            text = f"{text} {pair}"
        else:
            slots = slots_in(text)
            slots[int(slot)] = slots.get(int(slot), 0) + int(number)
            text = slots_text(slots)
    return text


def _bounded_in_common(names: dict[str, int], most: int) -> dict[str, int]:
    kept: dict[str, int] = {}
    for name, number in names.items():  # in the order in which they came
        if len(kept) >= most and not name.endswith(f"{_FIELD}{COMMON}"):
            name = f"{name.rpartition(_FIELD)[0]}{_FIELD}{COMMON}"
        kept[name] = kept.get(name, 0) + number
    return kept


_FIELD = "\x1f"
COMMON: Final = "other"


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
            if is_later(old[0]):
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
        return now, [(PROCESSES, encode({"v": USAGE_VERSION, "p": kept}), _KEPT, DROPPABLE)]


def processes_in(value: bytes | None) -> dict[str, dict[str, Any]] | None:
    """Return the processes that are noted, by token; `None` if that is of a later version, or cannot be read."""
    if value is None:
        return {}
    try:
        found = json.loads(value)
        if found["v"] != USAGE_VERSION:
            return None
        return {str(token): facts for token, facts in found["p"].items() if isinstance(facts["seen"], int)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
