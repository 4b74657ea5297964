"""The operation on API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hmac import compare_digest

from keyguard.ops.limits import Demand, Take, Taken
from keyguard.ops.op import Change, Op
from keyguard.record_head import head_of


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
        # The same work for a key that is not there, so that time tells nothing. A digest that is not among those
        # presented is never the same, whatever stands in the record.
        same = compare_digest(_NOTHING if head is None else head.digest, wanted or _NOTHING) and wanted is not None
        if same and head is not None and not head.flags and head.not_before <= now < head.not_after:
            return Authenticated(True, record, None, now), ()
        taken, charges = Take(self.guess).apply(old[1:], now)
        if taken.refused:
            return Authenticated(False, None, taken, now), charges
        told = record if same or wanted is None else None
        return Authenticated(False, told or None, None, now), charges


_NOTHING = bytes(32)
