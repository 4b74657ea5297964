"""The commands `keyguard limits ...`: what a caller has spent of each limit, and changing it, by the store's URL alone.

keyguard limits show acme --store redis://localhost
keyguard limits show 203.0.113.9 --json
keyguard limits grant acme 500 --limit subject:5000/day
keyguard limits reset 4fK2mQ9xTzLb

Which limits there are, the apps have written into the store (`keyguard.stack.written`). Each change is noted in the
audit log, with the user of the operating system.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from keyguard.cli.input import FORMS, adding_to, given
from keyguard.cli.opening import app_of, lasting, store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import end_text, print_json, print_rows
from keyguard.clock import SECOND, wall_clock
from keyguard.errors import KeyguardError
from keyguard.logs import plain
from keyguard.ops import Store
from keyguard.stack.callers import KINDS
from keyguard.stack.limit_actions import LimitChange, LimitUse
from keyguard.stack.limits import Limits
from keyguard.stack.written import WrittenStack, read_stacks
from keyguard.units import in_microseconds


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard limits`."""
    add_action = adding_to(parser, store="redis://localhost")

    def action(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        command = add_action(name, run, help)
        command.add_argument(
            "caller", metavar="CALLER", help=f"an address, a key's id, or a subject; or a key itself by {FORMS[3:]}"
        )
        command.add_argument("--by", choices=KINDS, help="which of these it is, if that is not plain")
        command.add_argument("--plan", help="the caller's plan, if no key in the store tells it")
        command.add_argument("--stack", metavar="NAME", help="the limits of this stack alone")
        return command

    named = "its name, as `show` and refusals tell it, or that of its guard"
    show = action("show", _show, "show what a caller has spent of each limit, what is left, and when more comes back")
    reset = action("reset", _reset, "set all limits of a caller back, as if nothing had been spent")
    grant = action("grant", _grant, "give a caller so many units more now; of a window or an even pace what is spent")
    grant.add_argument("units", metavar="UNITS", type=_whole)
    set = action("set", _set, "set what a caller has spent of a limit")
    set.add_argument("units", metavar="SPENT", type=_whole)
    for command in (show, reset):
        command.add_argument("--limit", metavar="NAME", help=f"only this one: {named}")
    for command in (grant, set):
        command.add_argument("--limit", metavar="NAME", help=f"which, if the caller has several: {named}")


# -- the commands -----------------------------------------------------------------------------------------------


def _show(options: argparse.Namespace) -> int:
    limits, stacks = _limits(options)
    uses = limits.peek(_caller(options), **_words(options))
    if options.json:
        print_json([_members(use) for use in uses])
        return 0
    if uses:
        print_rows(list(_COLUMNS), [[column(use) for column in _COLUMNS.values()] for use in uses])
    else:
        print("No limit counts this caller.", file=sys.stderr)
    _tell_of_unseen(stacks)
    return 0


def _reset(options: argparse.Namespace) -> int:
    limits, stacks = _limits(options)
    changes = limits.reset(_caller(options), actor=operator(), **_words(options))
    if not changes:
        print("No limit counts this caller.", file=sys.stderr)
    if not options.json:
        _tell_of_unseen(stacks)
    return _tell_changes(changes, options)


def _grant(options: argparse.Namespace) -> int:
    limits, _ = _limits(options)
    change = limits.grant(_caller(options), options.units, actor=operator(), **_words(options))
    if change.given < options.units and not options.json:
        print(
            f"{max(0, change.given)} of {options.units}: a limit of this kind gives back what is spent.",
            file=sys.stderr,
        )
    return _tell_changes([change], options)


def _set(options: argparse.Namespace) -> int:
    limits, _ = _limits(options)
    change = limits.set(_caller(options), options.units, actor=operator(), **_words(options))
    return _tell_changes([change], options)


def _caller(options: argparse.Namespace) -> str:
    return given(options.caller, "a caller")


def _words(options: argparse.Namespace) -> dict[str, Any]:
    return {"limit": options.limit, "by": options.by, "plan": options.plan}


_INSTEAD = "is the app's own: ask it there, with guard.limits.peek(caller)"


# -- what the store says ----------------------------------------------------------------------------------------


def _limits(options: argparse.Namespace) -> tuple[Limits, list[WrittenStack]]:
    """Return the limits of the app that runs the command, else those that the apps of a store have written down.

    With them, which stacks they are of.
    """
    app = app_of(options)
    if app is not None and options.stack is None:
        lasting(app.store, _INSTEAD)
        return app.limits, [WrittenStack(app.name, app.limits.facts, ())]
    store = store_for(options, "--store redis://localhost", instead=_INSTEAD)
    stacks = _stacks(store, options.stack)
    return Limits(store, [facts for stack in stacks for facts in stack.facts], clock=wall_clock), stacks


def _stacks(store: Store, name: str | None) -> list[WrittenStack]:
    stacks = read_stacks(store)
    if not stacks:
        raise KeyguardError(
            "no app has written its limits into this store: an app does so when it starts, or at its first request"
        )
    if name is None:
        return stacks
    chosen = [stack for stack in stacks if stack.name == name]
    if not chosen:
        names = ", ".join(repr(stack.name) for stack in stacks)
        raise KeyguardError(f"no stack of this name has written its limits into this store; there are {names}")
    return chosen


def _tell_of_unseen(stacks: Iterable[WrittenStack]) -> None:
    """Tell of limits that are not among those shown."""
    for stack in stacks:
        for facts in stack.facts:
            if facts.limit is None and facts.plans is None:
                _say(f"Not shown: a function chooses the limits of {facts.guard!r} on each request.")
        for told in stack.unknown:
            _say(f"Not shown: {told}.")


# -- output -----------------------------------------------------------------------------------------------------


def _tell_changes(changes: Iterable[LimitChange], options: argparse.Namespace) -> int:
    if options.json:
        print_json([{"before": _members(one.before), "after": _members(one.after)} for one in changes])
        return 0
    for one in changes:
        after = one.after
        print(plain(f"{after.name} of {after.caller}: {one.before.spent} spent before, {_left(after)} now"))
    return 0


def _left(use: LimitUse) -> str:
    return f"{use.spent} spent and {use.remaining} left"


def _when(use: LimitUse) -> str:
    if use.works_at is not None:
        return f"works again {end_text(use.works_at)}, in {_span(use, use.works_at)}"
    if use.remaining <= 0:
        return "only a grant helps"
    return "" if use.more_at is None else f"more from {end_text(use.more_at)}, in {_span(use, use.more_at)}"


_COLUMNS: dict[str, Callable[[LimitUse], str]] = {
    "LIMIT": lambda use: use.name,
    "COUNTED AS": lambda use: use.caller,
    "USED": lambda use: str(use.spent),
    "HELD": lambda use: str(use.held or ""),
    "LEFT": lambda use: str(use.remaining),
    "BACK (UTC)": _when,
}


def _members(use: LimitUse) -> dict[str, Any]:
    """Return it for scripts: moments as RFC 3339 text."""
    moments = {"more_at": use.more_at, "works_at": use.works_at, "at": use.at}
    return {
        "limit": use.name,
        "rate": use.rate,
        "by": use.by,
        "caller": use.caller,
        "max": use.limit,
        "spent": use.spent,
        "held": use.held,
        "remaining": use.remaining,
        **{name: None if moment is None else end_text(moment) for name, moment in moments.items()},
    }


def _span(use: LimitUse, when: datetime) -> str:
    """Return how long it is until then, in its two largest units."""
    left = -(-(in_microseconds(when) - in_microseconds(use.at)) // SECOND)
    parts: list[str] = []
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number} {unit}")
    return " ".join([part for part in parts[:2] if not part.startswith("0 ")])


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of units: a whole number, 0 or more")
    return int(text)


def _say(text: str) -> None:
    print(plain(text), file=sys.stderr)
