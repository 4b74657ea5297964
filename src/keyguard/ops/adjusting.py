"""The operation that people look at limits with, and change what is spent of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from keyguard.ops.holds import Holds, ask, held_key
from keyguard.ops.op import Change, Op
from keyguard.rates.limit import Limit

Verb: TypeAlias = Literal["look", "reset", "grant", "set"]


class Adjustment(NamedTuple):
    """What is to be done about one counter."""

    key: str
    limit: Limit
    verb: Verb = "look"
    """`reset` sets it back as if nothing had been spent, `grant` gives so many units, `set` says how many are spent."""
    units: int = 0


class Count(NamedTuple):
    """What a counter says at a moment."""

    spent: int
    remaining: int
    reset: int
    """Microseconds until more units come back; 0 if none do by themselves."""
    wait: int
    """Microseconds until a lone caller that asks for one unit is admitted; 0 for now, `NEVER` if it never is."""
    held: int
    """Units that are reserved or in use, and not spent yet."""


class Adjusted(NamedTuple):
    """The outcome of `Adjust`."""

    at: int
    """The store's time, in microseconds."""
    before: tuple[Count, ...]
    """One for each adjustment, in order."""
    after: tuple[Count, ...]


class Note(NamedTuple):
    """A value that is written in the same operation: the record of what was done."""

    key: str
    ttl: int
    """Microseconds for which it is kept."""
    make: Callable[[Adjusted], bytes]


class Adjust(Op[Adjusted]):
    """Look at several counters, or change them, all at once; and note it.

    A grant gives back the units that were taken last, at most those that are spent, if the kind of limit keeps no more.
    What is held stays held.
    """

    __slots__ = ("adjustments", "notes")

    def __init__(self, adjustments: Sequence[Adjustment], notes: Sequence[Note] = ()) -> None:
        self.adjustments = tuple(adjustments)
        self.notes = tuple(notes)
        counters = [each.key for each in adjustments]
        self.keys = (*counters, *map(held_key, counters), *[note.key for note in notes])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Adjusted, Sequence[Change]]:
        changes: list[Change] = []
        before, after = [], []
        holds = old[len(self.adjustments) :]
        for (key, limit, verb, units), state, holding in zip(self.adjustments, old, holds):  # noqa: B905 - notes come last
            held = Holds(holding, now).units
            before.append(_count(limit, state, now, held))
            kept, ttl = state, 0
            if verb == "reset":
                kept = None
            elif verb == "grant":
                kept, ttl = limit.granted(state, now, units)
            elif verb == "set":
                kept, ttl = limit.set_spent(state, now, units)
            if verb != "look" and not (kept is state is None):
                # A state that means nothing from now on is deleted: without a time to live it would stay for good.
                changes.append((key, kept if ttl > 0 else None, ttl if ttl > 0 else None, limit))
            after.append(_count(limit, kept, now, held))
        adjusted = Adjusted(now, tuple(before), tuple(after))
        changes += [(note.key, note.make(adjusted), note.ttl, None) for note in self.notes]
        return adjusted, changes

    def parts(self) -> list[list[int]]:
        """Return the places of its adjustments by caller, for a store that can only change one caller's at once."""
        places: dict[str, list[int]] = {}
        for place, adjustment in enumerate(self.adjustments):
            places.setdefault(adjustment.key.partition("|")[2], []).append(place)
        return [*places.values()]


def _count(limit: Limit, state: bytes | None, now: int, held: int) -> Count:
    _, _, remaining, reset, _ = ask(limit, state, now, 0, held)
    spent = limit.spent(state, now) if keeps_count(limit) else limit.max_cost - limit.take(state, now, 0)[2]
    return Count(spent, remaining, reset, ask(limit, state, now, 1, held)[4], held)


def keeps_count(limit: Limit) -> bool:
    """Tell whether a limit is of a kind of which units can be granted and set: one of a user's own may not be."""
    return type(limit).granted is not Limit.granted
