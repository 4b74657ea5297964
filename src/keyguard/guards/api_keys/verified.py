"""Keys that this process has verified: whose they are, and for how long that is trusted.

A key is remembered by a digest. It is trusted for `RECHECK`, so a revocation takes effect within it; one request asks
the store again a little earlier, and saves the others from doing so all at once.

So many keys are remembered and no more, and the others go on to be accepted while the store is out of order. There are
two generations: one of the older makes room for a new key, and when none of them is left, all that are remembered are
the older ones. Within a generation the last to come is the first to go: callers who take turns, and are a few more than
are remembered, would each have been forgotten when their turn came if it were the other way round.
"""

from __future__ import annotations

import threading
from hashlib import blake2s

from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.http.addresses import Networks
from keyguard.identity import Identity
from keyguard.keys import Peppers, record_key
from keyguard.keys.record import FOREVER as FOREVER
from keyguard.keys.record import decode, end_of, trusted
from keyguard.ops import Authenticated, head_of
from keyguard.units import as_datetime

RECHECK = SECOND // 2
"""Microseconds for which a verified key is trusted without asking the store again."""
_AHEAD = RECHECK // 4
"""Microseconds before that end at which one request asks again, while the others go on trusting it."""

REMEMBERED = 25_000
KEY_MAX = 512  # bytes; nobody's key is longer
_LOOKED_AT = slice(KEY_MAX + 1)


class Known:
    """A verified key."""

    __slots__ = (
        "fresh_until",
        "generation",
        "identity",
        "networks",
        "not_after",
        "place",
        "record",
        "trusted_until",
        "version",
    )

    def __init__(
        self, identity: Identity, record: bytes, networks: Networks | None, not_after: int, place: str = ""
    ) -> None:
        self.identity = identity
        self.record = record
        self.place = place
        """Where the record stands in the store."""
        self.networks = networks
        self.not_after = not_after
        self.generation = 0
        self.version: object = None
        """The version of the store's values in which the record was seen, if the store is in this process."""
        self.fresh_until = 0
        self.trusted_until = 0
        """Until when nobody asks the store again: `fresh_until` at most, and earlier if nobody is asking it yet."""

    def verified(self, now: int) -> None:
        """Note that the store has been asked."""
        self.fresh_until = now + RECHECK
        self.trusted_until = min(self.fresh_until - _AHEAD, self.not_after)

    def trusted(self, now: int) -> bool:
        """Whether the store need not be asked."""
        return self.fresh_until - RECHECK <= now < self.trusted_until

    def doubt(self) -> None:
        """Have the next request ask the store again."""
        self.trusted_until = 0

    def being_verified(self) -> None:
        """Let the others go on with what is known for as long as it may be trusted."""
        self.trusted_until = min(self.fresh_until, self.not_after)


class KnownKeys:
    """The keys that were verified last, by fingerprint; not more than `max_keys`, by default `REMEMBERED`."""

    __slots__ = ("_generation", "_keys", "_lock", "_max", "_older", "doubting", "get")

    def __init__(self, max_keys: int | None = None, *, doubting: bool = False) -> None:
        self.doubting = doubting
        """Whether the store is asked about each key again, since time stands still, and trust would not end."""
        self._max = REMEMBERED if max_keys is None else max_keys
        self._keys: dict[bytes, Known] = {}
        self._generation = 0
        self._older: list[bytes] = []
        """The keys of earlier generations, the last to come at the end; and some that were verified again since."""
        self.get = self._keys.get
        self.after_fork()

    def __len__(self) -> int:
        return len(self._keys)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def keep(self, fingerprint: bytes, known: Known) -> None:
        """Remember a key that was verified just now."""
        keys = self._keys
        with self._lock:
            if fingerprint not in keys:
                while len(keys) >= self._max:
                    self._forget_one()
            known.generation = self._generation
            keys[fingerprint] = known
        if self.doubting:
            known.doubt()

    def drop(self, fingerprint: bytes) -> None:
        """Forget a key."""
        with self._lock:
            self._keys.pop(fingerprint, None)

    def _forget_one(self) -> None:
        """Forget a key that was not verified in this generation; if there is none, begin the next one."""
        keys, older = self._keys, self._older
        while older:
            known = keys.get(older[-1])
            if known is not None and known.generation < self._generation:
                del keys[older.pop()]
                return
            older.pop()
        self._older = list(keys)
        self._generation += 1


def fingerprint_of(text: bytes) -> bytes:
    """Return the digest by which a key is remembered: the key itself is not kept."""
    return blake2s(text[_LOOKED_AT]).digest()  # measured: the cheapest digest of the library that hides its text


def remembered(stored: bytes) -> Known | None:
    """Return the key of a stored record, or `None` if it cannot be read."""
    try:
        record = decode(stored)
    except StoreError:
        return None
    identity = Identity(
        subject=record.subject,
        key_id=record.id,
        plan=record.plan,
        scopes=record.scopes,
        metadata=record.metadata,
    )
    networks = Networks(record.networks) if record.networks else None
    return Known(identity, stored, networks, end_of(record), record_key(record.id))


def holder_of(record: bytes, peppers: Peppers) -> str:
    """Return the subject of a record that is not valid any more, for the log; empty if nothing vouches for it."""
    try:
        return decode(record).subject if trusted(record, peppers) else ""
    except StoreError:
        return ""


def why_not_valid(found: Authenticated, record: bytes, peppers: Peppers) -> str:
    """Return why a record is not valid, in a word for the log."""
    head = head_of(record)
    if head is None:
        return "layout"
    if head.pepper not in peppers:
        return "pepper"
    try:
        status = decode(record).status(as_datetime(found.at)) if trusted(record, peppers) else ""
    except StoreError:
        status = ""
    return status if status not in ("", "active", "rotating") else "tampered"
