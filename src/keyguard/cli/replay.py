"""The command `keyguard replay`: what a policy would have refused of the requests in an access log.

keyguard replay --app shop.web:guard access.log
keyguard replay --app shop.web:guard --field caller=labels.account access-*.json.gz
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from keyguard.cli.app import add_app, stack_of
from keyguard.cli.input import add_json
from keyguard.cli.output import moment_text, print_json, print_rows
from keyguard.cli.progress import progress
from keyguard.errors import KeyguardError
from keyguard.logs import plain
from keyguard.replay import FIELDS, Reader, Replay, replay

_LONGEST = 256 * 1024  # bytes of a line: what is longer is broken, and is not kept


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyguard replay`."""
    parser.add_argument(
        "logs", nargs="+", metavar="LOG", help="access logs in the order of time, also .gz; - is standard input"
    )
    add_app(parser)
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="FIELD=NAME",
        help=f"the name of a field in a JSON log, such as caller=labels.account: {', '.join(FIELDS)}",
    )
    parser.add_argument("--top", type=_count, default=10, metavar="N", help="name so many callers (10)")
    add_json(parser)
    parser.set_defaults(run=_replay)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of callers")
    return int(text)


def _replay(options: argparse.Namespace) -> int:
    reader = Reader(_fields(options.field))
    stack = stack_of(options)
    files = [None if name == "-" else Path(name) for name in options.logs]
    for file in files:
        if file is not None and (file.is_dir() or not file.exists()):
            raise KeyguardError(f"there is no log {file}")
    lines = _Lines(files)
    with progress("MB read", lines.total, options) as tell:
        found = replay(stack, lines, reader=reader, tell=lambda number: tell(lines.done))
    if found.requests == 0:
        raise KeyguardError(
            "there was no request in the log" + "".join([f": {note}" for note in _of_log(found, lines)])
        )
    if options.json:
        print_json(_members(found, lines, options.top))
    else:
        _print(found, lines, options.top)
    return 0


def _fields(texts: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        field, equals, name = text.partition("=")
        if not equals or not name or field not in FIELDS:
            raise KeyguardError(f"--field is FIELD=NAME, with one of {', '.join(FIELDS)} for FIELD")
        found[field] = name
    return found


class _Lines:
    """The lines of some files, one after the other; nothing of them is kept."""

    def __init__(self, files: Sequence[Path | None]) -> None:
        self._files = files
        sizes = [file.stat().st_size if file is not None and file.is_file() else None for file in files]
        self.cut_off: list[str] = []
        """The names of files that end in the middle, or cannot be read on; what stands before was read."""
        self._begins: list[tuple[int, str]] = []
        self._number = 0
        self.total = None if None in sizes else -(-sum(size or 0 for size in sizes) // _MB)
        """The megabytes there are, as they lie on disk, if that is known."""
        self._at: Callable[[], int] = lambda: 0
        self._before = 0

    @property
    def done(self) -> int:
        """The megabytes that were read."""
        return (self._before + self._at()) // _MB

    def __iter__(self) -> Iterator[str]:
        for file in self._files:
            name = "standard input" if file is None else str(file)
            self._begins.append((self._number, name))
            if file is None:
                if sys.stdin is not None:
                    yield from self._of(sys.stdin.buffer, name)
                continue
            with file.open("rb") as raw:
                if file.is_file():
                    self._at = raw.tell
                if file.suffix == ".gz":
                    with gzip.open(raw) as unpacked:
                        yield from self._of(unpacked, name)
                else:
                    yield from self._of(raw, name)
                self._at = lambda: 0
            self._before += os.stat(file).st_size

    def place(self, number: int) -> str:
        """Tell where a line stands, which is the `number`th of all, from 1."""
        before, name = [each for each in self._begins if each[0] < number][-1]
        return f"line {number - before}" + (f" of {name}" if len(self._files) > 1 else "")

    def _of(self, file: IO[bytes] | Any, name: str) -> Iterator[str]:
        try:
            while line := file.readline(_LONGEST):
                if len(line) == _LONGEST and not line.endswith(b"\n"):
                    while (more := file.readline(_LONGEST)) and not more.endswith(b"\n"):
                        pass
                    line = b"too long"  # which is not a line of a log
                self._number += 1
                yield line.decode("utf-8", "replace")
        except (EOFError, zlib.error, gzip.BadGzipFile):
            self.cut_off.append(name)


_MB = 1_000_000


def _print(found: Replay, lines: _Lines, top: int) -> None:
    if found.begin is not None and found.end is not None:
        span = f"{_moment(found.begin)} to {_moment(found.end)}"
        print(f"{_number(found.requests, 'request')} from {span}")
    keys = f"{'more than ' if found.more_callers else ''}{len(found.callers):,}"
    share = f" ({100 * found.refused / found.requests:.2f} %)" if found.requests else ""
    callers = "caller" if keys == "1" else "callers"
    print(f"this policy would have refused {_number(found.refused, 'request')}{share} of {keys} {callers}")
    print(f"at the time {found.refused_then:,} were answered with 429 or 503")
    if found.by_rule:
        print()
        rules = sorted(found.by_rule.values(), key=lambda one: -one.requests)
        rows = [
            [one.rule, one.cause, f"{one.requests:,}", f"{len(one.callers):,}", _moment(one.first)] for one in rules
        ]
        print_rows(["RULE", "CAUSE", "REQUESTS", "CALLERS", "FIRST (UTC)"], rows)
    if found.by_rule and top:
        print()
        print_rows(["CALLER", "REFUSED"], [[name, f"{number:,}"] for name, number in found.callers.most_common(top)])
    for name, refused in found.in_shadow.items():
        print(plain(f"{name} is in shadow mode: it would have refused {refused:,} requests, which went on"))
    for note in _notes(found, lines):
        print(plain(f"note: {note}"), file=sys.stderr)


def _of_log(found: Replay, lines: _Lines) -> list[str]:
    """Tell what of the log could not be read."""
    notes = []
    if found.broken:
        named = "; ".join([f"{lines.place(number)} {why}" for number, why in found.broken_lines])
        more = " ..." if found.broken > len(found.broken_lines) else ""
        notes.append(f"{_number(found.broken, 'line')} could not be read: {named}{more}")
    notes += [f"{name} is cut off, or no gzip: what stands before was read" for name in lines.cut_off]
    return notes


def _number(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _notes(found: Replay, lines: _Lines) -> list[str]:
    notes = _of_log(found, lines)
    failed = sum(one.requests for one in found.by_rule.values() if one.cause == "fault")
    if failed:
        notes.append(
            f"a function of the stack failed for {_number(failed, 'request')}: no log has header fields, nor bodies"
        )
    if found.without_body:
        notes.append(
            f"{_number(found.without_body, 'request')} met a limit by a field of the body, which no log has: it was "
            "left out"
        )
    if found.unnamed:
        notes.append(
            f"{_number(found.unnamed, 'request')} without a caller: each address was taken for one with a key. Log "
            "the id of the key, and name it: --field caller=NAME"
        )
    if found.late:
        notes.append(f"{_number(found.late, 'request')} after younger ones in the log: taken for as late as these")
    return notes


def _members(found: Replay, lines: _Lines, top: int) -> dict[str, Any]:
    return {
        "requests": found.requests,
        "begin": _moment(found.begin) or None,
        "end": _moment(found.end) or None,
        "refused": found.refused,
        "refused_then": found.refused_then,
        "callers": len(found.callers),
        "more_callers": found.more_callers,
        "rules": [
            {
                "rule": one.rule,
                "cause": one.cause,
                "requests": one.requests,
                "callers": len(one.callers),
                "first": _moment(one.first),
            }
            for one in sorted(found.by_rule.values(), key=lambda one: -one.requests)
        ],
        "in_shadow": found.in_shadow,
        "top": [{"caller": name, "refused": number} for name, number in found.callers.most_common(top)],
        "broken": found.broken,
        "broken_lines": [
            {"line": number, "where": lines.place(number), "why": why} for number, why in found.broken_lines
        ],
        "cut_off": lines.cut_off,
        "late": found.late,
        "unnamed": found.unnamed,
        "without_body": found.without_body,
    }


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment_text(moment)
