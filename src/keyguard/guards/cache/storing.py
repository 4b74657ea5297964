"""From a response to the entry that is stored: its fields, its freshness, and what a 304 changes (RFC 9111).

Functions without clock or I/O. `policy.py` decides whether it may be stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.guards.cache.entry import Entry, Fields, Part, first, lines, without
from keyguard.guards.cache.settings import Settings
from keyguard.http.cache_control import (
    MAX_SECONDS,
    Directives,
    field_names,
    parse_cache_control,
    parse_targeted,
    seconds,
)
from keyguard.http.dates import format_date, parse_date
from keyguard.http.meanings import names_request

HEURISTIC = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Heuristically cacheable (RFC 9110, section 15.1)."""
MAX_HEURISTIC = 86400
"""Seconds of the longest heuristic lifetime: a guess of ten per cent is not carried on for weeks."""
_TTL = frozenset({200, 203, 300, 301, 308, 404, 410})
"""Statuses that `ttl` applies to: answers about the resource, not about the request or the app's state."""
# RFC 9111, section 3.1, with the older Keep-Alive, and Age, which every answer gets afresh.
_HOP_BY_HOP = (
    "connection, keep-alive, te, trailer, transfer-encoding, upgrade, proxy-connection, proxy-authenticate, "
    "proxy-authentication-info, proxy-authorization"
)
_NEVER_STORED = frozenset(f"{_HOP_BY_HOP}, age".split(", "))
# RFC 9111, section 3.2: what a 304 does not change, since it has no content.
_KEPT_ON_UPDATE = frozenset({"content-length", "content-encoding", "content-range", "content-digest", "content-md5"})
_COOKIES = frozenset({"set-cookie", "set-cookie2"})
_TAG_FIELDS = frozenset({"cache-tag", "surrogate-key"})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(\*|[0-9]{1,18})")
_EVENTS = re.compile(r"\s*(?:text/event-stream|multipart/x-mixed-replace)\s*(?:;|$)", re.IGNORECASE)
_FLOWING = re.compile(
    r"\s*(?:application/(?:x-)?(?:ndjson|jsonl|json-?lines|stream\+json|json-seq|grpc[a-z+-]*)|application/json-seq|"
    r"text/x-server-sent-events)\s*(?:;|$)",
    re.IGNORECASE,
)


# -- how long it is fresh, and how old it is (section 4.2) -------------------------------------------------------------


class Said(NamedTuple):
    """The directives of a response that count: those of one field."""

    directives: Directives
    targeted: bool
    """Whether they come from a targeted field: then neither `Cache-Control` nor `Expires` counts (RFC 9213)."""


def said(fields: Fields, targeted: Sequence[str]) -> Said:
    """Return the directives of the first valid targeted field in the list, else those of `Cache-Control`."""
    for name in targeted:
        found = lines(fields, name.lower())
        directives = parse_targeted(", ".join(found)) if found else None
        if directives is not None:
            return Said(directives, True)
    return Said(parse_cache_control(lines(fields, "cache-control")), False)


def lifetime_of(status: int, fields: Fields, says: Said, received: int, settings: Settings) -> int | None:
    """Return the freshness lifetime in seconds (RFC 9111, section 4.2.1); `None` if nothing gives one.

    A lifetime that is given but cannot be read is 0: "Caches are encouraged to consider responses that have invalid
    freshness information (e.g., a max-age directive with non-integer content) to be stale" (section 4.2.1).
    """
    for name in ("s-maxage", "max-age"):
        if name in says.directives:
            return seconds(says.directives[name]) or 0
    now = received // SECOND
    if not says.targeted:
        expires = lines(fields, "expires")
        if expires:
            moment = parse_date(expires[0], now) if len(expires) == 1 else None
            date = parse_date(first(fields, "date"), now)
            return 0 if moment is None else min(max(0, moment - (now if date is None else date)), MAX_SECONDS)
    if settings.ttl is not None:
        return settings.ttl if status in _TTL else None
    if settings.heuristic and (status in HEURISTIC or "public" in says.directives):
        modified = parse_date(first(fields, "last-modified"), now)
        date = parse_date(first(fields, "date"), now)
        if modified is not None:
            return min(max(0, ((now if date is None else date) - modified) // 10), MAX_HEURISTIC)
    return None


def initial_age(fields: Fields, asked_at: int, received: int) -> int:
    """Return the corrected initial age in seconds (RFC 9111, section 4.2.3).

    "A cache encountering a message with a list-based Age field value SHOULD use the first member of the field value,
    discarding subsequent ones. If the field value [...] is invalid (e.g., it contains something other than a
    non-negative integer), a cache SHOULD ignore the field" (section 5.1).
    """
    now = received // SECOND
    date = parse_date(first(fields, "date"), now)
    apparent = 0 if date is None else max(0, now - date)
    stated = (first(fields, "age") or "").partition(",")[0].strip()
    corrected = (seconds(stated) or 0) + max(0, received - asked_at) // SECOND
    return max(apparent, corrected)


# -- its fields -------------------------------------------------------------------------------------------------------


def vary_of(fields: Fields) -> tuple[str, ...] | None:
    """Return the request fields by which a response was chosen, in lower case and in order; `None` for `*`."""
    names = {name.strip().lower() for line in lines(fields, "vary") for name in line.split(",")} - {""}
    return None if "*" in names else tuple(sorted(names))


def is_event_stream(fields: Fields) -> bool:
    """Tell whether a body is a stream of events, which does not end by itself."""
    return _EVENTS.match(first(fields, "content-type") or "") is not None


def flows(fields: Fields) -> bool:
    """Tell whether a body may come as slowly as things happen, so that no other request waits for its end."""
    kind = first(fields, "content-type") or ""
    return (
        is_event_stream(fields)
        or _FLOWING.match(kind) is not None
        or (first(fields, "x-accel-buffering") or "").strip().lower() == "no"
    )


def wants_events(accept: str | None) -> bool:
    """Tell whether a request may ask for a stream of events. An `Accept` that is too long to be read at no cost may."""
    if accept is None:
        return False
    return len(accept) > 4096 or "event-stream" in accept.lower() or "x-mixed-replace" in accept.lower()


def dated(fields: Fields, received: int) -> Fields:
    """Return the fields with a `Date`.

    "A recipient with a clock that receives a response message without a Date header field MUST record the time it was
    received and append a corresponding Date header field to the message's header section if it is cached or forwarded
    downstream" (RFC 9110, section 6.6.1).
    """
    return fields if first(fields, "date") is not None else (*fields, ("Date", format_date(received // SECOND)))


def sets_cookie(fields: Fields) -> bool:
    """Tell whether a response sets a cookie, which is one client's own."""
    return any(name.lower() in _COOKIES for name, _ in fields)


def kept_fields(fields: Fields, says: Said, settings: Settings) -> Fields:
    """Return the fields to store (RFC 9111, section 3.1), in order, duplicates included."""
    dropped = set(_NEVER_STORED)
    for line in lines(fields, "connection"):
        dropped |= {name.strip().lower() for name in line.split(",")}
    for name in ("no-cache", "private"):
        argument = says.directives.get(name)
        if argument and not (name == "private" and settings.private):
            dropped |= field_names(argument)
    kept = without(fields, frozenset(dropped) | _TAG_FIELDS)
    return tuple([pair for pair in kept if not names_request(pair[0])])


def tags_of(fields: Fields) -> tuple[str, ...]:
    """Return the tags that a response is filed under: `Cache-Tag` separates by commas, `Surrogate-Key` by blanks."""
    tags = [tag.strip() for line in lines(fields, "cache-tag") for tag in line.split(",")]
    tags += [tag for line in lines(fields, "surrogate-key") for tag in line.split()]
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def part_of(fields: Fields, body: bytes) -> Part | None:
    """Return the part that a 206 brought; `None` if it does not say, or brings more than one."""
    match = _CONTENT_RANGE.fullmatch((first(fields, "content-range") or "").strip())
    if match is None:
        return None
    start, last, total = int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        return None
    to_end = total is not None and last == total - 1 and len(body) == last - start + 1
    return Part(start, len(body), to_end, total)


# -- the entry --------------------------------------------------------------------------------------------------------


def opens_to_credentials(directives: Directives, settings: Settings) -> bool:
    """Tell whether requests with credentials may share a response (RFC 9111, section 3.5)."""
    return settings.public or not directives.keys().isdisjoint(("public", "must-revalidate", "s-maxage"))


def _describe(entry: Entry, says: Said, status: int, settings: Settings) -> None:
    """Set what the directives mean for an entry's use."""
    directives = says.directives
    # `no-cache="field"` only keeps those fields out (section 5.2.2.4).
    entry.must_validate = "no-cache" in directives and not directives["no-cache"]
    entry.no_stale = entry.must_validate or not directives.keys().isdisjoint(
        ("must-revalidate", "proxy-revalidate", "s-maxage")
    )
    entry.stale_while_revalidate = seconds(directives.get("stale-while-revalidate")) or 0
    entry.stale_if_error = max(seconds(directives.get("stale-if-error")) or 0, settings.stale_on_error)
    entry.open_to_credentials = opens_to_credentials(directives, settings)
    if entry.no_stale:
        entry.stale_while_revalidate = entry.stale_if_error = 0


def make_entry(status: int, fields: Fields, settings: Settings, *, asked_at: int, received: int) -> Entry:
    """Return the entry for a response that may be stored; its body comes later."""
    says = said(fields, settings.targeted)
    entry = Entry(
        status,
        dated(kept_fields(fields, says, settings), received),
        received=received,
        age=initial_age(fields, asked_at, received),
        lifetime=min(lifetime_of(status, fields, says, received, settings) or 0, settings.longest),
        tags=tags_of(fields),
    )
    _describe(entry, says, status, settings)
    return entry


def freshened(entry: Entry, update: Fields, settings: Settings, *, asked_at: int, received: int) -> Entry:
    """Return an entry after a 304 or a HEAD: each field that came replaces all its lines (RFC 9111, section 3.2)."""
    says = said(update, settings.targeted)
    unchanged = _KEPT_ON_UPDATE if settings.set_cookie else _KEPT_ON_UPDATE | _COOKIES
    kept = without(kept_fields(update, says, settings), unchanged)
    names = frozenset(name.lower() for name, _ in kept)
    fields = (*without(entry.fields, names), *kept)
    now_says = said(fields, settings.targeted)
    # The stored Date is of the first response: without one of its own the update is as old as it is here.
    timing = tuple(fields if first(update, "date") is not None else without(fields, frozenset({"date"})))
    aged = tuple(pair for pair in update if pair[0].lower() in ("age", "date"))
    fresh = Entry(
        entry.status,
        fields,
        received=received,
        age=initial_age(aged, asked_at, received),
        lifetime=min(lifetime_of(entry.status, timing, now_says, received, settings) or 0, settings.longest),
        variance=entry.variance,
        tags=tags_of(update) or entry.tags,
        part=entry.part,
        range_text=entry.range_text,
        body=entry.body,
        since=entry.since,
    )
    _describe(fresh, now_says, entry.status, settings)
    return fresh


def same_representation(entry: Entry, fields: Fields) -> bool:
    """Tell whether the fields of a HEAD are about what an entry holds (RFC 9111, section 4.3.5)."""
    length = first(fields, "content-length")
    return (
        (first(fields, "etag") or entry.etag) == entry.etag
        and (first(fields, "last-modified") or entry.last_modified) == entry.last_modified
        and (length is None or length == str(len(entry.body)))
    )


def validators_of(entry: Entry | None) -> dict[str, str | None]:
    """Return the conditions to ask the app with, in the place of the client's own (RFC 9111, section 4.3.1)."""
    if entry is None or entry.part is not None or (entry.etag is None and entry.last_modified is None):
        return {}
    return {
        "if-none-match": entry.etag,
        "if-modified-since": entry.last_modified,
        "range": None,
        "if-range": None,
    }


def of_this_answer(update: Fields, settings: Settings) -> Fields:
    """Return the fields of a 304 that are for its client alone: its cookies, and the name of its request."""
    return tuple(
        (name, value)
        for name, value in update
        if names_request(name.lower()) or (name.lower() == "set-cookie" and not settings.set_cookie)
    )
