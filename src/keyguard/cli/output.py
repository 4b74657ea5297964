"""The output of the commands: for scripts on standard output, for people on standard error.

A text that stands in a store may have been written by anybody: it sends a terminal no commands.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any
from unicodedata import combining, east_asian_width

from keyguard.cli.input import json_text
from keyguard.cli.veiled import veiled
from keyguard.clock import SECOND, wall_clock
from keyguard.errors import KeyguardError
from keyguard.keys import IssuedKey, KeyRecord
from keyguard.keys.noting import members_at
from keyguard.logs import plain
from keyguard.units import as_datetime, in_microseconds, rfc3339


def members_of(record: KeyRecord) -> dict[str, Any]:
    """Return a record for scripts: moments as RFC 3339 text, and the status of now."""
    return members_at(record, as_datetime(wall_clock()))


def show_issued(issued: IssuedKey, options: argparse.Namespace) -> int:
    """Print a new key; the only time that it is shown."""
    try:
        if options.json:
            print_json({"key": issued.key.reveal(), **members_of(issued.record)})
        else:
            said = f"Key {issued.record.id} of {issued.record.owner}. It is shown this once: store it now."
            print(plain(veiled(said)), file=sys.stderr)
            print(issued.key.reveal())
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        raise KeyguardError(
            f"key {issued.record.id} was made, but could not be written ({error.strerror}): revoke it"
        ) from error
    return 0


def show_record(record: KeyRecord, options: argparse.Namespace) -> int:
    """Print one key's record."""
    members = members_of(record)
    if options.json:
        print_json(members)
        return 0
    for name, value in members.items():
        if value not in (None, [], {}):
            text = ", ".join(value) if isinstance(value, list) else value
            print(f"{name:12} {plain(json.dumps(text) if isinstance(text, dict) else text)}")
    return 0


_LEAST, _NARROW = 8, 4
"""Columns of a terminal, at least, for a column of a table that is cut; in a terminal that is narrow for the table."""

_COLUMNS: dict[str, Callable[[KeyRecord], str | None]] = {
    "ID": lambda record: record.id,
    "STATUS": lambda record: record.status(as_datetime(wall_clock())),
    "OWNER": lambda record: record.owner,
    "NAME": lambda record: record.name,
    "SUBJECT": lambda record: record.subject if record.subject != record.owner else None,
    "PLAN": lambda record: record.plan,
    "SCOPES": lambda record: " ".join(sorted(record.scopes)),
    "CREATED (UTC)": lambda record: moment_text(record.created),
    "ENDS (UTC)": lambda record: None if record.not_after is None else moment_text(record.not_after),
}


def moment_text(when: datetime) -> str:
    """Write a moment, to the second."""
    return rfc3339(in_microseconds(when) // SECOND)


def end_text(when: datetime) -> str:
    """Write a moment at which something ends, rounded up: one told a second early would be a promise not kept."""
    return rfc3339(-(-in_microseconds(when) // SECOND))


def print_table(records: list[KeyRecord], last_used: Callable[[KeyRecord], str]) -> None:
    """Print a line for each key."""
    columns = {**_COLUMNS, "LAST USED (UTC)": last_used}
    print_rows(list(columns), [[column(record) or "" for column in columns.values()] for record in records])


def print_rows(names: list[str], lines: list[list[str]]) -> None:
    """Print a table, with the names of its columns. Those in which nothing stands are left out.

    On a terminal the widest columns are cut so that a row is a line; the first one is whole, for it names the row.
    Elsewhere nothing is cut: scripts read it.
    """
    rows = [names, *[[plain(text) for text in line] for line in lines]]
    shown = [place for place in range(len(names)) if any(row[place] for row in rows[1:])]
    widths = [max(_width(row[place]) for row in rows) for place in shown]
    if sys.stdout.isatty():
        kept = _fit(widths, [names[place] for place in shown], shutil.get_terminal_size().columns)
        if kept < len(shown):
            left_out = ", ".join([names[place] for place in shown[kept:]])
            print(f"This terminal is too narrow for {left_out}: --json tells all.", file=sys.stderr)
        shown, widths = shown[:kept], widths[:kept]
    for row in rows:
        print("  ".join(_cut(row[place], width) for place, width in zip(shown, widths, strict=True)).rstrip())


def _fit(widths: list[int], names: list[str], columns: int) -> int:
    """Make columns narrower, the widest first, until they fit; moments after all others, and names last.

    Returns how many of them fit, from the left. If not even two do, no table would help: all stay as they are.
    """
    whole = list(widths)
    free = columns - 2 * (len(widths) - 1)
    for least in ([max(len(name), _LEAST) for name in names], [_NARROW] * len(names)):
        for last in (False, True):
            places = [place for place in range(1, len(widths)) if ("(UTC)" in names[place]) is last]
            while sum(widths) > free:
                wide = [place for place in places if widths[place] > least[place]]
                if not wide:
                    break
                widths[max(wide, key=widths.__getitem__)] -= 1
    kept = len(widths)
    while kept > 1 and sum(widths[:kept]) + 2 * (kept - 1) > columns:
        kept -= 1
    if kept == 1 < len(widths):
        widths[:] = whole
        return len(widths)
    return kept


def _cut(text: str, width: int) -> str:
    """Return a text of exactly this width."""
    if _width(text) > width:
        while _width(text) > width - 1:
            text = text[:-1]
        text += "…" if (sys.stdout.encoding or "").lower().replace("-", "") == "utf8" else "~"
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    ascii_alone = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"  # JSON has escapes of its own
    print(json_text(value, ascii_alone=ascii_alone))


def complain(
    text: str,
    *,
    as_json: bool = False,
    prog: str = "keyguard",
    words: Iterable[str] = (),
    more: Mapping[str, Any] | None = None,
) -> None:
    """Say on standard error what went wrong, on one line, or as one JSON document on one line, which has `more`.

    `words` are those of the command line: what may be a secret among them is not repeated.
    """
    told = plain(veiled(" ".join(text.split()), words))
    if as_json:
        print(json.dumps({"error": told, **(more or {})}), file=sys.stderr)
    else:
        print(f"{prog}: error: {told}", file=sys.stderr)


def warn(text: str, words: Iterable[str] = ()) -> None:
    """Say on standard error, on one line, what is odd though the command goes on. `words` are as for `complain`."""
    print(f"keyguard: warning: {plain(veiled(text, words))}", file=sys.stderr)


def discard_output() -> None:
    """Point what is still to be written elsewhere, or the interpreter complains at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
