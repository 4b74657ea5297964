"""The text of an API key, and the digest that a store keeps of it.

    kg_live_4fK2mQ9xTzLb_Xy3...(32 characters of secret)...A1b2C3
    |  |    |            |                                 '- checksum: CRC-32 of all before it, base62
    |  |    |            '- secret, 190 random bits
    |  |    '- id: public, names the key in logs, tables and commands
    |  '- environment
    '- prefix: what secret scanners look for

Rules:
- The checksum refuses a mistyped key without a look-up. It is not a secret and protects against nothing else.
- A store sees a digest: HMAC-SHA-256 of the whole text, keyed with a pepper. A key carries far too many random bits
  to be found from its digest, so a fast digest is enough, and a slow one would stall the event loop.
- Somebody who can write to a store, and does not know the pepper, can neither add keys nor change what one may do: a
  record is sealed with the pepper. The digest of a sealed record is made of that of an unsealed one, as earlier records
  have it, and not the other way round: no record can be put back into the form that has no seal.
- Nothing here shows a secret unless `reveal()` is called.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import zlib
from collections.abc import Mapping
from typing import TypeAlias

from keyguard.checks import is_whole
from keyguard.errors import ConfigurationError

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 12, 32, 6

_WORD = re.compile(r"[a-z][a-z0-9]{0,15}")
_KEY = re.compile(
    rf"([a-z][a-z0-9]{{0,15}})_([a-z][a-z0-9]{{0,15}})_([0-9A-Za-z]{{{ID_LENGTH}}})"
    rf"_([0-9A-Za-z]{{{SECRET_LENGTH}}})([0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)
_LONGEST = 16 + 1 + 16 + 1 + ID_LENGTH + 1 + SECRET_LENGTH + CHECKSUM_LENGTH


class PlainKey:
    """A key in full. It shows its secret only to `reveal()`: not when printed, logged or pickled."""

    __slots__ = ("_text", "env", "id", "prefix")

    def __init__(self, prefix: str, env: str, id: str, text: str) -> None:
        self.prefix = prefix
        self.env = env
        self.id = id
        """The public part that names the key."""
        self._text = text

    def reveal(self) -> str:
        """Return the key as its owner sends it. Show it once; it cannot be had from the store again."""
        return self._text

    def __repr__(self) -> str:
        return f"<PlainKey {self}>"

    def __str__(self) -> str:
        return f"{self.prefix}_{self.env}_{self.id}_***"

    def __reduce__(self) -> str:
        raise TypeError("a key is not pickled: it would leave the process in clear")


def new_key(prefix: str = "kg", env: str = "live") -> PlainKey:
    """Return a fresh random key. Raise `ConfigurationError` if a word is not 1 to 16 of a-z and 0-9, a letter first."""
    check_words(prefix, env)
    id, secret = _random(ID_LENGTH), _random(SECRET_LENGTH)
    body = f"{prefix}_{env}_{id}_{secret}"
    return PlainKey(prefix, env, id, body + _checksum(body))


def check_words(prefix: str, env: str) -> None:
    """Raise `ConfigurationError` unless both can begin a key."""
    for name, word in (("prefix", prefix), ("env", env)):
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise ConfigurationError(f"{name} is 1 to 16 of a-z and 0-9, a letter first, such as 'kg', not {word!r}")


def holds_key(text: str) -> bool:
    """Tell whether a whole key stands anywhere in a text, whatever its checksum says."""
    return _KEY.search(text) is not None


def parse_key(text: str) -> PlainKey | None:
    """Return the key that `text` spells, or `None`: wrong shape, or a checksum that does not fit. Asks no store."""
    if len(text) > _LONGEST:
        return None
    match = _KEY.fullmatch(text)
    if match is None:
        return None
    prefix, env, id, _, checksum = match.groups()
    if _checksum(text[:-CHECKSUM_LENGTH]) != checksum:
        return None
    return PlainKey(prefix, env, id, text)


def _random(length: int) -> str:
    return "".join([secrets.choice(ALPHABET) for _ in range(length)])


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, 62)
        digits = ALPHABET[digit] + digits
    return digits


_MIN = 16  # bytes
_NO_PEPPER = b"keyguard"
_NO_TEXT = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates, but for those that stand for bytes of the environment which are not UTF-8 (PEP 383)."""


class Peppers:
    """The secrets that digests and seals are keyed with, by version.

    Given as one text (version 1) or as a mapping of version to text; the highest version makes new digests, the
    others still verify old ones. Without any, the environment's `KEYGUARD_PEPPER` counts, written as one secret or as
    `2:newer,1:older`.

    Version 0 stands for keys that were made without a pepper, by a fixed label that everybody knows. It counts if there
    is no other version, or if it is named: `{1: "...", 0: None}`, or `1:...,0:`. With it alone digests can still not be
    reversed, but whoever can write to the store could add keys.
    """

    __slots__ = ("_peppers", "current")

    def __init__(self, pepper: Pepper = None) -> None:
        if isinstance(pepper, Peppers):
            self._peppers: dict[int, bytes] = pepper._peppers
            self.current: int = pepper.current
            return
        if pepper is None:
            pepper = _from_environment()
        if isinstance(pepper, (str, bytes)):
            pepper = {1: pepper}
        if not isinstance(pepper, Mapping):
            raise ConfigurationError(f"pepper is a text, or a mapping of version to text, not {type(pepper).__name__}")
        self._peppers = {version: _checked(version, secret) for version, secret in pepper.items()} or {0: _NO_PEPPER}
        self.current = max(self._peppers)

    def __repr__(self) -> str:
        return f"<Peppers: versions {', '.join(map(str, sorted(self._peppers)))}>"

    def __reduce__(self) -> str:
        raise TypeError("peppers are not pickled: they would leave the process in clear")

    def __contains__(self, version: int) -> bool:
        return version in self._peppers

    def digest(self, key: PlainKey) -> bytes:
        """Return the digest of 32 bytes that stands in a new record, under the current pepper."""
        pepper = self._peppers[self.current]
        return _sealed(pepper, hmac.digest(pepper, key.reveal().encode("ascii"), "sha256"))

    def digests(self, key: PlainKey) -> dict[int, bytes]:
        """Return the digests under every pepper, for both layouts, as `keyguard.ops.Authenticate` takes them."""
        text = key.reveal().encode("ascii")
        found: dict[int, bytes] = {}
        for version, pepper in self._peppers.items():
            found[version] = digest = hmac.digest(pepper, text, "sha256")
            found[KEYED << 16 | version] = _sealed(pepper, digest)
        return found

    def sealed_digest(self, version: int, digest: bytes) -> bytes:
        """Make the digest for a sealed record of that of an unsealed one. Raises `KeyError` for an unknown version."""
        return _sealed(self._peppers[version], digest)

    def keyed(self, label: bytes, data: bytes) -> dict[int, bytes]:
        """Return 32 bytes made of `data` under each pepper, by version; those of another label are others."""
        found = {}
        for version, pepper in self._peppers.items():
            found[version] = hmac.digest(pepper, b"\0" + label + b"\0" + data, "sha256")
        return found

    def seal(self, version: int, data: bytes) -> bytes:
        """Make 32 bytes of `data`, which nobody can without the pepper. Raises `KeyError` for an unknown version."""
        return hmac.digest(self._peppers[version], b"\0record\0" + data, "sha256")


Pepper: TypeAlias = "str | bytes | Mapping[int, str | bytes | None] | Peppers | None"
"""The forms in which peppers may be given."""

KEYED = 1
"""The kind of digest, in a sealed record, that this module makes. Others are for hashes that were made elsewhere."""


def _sealed(pepper: bytes, digest: bytes) -> bytes:
    # The text of a key never begins so: none of these digests is that of some other text.
    return hmac.digest(pepper, b"\0digest\0" + digest, "sha256")


def _from_environment() -> str | dict[int, str]:
    text = os.environ.get("KEYGUARD_PEPPER", "")
    if not text:
        return {}
    if not re.match(r"[0-9]+:", text):
        return text
    found: dict[int, str] = {}
    for part in text.split(","):
        version, _, secret = part.partition(":")
        if not version.isascii() or not version.isdigit() or len(version) > 5 or int(version) in found:
            raise ConfigurationError("KEYGUARD_PEPPER is one secret, or '2:newer,1:older', each version once")
        found[int(version)] = secret
    return found


def _checked(version: object, secret: object) -> bytes:
    if not is_whole(version) or not 0 <= version <= 65535:
        raise ConfigurationError(f"a pepper's version is a number from 1 to 65535, or 0 for none, not {version!r:.20}")
    if version == 0:
        if secret:
            raise ConfigurationError("version 0 stands for keys that were made without a pepper: write {0: None}")
        return _NO_PEPPER
    data = secret
    if isinstance(secret, str):
        # As it stands in the environment, UTF-8 or not. An error of the codec would hold the secret.
        if _NO_TEXT.search(secret):
            raise ConfigurationError(f"pepper {version} is not text")
        data = secret.encode("utf-8", "surrogateescape")
    if not isinstance(data, bytes) or len(data) < _MIN:
        raise ConfigurationError(f"pepper {version} is shorter than {_MIN} bytes; try secrets.token_hex(16)")
    return data
