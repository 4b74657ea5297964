"""The decisions to store a response and to use an entry: RFC 9111 as functions without clock or I/O.

The decision about storing is a `Verdict`. It names the rule and the section that decided, so that a developer who asks
"why is this not cached?" can read it.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from keyguard.guards.cache.entry import Entry, Fields, first, lines
from keyguard.guards.cache.request import CacheRequest
from keyguard.guards.cache.settings import Settings
from keyguard.guards.cache.stats import Explanation
from keyguard.guards.cache.storing import (
    HEURISTIC,
    is_event_stream,
    kept_fields,
    lifetime_of,
    opens_to_credentials,
    part_of,
    said,
    sets_cookie,
    vary_of,
)
from keyguard.guards.cache.variants import Variance, readable
from keyguard.http.cache_control import MAX_SECONDS, seconds

UNDERSTOOD = HEURISTIC | {302, 303, 307, 400, 401, 403, 409, 412, 416, 421, 422, 451, 500, 502, 503, 504}
"""Statuses whose caching behaviour this cache knows: what `must-understand` asks for (RFC 9111, section 5.2.2.3)."""
UNSTORABLE = frozenset({428, 429, 431, 511})
"""Statuses whose responses "MUST NOT be stored by a cache" (RFC 6585, sections 3 to 6)."""
_OF_THE_RESOURCE = frozenset({404, 410, 451})
"""Client errors that say something about the resource, and not about the request."""
_STALE_USES = ("stale-while-revalidate", "stale-if-error")
_BREAKS = re.compile(r"[\r\n\0]")


class Verdict(NamedTuple):
    """The decision whether a response may be stored, with the rule that made it."""

    stored: bool
    rule: str
    section: str

    def explained(self, status: int, lifetime: int | None = None) -> Explanation:
        """Return the decision in the form that `ResponseCache.explain` gives."""
        return Explanation(self.stored, self.rule, self.section, status, lifetime if self.stored else None)


def _no(rule: str, section: str) -> Verdict:
    return Verdict(False, rule, section)


def may_store(asked: CacheRequest, status: int, fields: Fields, settings: Settings, received: int) -> Verdict:
    """Decide whether a response may be stored (RFC 9111, section 3)."""
    says = said(fields, settings.targeted)
    directives = says.directives
    if asked.method not in ("GET", "POST"):
        return _no(f"the method {asked.method} is not one whose responses are stored", "RFC 9111, section 3")
    if status < 200:
        return _no("it is an interim response", "RFC 9111, section 3")
    if status == 304 or (status == 206 and part_of(fields, b"") is None):
        return _no(f"a {status} like this one is not a response to store", "RFC 9111, section 3")
    if status in UNSTORABLE:
        return _no(f"a {status} is never stored", "RFC 6585, sections 3 to 6")
    if is_event_stream(fields):
        return _no("a stream of events is for the client that listens to it", "RFC 9111, section 3")
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
    elif lifetime == 0 and not validator and directives.keys().isdisjoint(_STALE_USES):
        return _no("it is stale at once, and has no validator", "RFC 9111, section 4.2")
    return Verdict(True, "it may be stored", "RFC 9111, section 3")


def content_length(fields: Fields) -> int | None:
    """Return the value of `Content-Length`; `None` if there is none, and -1 if it cannot be relied on."""
    found = lines(fields, "content-length")
    if not found:
        return None
    text = found[0]
    return int(text) if len(found) == 1 and text.isascii() and text.isdigit() and len(text) < 19 else -1


def why_not_kept(
    asked: CacheRequest, fields: Fields, variance: Variance, limit: int, *, read_body: bool
) -> Verdict | None:
    """Return why a response that may be stored cannot be kept; `None` if it can.

    `limit`: how many bytes an entry may have. `read_body`: whether the app has got a body.
    """
    length = content_length(fields)
    if length == -1:
        return _no("its Content-Length is not one number", "RFC 9112, section 6.3")
    if read_body and asked.method == "GET":
        return _no("the request had a body, which tells no entries apart", "RFC 9110, section 9.3.1")
    if length is not None and length > limit:
        return _no(f"it is larger than an entry may be, {limit} bytes", "")
    if not readable(variance):
        return _no("a request field that it is chosen by is too long to be compared", "")
    return None


def is_about_request(status: int) -> bool:
    """Tell whether an answer is about the request or its sender, so that the stored resource is as right as before."""
    return 400 <= status < 500 and status not in _OF_THE_RESOURCE


class Use(enum.Enum):
    """The use of an entry that matches a request."""

    FRESH = "fresh"
    STALE = "stale"
    """Serve it although it is stale: the client allowed that."""
    REFRESH = "refresh"
    """Serve it stale, and ask the app in the background (RFC 5861, section 3)."""
    VALIDATE = "validate"
    """Ask the app first, because it is stale."""
    DEMANDED = "demanded"
    """Ask the app first, because the request demands it."""


def use(asked: CacheRequest, entry: Entry, now: int, settings: Settings) -> Use:
    """Decide whether an entry may be used for a request as it is (RFC 9111, section 4)."""
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
        limit = seconds(wanted["max-age"]) or 0
        if age > limit or not limit:
            return Use.DEMANDED
    spare = seconds(wanted.get("min-fresh")) or 0
    if ttl > 0:
        return Use.FRESH if ttl >= spare else Use.DEMANDED
    if spare:
        return Use.VALIDATE
    if "max-stale" in wanted and not entry.no_stale:
        limit = MAX_SECONDS if wanted["max-stale"] is None else (seconds(wanted["max-stale"]) or 0)
        if -ttl <= limit:
            return Use.STALE
    if "max-age" in wanted:  # "Unless the max-stale request directive is also present", nothing stale (5.2.1.1)
        return Use.VALIDATE
    return Use.REFRESH if -ttl < entry.stale_while_revalidate else Use.VALIDATE


def may_serve_on_error(entry: Entry, now: int) -> bool:
    """Tell whether an entry may stand in for an app that failed (RFC 5861, section 4)."""
    return -entry.ttl(now) < entry.stale_if_error if entry.stale_if_error else False
