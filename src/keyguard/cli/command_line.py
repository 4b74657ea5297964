"""The command `keyguard`: keys, limits and stores, from a terminal or a script.

    keyguard keys issue --owner acme --plan pro --store sqlite:///keyguard.db
    keyguard keys list --json
    keyguard store check redis://localhost
    keyguard why acme
    keyguard limits show acme
    keyguard bans lift 203.0.113.9
    keyguard cache purge --tag products
    keyguard demo

Rules:
- What a script wants goes to standard output, everything said to a person to standard error.
- A mistake is one line, and no traceback; the exit code is 1, or 2 if the command line itself is wrong.
- A key is printed once, when it is issued. Peppers come from the environment alone, and nothing that is secret has to
  be an argument: arguments show in process lists. See `input.py`.
- A command is one entry in `COMMANDS`. Its module is loaded when it is called.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from keyguard.cli.input import add_general
from keyguard.cli.output import complain, discard_output
from keyguard.cli.parser import Fill, Parser
from keyguard.errors import KeyguardError

if TYPE_CHECKING:
    from keyguard.stack.keyguard import Keyguard


class Command(NamedTuple):
    """A command, or a group of them."""

    name: str
    help: str
    module: str
    """The module in `keyguard.cli` whose `add_commands(parser)` adds its actions or options. Each command sets `run`: a
    function from the options to the exit code."""


COMMANDS = (
    Command("keys", "issue, list, update, rotate, disable, revoke and import API keys", "keys"),
    Command("store", "make, check and copy stores", "store"),
    Command("why", "tell why a caller is refused: by what, since when, who has spent it, and what helps", "why"),
    Command("limits", "show and change what callers have spent of their limits", "limits"),
    Command("overrides", "put other limits in the place of those of one subject", "overrides"),
    Command("bans", "list and lift bans, and take over those of elsewhere", "bans"),
    Command("alerts", "list alerts, close one by hand, and send a test to those who receive them", "alerts"),
    Command("audit", "list the changes that were made by hand", "audit"),
    Command("cache", "count, purge and explain cached responses", "cache"),
    Command("upstream", "show the keys with which apps call others, and have one tried again", "upstream"),
    Command("metrics", "print a board for Grafana", "metrics"),
    Command("replay", "tell what a stack would have refused of the requests in an access log", "replay"),
    Command("policies", "show the guards and policies of an app's stack as a table", "policies"),
    Command("demo", "tell the story of a key, with real servers on 127.0.0.1", "demo"),
)


def main(argv: Sequence[str] | None = None, *, app: Keyguard | None = None, prog: str = "keyguard") -> int:
    """Run a command line; returns the exit code.

    `app` is the stack of the app that runs the command, if one does: then its store need not be named. `prog` is what
    the command is called by. Raises `SystemExit`, as argparse does, for a wrong command line (2) and for `--help` (0).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if sys.stderr is None:  # print() would take standard output in its place
        with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
            return _run(words, app, prog)
    return _run(words, app, prog)


def _run(words: Sequence[str], app: Keyguard | None, prog: str) -> int:
    parser = _parser(prog)
    options = parser.parse_args(words, argparse.Namespace(of_app=app))
    if sys.stdout is None:  # before a key is made that could never be seen
        complain("standard output is closed", as_json=options.json)
        return 1
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a letter of an owner's name should not stop a command
    try:
        if options.run is None:
            parser.print_help()
            return 0
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has gone, such as `head`
        discard_output()
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        discard_output()
        complain(str(error), as_json=options.json, words=words)
        return 1
    except (KeyguardError, ValueError) as error:
        complain(str(error), as_json=options.json, words=words, more=getattr(error, "more", None))
        return 1


def _parser(prog: str) -> Parser:
    from keyguard import __version__

    parser = Parser(prog=prog, description="API keys and limits for your own web app.")
    parser.add_argument("--version", action="version", version=f"keyguard {__version__}")
    parser.set_defaults(run=None)
    add_general(parser)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        commands.add_parser(command.name, help=command.help, description=command.help, fill=_filling(command))
    return parser


def _filling(command: Command) -> Fill:
    def fill(parser: Parser) -> None:
        import_module(f"keyguard.cli.{command.module}").add_commands(parser)

    return fill
