"""The operation that people look at limits with, and change what is spent of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Literal, NamedTuple, TypeAlias

from keyguard.ops.holds import Holds, ask, held_key
from keyguard.ops.limits import REMEMBERED
from keyguard.ops.op import Change, Op
from keyguard.process.tokens import new_token
from keyguard.rates.limit import Limit

Verb: TypeAlias = Literal["look", "reset", "grant", "set"]


class Adjustment(NamedTuple):
    """A change of one counter, or a look at it."""

    key: str
    limit: Limit
    verb: Verb = "look"
    """`reset` sets it back as if nothing had been spent, `grant` gives so many units, `set` says how many are spent."""
    units: int = 0


class Count(NamedTuple):
    """A counter at a moment."""

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
    Holds stay as they are.

    A change happens once. If it failed, or its reply was lost, the same object may be executed again within
    `REMEMBERED`: it has a token, and what came of it stands beside the counters of each caller.
    """

    __slots__ = ("_callers", "adjustments", "notes", "token")

    def __init__(self, adjustments: Sequence[Adjustment], notes: Sequence[Note] = (), token: bytes = b"") -> None:
        self.adjustments = tuple(adjustments)
        self.notes = tuple(notes)
        self.token = token or new_token()
        self._callers: dict[str, list[Adjustment]] = {}
        """The adjustments of each caller, by the key under which it stands what came of them."""
        for each in self.adjustments:
            self._callers.setdefault(f"{DONE}|{each.key.partition('|')[2]}", []).append(each)
        counters = [each.key for each in self.adjustments]
        self.keys = (*counters, *map(held_key, counters), *self._callers, *[note.key for note in notes])

    def apply(self, old: Sequence[bytes | None], now: int) -> tuple[Adjusted, Sequence[Change]]:
        values = dict(zip(self.keys, old, strict=True))
        changes: list[Change] = []
        found: dict[str, tuple[Count, Count]] = {}
        for key, mine in self._callers.items():
            made = _made(values[key], self.token)
            if made is None:
                made = []
                for each in mine:
                    before, after, change = _adjusted(
                        each, values[each.key], Holds(values[held_key(each.key)], now), now
                    )
                    made.append((before, after))
                    changes += change
                if any(each.verb != "look" for each in mine):
                    counts = [_COUNT.pack(*count) for pair in made for count in pair]
                    changes.append((key, b"".join([self.token, *counts]), REMEMBERED, _DONE))
            found.update(zip([each.key for each in mine], made, strict=True))
        pairs = [found[each.key] for each in self.adjustments]
        adjusted = Adjusted(now, tuple(before for before, _ in pairs), tuple(after for _, after in pairs))
        changes += [(note.key, note.make(adjusted), note.ttl, None) for note in self.notes if values[note.key] is None]
        return adjusted, changes

    def parts(self) -> list[Adjust]:
        """Return what it does about each caller, for a store that can only change one caller's counters at once."""
        return [Adjust(mine, token=self.token) for mine in self._callers.values()]


DONE = "rl:adjusted"
"""The pool of what was changed last, by caller: the token of the change, and what came of it."""

_TOKEN = 8
_COUNT = Struct("<5q")


def _made(done: bytes | None, token: bytes) -> list[tuple[Count, Count]] | None:
    """Return what a change came to, if it was the last one of a caller."""
    if done is None or done[:_TOKEN] != token:
        return None
    counts = [Count(*numbers) for numbers in _COUNT.iter_unpack(done[_TOKEN:])]
    return [*zip(counts[::2], counts[1::2], strict=True)]


def _adjusted(adjustment: Adjustment, state: bytes | None, holds: Holds, now: int) -> tuple[Count, Count, list[Change]]:
    """Return what a counter says before and after, and what is to be written."""
    key, limit, verb, units = adjustment
    kept, ttl = state, 0
    if verb == "reset":
        kept = None
    elif verb == "grant":
        kept, ttl = limit.granted(state, now, units)
    elif verb == "set":
        kept, ttl = limit.set_spent(state, now, units)
    changes: list[Change] = []
    if verb != "look" and not (kept is state is None):
        # A state that means nothing from now on is deleted: without a time to live it would stay for good.
        changes.append((key, kept if ttl > 0 else None, ttl if ttl > 0 else None, limit))
    return _count(limit, state, now, holds.units), _count(limit, kept, now, holds.units), changes


def _count(limit: Limit, state: bytes | None, now: int, held: int) -> Count:
    _, _, remaining, reset, _ = ask(limit, state, now, 0, held)
    spent = limit.spent(state, now) if keeps_count(limit) else limit.max_cost - limit.take(state, now, 0)[2]
    return Count(spent, remaining, reset, ask(limit, state, now, 1, held)[4], held)


def keeps_count(limit: Limit) -> bool:
    """Tell whether a limit is of a kind of which units can be granted and set: one of a user's own may not be."""
    return type(limit).granted is not Limit.granted


class _Done(Limit):
    """The notes of changes, for a store at its memory bound: the first to be forgotten, since a repetition is rare."""

    __slots__ = ()

    def half_spent(self, state: bytes, now: int) -> bool:
        return False


_DONE = _Done(1, REMEMBERED, "changes", "adjusted")
