"""The words of a command line: no secret has to stand among them, and none is shown.

A store's URL, a key or a header field may be written as it is, and then everybody on the machine can read it in the
list of processes. So each may also be

    @FILE       what stands in a file
    -           a line of standard input
    env:NAME    the environment variable NAME
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeAlias

from keyguard.errors import ConfigurationError
from keyguard.given import given as given
from keyguard.given import given_lines as given_lines
from keyguard.units import microseconds

AddAction: TypeAlias = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
FORMS = "or @FILE, - for a line of standard input, env:NAME"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}|[0-9]{4}-?W[0-9]{2}-?[1-7]")


def adding_to(parser: argparse.ArgumentParser, *, store: str | None = None) -> AddAction:
    """Return a function that adds an action to a command: with its name, what runs it, and what it is for.

    Each takes `--json`, and `--store` if an example of a store's URL is given.
    """
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=help, description=help)
        if store is not None:
            add_store(command, store)
        add_json(command)
        command.set_defaults(run=run)
        return command

    return add


def add_store(command: argparse.ArgumentParser, example: str) -> None:
    """Add the options that name a store. They may as well stand before the command: see `add_general`."""
    _add_store(command, f"such as {example}, {FORMS}; else KEYGUARD_STORE", argparse.SUPPRESS)


def add_json(command: argparse.ArgumentParser) -> None:
    """Add the option that has a command print one JSON document, also of an error, on standard error."""
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")


def add_general(parser: argparse.ArgumentParser) -> None:
    """Add to the whole command line what may stand before a command.

    After it the same options have no default, so that they leave alone what stands before.
    """
    _add_store(parser, f"the store of the command, {FORMS}; else KEYGUARD_STORE", None)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_store(parser: argparse.ArgumentParser, help: str, default: str | None) -> None:
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--store", metavar="URL", default=default, help=help)
    either.add_argument(
        "--store-file", metavar="FILE", dest="store", type=_at, default=default, help="a file that holds the URL"
    )


def _at(file: str) -> str:
    return f"@{file}"


def names_store(options: argparse.Namespace) -> bool:
    """Tell whether the words of a command name a store."""
    return options.store is not None


def store_url(options: argparse.Namespace, example: str) -> str:
    """Return the URL of the store that is named by an option or the environment."""
    text = options.store
    if text is None:
        text = os.environ.get("KEYGUARD_STORE")
    if not text:
        raise ConfigurationError(f"name the store: {example}, or the environment's KEYGUARD_STORE")
    return given(text, "the URL of a store")


def duration(text: str) -> str:
    """Read an argument that is a duration, with its unit."""
    try:
        microseconds("a duration", text)
    except ConfigurationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 90s, 15m, 12h, 30d or 2w") from None
    return text


def seconds_or_duration(text: str) -> float | str:
    """Read an argument that is a duration, in seconds if it has no unit."""
    try:
        return float(text)
    except ValueError:
        return duration(text)


def when(text: str) -> datetime | str:
    """Read an argument that is a moment, or a duration from now."""
    with suppress(ValueError):
        microseconds("a duration", text)
        return text
    try:
        found = datetime.fromisoformat(f"{text}T00:00:00+00:00" if _DATE.fullmatch(text) else text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a moment: write a duration from now, such as 30d, a date, such as 2027-01-31, which "
            "begins at midnight in UTC, or 2027-01-31T12:00:00+00:00"
        ) from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} lacks its time zone: write for example {text}+00:00")
    return found


def separated(text: str) -> list[str]:
    """Read an argument that names several things, by commas."""
    found = [part for part in (part.strip() for part in text.split(",")) if part]
    if not found:
        raise argparse.ArgumentTypeError("nothing is named between the commas")
    return found


def json_text(value: Any, *, ascii_alone: bool) -> str:
    """Write a value as JSON, of which no text sends a terminal commands."""
    text = json.dumps(value, indent=2, ensure_ascii=ascii_alone)
    # Signs that are not printable stand within texts alone, but for the line breaks between members.
    return "".join([one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text])
