"""Taking keys over that were made elsewhere: their words, checked, and the writing of their records.

Rules:
- A key that stands there already is left as it is, so the same keys may be imported again. So is one that was deleted
  since.
- An error shows nothing of what was given: a key may stand in the place of another word.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keyguard.errors import ConfigurationError, StoreError
from keyguard.keys.drafts import Moment
from keyguard.keys.format import parse_key
from keyguard.keys.imported import (
    BY_HASH,
    BY_HMAC,
    BY_SHA256,
    LONGEST,
    MOST_OF_PREFIX,
    PREFIXES,
    SHORTEST,
    Imported,
    ids_in,
    may_be_imported,
    new_id,
)
from keyguard.keys.record import KeyRecord, decode, record_key
from keyguard.keys.values import checked_metadata, checked_networks, checked_scopes, checked_text
from keyguard.keys.verifiers import scheme_of
from keyguard.ops import CompareAndSet, Read, Store
from keyguard.units import as_datetime, moment_from

_BATCH = 200
_TRIES = 5
_TOLD = 20  # problems in the text of an error
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{43}=?")
_TOO_MANY = f"more than {MOST_OF_PREFIX} keys with slow hashes begin in the same way, and a guess would try them all"
_PREFIX = re.compile(r"[\x21-\x2b\x2d\x2f-\x7e]{1,64}\.?")


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A key that was made elsewhere, as it is to be imported: one of `key`, `sha256`, `hmac_sha256` and `hash`."""

    owner: str
    key: str | None = field(default=None, repr=False)
    """Its text, 16 to 512 printable characters of ASCII without blanks and commas. It is not kept."""
    sha256: str | None = None
    """The SHA-256 of its text, in hexadecimal or base64."""
    hmac_sha256: str | None = None
    """The HMAC-SHA-256 of its text, likewise. The app has to know the secret: `APIKeys(hmac_secret=...)`."""
    hash: str | None = field(default=None, repr=False)
    """A slow hash of its text, of argon2, bcrypt, pbkdf2_sha256 or sha512. See `prefix`."""
    prefix: str | None = None
    """The beginning of a key of which `hash` is known: its first 6, 8, 10, 12 or 16 characters, or all before its first
    dot, with the dot."""
    subject: str | None = None
    """The owner of its limits; the `owner`, if not given."""
    plan: str | None = None
    scopes: Iterable[str] = ()
    networks: Iterable[str] = ()
    metadata: Mapping[str, Any] | None = None
    name: str | None = None
    expires: Moment | None = None


@dataclass(frozen=True, slots=True)
class Imports:
    """The outcome of an import: how many keys are new, and how many were left as they are."""

    new: int = 0
    there: int = 0
    deleted: int = 0
    """Keys that were imported before and deleted since: they stay deleted."""


class Problem(NamedTuple):
    """A fault of a key that was to be imported."""

    number: int
    """Its place: in a file the number of its line, else counted from 1."""
    text: str


class BrokenImport(ConfigurationError):
    """Some keys cannot be imported, and none was."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        told = "; ".join([f"{number}: {text}" for number, text in problems[:_TOLD]])
        more = f"; and {len(problems) - _TOLD} more" if len(problems) > _TOLD else ""
        super().__init__(f"nothing was imported, for {len(problems)} keys cannot be: {told}{more}")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A key that was checked: what is to be written of it."""

    id: str
    entry: str
    """The store's key of what says that it is there."""
    record: bytes
    begin: str | None = None
    """Of a key with a slow hash, the entry of its beginning."""
    others: tuple[str, ...] = ()
    """The entries that say the same: those under earlier peppers, and that of the HMAC of a key whose text is known."""


def prepare_all(
    numbered: Iterable[tuple[int, ForeignKey | str]], imported: Imported, prefix: str, env: str, now: int
) -> tuple[list[Prepared], list[Problem]]:
    """Check keys that are to be imported, each with its number; a text in the place of one says what is wrong with it.

    Returns what is to be written, and all that is wrong.
    """
    prepared: list[Prepared] = []
    problems: list[Problem] = []
    entries: dict[str, int] = {}
    begins: dict[str, int] = {}
    for number, given in numbered:
        try:
            if isinstance(given, str):
                raise ValueError(given)
            one = prepare(given, imported, prefix, env, now)
            first = min([entries.setdefault(name, number) for name in (one.entry, *one.others)])
            if first != number:
                raise ValueError(f"this is the same key as {first}")
            if one.begin is not None:
                begins[one.begin] = begins.get(one.begin, 0) + 1
                if begins[one.begin] > MOST_OF_PREFIX:
                    raise ValueError(f"{_TOO_MANY}: a longer prefix tells them apart")
            prepared.append(one)
        except (ValueError, ImportError) as error:
            problems.append(Problem(number, str(error)))
    return prepared, problems


def prepare(given: ForeignKey, imported: Imported, prefix: str, env: str, now: int) -> Prepared:
    """Check a key that is to be imported.

    Raises `ValueError` that says what would be right, and shows nothing of it, and `ImportError` if the library of its
    hash is not installed.
    """
    named = [name for name in ("key", "sha256", "hmac_sha256", "hash") if getattr(given, name) is not None]
    if len(named) != 1:
        raise ValueError("one of key, sha256, hmac_sha256 and hash is needed, and no other of them")
    kind = "hmac-sha256" if named[0] == "hmac_sha256" else named[0]
    if given.hash is not None:
        kind = scheme_of(given.hash)
        _check_prefix(given.prefix)
    elif given.prefix is not None:
        raise ValueError("a prefix is for a slow hash alone")
    ends = _rightly("expires is a moment in time, or a duration from now", _end, given.expires, now)
    if ends is not None and ends <= now:
        raise ValueError("expires has passed")
    text = "is a printable text of 1 to 256 characters"
    owner = _rightly(f"owner {text}", checked_text, "owner", given.owner)
    record = KeyRecord(
        id=new_id(),
        prefix=prefix,
        env=env,
        owner=owner,
        subject=_rightly(f"subject {text}", checked_text, "subject", owner if given.subject is None else given.subject),
        created=as_datetime(now),
        plan=None if given.plan is None else _rightly(f"plan {text}", checked_text, "plan", given.plan),
        scopes=_rightly("a scope is printable ASCII without blanks, quotes, backslashes", checked_scopes, given.scopes),
        networks=_rightly("networks are such as 10.0.0.0/8", checked_networks, given.networks),
        metadata=_rightly("metadata is an object of at most 4096 bytes of JSON", checked_metadata, given.metadata),
        expires=None if ends is None else as_datetime(ends),
        name=None if given.name is None else _rightly(f"name {text}", checked_text, "name", given.name),
        imported=kind,
        verifier=given.hash,
    )
    if given.hash is not None:
        entry, begin, stored = imported.by_hash(record, str(given.prefix))
        _, *others = imported.names(BY_HASH, given.hash.encode())
        return Prepared(record.id, entry, stored, begin, tuple(others))
    if given.key is not None:
        kind_of_digest, data = BY_SHA256, imported.digest_of(_checked_key(given.key))
    elif given.sha256 is not None:
        kind_of_digest, data = BY_SHA256, _digest(given.sha256)
    else:
        kind_of_digest, data = BY_HMAC, _digest(str(given.hmac_sha256))
    entry, stored = imported.by_digest(record, kind_of_digest, data)
    names = imported.names(kind_of_digest, data) if given.key is None else imported.places(given.key)[0]
    return Prepared(record.id, entry, stored, None, tuple(name for name in names if name != entry))


def write(store: Store, prepared: Sequence[Prepared], tell: Callable[[int], None] | None = None) -> Imports:
    """Write what was prepared. `tell` is called with the number of keys that are done. Raises `StoreError`."""
    new = there = deleted = done = 0
    for start in range(0, len(prepared), _BATCH):
        batch = prepared[start : start + _BATCH]
        quick = [each for each in batch if each.begin is None]
        ops = [CompareAndSet(dict.fromkeys([*_values(each), *each.others]), _values(each)) for each in quick]
        written = [each for each, wrote in zip(quick, store.execute(ops) if ops else (), strict=True) if wrote]
        written += [each for each in batch if each.begin is not None and _write_slow(store, each)]
        left = [each for each in batch if each not in written]
        gone = _gone(store, left) if left else 0
        new, there, deleted = new + len(written), there + len(left) - gone, deleted + gone
        done += len(batch)
        if tell is not None:
            tell(done)
    return Imports(new, there, deleted)


def _write_slow(store: Store, each: Prepared) -> bool:
    begin = str(each.begin)
    for _ in range(_TRIES):
        ((old, *seen),) = store.execute([Read(begin, each.entry, *each.others)])
        if any(one is not None for one in seen):
            return False
        ids = ids_in([old])
        if len(ids) >= MOST_OF_PREFIX:
            ids = _still_slow(store, ids)
        if len(ids) >= MOST_OF_PREFIX:
            raise ConfigurationError(
                f"{_TOO_MANY}, with those that are there. Import these with a longer prefix; others of the file are "
                "there now, and may be imported again"
            )
        values = {**_values(each), begin: ",".join([*ids, each.id]).encode()}
        absent = dict.fromkeys([_name(each), each.entry, *each.others])
        (done,) = store.execute([CompareAndSet({**absent, begin: old}, values)])
        if done:
            return True
    raise StoreError("the keys are being changed by others all the time")


def _still_slow(store: Store, ids: Sequence[str]) -> list[str]:
    """Return those of some keys whose hash may still have to be tried: they are there, and none has been right."""
    ((*records,),) = store.execute([Read(*map(record_key, ids))])
    return [id for id, stored in zip(ids, records, strict=True) if stored is not None and _is_slow(stored)]


def _is_slow(stored: bytes) -> bool:
    try:
        return decode(stored).verifier is not None
    except StoreError:  # damaged: it keeps its place
        return True


def _gone(store: Store, left: Sequence[Prepared]) -> int:
    """Return how many of the keys that are not new are no more."""
    ids = [ids_in(entries) for entries in store.execute([Read(each.entry, *each.others) for each in left])]
    records = store.execute([Read(*map(record_key, found)) for found in ids if found])
    return sum(not any(found) for found in records)


def _values(each: Prepared) -> dict[str, bytes | None]:
    return {_name(each): each.record, each.entry: each.id.encode()}


def _name(each: Prepared) -> str:
    return record_key(each.id)


# -- checks -----------------------------------------------------------------------------------------------------


def _rightly(right: str, check: Callable[..., Any], *given: Any) -> Any:
    """Check a value. Its own error may repeat it: this one says what would be right alone."""
    try:
        return check(*given)
    except (ValueError, TypeError):
        pass
    raise ValueError(right)


def _end(expires: Moment | None, now: int) -> int | None:
    return None if expires is None else moment_from("expires", expires, now)


def _checked_key(text: str) -> str:
    if parse_key(text) is not None:
        raise ValueError("this is a key that keyguard issued: `keyguard store copy` takes such keys along")
    if not may_be_imported(text):
        raise ValueError(
            f"a key is {SHORTEST} to {LONGEST} printable characters of ASCII without blanks and commas: a shorter one "
            "can be guessed"
        )
    return text


def _check_prefix(prefix: str | None) -> None:
    if (
        prefix is None
        or not _PREFIX.fullmatch(prefix)
        or not (prefix.endswith(".") or (len(prefix) in PREFIXES and "." not in prefix))
    ):
        raise ValueError(
            "a slow hash needs the prefix by which its key is found: the first 6, 8, 10, 12 or 16 characters of the "
            "key, or all before its first dot, with the dot"
        )


def _digest(text: str) -> bytes:
    if _HEX.fullmatch(text):
        return bytes.fromhex(text)
    if _BASE64.fullmatch(text):
        data = b64decode(text.rstrip("=") + "=", altchars=b"-_" if set(text) & set("-_") else None)
        if len(data) == 32:
            return data
    raise ValueError("a SHA-256 digest is 64 hexadecimal digits, or 44 characters of base64")
