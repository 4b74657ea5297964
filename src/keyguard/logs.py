"""Texts from outside, for logs and terminals.

Rules:
- What came from outside never ends a line, and never sends a terminal a command: a caller who could would write lines
  of his own into the log, or erase others.
- A word in a line of `name=value` is one word, or it is quoted.
- The story of an exception has many lines: none but the first begins where a line of the log does.
"""

from __future__ import annotations

import logging
import re
import traceback

_WORD = re.compile(r"[!#-&(-<>-\[\]-~]{1,200}")  # printable ASCII but quotes, `=`, backslash and blank


def plain(text: object) -> str:
    """A text on one line, with what is not printable escaped: line breaks, commands to terminals."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join([one if one.isprintable() else one.encode("unicode_escape").decode() for one in line])


def word(text: str) -> str:
    """A text as one word: as it is, or quoted if it holds anything that could be taken for more."""
    return text if _WORD.fullmatch(text) else repr(text)


def story(error: BaseException) -> str:
    """The traceback of an exception, each line indented."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join([lines[0], *[f"  {plain(line)}" for line in lines[1:]]]) if lines else ""


class _Stories(logging.Filter):
    """Formats the exceptions of records by `story`: what handlers write is what it made."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.exc_text is None:
            record.exc_text = story(error)
        return True


def logger(name: str) -> logging.Logger:
    """The logger of that name, whose tracebacks keep to the rules."""
    found = logging.getLogger(name)
    if not any(isinstance(one, _Stories) for one in found.filters):
        found.addFilter(_STORIES)
    return found


_STORIES = _Stories()
