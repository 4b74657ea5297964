"""Callers, as operators name them: an address, a key, a subject, or what a function of the request returns.

Rules:
- A caller counts under the same bucket as its requests do: an IPv6 address by the prefix that the stack counts by, an
  odd or long text by a digest. A network is the bucket that it is.
- Callers without a key are counted by address by a limit that counts by key or subject: under `@address`.
- A whole key is taken for its id. A text that looks like a key and is none is refused, and never shown: it may be one
  with a slip of the pen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from keyguard.buckets import UNKNOWN_ADDRESS, bucket_text, digest
from keyguard.counter_names import LimitFacts
from keyguard.errors import StoreError
from keyguard.http.addresses import IPV6_PREFIX, bucket_named
from keyguard.keys.format import parse_key
from keyguard.keys.record import KeyRecord, decode, record_key
from keyguard.ops import Read

Kind: TypeAlias = Literal["ip", "key", "subject", "function"]
KINDS: tuple[Kind, ...] = ("ip", "key", "subject", "function")

_DIGEST = re.compile("#[0-9a-f]{32}")
_LIKE_A_KEY = re.compile("[A-Za-z][A-Za-z0-9]*_[A-Za-z][A-Za-z0-9]*_[0-9A-Za-z]{8,}.*", re.DOTALL)
_LONGEST = 1024  # characters


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller, and where limits of each kind count it."""

    name: str
    """The name it has in records: an address, an id, a subject, or a digest."""
    buckets: Mapping[str, str]
    """By what limits count by; `function` for all that count by a function."""
    plan: str | None = None
    """The plan of its key, if that is known."""
    plan_is_known: bool = False
    """Whether that is so: `None` is not a plan then."""
    subject: str | None = None
    """Its subject, if it is known to have one: the keys of that may tell the plan."""
    guessed: bool = False
    """Whether nobody has said that it is a subject: then limits by key count the keys that it has. If it has none, and
    no limit counts by subject, they count it under its name, as they do if a look-up gives ids of its own."""

    def bucket(self, by: str) -> str | None:
        """Return its bucket in limits that count by this; `None` if they do not count it."""
        return self.buckets.get(by if by in KINDS else "function")


async def find_caller(who: object, by: Kind | None, facts: Iterable[LimitFacts], *, keys: bool) -> Caller:
    """Find out who is meant; `keys`: by records in the store, too. Raises `ValueError` that says what is wrong."""
    if by is not None and by not in KINDS:
        raise ValueError(f"by is {', '.join(map(repr, KINDS))}, or None, not {by!r:.80}")
    if not isinstance(who, str):
        return _of_function(who, by)
    if not who.strip() or len(who) > _LONGEST:
        raise ValueError(f"a caller is an address, a key's id or a subject: a text of 1 to {_LONGEST} characters")
    facts = [*facts]
    if by in (None, "key", "subject") and who.startswith("@") and (bucket := _address(who[1:], facts)) is not None:
        return _anonymous(bucket, [by] if by else ["key", "subject"])
    if by == "ip" or (by is None and _address(who, facts) is not None):
        bucket = _address(who, facts)
        if bucket is None:
            raise ValueError(f"this is not an address such as 203.0.113.9 or 2001:db8::1: {shown(who)}")
        return _anonymous(bucket, ["ip", "key", "subject"])
    if by in (None, "key"):
        known = parse_key(who)
        id = who if known is None else known.id
        if known is None and is_like_a_key(who):
            raise ValueError("this looks like a key, and its checksum does not fit: name the key by its id")
        record = await _record(id) if keys else None
        if record is not None:
            buckets = {"key": bucket_text(id), "subject": bucket_text(record.subject)}
            return Caller(id, buckets, record.plan, plan_is_known=True, subject=record.subject)
        if known is not None or by == "key":
            return Caller(bucket_text(id), {"key": bucket_text(id)})
    if by == "function":
        return _of_function(who, by)
    named = bucket_text(who)
    buckets = {"subject": named}
    if by is None:
        buckets["function"] = _of_function(who, by).name
        if not any(each.by == "subject" for each in facts):
            buckets["key"] = named  # an id of a look-up's own
    return Caller(named, buckets, subject=who, guessed=by is None)


def _of_function(who: Any, by: Kind | None) -> Caller:
    if by not in (None, "function"):
        raise ValueError(f"by {by} a caller is a text, not {type(who).__name__}")
    try:
        bucket = who if isinstance(who, str) and _DIGEST.fullmatch(who) else digest(who)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return Caller(bucket, {"function": bucket})


def _anonymous(bucket: str, kinds: Iterable[str]) -> Caller:
    return Caller(bucket, {kind: bucket if kind == "ip" else f"@{bucket}" for kind in kinds}, plan_is_known=True)


def _address(text: str, facts: Iterable[LimitFacts]) -> str | None:
    """Return the bucket of an address; `None` if it is none. A bucket is taken for itself.

    Raises `ValueError` if limits differ in how they count it.
    """
    if text == UNKNOWN_ADDRESS:
        return text
    found = {bucket_named(text, prefix) for prefix in {each.ipv6_prefix for each in facts} or {IPV6_PREFIX}}
    if len(found) > 1:
        told = " or ".join(sorted(map(str, found)))
        raise ValueError(f"stacks on this store count IPv6 addresses by different prefixes: name the network, {told}")
    return found.pop()


async def _record(id: str) -> KeyRecord | None:
    if not id.isascii() or not id.isalnum():
        return None
    (stored,) = await Read(record_key(id))
    if stored is None:
        return None
    try:
        return decode(stored)
    except StoreError:  # it is damaged, and does not say whose it is
        return None


def is_like_a_key(text: str) -> bool:
    """Tell whether a text is a key, or may be one with a slip of the pen."""
    return _LIKE_A_KEY.fullmatch(text) is not None


def shown(text: object) -> str:
    """Return a word of an operator's for an error: what looks like a key may stand in the place of something else."""
    return "***" if isinstance(text, str) and is_like_a_key(text) else repr(text)[:80]
