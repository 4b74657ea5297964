"""The words of a command line: no secret has to stand among them, and none is shown.

A store's URL, a key or a header field may be written as it is, and then everybody on the machine can read it in the
list of processes. So each may also be

    @FILE       what stands in a file
    -           a line of standard input
    env:NAME    the environment variable NAME

An error of the command line repeats none of its words but those that are plainly no secret: what was meant for one
option may have ended up in the place of another.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar, NoReturn

from keyguard.errors import ConfigurationError
from keyguard.given import given as given
from keyguard.given import given_lines as given_lines
from keyguard.units import microseconds

FORMS = "or @FILE, - for a line of standard input, env:NAME"
_PLAIN = re.compile(r"[a-z][a-z-]{0,19}|--?[a-z][a-z-]*")
_OPTION = re.compile(r"--?[a-z][a-z-]*")


def add_store(command: argparse.ArgumentParser, example: str) -> None:
    """Add the options that name a store."""
    either = command.add_mutually_exclusive_group()
    either.add_argument("--store", metavar="URL", help=f"such as {example}, {FORMS}; else KEYGUARD_STORE")
    either.add_argument("--store-file", metavar="FILE", help="a file that holds the URL")


def names_store(options: argparse.Namespace) -> bool:
    """Tell whether the words of a command name a store."""
    return options.store is not None or getattr(options, "store_file", None) is not None


def store_url(options: argparse.Namespace, example: str) -> str:
    """Return the URL of the store that is named by an option or the environment."""
    text = options.store
    if getattr(options, "store_file", None) is not None:
        text = "@" + options.store_file
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
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a moment: write a duration from now, such as 30d, or 2027-01-31T12:00:00+00:00"
        ) from None
    if found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} lacks its time zone: write for example {text}+00:00")
    return found


def json_text(value: Any, *, ascii_alone: bool) -> str:
    """Write a value as JSON, of which no text sends a terminal commands."""
    text = json.dumps(value, indent=2, ensure_ascii=ascii_alone)
    # Signs that are not printable stand within texts alone, but for the line breaks between members.
    return "".join([one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text])


class Parser(argparse.ArgumentParser):
    """A parser whose errors do not repeat what they were given."""

    _words: ClassVar[Sequence[str]] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        Parser._words = sys.argv[1:] if args is None else list(args)
        options, more = self.parse_known_args(args, namespace)
        if more:
            names = [found[0] for word in more if (found := _OPTION.match(word))]
            told = f": {' '.join(names)}" if names else ""
            self.error(f"{len(more)} words are more than this command takes{told} (a value with blanks is quoted)")
        return options

    def error(self, message: str) -> NoReturn:
        super().error(_without(message, self._words))


def _without(message: str, words: Sequence[str]) -> str:
    """Return a message without the words of a command line that may be secret, plain or as `repr` writes them."""
    secrets = set()
    for place, word in enumerate(words):
        after_header = place > 0 and words[place - 1] == "--header"
        for part in (word, word.partition("=")[2]):
            if part and (after_header or not _PLAIN.fullmatch(part)):
                secrets.add(part)
    for secret in sorted(secrets, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1]):
            message = message.replace(form, "***")
    return message
