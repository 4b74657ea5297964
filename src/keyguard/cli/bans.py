"""The commands `keyguard bans ...`: who is banned, ending bans, and taking over those that were made elsewhere.

keyguard bans list --store redis://localhost
keyguard bans lift 203.0.113.9
keyguard bans import banned.txt --guard ban --for 24h

`import` reads a line for each address or network, and behind it, if it is known, the end: a moment, or a duration from
now. A `#` and all behind it are not read.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keyguard.cli.input import FORMS, adding_to, duration, given, when
from keyguard.cli.opening import store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import end_text, moment_text, print_json, print_rows
from keyguard.clock import wall_clock
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.guards.bans.settings import checked_name
from keyguard.http.addresses import buckets_in, checked_ipv6_prefix
from keyguard.logs import plain
from keyguard.stack.bans import Banned, Bans, Ruling, take_over
from keyguard.stack.callers import is_like_a_key, shown
from keyguard.units import moment_from

_MOST = 256  # callers of one line: larger networks are for IPFilter(deny=[...])
_SHOWN = 20  # lines of which it is told what is wrong
_LINE = re.compile(r"([^\s,;]+)[\s,;]*(.*)")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard bans`."""
    action = adding_to(parser, store="redis://localhost")

    listing = action("list", _list, "list the callers that are banned, since when, and until when")
    lift = action("lift", _lift, "end the bans of a caller, and forget what was counted against it")
    lift.add_argument("caller", metavar="CALLER", help=f"as `list` names it, or a key by {FORMS[3:]}")
    taking = action("import", _import, "ban addresses and networks until a moment, all of a file or none")
    taking.add_argument("file", metavar="FILE", help="a line for each, with its end if known; - for standard input")
    taking.add_argument("--for", dest="span", type=duration, default="24h", metavar="SPAN", help="else its end: 24h")
    for command in (listing, lift):
        command.add_argument("--guard", metavar="NAME", help="the bans of this guard alone")
    taking.add_argument(
        "--ipv6-prefix", type=_prefix, default=64, metavar="BITS", help="by which the app counts IPv6 callers: 64"
    )
    taking.add_argument("--guard", metavar="NAME", default="ban", help="the guard that is to refuse them: ban")


def _prefix(text: str) -> int:
    try:
        return checked_ipv6_prefix(int(text) if text.isascii() and text.isdigit() and len(text) < 4 else text)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _store(options: argparse.Namespace) -> Any:
    return store_for(
        options, "--store redis://localhost", instead="is the app's own: ask it there, with guard.bans.list()"
    )


def _bans(options: argparse.Namespace) -> Bans:
    return Bans(_store(options), None if options.guard is None else [options.guard])


def _list(options: argparse.Namespace) -> int:
    found = _bans(options).list()
    if options.json:
        print_json([_members(each) for each in found])
    elif found:
        print_rows(
            ["CALLER", "GUARD", "SINCE (UTC)", "UNTIL (UTC)", "NUMBER"],
            [[str(value) for value in _members(each).values()] for each in found],
        )
    else:
        print("Nobody is banned.", file=sys.stderr)
    return 0


def _lift(options: argparse.Namespace) -> int:
    lifted = _bans(options).lift(given(options.caller, "a caller"), actor=operator())
    if not lifted:
        raise KeyguardError("this caller is not banned")
    if options.json:
        print_json([_members(each) for each in lifted])
    for each in () if options.json else lifted:
        print(plain(f"{each.caller} may call again: the ban by {each.guard!r} has ended"))
    return 0


def _members(found: Banned) -> dict[str, Any]:
    return {
        "caller": found.caller,
        "guard": found.guard,
        "since": moment_text(found.since),
        "until": end_text(found.until),
        "number": found.number,
    }


# -- taking over ------------------------------------------------------------------------------------------------


def _import(options: argparse.Namespace) -> int:
    guard = checked_name(options.guard)
    if is_like_a_key(guard):  # it would stand in the store
        raise ConfigurationError("--guard is the name of a guard, such as ban, and this looks like a key")
    store = _store(options)
    rulings = rulings_of(_lines(options.file), options.span, wall_clock(), options.ipv6_prefix)
    new = take_over(store, guard, rulings, actor=operator())
    callers = sum(len(ruling.buckets) for ruling in rulings)
    if options.json:
        print_json({"lines": len(rulings), "callers": callers, "banned": new})
    else:
        print(f"{len(rulings)} lines, {callers} callers: {new} are banned now who were not, or not for as long")
    return 0


def _lines(file: str) -> list[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigurationError(f"the file {shown(file)} is not UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"the file {shown(file)} cannot be read: {error.strerror}") from None
    return text.splitlines()


def rulings_of(lines: Iterable[str], span: str, now: int, ipv6_prefix: int = 64) -> list[Ruling]:
    """Read bans, a line each. Raises `KeyguardError` that names the lines that are wrong."""
    rulings = []
    wrong = []
    for number, line in enumerate(lines, 1):
        read = _LINE.match(line.partition("#")[0].strip())
        if read is None:
            continue
        caller, end = read.groups()
        try:
            until = moment_from("an end", when(end or span), now)
            if until <= now:
                raise ConfigurationError(f"{end!r:.80} has passed")
            rulings.append(Ruling(caller, buckets_in(caller, _MOST, ipv6_prefix), until))
        except (ConfigurationError, argparse.ArgumentTypeError) as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise KeyguardError(f"nothing was imported. {'; '.join(wrong[:_SHOWN])}{more}")
    if not rulings:
        raise KeyguardError("nothing was imported: there is no address and no network")
    return rulings
