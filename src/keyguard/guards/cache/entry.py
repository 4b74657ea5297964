"""A stored response, and its form in a shared store.

Moments are microseconds since the Unix epoch, by the request's clock; lifetimes and ages are whole seconds, as in HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from struct import Struct
from struct import error as StructError
from typing import Any, TypeAlias

Fields: TypeAlias = "tuple[tuple[str, str], ...]"
"""Header fields in order, duplicates included; names as the app wrote them."""

Ready: TypeAlias = "tuple[int, int, str, list[Any], int, bytes]"
"""The fields of a plain hit, ready to be sent: from when and until when they are right, in which world, the fields."""

_FORM = 2
_LENGTHS = Struct("<BII")
"""The form of what follows, and how long head and body are."""
_BREAKS = re.compile(r"[\r\n\0]")
OVERHEAD, FIELD, TEXT = 1900, 320, 64
"""Bytes that an entry, each of its fields and each other text take in this process, besides the texts themselves.
Found by measuring, on the high side. The head of an entry in use is held in a ready form too, so fields count twice.
"""

SKEW = 2_000_000
"""Microseconds by which the clocks of machines that share entries may differ."""


class Part:
    """The bytes of a representation that a 206 has brought (RFC 9110, section 14.4)."""

    __slots__ = ("first", "length", "to_end", "total")

    def __init__(self, first: int, length: int, to_end: bool, total: int | None) -> None:
        self.first = first
        self.length = length
        """How many bytes really came."""
        self.to_end = to_end
        """Whether it said to be the representation's end."""
        self.total = total


class Entry:
    """One stored response, with all that decides whether it may be used again."""

    __slots__ = (
        "address",
        "age",
        "body",
        "checked",
        "etag",
        "fields",
        "key",
        "last_modified",
        "lifetime",
        "must_validate",
        "no_stale",
        "open_to_credentials",
        "part",
        "range_text",
        "ready",
        "received",
        "refreshing_since",
        "since",
        "size",
        "stale_if_error",
        "stale_while_revalidate",
        "status",
        "tags",
        "there",
        "variance",
    )

    def __init__(
        self,
        status: int,
        fields: Fields,
        *,
        received: int,
        age: int,
        lifetime: int,
        must_validate: bool = False,
        no_stale: bool = False,
        stale_while_revalidate: int = 0,
        stale_if_error: int = 0,
        open_to_credentials: bool = False,
        variance: tuple[tuple[str, str | None], ...] = (),
        tags: tuple[str, ...] = (),
        part: Part | None = None,
        range_text: str | None = None,
        body: bytes = b"",
        since: int = 0,
        there: int = 0,
    ) -> None:
        self.status = status
        self.fields = fields
        self.received = received
        """When the response head arrived, or was last validated."""
        self.age = age
        """Its age then, in seconds: the corrected initial age (RFC 9111, section 4.2.3)."""
        self.lifetime = lifetime
        """Its freshness lifetime in seconds (section 4.2.1)."""
        self.must_validate = must_validate
        """`no-cache`: it is never used without asking the app."""
        self.no_stale = no_stale
        """`must-revalidate` and the like: it is never used stale (section 4.2.4)."""
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.open_to_credentials = open_to_credentials
        """Whether requests with credentials may share it (section 3.5)."""
        self.variance = variance
        """The request fields that `Vary` names, each with its normalised value; `None` if the request had none."""
        self.tags = tags
        self.part = part
        self.range_text = range_text
        """The `Range` that a 206 answered."""
        self.body = body
        self.since = since
        """The store's time before the app was asked: a later purge makes this void."""
        self.there = there
        """When the response head arrived by the shared store's clock, as well as that is known here."""
        self.etag = first(fields, "etag")
        self.last_modified = first(fields, "last-modified")
        self.size = 0
        self.checked = 0
        """When the shared store last confirmed that it still holds this."""
        self.refreshing_since = 0
        self.address: tuple[object, ...] | None = None
        """The address of the requests that this answers without a further look at them, if there is one."""
        self.key: tuple[str | bytes, ...] = ()
        """The key under which this process holds it."""
        self.ready: Ready | None = None
        """The head as it was last sent, which stays the same for a second."""
        self.measure()

    def measure(self) -> None:
        """Note how much memory it takes."""
        size = OVERHEAD + len(self.body) + len(self.range_text or "")
        size += sum(2 * (len(name) + len(value)) + FIELD for name, value in self.fields)
        size += sum(len(tag) + TEXT for tag in self.tags)
        self.size = size + sum(len(name) + len(value or "") + 3 * TEXT for name, value in self.variance)

    def set_vary(self, names: Iterable[str]) -> None:
        """Set the `Vary` field."""
        self.fields = (*without(self.fields, frozenset({"vary"})), ("Vary", ", ".join(names)))

    def current_age(self, now: int) -> int:
        """Return the age in seconds (RFC 9111, section 4.2.3).

        If the clock was set back to before the response came, it is stale: its age cannot be known.
        """
        passed = now - self.received
        if passed < -SKEW:
            return max(self.age, self.lifetime)
        return self.age + max(0, passed) // 1_000_000

    def ttl(self, now: int) -> int:
        """Return the seconds for which it stays fresh; negative if it is stale."""
        return self.lifetime - self.current_age(now)

    def same_as(self, other: Entry) -> bool:
        """Tell whether the other one is the same stored response, by when it came to the shared store."""
        return (self.since, self.there) == (other.since, other.there)

    def usable_for(self) -> int:
        """Return the seconds after `received` for which it may be of use."""
        left = max(0, self.lifetime - self.age)
        stale = max(self.stale_while_revalidate, self.stale_if_error)
        if self.etag is not None or self.last_modified is not None:
            stale = max(stale, VALIDATED_FOR)
        return left + stale


VALIDATED_FOR = 3600
"""Seconds for which a stale entry is kept for the sake of its validator."""


def first(fields: Iterable[tuple[str, str]], name: str) -> str | None:
    """Return the first line of a field."""
    return next((value for key, value in fields if key.lower() == name), None)


def lines(fields: Iterable[tuple[str, str]], name: str) -> list[str]:
    """Return all lines of a field."""
    return [value for key, value in fields if key.lower() == name]


def without(fields: Iterable[tuple[str, str]], names: frozenset[str]) -> list[tuple[str, str]]:
    """Return the fields less those named."""
    return [(name, value) for name, value in fields if name.lower() not in names]


def encode(entry: Entry) -> bytes:
    """Return an entry as one value, so that a reader has it whole or not at all."""
    part = entry.part
    head = json.dumps(
        [
            entry.status,
            entry.fields,
            entry.received,
            entry.age,
            entry.lifetime,
            entry.must_validate,
            entry.no_stale,
            entry.stale_while_revalidate,
            entry.stale_if_error,
            entry.open_to_credentials,
            entry.variance,
            entry.tags,
            None if part is None else [part.first, part.length, part.to_end, part.total],
            entry.range_text,
            entry.since,
            entry.there,
        ],
        separators=(",", ":"),
    ).encode()
    return _LENGTHS.pack(_FORM, len(head), len(entry.body)) + head + entry.body


def decode(value: bytes) -> Entry | None:
    """Return the entry that `encode` wrote; `None` for a value of another form, or one that was cut."""
    try:
        form, size, length = _LENGTHS.unpack_from(value)
        if form != _FORM or len(value) != _LENGTHS.size + size + length:
            return None
        head = json.loads(value[_LENGTHS.size : _LENGTHS.size + size])
        if type(head) is not list:
            return None
        status, fields, received, age, lifetime, must_validate, no_stale, swr, sie, shared, variance, tags = head[:12]
        part, range_text, since, there = head[12:]
        numbers = (
            status,
            received,
            age,
            lifetime,
            swr,
            sie,
            since,
            *(() if part is None else (part[0], part[1], part[3] or 0)),
        )
        if not (
            all(type(number) is int and number >= 0 for number in numbers)
            and 200 <= status <= 999
            and all(type(flag) is bool for flag in (must_validate, no_stale, shared))
            and all(type(text) is str for text in (*tags, "" if range_text is None else range_text))
            and all(type(name) is type(text) is str and name for name, text in fields)
            and _can_be_sent("".join([text for field in fields for text in field]))
            and all(type(name) is str and (text is None or type(text) is str) for name, text in variance)
        ):
            return None
        return Entry(
            status,
            _pairs(fields),
            received=received,
            age=age,
            lifetime=lifetime,
            must_validate=must_validate,
            no_stale=no_stale,
            stale_while_revalidate=swr,
            stale_if_error=sie,
            open_to_credentials=shared,
            variance=_pairs(variance),
            tags=tuple(tags),
            part=None if part is None else Part(*part),
            range_text=range_text,
            body=value[_LENGTHS.size + size :],
            since=since,
            there=there,
        )
    except (ValueError, TypeError, LookupError, StructError, RecursionError):
        return None


def _can_be_sent(text: str) -> bool:
    """Tell whether this text can stand in header fields: it has no line breaks, and can be encoded."""
    return (text.isascii() or text.encode("latin-1") is not None) and _BREAKS.search(text) is None


def _pairs(pairs: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple([(name, value) for name, value in pairs])
