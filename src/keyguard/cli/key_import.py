"""`keyguard keys import`: reading a file of keys that were made elsewhere.

    lines       a key a line, or its digest; blank lines and those that begin with # are not read
    csv         the first line names the columns
    jsonl       an object a line

Columns, and members of an object: one of key, sha256, hmac_sha256, hash (with prefix); owner, subject, plan, scopes,
networks, metadata, name, expires. The options say what is left out.

An error names a line by its number, and repeats nothing of it: a key may stand anywhere.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keyguard.cli.input import when
from keyguard.cli.operator import operator
from keyguard.cli.output import print_json
from keyguard.cli.progress import progress
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.keys import ForeignKey, KeyRegistry
from keyguard.keys.importing import Problem
from keyguard.logs import plain

FORMATS = ("lines", "csv", "jsonl")
OF = {"key": "key", "sha256": "sha256", "hmac-sha256": "hmac_sha256"}
"""The meaning of a line of a plain list, by the option `--of`."""

_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_TEXTS = ("key", "sha256", "hmac_sha256", "hash", "prefix", "owner", "subject", "plan", "name")
_COLUMNS = (*_TEXTS, "scopes", "networks", "metadata", "expires")

Numbered = tuple[int, "ForeignKey | str"]


def run(registry: KeyRegistry, options: argparse.Namespace) -> int:
    """Import the keys of a file. Returns the exit code."""
    prepared, problems = registry.check_import(_read(options))
    if not prepared and not problems:
        raise KeyguardError("nothing was imported: there is no key")
    broken = [{"line": number, "problem": plain(text)} for number, text in problems]
    if problems and not options.skip_broken:
        if not options.json:
            _tell(problems)
        raise _Broken(broken)
    if options.dry_run:
        found = {"new": 0, "there": 0, "deleted": 0}
    else:
        with progress("imported", len(prepared), options) as tell:
            done = registry.write_import(prepared, tell, actor=operator())
        found = {"new": done.new, "there": done.there, "deleted": done.deleted}
    if options.json:
        print_json({"right": len(prepared), **found, "broken": broken})
        return 0
    _tell(problems)
    parts = (
        [f"{len(prepared)} keys are right, and none was written"] if options.dry_run else [f"{found['new']} new keys"]
    )
    parts += [f"{found['there']} there already"] * bool(found["there"])
    parts += [f"{found['deleted']} that were deleted since, and stay so"] * bool(found["deleted"])
    parts += [f"{len(problems)} broken lines left out"] * bool(problems)
    print(", ".join(parts))
    if found["new"]:
        print(
            "An app accepts them by APIKeys(imported=True), those of hmac-sha256 if KEYGUARD_HMAC_SECRET is set.",
            file=sys.stderr,
        )
    return 0


class _Broken(KeyguardError):
    """Some lines of a file are broken, and nothing was imported."""

    def __init__(self, broken: Sequence[Mapping[str, Any]]) -> None:
        what = "1 line is" if len(broken) == 1 else f"{len(broken)} lines are"
        them = "it" if len(broken) == 1 else "them"
        super().__init__(f"nothing was imported, for {what} broken: mend {them}, or leave {them} out by --skip-broken")
        self.more = {"broken": broken}
        """With `--json` the error names the lines as well."""


def _tell(problems: Iterable[Problem]) -> None:
    for number, text in problems:
        print(f"line {number}: {plain(text)}", file=sys.stderr)


def _read(options: argparse.Namespace) -> Iterator[Numbered]:
    kind = options.format or _SUFFIXES.get(Path(options.file).suffix.lower(), "lines")
    lines = _lines(options.file)
    for number, members in _READERS[kind](lines, OF[options.of]):
        if isinstance(members, str):
            yield number, members
            continue
        try:
            yield number, _key(members, options)
        except ValueError as error:
            yield number, str(error)


def _lines(file: str) -> list[str]:
    """Return the lines of a file, or of standard input: all at once, since all are checked before any is written."""
    try:
        data = (b"" if sys.stdin is None else sys.stdin.buffer.read()) if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the file cannot be read: {error.strerror}") from None
    # A line at a time: one that is not UTF-8 is one broken line.
    return [line.decode("utf-8", "replace") for line in data.removeprefix(b"\xef\xbb\xbf").splitlines()]


def _read_lines(lines: list[str], of: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            yield number, {of: text}


def _read_csv(lines: list[str], of: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        # Each line by itself: a quote that is not closed makes one line wrong, and not all that follow.
        try:
            row = next(csv.reader([line], strict=True), [])
        except csv.Error:
            yield number, "this is not CSV: a quote is not closed on its line, or something follows it"
            continue
        if not any(cell.strip() for cell in row):
            continue
        if not names:
            names = [cell.strip().lower() for cell in row]
            if len(set(names)) < len(names) or not set(names) <= set(_COLUMNS):
                raise ConfigurationError(
                    f"nothing was imported: the first line names the columns, each once, of {', '.join(_COLUMNS)}"
                )
        elif len(row) != len(names):
            yield number, f"there are {len(row)} cells, and {len(names)} columns"
        else:
            yield number, _cells(dict(zip(names, row, strict=True)))


def _cells(row: dict[str, str]) -> dict[str, Any] | str:
    found: dict[str, Any] = {name: cell.strip() for name, cell in row.items() if cell.strip()}
    if "metadata" in found:
        try:
            found["metadata"] = json.loads(found["metadata"])
        except (ValueError, RecursionError):
            return "metadata is a JSON object"
    return found


def _read_json(lines: list[str], of: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_once)
        except _Twice:
            yield number, "a member stands there twice"
            continue
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            yield number, "this is not a JSON object"
        elif not set(found) <= set(_COLUMNS):
            yield number, f"a member is not known: there are {', '.join(_COLUMNS)}"
        else:
            yield number, {name: value for name, value in found.items() if value is not None}


class _Twice(Exception):
    """A member of an object stands there twice: which of them is meant cannot be known."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Twice
    return found


_READERS = {"lines": _read_lines, "csv": _read_csv, "jsonl": _read_json}


def _key(members: dict[str, Any], options: argparse.Namespace) -> ForeignKey:
    """Make a key of what stands in a line, and of the options. Raises `ValueError`, which shows nothing of it."""
    for name in _TEXTS:
        if not isinstance(members.get(name, ""), str):
            raise ValueError(f"{name} is a text")
    for name in ("scopes", "networks"):
        value = members.get(name)
        if isinstance(value, str):
            members[name] = value.replace(",", " ").split()
        elif value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise ValueError(f"{name} is a text, or a list of texts")
    if not isinstance(members.get("metadata", {}), dict):
        raise ValueError("metadata is an object")
    if "expires" in members:
        try:
            if not isinstance(members["expires"], str):  # a number may be a duration, or a moment
                raise TypeError
            members["expires"] = when(members["expires"])
        except (argparse.ArgumentTypeError, TypeError):
            raise ValueError("expires is a date, an ISO 8601 moment, or a duration from now, such as 30d") from None
    given = {"subject": options.subject, "plan": options.plan, "scopes": options.scope, "expires": options.expires}
    members = {**{name: value for name, value in given.items() if value is not None}, **members}
    if "owner" not in members:
        owner = options.owner if options.owner is not None else members.get("subject")
        if owner is None:
            raise ValueError("there is no owner: name it in a column, or for all by --owner")
        members["owner"] = owner
    return ForeignKey(**members)
