"""Records of keys: a store keeps everything of a key but the key.

A record is a fixed head, which the store compares (`keyguard.ops.SEALED`: validity and digest), and JSON, which only
keyguard reads. Moments are stored as microseconds since the Unix epoch.

Rules:
- A record is sealed: whoever changes it without knowing the pepper makes it invalid.
- Records of layout 1 have no seal. They are read, and get one whenever they are written again.
- Bytes that are not a record are an error, which shows nothing of them.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hmac import compare_digest
from typing import Any

from keyguard.errors import StoreError
from keyguard.keys.format import KEYED, Peppers, PlainKey
from keyguard.keys.values import checked_networks
from keyguard.ops import RECORD, SEALED, Head, head_of
from keyguard.units import as_datetime, in_microseconds

FOREVER = 2**63 - 1
"""The end of a key that has none."""
DISABLED = 1
"""The flag of a record that is disabled."""
_LAYOUT = 2
_NO_SEAL = bytes(32)


ENTRY = "key|~"
"""The beginning of the store's keys of entries that lead to the ids of keys: by a name, say. They are in one pool with
the records, so that both are written at once on a cluster, too; no id begins so."""


def record_key(id: str) -> str:
    """Return the store's key of a key's record."""
    return f"key|{id}"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as its issuer knows it."""

    id: str
    prefix: str
    env: str
    owner: str
    """The person or company that answers for the key, for people to read."""
    subject: str
    """The owner of quotas and limits; it outlives the key."""
    created: datetime
    plan: str | None = None
    scopes: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    """Where the key may be used from; anywhere if empty."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    not_before: datetime | None = None
    expires: datetime | None = None
    revoked: datetime | None = None
    revoked_for: str | None = None
    """Why it was revoked, in the operator's words."""
    replaces: str | None = None
    """The id of the key that this one was rotated from."""
    replaced_by: str | None = None
    retires: datetime | None = None
    """When a key that was rotated stops working."""
    disabled: bool = False
    """True for a key that is out of use for now."""
    name: str | None = None
    """The name that its issuer gives it: a subject has one working key of a name that was issued with `if_absent`."""
    imported: str | None = None
    """How a key that was made elsewhere was imported: `key`, `sha256`, `hmac-sha256`, `argon2`, `bcrypt` and so on."""
    verifier: str | None = field(default=None, repr=False)
    """The slow hash that it was imported with, until it is first used. Commands do not show it."""

    @property
    def not_after(self) -> datetime | None:
        """Return the moment from which the key is not valid; `None` for a key without an end."""
        return min([end for end in (self.expires, self.revoked, self.retires) if end is not None], default=None)

    def status(self, now: datetime) -> str:
        """Return `active`, `rotating` (still valid, replaced by another), `pending`, `expired`, `replaced`, `revoked`
        or `disabled`."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        if self.retires is not None and self.retires <= now:
            return "replaced"
        if self.expires is not None and self.expires <= now:
            return "expired"
        if self.disabled:
            return "disabled"
        if self.not_before is not None and now < self.not_before:
            return "pending"
        return "rotating" if self.replaced_by is not None else "active"


_FIELDS = (
    "id", "prefix", "env", "owner", "subject", "created", "plan", "metadata", "not_before", "expires", "revoked",
    "revoked_for", "replaces", "replaced_by", "retires",
)  # fmt: skip


_NEWER = ("name", "imported")
"""Members that are written only if they are there: so earlier versions go on reading the records of all other keys."""

MOMENTS = ("created", "not_before", "expires", "revoked", "retires")


def end_of(record: KeyRecord) -> int:
    """Return the moment from which a key is not valid, in microseconds; `FOREVER` for a key without an end."""
    end = record.not_after
    return FOREVER if end is None else in_microseconds(end)


def to_json(record: KeyRecord) -> dict[str, Any]:
    """Return the record as JSON values, its moments in microseconds since the Unix epoch."""
    members: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    for name in MOMENTS:
        if members[name] is not None:
            members[name] = in_microseconds(members[name])
    for name in _NEWER:
        if getattr(record, name) is not None:
            members[name] = getattr(record, name)
    return {**members, "scopes": sorted(record.scopes), "networks": list(record.networks)}


def encode(record: KeyRecord, peppers: Peppers, head: Head, *, sealed: bool = True) -> bytes:
    """Make the bytes to store. Of `head` the kind, the pepper version and the digest count.

    A record without a seal is not valid, whatever it says.
    """
    begins, flags = _begin_of(record), DISABLED if record.disabled else 0
    parts = SEALED.pack(_LAYOUT, head.kind, flags, head.pepper, begins, end_of(record), head.digest, _NO_SEAL)
    start, text = parts[: -len(_NO_SEAL)], _text(record)
    return start + (peppers.seal(head.pepper, start + text) if sealed else _NO_SEAL) + text


def encode_new(record: KeyRecord, peppers: Peppers, key: PlainKey) -> bytes:
    """Make the bytes to store of a new key."""
    return encode(record, peppers, Head(_LAYOUT, KEYED, 0, peppers.current, 0, 0, peppers.digest(key)))


def encode_imported(record: KeyRecord, peppers: Peppers, kind: int, digest: bytes) -> bytes:
    """Make the bytes to store of a key that was made elsewhere, with the digest of its kind under the current pepper.

    See `imported.py`.
    """
    return encode(record, peppers, Head(_LAYOUT, kind, 0, peppers.current, 0, 0, digest))


def encode_again(record: KeyRecord, peppers: Peppers, stored: bytes) -> bytes:
    """Make the bytes to store of a key that is changed, with the digest that stands in `stored`.

    A record of layout 1 is sealed, if its pepper is known. One whose seal was broken does not get a new one.
    """
    head = read_head(stored)
    if head.layout == _LAYOUT:
        return encode(record, peppers, head, sealed=trusted(stored, peppers))
    if head.pepper in peppers:
        digest = peppers.sealed_digest(head.pepper, head.digest)
        return encode(record, peppers, head._replace(kind=KEYED, digest=digest))
    return RECORD.pack(1, head.pepper, _begin_of(record), end_of(record), head.digest) + _text(record)


def _begin_of(record: KeyRecord) -> int:
    return 0 if record.not_before is None else in_microseconds(record.not_before)


def _text(record: KeyRecord) -> bytes:
    members = to_json(record)
    if record.verifier is not None:
        members["verifier"] = record.verifier
    return json.dumps(members, separators=(",", ":"), sort_keys=True).encode()


def read_head(stored: bytes) -> Head:
    """Read how stored bytes begin. Raises `StoreError` if they are not a record."""
    head = head_of(stored)
    if head is None:
        raise StoreError("the record of a key is damaged")
    return head


def has_pepper(stored: bytes) -> bool:
    """Tell whether stored bytes are the record of a key that was made with a pepper."""
    head = head_of(stored)
    return head is not None and head.pepper != 0


def trusted(stored: bytes, peppers: Peppers) -> bool:
    """Tell whether the writer of a record knew its pepper. A record of layout 1 has no seal, and is trusted."""
    head = head_of(stored)
    if head is None or head.pepper not in peppers:
        return False
    if head.layout == 1:
        return True
    start = SEALED.size - len(_NO_SEAL)
    seal = peppers.seal(head.pepper, stored[:start] + stored[SEALED.size :])
    return compare_digest(seal, stored[start : SEALED.size])


def decode(stored: bytes) -> KeyRecord:
    """Read the record in stored bytes, whoever wrote it. Raises `StoreError`, which shows nothing, if there is none."""
    try:
        head = read_head(stored)
        members = json.loads(stored[RECORD.size if head.layout == 1 else SEALED.size :])
        if head.flags & ~DISABLED:
            raise ValueError("flags of a later keyguard")
        members["scopes"] = frozenset(members["scopes"])
        members["networks"] = tuple(members["networks"])
        for name in MOMENTS:
            if members.get(name) is not None:
                members[name] = as_datetime(operator.index(members[name]))
        record = KeyRecord(**members, disabled=head.flags & DISABLED != 0)
        _check_kinds(record)
        return record
    except Exception:
        # Not chained: the error of the JSON parser carries what it read.
        raise StoreError("the record of a key is damaged") from None


def _check_kinds(record: KeyRecord) -> None:
    """Raise if a member is of a kind that it cannot be. Somebody may have written it by hand."""
    for name, kinds in _KINDS.items():
        value = getattr(record, name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise TypeError(name)
    if not record.subject or not all(isinstance(scope, str) for scope in record.scopes):
        raise TypeError("subject, scopes")
    checked_networks(record.networks)


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "prefix", "env", "owner", "subject"), (str,)),
    **dict.fromkeys(
        ("plan", "revoked_for", "replaces", "replaced_by", "name", "imported", "verifier"), (str, type(None))
    ),
    **dict.fromkeys(("not_before", "expires", "revoked", "retires"), (datetime, type(None))),
    "created": (datetime,),
    "metadata": (dict,),
}
