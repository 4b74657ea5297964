"""Keys that were made elsewhere: how the store finds one, and what it compares.

Their text says no id, so an index leads to it. A digest of the text, keyed with the pepper, is the name of an entry
that holds the id: one look, however many keys there are. A key of which only a slow hash is known (argon2, bcrypt) has
an entry for its beginning, since nothing else of it can be looked up; at its first use it gets one for all its text.

    key|~i{digest of a text}      id
    key|~i{digest of a prefix}    up to four ids
    key|{id}                      the record, as that of any key

Rules:
- What stands in an entry proves nothing. The record is sealed, and holds the digest, or the hash, that must be right.
- An entry stays if its key is deleted: a file that is imported again brings back no key that somebody has deleted or
  revoked. That holds for entries that were made under an earlier pepper, as long as that one is named.
- A hash is tried only for a key whose beginning is known, a few at a time in a process, and once: if it was right, the
  record gets the digest of the text in its place.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TypeAlias

from keyguard.errors import ConfigurationError
from keyguard.keys.format import ALPHABET, ID_LENGTH, Peppers
from keyguard.keys.record import ENTRY, KeyRecord, encode_imported
from keyguard.ops import Authenticate

INDEX = ENTRY + "i"
"""The beginning of the store's keys of these entries."""

BY_SHA256, BY_HMAC, BY_HASH = 2, 3, 4
"""The kinds of digest in a record: of the text's SHA-256, of its HMAC-SHA-256, and none yet."""

PREFIXES = (6, 8, 10, 12, 16)
"""How many characters of a key may be known beside its slow hash; or all before its first dot."""
MOST_OF_PREFIX = 4
"""Keys that may have one beginning: as many hashes are tried for one guess."""

LONGEST = 512
SHORTEST = 16
"""Characters of an imported key. A shorter one can be guessed, by whoever has the store and no pepper at once."""

_TEXT = re.compile(r"[\x21-\x2b\x2d-\x7e]+")
_MIN_SECRET = 8  # bytes
_NO_DIGEST = bytes(32)


HmacSecret: TypeAlias = "str | bytes | Imported | None"
"""The secret of an HMAC, or what knows it."""


class Imported:
    """How texts become digests: under these peppers, and with the secret of an HMAC if keys have one."""

    __slots__ = ("_peppers", "_secret")

    def __init__(self, peppers: Peppers, secret: HmacSecret = None) -> None:
        self._peppers = peppers
        if isinstance(secret, Imported):
            secret = secret._secret
        if secret is None:
            secret = os.environ.get("KEYGUARD_HMAC_SECRET") or None
        data = secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret
        if data is not None and (not isinstance(data, bytes) or len(data) < _MIN_SECRET):
            raise ConfigurationError(f"hmac_secret is a text of at least {_MIN_SECRET} bytes, which hashed the keys")
        self._secret: bytes | None = data

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled: they would leave the process in clear")

    def places(self, text: str) -> tuple[list[str], list[str]]:
        """Return the entries to look at for a text: of all of it, and of its beginnings."""
        exact = self._entries(b"sha256", _hashed(text))
        if self._secret is not None:
            exact += self._entries(b"hmac", self._hmac(text))
        begins = [text[:length] for length in PREFIXES if len(text) > length]
        if "." in text:
            begins.append(text[: text.index(".") + 1])
        return exact, [name for begin in begins for name in self._entries(b"prefix", begin.encode())]

    def authenticate(self, place: str, text: str) -> Authenticate:
        """Return the operation that compares a text with the record in a place."""
        digests: dict[int, bytes] = {}
        found = {BY_SHA256: _hashed(text)}
        if self._secret is not None:
            found[BY_HMAC] = self._hmac(text)
        for kind, data in found.items():
            for version, digest in self._peppers.keyed(b"imported", bytes([kind]) + data).items():
                digests[kind << 16 | version] = digest
        return Authenticate(place, digests)

    def names(self, kind: int, data: bytes) -> list[str]:
        """Return the entries that say that a key is there, under each of the peppers, that of today first."""
        label = {BY_SHA256: b"sha256", BY_HMAC: b"hmac", BY_HASH: b"hash"}[kind]
        today = self._entry(label, data)
        return [today, *[name for name in self._entries(label, data) if name != today]]

    # -- making records -----------------------------------------------------------------------------------

    def by_digest(self, record: KeyRecord, kind: int, data: bytes) -> tuple[str, bytes]:
        """Return the entry and the record of a key whose SHA-256 or HMAC is known."""
        label = b"sha256" if kind == BY_SHA256 else b"hmac"
        digest = self._peppers.keyed(b"imported", bytes([kind]) + data)[self._peppers.current]
        return self._entry(label, data), encode_imported(record, self._peppers, kind, digest)

    def by_hash(self, record: KeyRecord, prefix: str) -> tuple[str, str, bytes]:
        """Return the entries of the hash and of the beginning, and the record of a key with a slow hash."""
        seen = self._entry(b"hash", str(record.verifier).encode())
        begin = self._entry(b"prefix", prefix.encode())
        return seen, begin, encode_imported(record, self._peppers, BY_HASH, _NO_DIGEST)

    def kept(self, record: KeyRecord, text: str) -> tuple[str, bytes]:
        """Return the entry and the record of a key whose hash was right: now as ours."""
        return self.by_digest(replace(record, verifier=None), BY_SHA256, _hashed(text))

    def digest_of(self, text: str) -> bytes:
        """Return the SHA-256 of a key."""
        return _hashed(text)

    def _entry(self, label: bytes, data: bytes) -> str:
        return _named(self._peppers.keyed(b"index-" + label, data)[self._peppers.current])

    def _entries(self, label: bytes, data: bytes) -> list[str]:
        return [_named(digest) for digest in self._peppers.keyed(b"index-" + label, data).values()]

    def _hmac(self, text: str) -> bytes:
        return hmac.digest(self._secret or b"", text.encode(), "sha256")


def may_be_imported(text: str) -> bool:
    """Tell whether a text can be a key that was made elsewhere: printable ASCII without blanks and commas."""
    return SHORTEST <= len(text) <= LONGEST and _TEXT.fullmatch(text) is not None


def ids_in(entries: Sequence[bytes | None]) -> list[str]:
    """Return the ids in entries, each once."""
    found = [id for entry in entries if entry for id in entry.decode("ascii", "replace").split(",")]
    return [id for id in dict.fromkeys(found) if id.isascii() and id.isalnum()]


def new_id() -> str:
    """Return an id for a key whose text has none."""
    return "".join([secrets.choice(ALPHABET) for _ in range(ID_LENGTH)])


def _hashed(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _named(digest: bytes) -> str:
    return INDEX + digest[:16].hex()
