"""Texts from outside, for logs and terminals.

Rules:
- What came from outside never ends a line, and never sends a terminal a command: a caller who could would write lines
  of their own into the log, or erase others.
- A word in a line of `name=value` is one word, or it is quoted.
- The story of an exception has many lines: all but the first are indented, so that none passes for a line of the log.
- A caller's key stands in no line, in whatever form an exception tells it.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Iterable
from urllib.parse import quote, quote_plus

_WORD = re.compile(r"[!#-&(-<>-\[\]-~]{1,200}")  # printable ASCII but quotes, `=`, backslash and blank


def plain(text: object) -> str:
    """Put a text on one line, and escape what is not printable: line breaks, commands to terminals."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join([one if one.isprintable() else one.encode("unicode_escape").decode() for one in line])


def word(text: object) -> str:
    """Make one word of a text: itself, or the text in quotes if it holds anything that could be taken for more."""
    one = str(text)
    return one if _WORD.fullmatch(one) else repr(one)


def story(error: BaseException) -> str:
    """Tell the traceback of an exception, each line but the first indented."""
    return "\n  ".join(map(plain, "".join(traceback.format_exception(error)).splitlines()))


def frames(error: BaseException) -> str:
    """Tell the places at which an exception and its causes were raised, by class alone: texts may hold secrets."""
    lines: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        told = [line for frame in traceback.format_tb(one.__traceback__) for line in frame.splitlines()]
        lines = [*told, type(one).__name__, *lines]
        one = one.__cause__ or one.__context__
    return "\n  ".join(map(plain, lines))


_SECRET_LEAST = 6  # characters


def secret(text: str) -> bool:
    """Tell whether a text may be a secret: shorter ones are none."""
    return len(text) >= _SECRET_LEAST


def without(secrets: Iterable[str], text: str) -> str:
    """Take secrets out of a text: as they are, as `repr` writes them, and as they stand in URLs and in JSON."""
    forms = set()
    for one in filter(secret, secrets):
        data = one.encode("latin-1", "replace")
        forms |= {one, repr(one)[1:-1], repr(data)[2:-1], json.dumps(one)[1:-1]}
        forms |= {quote(form, safe=safe) for form in (one, data) for safe in ("/", "")} | {quote_plus(one)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


class _Stories(logging.Filter):
    """Formats the exceptions of records by `story`, before a handler does it in its own way."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.exc_text is None:
            record.exc_text = story(error)
        return True


def logger(name: str) -> logging.Logger:
    """Return the logger of that name, whose tracebacks keep to the rules."""
    found = logging.getLogger(name)
    if not any(isinstance(one, _Stories) for one in found.filters):
        found.addFilter(_STORIES)
    return found


_STORIES = _Stories()
