"""The command `keyguard why`: why a caller is refused, or one request was, by the store's URL alone.

keyguard why 4fK2mQ9xTzLb --store redis://localhost
keyguard why acme --since 7d --check
keyguard why - < key.txt
keyguard why --request 9f99b9733aa70312

It changes nothing. Sentences go to standard output, and `--json` prints all that is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from keyguard.cli.input import FORMS, add_json, add_store, duration, given
from keyguard.cli.ledger import NO_LEDGER, add_ledger, ledger_beside
from keyguard.cli.opening import app_of, lasting, store_for
from keyguard.cli.output import print_json, print_rows
from keyguard.clock import wall_clock
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.logs import plain
from keyguard.ops import Store
from keyguard.run import run_flow
from keyguard.stack.callers import KINDS
from keyguard.stack.diagnosing import Diagnoses
from keyguard.stack.written import read_stacks
from keyguard.why import Diagnosis, LimitReport, Spent
from keyguard.why.recall import written
from keyguard.why.requests import RequestReport
from keyguard.why.words import ahead, clock, number, percent

_STATES = {"nearly": "nearly used up", "unused": "not used"}
_INSTEAD = "is the app's own: ask it there, with guard.why(caller)"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyguard why`."""
    parser.add_argument(
        "caller",
        metavar="CALLER",
        nargs="?",
        help=f"the id of a key, a subject, or an address; or a key itself by {FORMS[3:]}",
    )
    add_store(parser, "redis://localhost")
    add_json(parser)
    parser.add_argument("--by", choices=KINDS, help="which of these it is, if that is not plain")
    parser.add_argument("--plan", help="the caller's plan, if no key in the store tells it")
    parser.add_argument("--stack", metavar="NAME", help="the limits of this stack alone")
    parser.add_argument(
        "--since", type=duration, metavar="SPAN", default="24h", help="count requests of this long: 24h"
    )
    parser.add_argument(
        "--check", action="store_true", help="wait 4 s and compare again, if counter and ledger do not say the same"
    )
    parser.add_argument("--request", metavar="ID", help="one request that was refused in the last hour, instead")
    add_ledger(parser)
    parser.set_defaults(run=_why)


def _why(options: argparse.Namespace) -> int:
    if (options.caller is None) is (options.request is None):
        raise ConfigurationError("name a caller, such as the id of a key, or --request ID")
    if options.request is not None:
        return _tell_of_request(_request(options), options)
    found = _diagnosis(options)
    if options.json:
        print_json(found.as_json())
    else:
        _tell(found)
    return 0


# -- what the stores say ----------------------------------------------------------------------------------------


def _store(options: argparse.Namespace) -> Store:
    return store_for(options, "--store redis://localhost", instead=_INSTEAD)


def _diagnosis(options: argparse.Namespace) -> Diagnosis:
    words: dict[str, Any] = {name: getattr(options, name) for name in ("by", "plan", "since", "check")}
    caller = given(options.caller, "a caller")
    app = app_of(options)
    if app is not None and options.stack is None and options.ledger is None:
        lasting(app.store, _INSTEAD)
        return app.why(caller, **words)
    store = _store(options)
    stacks = read_stacks(store)
    if options.stack is not None:
        names = ", ".join(repr(stack.name) for stack in stacks) or "none"
        stacks = [stack for stack in stacks if stack.name == options.stack]
        if not stacks:
            raise KeyguardError(f"no stack of this name has written its limits into this store; there are {names}")
    answers = Diagnoses(
        store,
        [facts for stack in stacks for facts in stack.facts],
        wall_clock,
        ledger=ledger_beside(options, store),
        bans={name: None for stack in stacks for name in stack.bans},
    )
    return answers.of(caller, **words)


def _request(options: argparse.Namespace) -> RequestReport:
    store = _store(options)
    beside = ledger_beside(options, store)
    if beside is None:
        raise KeyguardError(NO_LEDGER)
    found = run_flow(beside._ledger()[0], written(options.request, wall_clock()))
    return RequestReport(options.request, False) if found is None else found


# -- output -----------------------------------------------------------------------------------------------------


def _tell_of_request(found: RequestReport, options: argparse.Namespace) -> int:
    if options.json:
        print_json(found.as_json())
    else:
        _say([*found.headline, *found.details, *found.advice])
    return 0 if found.found else 1


def _tell(found: Diagnosis) -> None:
    whose = "" if not found.subject or found.subject == found.caller else f", of {found.subject}"
    print(plain(f"{found.caller}{whose}: {_STATES.get(found.state, found.state)} ({found.at:%Y-%m-%d %H:%M:%S} UTC)"))
    _say([*found.headline, *found.details])
    if found.advice:
        print()
        print("What helps:")
        for sentence in found.advice:
            print(plain(f"  {sentence}"))
    limits = [_row_of_limit(limit, found) for limit in found.limits]
    _table(["LIMIT", "COUNTED AS", "USED", "HELD", "LEFT", "REFUSED", "BACK (UTC)"], limits)
    refused = [
        [one.title, ", ".join(name for name, _ in one.rules), number(one.requests), f"{one.blames}'s"]
        for one in found.refused
    ]
    _table(["REFUSED FOR", "BY", "REQUESTS", "WHOSE DOING"], refused)
    _table(["ROUTE", "SPENT" if found.spent_of else "REQUESTS", "SHARE"], _rows_of_spent(found.routes))
    _table(["ADDRESS", "REQUESTS", "SHARE"], _rows_of_spent(found.addresses))
    keys = [
        [key.id, key.status, key.name or "", "" if key.last_used is None else clock(key.last_used, found.at)]
        for key in found.keys
    ]
    _table(["KEY", "STATUS", "NAME", "LAST USED (UTC)"], keys)


def _say(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(plain(sentence))


def _table(names: list[str], rows: list[list[str]]) -> None:
    if rows:
        print()
        print_rows(names, rows)


def _row_of_limit(limit: LimitReport, found: Diagnosis) -> list[str]:
    back = ""
    if limit.kind == "slots":
        back = "when one ends" if limit.exhausted else ""
    elif limit.works_at is not None:
        back = f"works again {ahead(limit.works_at, found.at)}"
    elif limit.exhausted:
        back = "only a grant helps"
    elif limit.ends is not None:
        back = f"renewed {clock(limit.ends, found.at, up=True)}"
    numbers = [number(limit.spent), number(limit.held) if limit.held else "", number(limit.remaining)]
    return [limit.name, limit.caller, *numbers, number(limit.refused) if limit.refused else "", back]


def _rows_of_spent(rows: Iterable[Spent]) -> list[list[str]]:
    return [[row.name, number(row.units), percent(row.share)] for row in rows]
