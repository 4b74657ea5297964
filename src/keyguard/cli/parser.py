"""The parser of the command line.

An error of it repeats none of the words but those that are plainly no secret: what was meant for one option may have
ended up in the place of another. It says what was probably meant.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn

from keyguard.cli.output import complain

_PLAIN = re.compile(r"[a-z][a-z-]{0,19}|--?[a-z][a-z-]*")
_OPTION = re.compile(r"--?[a-z][a-z-]*")

Fill = Callable[["Parser"], None]


class Parser(argparse.ArgumentParser):
    """A parser whose errors do not repeat what they were given.

    `fill` adds what it knows, once it is asked to parse: a command that is not called costs nothing.
    """

    _words: ClassVar[Sequence[str]] = ()
    _last: ClassVar[Parser | None] = None
    """The parser of the command that was named, or of as much of it as was understood."""

    def __init__(self, *args: Any, fill: Fill | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fill = fill

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        Parser._words = sys.argv[1:] if args is None else list(args)
        options, more = self.parse_known_args(args, namespace)
        if more:
            names = [found[0] for word in more if (found := _OPTION.match(word))]
            told = f": {' '.join(names)}" if names else ""
            (Parser._last or self).error(
                f"{'1 word is' if len(more) == 1 else f'{len(more)} words are'} more than this command takes{told} "
                "(a value with blanks is quoted)"
            )
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        Parser._last = self
        if self._fill is not None:
            fill, self._fill = self._fill, None
            fill(self)
        actions = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        if actions and actions[0].required and args is not None and not args:
            self.print_help(sys.stderr)
            self.exit(2)
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction) and value not in action.choices:
            there = ", ".join(action.choices)
            shown = f" {value}" if isinstance(value, str) and _PLAIN.fullmatch(value) else " of this name"
            meant = _meant(str(value), action.choices)
            raise argparse.ArgumentError(None, f"there is no command{shown}{meant or f': there are {there}'}")
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        known = self._option_string_actions
        for word in self._words:
            found = _OPTION.match(word)
            if found and word.startswith("--") and not any(option.startswith(found[0]) for option in known):
                message += _meant(found[0], known)
        message = _without(message, self._words)
        as_json = any(
            len(word) > 2 and "--json".startswith(word) for word in self._words
        )  # argparse takes --js as well
        if not as_json:
            self.print_usage(sys.stderr)
        complain(message, as_json=as_json, prog=self.prog)
        self.exit(2)


def _meant(word: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only a mistake needs it

    close = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


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
