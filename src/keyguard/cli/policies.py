"""The command `keyguard policies`: the guards and policies of a stack as a table.

keyguard policies --app shop.web:guard
keyguard policies --app shop.web:guard --json
"""

from __future__ import annotations

import argparse
import sys

from keyguard.cli.app import add_app, stack_of
from keyguard.cli.input import add_json
from keyguard.cli.output import print_json, print_rows
from keyguard.logs import plain


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyguard policies`."""
    add_app(parser)
    add_json(parser)
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    found = stack_of(options).describe()
    if options.json:
        print_json(found.members())
        return 0
    names, *lines = found.rows()
    print_rows(names, lines)
    for note in found.notes:
        print(plain(f"note: {note}"), file=sys.stderr)
    return 0
