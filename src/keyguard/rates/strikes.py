"""Strikes: whoever has had more than N in a period is banned for a while, and for longer each time it happens again.

Asking costs nothing, and tells whether a ban is on. Each strike is a charge; the one that is one too many begins a ban,
and what was counted until then is forgotten with it. A strike that comes during a ban is of a request that was let in
before, and counts nothing. A ban within `longest` after the end of the last one is twice as long as that, up to
`longest`.

State, which tells all by itself: when the latest ban began and when it ends (microseconds, eight bytes each), how many
there were (four bytes); then the strikes, oldest first: a moment, eight bytes, and how many, four bytes. For N up to 32
each strike has its own moment. For a larger N, those within a 32nd of the period count as one moment, the first: nobody
is banned for N strikes in a period, and whoever has more than N in 31/32 of it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

from keyguard.rates.limit import JSON, Limit, Taking

Entries: TypeAlias = "list[tuple[int, int]]"
"""Moments of strikes, and how many: the oldest first."""

HEAD = Struct("<QQI")
_ENTRY = Struct("<QI")
_EXACT = 32  # strikes, each of which has a moment of its own
_DOUBLINGS = 63  # more make no ban longer

CODE = "strikes"
"""Stands at the end of the names of their pools. No period stands in it: a limit that is edited ends no ban."""


class Ban(NamedTuple):
    """The latest ban of a caller, as the state has it."""

    since: int
    until: int
    number: int
    """How many there were, this one included; 0 if none that matters any more."""


def ban_of(state: bytes) -> Ban:
    """Return the latest ban. Raise `ValueError` for what is not the state of strikes."""
    if len(state) < HEAD.size or (len(state) - HEAD.size) % _ENTRY.size:
        raise ValueError("this is not the state of strikes")
    return Ban(*HEAD.unpack_from(state))


def state_of(ban: Ban) -> bytes:
    """Return the state of a caller with this ban and no strikes."""
    return HEAD.pack(*ban)


class Strikes(Limit):
    """More than `quota` strikes in `period` are a ban of `length`, and of up to `longest` if bans follow each other.

    All times are microseconds. With `longest` no more than `length`, all bans are of one length.
    """

    __slots__ = ("length", "longest")

    kind = "strikes"
    script = "strikes"

    def __init__(self, quota: int, period: int, text: str, length: int, longest: int) -> None:
        super().__init__(quota, period, text, CODE)
        self.length = length
        self.longest = max(length, longest)

    @property
    def durable(self) -> bool:
        return True  # whoever is banned stays so, whatever befalls a database

    def terms(self) -> dict[str, JSON]:
        of_rate: dict[str, JSON] = {"quota": self.quota, "period": self.period, "text": self.text}
        return {**of_rate, "length": self.length, "longest": self.longest}

    def numbers(self, now: int) -> tuple[int, int, int, int]:
        return self.quota, self.period, self.length, self.longest

    def take(self, state: bytes | None, now: int, cost: int) -> Taking:
        if state is None:
            return None, 0, self.quota, 0, 0
        moved, ban, entries = self._read(state, now)
        kept = _packed(ban, entries) if moved else None
        ttl = self._life(ban, entries, now)
        if now < ban.until:
            wait = ban.until - now
            return kept, ttl, 0, wait, wait
        reset = entries[0][0] + self.period - now if entries else 0
        return kept, ttl, max(0, self.quota - _sum(entries)), reset, 0

    def charge(self, state: bytes | None, now: int, cost: int) -> tuple[bytes, int]:
        _, ban, entries = self._read(state, now) if state is not None else (False, Ban(0, 0, 0), [])
        if now >= ban.until:
            if _sum(entries) + cost > self.quota:
                length = min(self.longest, self.length << min(ban.number, _DOUBLINGS))
                ban, entries = Ban(now, now + length, ban.number + 1), []
            elif entries and self._same_moment(entries[-1][0], now):
                entries[-1] = (entries[-1][0], entries[-1][1] + cost)
            else:
                entries.append((now, cost))
        return _packed(ban, entries), self._life(ban, entries, now)

    def give_back(self, state: bytes, now: int, taken_at: int, cost: int) -> bytes | None:
        return None  # asking takes nothing

    def merge(self, one: bytes, other: bytes) -> bytes:
        ban, ban_of_other = ban_of(one), ban_of(other)
        later = max(ban, ban_of_other, key=lambda each: each.until)
        number = max(ban.number, ban_of_other.number)
        # Since any moment there are as many strikes as in the one that has more of them.
        mine, theirs = _entries(one), _entries(other)
        merged: Entries = []
        counted = 0
        for at in sorted({at for at, _ in (*mine, *theirs)}, reverse=True):
            since = max(sum([count for moment, count in each if moment >= at]) for each in (mine, theirs))
            if since > counted:
                if merged and self._same_moment(at, merged[-1][0]):
                    merged[-1] = (merged[-1][0], merged[-1][1] + since - counted)
                else:
                    merged.append((at, since - counted))
                counted = since
        return _packed(Ban(later.since, later.until, number), merged[::-1])

    def share(self, among: int) -> Strikes:
        return self

    def _same_moment(self, at: int, later: int) -> bool:
        """Tell whether a strike counts as one of an earlier moment."""
        return at == later or (self.quota > _EXACT and (later - at) * 32 < self.period)

    def _read(self, state: bytes, now: int) -> tuple[bool, Ban, Entries]:
        """Return whether time was set back, the latest ban, and the strikes that count."""
        ban, entries = ban_of(state), _entries(state)
        back = max(ban.since, entries[-1][0] if entries else 0) - now
        if back > 0:
            since = max(0, ban.since - back)
            ban = Ban(since, since + ban.until - ban.since, ban.number)
            entries = [(max(0, at - back), count) for at, count in entries]
        if ban.until + self.longest <= now:
            ban = ban._replace(number=0)
        return back > 0, ban, [entry for entry in entries if entry[0] > now - self.period]

    def _life(self, ban: Ban, entries: Entries, now: int) -> int:
        """Return the microseconds after which neither the ban nor the strikes mean anything."""
        return max(0, ban.until + self.longest - now, entries[-1][0] + self.period - now if entries else 0)


def _sum(entries: Entries) -> int:
    return sum([count for _, count in entries])


def _entries(state: bytes) -> Entries:
    return [*_ENTRY.iter_unpack(state[HEAD.size :])]


def _packed(ban: Ban, entries: Sequence[tuple[int, Any]]) -> bytes:
    return HEAD.pack(*ban) + b"".join([_ENTRY.pack(*entry) for entry in entries])
