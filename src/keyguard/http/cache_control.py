"""`Cache-Control` and its targeted relatives, read strictly. No clock, no I/O.

Rules (RFC 9111, section 5.2; RFC 9213):
- Names are compared without regard to case. A name inside another directive's quoted string is not a directive.
- Of a directive that stands twice, the first counts: "either the first occurrence should be used or the response
  should be considered stale" (RFC 9111, section 4.2.1).
- A lifetime that is not a number of seconds makes a response stale, not fresh for a while.
- A field that is longer than any that is meant seriously, or has more members, is not read: it says no-store. Its
  sender must not make others wait while it is taken to pieces.
- A targeted field is a Dictionary (RFC 9651, section 3.2): it is read as a whole or, if it is malformed, ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, TypeAlias

Directives: TypeAlias = "dict[str, str | None]"
"""Lower-case names to their arguments, without quotes; `None` for a name without one."""

MAX_SECONDS = 2**31
"""The number that larger ones count as (RFC 9111, section 1.2.2)."""

# The blanks round a member do not belong to it; those round "=" are not allowed, so a member with those has another
# name.
_MEMBER = re.compile(
    r"""[ \t]*(?P<name>[^\s",;=]+)(?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s",;]*)))?[ \t]*(?:,|$)""",
    re.DOTALL,
)
_JUNK = re.compile(r"""(?:[^",]|"(?:[^"\\]|\\.)*"?)*(?:,|$)""", re.DOTALL)
# A malformed member opens nothing, but still closes: "private; max-age=60" was meant to keep something to itself.
_FORBIDDING = re.compile(r"\b(?:no-store|private|no-cache|must-revalidate)\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_IN_PART = frozenset({"private", "no-cache"})

_MAX_LENGTH = 4096  # characters
_MAX_MEMBERS = 64
_SHORT = 256  # a longer text is not remembered, or its sender could fill the memory


def _parse(text: str) -> Directives:
    found: Directives = {}
    at = members = 0
    if len(text) > _MAX_LENGTH:
        return {"no-store": None}
    while at < len(text):
        members += 1
        if members > _MAX_MEMBERS:
            return {"no-store": None}
        match = _MEMBER.match(text, at)
        if match is None:
            junk = _JUNK.match(text, at)
            assert junk is not None
            for word in _FORBIDDING.findall(junk.group()):
                found[word.lower()] = None
            at = max(junk.end(), at + 1)
            continue
        at = match.end()
        quoted = match["quoted"]
        argument = match["token"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        name = match["name"].lower()
        if argument is None and name in _IN_PART:
            found[name] = None  # a directive that forbids all is not weakened by one that forbids a part
        else:
            found.setdefault(name, argument)
    return found


_remembered = lru_cache(maxsize=512)(_parse)  # apps and clients of one kind send few different texts


def parse_cache_control(lines: Iterable[str]) -> Directives:
    """Return the directives of all lines of a `Cache-Control` field."""
    text = ",".join(lines)
    if not text:
        return {}
    return _remembered(text) if len(text) <= _SHORT else _parse(text)


def seconds(argument: str | None) -> int | None:
    """Return delta-seconds (RFC 9111, section 1.2.2), at most `MAX_SECONDS`; `None` if the argument is not one."""
    if argument is None or not argument.isascii() or not argument.isdigit():
        return None
    digits = argument.lstrip("0") or "0"
    return MAX_SECONDS if len(digits) > 10 else min(int(digits), MAX_SECONDS)


def field_names(argument: str) -> frozenset[str]:
    """Return the lower-case names of the fields that `private="..."` or `no-cache="..."` lists."""
    return frozenset(name.strip().lower() for name in argument.split(",") if name.strip())


# -- targeted fields --------------------------------------------------------------------------------------------


def parse_targeted(text: str) -> Directives | None:
    """Return the directives of a targeted field; `None` if it is empty or malformed, and so has no say.

    That is what RFC 9213, section 2.1, asks for: no part of a field counts that cannot be read as a whole. A text
    counts only if a directive lists fields: `max-age="60"` is not a number here.
    """
    import http_sf  # here, since it takes as long to import as all of keyguard, and few apps set such fields

    if len(text) > _MAX_LENGTH:
        return {"no-store": None}
    try:
        members: Any = http_sf.parse(text.encode("latin-1"), tltype="dictionary")
    except ValueError:
        return None
    found: Directives = {}
    for name, (value, _) in members.items():
        if isinstance(value, str):
            if name in _IN_PART:
                found[name] = value
        elif value is not False:
            # No directive has an argument that is neither a number nor a token.
            whole = isinstance(value, (int, http_sf.Token)) and value is not True
            found[name] = str(value) if whole else None
    return found if members else None
