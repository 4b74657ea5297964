"""`Cache-Control` and its targeted relatives, read strictly. No clock, no I/O.

Rules (RFC 9111, section 5.2; RFC 9213):
- Names are compared without regard to case. A name inside another directive's quoted string is no directive.
- Of a directive that stands twice, the first counts: "either the first occurrence should be used or the response
  should be considered stale" (RFC 9111, section 4.2.1).
- What is no number of seconds is no lifetime: the response is stale, not fresh for a while.
- A field that is longer than any that is meant seriously, or has more members, is not read: it says no-store. Whoever
  sends it may not have others wait while it is taken to pieces.
- A targeted field is a Dictionary (RFC 9651, section 3.2): it is read as a whole or, where it is malformed, ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

Directives: TypeAlias = "dict[str, str | None]"
"""Lower-case names to their arguments, without quotes; `None` for a name without one."""

MAX_SECONDS = 2**31
"""What a number that is larger than can be held counts as (RFC 9111, section 1.2.2)."""

# The blanks round a member do not belong to it; those round "=" are not allowed, so a member with those has another
# name.
_MEMBER = re.compile(
    r"""[ \t]*(?P<name>[^\s",;=]+)(?:=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^\s",;]*)))?[ \t]*(?:,|$)""",
    re.DOTALL,
)
_JUNK = re.compile(r"""(?:[^",]|"(?:[^"\\]|\\.)*"?)*(?:,|$)""", re.DOTALL)
# What is malformed opens nothing, but still closes: "private; max-age=60" was meant to keep something to itself.
_FORBIDDING = re.compile(r"\b(?:no-store|private|no-cache|must-revalidate)\b", re.IGNORECASE)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_IN_PART = frozenset({"private", "no-cache"})

_LONGEST = 4096  # characters
_MOST_MEMBERS = 64
_SHORT = 256  # what is longer is not remembered, or whoever sends it could fill the memory


def _parse(text: str) -> Directives:
    found: Directives = {}
    at = members = 0
    if len(text) > _LONGEST:
        return {"no-store": None}
    while at < len(text):
        members += 1
        if members > _MOST_MEMBERS:
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
            found[name] = None  # what forbids altogether is not weakened by what forbids in part
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

_KEY = r"[a-z*][a-z0-9_.*-]*"
_STRING = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
_TOKEN = r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*"
_NUMBER = r"-?(?:[0-9]{1,12}\.[0-9]{1,3}|[0-9]{1,15})"
_BINARY = r":[A-Za-z0-9+/=]*:"
_DATE = r"@-?[0-9]{1,15}"
_BARE = rf"(?:{_STRING}|{_TOKEN}|{_NUMBER}|{_BINARY}|\?[01]|{_DATE})"
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE})?)*"
_DICTIONARY_MEMBER = re.compile(
    rf"(?P<name>{_KEY})(?:=(?:(?P<value>{_BARE})|\( *(?:{_BARE}{_PARAMETERS}(?: +{_BARE}{_PARAMETERS})* *)?\)))?"
    rf"{_PARAMETERS}[ \t]*(?P<comma>,)?[ \t]*"
)


def parse_targeted(text: str) -> Directives | None:
    """Return the directives of a targeted field; `None` if it is empty or malformed, and so has no say.

    That is what RFC 9213, section 2.1, asks for: no part of a field counts that cannot be read as a whole. A text
    counts only if a directive lists fields: `max-age="60"` is not a number here.
    """
    text = text.strip(" ")
    found: Directives = {}
    at, comma = 0, True
    while at < len(text):
        match = _DICTIONARY_MEMBER.match(text, at)
        if match is None or not comma:
            return None
        at, comma = match.end(), match["comma"] is not None
        name, value = match["name"], match["value"]
        found.pop(name, None)  # of a member that stands twice the last counts (RFC 9651, section 4.2.2)
        if value is None or value == "?1":
            found[name] = None
        elif value[0] == '"':
            if name in ("private", "no-cache"):
                found[name] = _ESCAPED.sub(r"\1", value[1:-1])
        elif value != "?0":
            found[name] = value
    return None if comma else found
