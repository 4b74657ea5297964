"""The commands `keyguard overrides ...`: other limits for one subject, by the store's URL alone.

keyguard overrides set acme api=1000/minute --expires 2d --store redis://localhost
keyguard overrides set acme exports=none
keyguard overrides list --json
keyguard overrides remove acme --limit api

Which limits can be overridden, the apps have written into the store: those of stacks with `overrides=True`.
"""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from typing import Any

from keyguard.cli.input import adding_to, duration, given
from keyguard.cli.opening import app_of, lasting, store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import moment_text, print_json, print_rows
from keyguard.clock import wall_clock
from keyguard.errors import KeyguardError
from keyguard.overrides import Overrides
from keyguard.stack.limit_overrides import LimitOverride, LimitOverrides
from keyguard.stack.written import read_stacks


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard overrides`."""
    action = adding_to(parser, store="redis://localhost")

    set = action("set", _set, "put other rates in the place of some limits of a subject, within a second")
    set.add_argument("subject", metavar="SUBJECT")
    set.add_argument("limits", metavar="LIMIT=RATE", nargs="+", help="such as api=1000/minute, or api=none")
    set.add_argument("--expires", type=duration, metavar="SPAN", help="after so long they end: 2d, say")
    show = action("list", _list, "list the overrides, of all subjects or of one")
    show.add_argument("subject", metavar="SUBJECT", nargs="?")
    remove = action("remove", _remove, "remove the overrides of a subject, or that of one limit")
    remove.add_argument("subject", metavar="SUBJECT")
    remove.add_argument("--limit", metavar="NAME", help="only this one")


def _set(options: argparse.Namespace) -> int:
    limits: dict[str, str | None] = {}
    for text in options.limits:
        name, sign, rate = text.rpartition("=")
        if not sign or not name or not rate:
            raise KeyguardError(f"write LIMIT=RATE, such as api=1000/minute, not {text!r:.80}")
        if name in limits:
            raise KeyguardError(f"the limit {name!r:.80} stands there twice")
        limits[name] = None if rate == "none" else rate
    found = _overrides(options, writing=True).set(
        given(options.subject, "a subject"), limits, expires=options.expires, actor=operator()
    )
    return _print(found, options)


def _list(options: argparse.Namespace) -> int:
    found = _overrides(options).list(options.subject)
    if not found and not options.json:
        print("There are no overrides.", file=sys.stderr)
    return _print(found, options)


def _remove(options: argparse.Namespace) -> int:
    removed = _overrides(options).remove(given(options.subject, "a subject"), options.limit, actor=operator())
    if not options.json:
        print(f"{len(removed)} removed.", file=sys.stderr)
    return _print(removed, options)


def _overrides(options: argparse.Namespace, *, writing: bool = False) -> LimitOverrides:
    app = app_of(options)
    if app is not None:
        lasting(app.store, _INSTEAD)
        return app.overrides
    store = store_for(options, "--store redis://localhost", instead=_INSTEAD)
    names = {name for stack in read_stacks(store) for name in stack.overridable} if writing else set()
    if writing and not names:
        raise KeyguardError(
            "no app that uses this store reads overrides: its stack says Keyguard(..., overrides=True), and writes "
            "that down when it starts, or at its first request"
        )
    return LimitOverrides(store, lambda: names, wall_clock, Overrides(watching=False))


_INSTEAD = "is the app's own: do it there, with guard.overrides"


def _print(found: tuple[LimitOverride, ...], options: argparse.Namespace) -> int:
    if options.json:
        print_json([_members(one) for one in found])
    elif found:
        names = ["SUBJECT", "LIMIT", "RATE", "ENDS (UTC)", "SET (UTC)", "BY"]
        print_rows(names, [[value or "" for value in _row(one)] for one in found])
    return 0


def _row(one: LimitOverride) -> list[str | None]:
    return [one.subject, one.limit, one.rate or "no limit", _moment(one.expires), _moment(one.since), one.actor]


def _members(one: LimitOverride) -> dict[str, Any]:
    return {
        "subject": one.subject,
        "limit": one.limit,
        "rate": one.rate,
        "expires": _moment(one.expires),
        "since": _moment(one.since),
        "actor": one.actor,
    }


def _moment(when: datetime | None) -> str | None:
    return None if when is None else moment_text(when)
