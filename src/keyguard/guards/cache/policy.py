"""What may be stored, how long it is fresh, and what may be used again: RFC 9111 as functions without clock or I/O.

A decision about storing is a `Verdict`: it names the rule and the section that decided, which is what a developer who
asks "why is this not cached?" gets to read.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keyguard.guards.cache.entry import Entry, Fields, Part, first, lines, without
from keyguard.http.cache_control import (
    MOST_SECONDS,
    Directives,
    field_names,
    parse_cache_control,
    parse_targeted,
    seconds,
)
from keyguard.http.dates import format_date, parse_date

SECOND = 1_000_000

HEURISTIC = frozenset({200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501})
"""Heuristically cacheable (RFC 9110, section 15.1)."""

UNDERSTOOD = HEURISTIC | {302, 303, 307, 400, 401, 403, 409, 412, 416, 421, 422, 451, 500, 502, 503, 504}
"""Statuses whose caching behaviour this cache knows: what `must-understand` asks for (RFC 9111, section 5.2.2.3)."""

HEURISTIC_MOST = 86400
"""Seconds that a heuristic lifetime has at most: a guess of ten per cent is not carried on for weeks."""

UNSTORABLE = frozenset({428, 429, 431, 511})
"""Statuses whose responses "MUST NOT be stored by a cache" (RFC 6585, sections 3 to 6)."""

_OF_THE_RESOURCE = frozenset({404, 410, 451})
"""Client errors that tell something of the resource, and not of the request."""

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
# Fields that name one request: a hit is another one, and gets the name of that one from the middleware that gives it.
_OF_ONE_REQUEST = re.compile(
    r"(?:[a-z0-9]+-)*(?:request|correlation|trace|span)-?(?:id|uuid|guid)|b3|x-b3-[a-z]+|baggage|cf-ray|sentry-trace|"
    r"(?:[a-z0-9]+-)*trace(?:parent|state|response)|x-cloud-trace-context|server-timing|"  # which may hold one too
    r"x-(?:req|unique|opaque|invocation|global-transaction|vercel|amz-cf)-id|x-amz-id-2|x-azure-ref|rndr-id",
    re.IGNORECASE,
)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/(\*|[0-9]{1,18})")
_BREAKS = re.compile(r"[\r\n\0]")
_EVENTS = re.compile(r"\s*(?:text/event-stream|multipart/x-mixed-replace)\s*(?:;|$)", re.IGNORECASE)
_FLOWING = re.compile(
    r"\s*(?:application/(?:x-)?(?:ndjson|jsonl|json-?lines|stream\+json|json-seq|grpc[a-z+-]*)|application/json-seq|"
    r"text/x-server-sent-events)\s*(?:;|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the app's developer chose."""

    ttl: int | None = None
    """Seconds that a response without a lifetime of its own is fresh."""
    private: bool = False
    """Whether each entry belongs to one caller (`by=`), so that what is private may be stored."""
    public: bool = False
    """Whether answers to callers with credentials are the same for everybody."""
    heuristic: bool = False
    set_cookie: bool = False
    ignore_client: bool = False
    targeted: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    credentials: tuple[str, ...] = ()
    stale_on_error: int = 0
    longest: int = 365 * 86400
    """Seconds: no entry is kept for longer."""


class Asked(NamedTuple):
    """What the policy needs to know of a request."""

    method: str
    directives: Directives
    credentials: bool
    """Whether it carries any, in `Authorization` or wherever API keys are read from."""
    range: str | None
    target: str = ""
    """The URI it asks for, for comparison with `Content-Location`."""


class Verdict(NamedTuple):
    """Whether a response may be stored, and by which rule."""

    stored: bool
    rule: str
    section: str


def _no(rule: str, section: str) -> Verdict:
    return Verdict(False, rule, section)


# -- the response's own words -------------------------------------------------------------------------------------


class Said(NamedTuple):
    """What a response says of its caching: one field's directives count."""

    directives: Directives
    targeted: bool
    """Whether they come from a targeted field: then neither `Cache-Control` nor `Expires` counts (RFC 9213)."""


def said(fields: Fields, targeted: Sequence[str]) -> Said:
    """The directives that count: those of the first valid targeted field in the list, else `Cache-Control`'s."""
    for name in targeted:
        found = lines(fields, name.lower())
        directives = parse_targeted(", ".join(found)) if found else None
        if directives is not None:
            return Said(directives, True)
    return Said(parse_cache_control(lines(fields, "cache-control")), False)


def lifetime_of(status: int, fields: Fields, says: Said, received: int, settings: Settings) -> int | None:
    """The freshness lifetime in seconds (RFC 9111, section 4.2.1); `None` where nothing gives one.

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
            return 0 if moment is None else min(max(0, moment - (now if date is None else date)), MOST_SECONDS)
    if settings.ttl is not None:
        return settings.ttl if status in _TTL else None
    if settings.heuristic and (status in HEURISTIC or "public" in says.directives):
        modified = parse_date(first(fields, "last-modified"), now)
        date = parse_date(first(fields, "date"), now)
        if modified is not None:
            return min(max(0, ((now if date is None else date) - modified) // 10), HEURISTIC_MOST)
    return None


def initial_age(fields: Fields, asked_at: int, received: int) -> int:
    """The corrected initial age in seconds (RFC 9111, section 4.2.3).

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


def vary_of(fields: Fields) -> tuple[str, ...] | None:
    """The request fields that the response was chosen by, lower-case and in order; `None` for `*`."""
    names = {name.strip().lower() for line in lines(fields, "vary") for name in line.split(",")} - {""}
    return None if "*" in names else tuple(sorted(names))


# -- storing ------------------------------------------------------------------------------------------------------


def may_store(asked: Asked, status: int, fields: Fields, settings: Settings, received: int) -> Verdict:
    """Whether a response may be stored (RFC 9111, section 3), and why not."""
    says = said(fields, settings.targeted)
    directives = says.directives
    if asked.method not in ("GET", "POST"):
        return _no(f"the method {asked.method} is not one whose responses are stored", "RFC 9111, section 3")
    if status < 200:
        return _no("it is an interim response", "RFC 9111, section 3")
    if status == 304 or (status == 206 and part_of(fields, b"") is None):
        return _no(f"a {status} like this one is no response to store", "RFC 9111, section 3")
    if status in UNSTORABLE:
        return _no(f"a {status} is never stored", "RFC 6585, sections 3 to 6")
    if _EVENTS.match(first(fields, "content-type") or ""):
        return _no("a stream of events is for who listens to it", "RFC 9111, section 3")
    if status == 416:  # it is about this request's Range, and the key holds none
        return _no("a 416 answers one request's range, and no other request", "RFC 9110, section 15.5.17")
    if "no-store" in asked.directives and not settings.ignore_client:
        return _no("the request says no-store", "RFC 9111, section 5.2.1.5")
    if "must-understand" in directives:
        # It is there for caches like this one, and no-store beside it for those that do not know it.
        if status not in UNDERSTOOD:
            return _no(f"must-understand, and the caching of a {status} is not known", "RFC 9111, section 5.2.2.3")
    elif "no-store" in directives:
        return _no("the response says no-store", "RFC 9111, section 5.2.2.5")
    if "private" in directives and not directives["private"] and not settings.private:
        return _no("the response says private", "RFC 9111, section 5.2.2.7")
    if vary_of(fields) is None:
        return _no("the response says Vary: *", "RFC 9111, section 4.1")
    if any(_BREAKS.search(text) for field in fields for text in field):
        return _no("a header field holds a CR, LF or NUL", "RFC 9110, section 5.5")
    if asked.credentials and not (settings.private or opens_to_credentials(directives, settings)):
        return _no(
            "the request carries credentials, and the response says neither public nor must-revalidate nor s-maxage",
            "RFC 9111, section 3.5",
        )
    if asked.credentials and status in (401, 403, 407) and not settings.private:
        return _no("it answers one caller's credentials", "RFC 9110, section 15.5.2")
    if not settings.set_cookie and sets_cookie(kept_fields(fields, says, settings)):
        return _no("the response sets a cookie", "RFC 9111, section 7.3")
    lifetime = lifetime_of(status, fields, says, received, settings)
    validator = first(fields, "etag") or first(fields, "last-modified")
    if asked.method == "POST":
        location = first(fields, "content-location")
        if lifetime is None or settings.ttl is not None or location != asked.target:
            return _no(
                "it answers a POST, and lacks an explicit lifetime or a Content-Location that is the URI asked for",
                "RFC 9110, section 9.3.3",
            )
    if "no-cache" in directives and not directives["no-cache"] and not validator:
        return _no("the response says no-cache, and has no validator", "RFC 9111, section 5.2.2.4")
    if lifetime is None:
        if not validator or status not in HEURISTIC:
            return _no("nothing says how long it is fresh", "RFC 9111, section 3")
    elif lifetime == 0 and not validator and not _stale_uses(directives):
        return _no("it is stale at once, and has no validator", "RFC 9111, section 4.2")
    return Verdict(True, "it may be stored", "RFC 9111, section 3")


def is_about_request(status: int) -> bool:
    """Tell whether an answer is about the request or its sender: what is stored of the resource is right as before."""
    return 400 <= status < 500 and status not in _OF_THE_RESOURCE


def flows(fields: Fields) -> bool:
    """Tell whether a body may come as slowly as things happen: nobody waits for the end of it."""
    kind = first(fields, "content-type") or ""
    return (
        _EVENTS.match(kind) is not None
        or _FLOWING.match(kind) is not None
        or (first(fields, "x-accel-buffering") or "").strip().lower() == "no"
    )


def wants_events(accept: str | None) -> bool:
    """Tell whether a request asks for a stream of events; one that asks for more than can be read at no cost may."""
    if accept is None:
        return False
    return len(accept) > 4096 or "event-stream" in accept.lower() or "x-mixed-replace" in accept.lower()


def dated(fields: Fields, received: int) -> Fields:
    """The fields with a `Date`: "A recipient with a clock that receives a response message without a Date header field
    MUST record the time it was received and append a corresponding Date header field to the message's header section if
    it is cached or forwarded downstream" (RFC 9110, section 6.6.1)."""
    return fields if first(fields, "date") is not None else (*fields, ("Date", format_date(received // SECOND)))


def opens_to_credentials(directives: Directives, settings: Settings) -> bool:
    """Whether requests with credentials may share the response (RFC 9111, section 3.5)."""
    return settings.public or not directives.keys().isdisjoint(("public", "must-revalidate", "s-maxage"))


def sets_cookie(fields: Fields) -> bool:
    """Whether the response sets a cookie, which is one client's own."""
    return any(name.lower() in _COOKIES for name, _ in fields)


def _stale_uses(directives: Directives) -> bool:
    return not directives.keys().isdisjoint(("stale-while-revalidate", "stale-if-error"))


def kept_fields(fields: Fields, says: Said, settings: Settings) -> Fields:
    """The fields to store (RFC 9111, section 3.1), in order, duplicates included."""
    dropped = set(_NEVER_STORED)
    for line in lines(fields, "connection"):
        dropped |= {name.strip().lower() for name in line.split(",")}
    for name in ("no-cache", "private"):
        argument = says.directives.get(name)
        if argument and not (name == "private" and settings.private):
            dropped |= field_names(argument)
    kept = without(fields, frozenset(dropped) | _TAG_FIELDS)
    return tuple([pair for pair in kept if not names_request(pair[0])])


def names_request(name: str) -> bool:
    """Tell whether a response field is the id of the request that was answered, or of its trace."""
    return _OF_ONE_REQUEST.fullmatch(name) is not None


def tags_of(fields: Fields) -> tuple[str, ...]:
    """The tags that a response is filed under: `Cache-Tag` separates by commas, `Surrogate-Key` by blanks."""
    tags = [tag.strip() for line in lines(fields, "cache-tag") for tag in line.split(",")]
    tags += [tag for line in lines(fields, "surrogate-key") for tag in line.split()]
    return tuple(dict.fromkeys(tag for tag in tags if tag))


def part_of(fields: Fields, body: bytes) -> Part | None:
    """Which part a 206 brought; `None` where it does not say, or says it in more than one part."""
    match = _CONTENT_RANGE.fullmatch((first(fields, "content-range") or "").strip())
    if match is None:
        return None
    start, last, total = int(match[1]), int(match[2]), None if match[3] == "*" else int(match[3])
    if last < start or (total is not None and last >= total):
        return None
    to_end = total is not None and last == total - 1 and len(body) == last - start + 1
    return Part(start, len(body), to_end, total)


def describe(entry: Entry, says: Said, status: int, settings: Settings) -> None:
    """Set what an entry's directives mean for its use."""
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
    """The entry for a response that may be stored; its body comes later."""
    says = said(fields, settings.targeted)
    entry = Entry(
        status,
        dated(kept_fields(fields, says, settings), received),
        received=received,
        age=initial_age(fields, asked_at, received),
        lifetime=min(lifetime_of(status, fields, says, received, settings) or 0, settings.longest),
        tags=tags_of(fields),
    )
    describe(entry, says, status, settings)
    return entry


def freshened(entry: Entry, update: Fields, settings: Settings, *, asked_at: int, received: int) -> Entry:
    """An entry after a 304 or a HEAD: each field that came replaces all lines of it (RFC 9111, section 3.2)."""
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
    describe(fresh, now_says, entry.status, settings)
    return fresh


# -- using --------------------------------------------------------------------------------------------------------


class Use(enum.Enum):
    """What to do with an entry that matches a request."""

    FRESH = "fresh"
    STALE = "stale"
    """Serve it although it is stale: the client allowed that."""
    REFRESH = "refresh"
    """Serve it stale, and ask the app in the background (RFC 5861, section 3)."""
    VALIDATE = "validate"
    """Ask the app first, because it is stale."""
    DEMANDED = "demanded"
    """Ask the app first, because the request demands it."""


def use(asked: Asked, entry: Entry, now: int, settings: Settings) -> Use:
    """Whether an entry may be used for a request as it is (RFC 9111, section 4)."""
    wanted = {} if settings.ignore_client else asked.directives
    if "no-cache" in wanted:
        return Use.DEMANDED
    if entry.must_validate:
        return Use.VALIDATE
    age = entry.current_age(now)
    ttl = entry.lifetime - age
    if not wanted:
        if ttl > 0:
            return Use.FRESH
        return Use.REFRESH if -ttl < entry.stale_while_revalidate else Use.VALIDATE
    if "max-age" in wanted:
        most = seconds(wanted["max-age"]) or 0
        if age > most or not most:
            return Use.DEMANDED
    spare = seconds(wanted.get("min-fresh")) or 0
    if ttl > 0:
        return Use.FRESH if ttl >= spare else Use.DEMANDED
    if spare:
        return Use.VALIDATE
    if "max-stale" in wanted and not entry.no_stale:
        most = MOST_SECONDS if wanted["max-stale"] is None else (seconds(wanted["max-stale"]) or 0)
        if -ttl <= most:
            return Use.STALE
    if "max-age" in wanted:  # "Unless the max-stale request directive is also present", nothing stale (5.2.1.1)
        return Use.VALIDATE
    return Use.REFRESH if -ttl < entry.stale_while_revalidate else Use.VALIDATE


def may_serve_on_error(entry: Entry, now: int) -> bool:
    """Whether an entry may stand in for an app that failed (RFC 5861, section 4)."""
    return -entry.ttl(now) < entry.stale_if_error if entry.stale_if_error else False
