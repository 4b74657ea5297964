"""What a store keeps of a key: everything but the key.

A record is a fixed head, which the store compares (`keyguard.ops.RECORD`: validity and digest), and JSON, which only
keyguard reads. Moments are microseconds since the Unix epoch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keyguard.address import Networks
from keyguard.errors import StoreError
from keyguard.ops import RECORD

FOREVER = 2**63 - 1
_VERSION = 1
_METADATA_MAX = 4096  # bytes of JSON
_TEXT_MAX = 256  # characters
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # scope-token, RFC 6749, section 3.3


def record_key(id: str) -> str:
    """The store's key of a key's record."""
    return f"key|{id}"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as its issuer knows it."""

    id: str
    prefix: str
    env: str
    owner: str
    """Who answers for the key: a person or a company, for people to read."""
    subject: str
    """Whom quotas and limits belong to; it outlives the key."""
    created: int
    plan: str | None = None
    scopes: frozenset[str] = frozenset()
    networks: tuple[str, ...] = ()
    """Where the key may be used from; anywhere if empty."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    not_before: int | None = None
    expires: int | None = None
    revoked: int | None = None
    revoked_for: str | None = None
    """Why it was revoked, in the operator's words."""
    replaces: str | None = None
    """The id of the key that this one was rotated from."""
    replaced_by: str | None = None
    retires: int | None = None
    """When a key that was rotated stops working."""

    @property
    def not_after(self) -> int:
        """The moment from which the key is not valid."""
        ends = [end for end in (self.expires, self.revoked, self.retires) if end is not None]
        return min(ends, default=FOREVER)

    def status(self, now: int) -> str:
        """`active`, `rotating` (still valid, replaced by another), `pending`, `expired`, `replaced` or `revoked`."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        if self.retires is not None and self.retires <= now:
            return "replaced"
        if self.expires is not None and self.expires <= now:
            return "expired"
        if self.not_before is not None and now < self.not_before:
            return "pending"
        return "rotating" if self.replaced_by is not None else "active"


_FIELDS = (
    "id", "prefix", "env", "owner", "subject", "created", "plan", "metadata", "not_before", "expires", "revoked",
    "revoked_for", "replaces", "replaced_by", "retires",
)  # fmt: skip


def to_json(record: KeyRecord) -> dict[str, Any]:
    """The record as JSON values."""
    members: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    return {**members, "scopes": sorted(record.scopes), "networks": list(record.networks)}


def encode(record: KeyRecord, pepper: int, digest: bytes) -> bytes:
    """The bytes to store: the head, then JSON."""
    head = RECORD.pack(_VERSION, pepper, record.not_before or 0, record.not_after, digest)
    return head + json.dumps(to_json(record), separators=(",", ":"), sort_keys=True).encode()


def digest_of(data: bytes) -> tuple[int, bytes]:
    """`(pepper version, digest)` of stored bytes."""
    try:
        _, pepper, _, _, digest = RECORD.unpack_from(data)
    except Exception as error:
        raise StoreError("the record of a key is damaged") from error
    return pepper, digest


def decode(data: bytes) -> KeyRecord:
    """The record in stored bytes. Raises `StoreError` where they are none, without showing them."""
    try:
        version = RECORD.unpack_from(data)[0]
        members = json.loads(data[RECORD.size :])
        if version != _VERSION:
            raise ValueError(f"layout {version}")
        members["scopes"] = frozenset(members["scopes"])
        members["networks"] = tuple(members["networks"])
        return KeyRecord(**members)
    except Exception:
        # Not chained: the error of the JSON parser carries what it read.
        raise StoreError("the record of a key is damaged") from None


# -- what may stand in a record -------------------------------------------------------------------------------


def checked_text(name: str, text: object) -> str:
    """A text for people to read. Raises `ValueError` that says what would be right."""
    if not isinstance(text, str) or not text.strip() or len(text) > _TEXT_MAX or not text.isprintable():
        raise ValueError(f"{name} is a printable text of 1 to {_TEXT_MAX} characters, not {text!r:.80}")
    return text


def checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Raises `ValueError` for what is no list of scope tokens."""
    if isinstance(scopes, str):
        raise ValueError(f"scopes are a list, such as [{scopes!r}], not one text")
    names = frozenset(scopes)
    for name in names:
        if not isinstance(name, str) or not _SCOPE.fullmatch(name):
            raise ValueError(f"a scope is printable ASCII without blanks, quotes and backslashes, not {name!r:.80}")
    return names


def checked_networks(networks: Iterable[str]) -> tuple[str, ...]:
    """Raises `ConfigurationError`, which is a `ValueError`, for what is no list of networks."""
    return Networks(networks).texts


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Raises `ValueError` for what cannot be written as JSON, or is too long."""
    if metadata is None:
        return {}
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata is a mapping of names to JSON values: {error}") from None
    if len(text.encode()) > _METADATA_MAX:
        raise ValueError(f"metadata takes {len(text.encode())} bytes as JSON, more than the {_METADATA_MAX} there are")
    found: dict[str, Any] = json.loads(text)
    return found
