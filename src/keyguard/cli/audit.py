"""The command `keyguard audit`: which changes were made by hand, and by whom.

keyguard audit --store redis://localhost --since 24h
keyguard audit list --action limits --caller acme --json
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from keyguard.audit import AuditLog, AuditRecord
from keyguard.cli.input import add_json, add_store, duration
from keyguard.cli.opening import store_for
from keyguard.cli.output import moment_text, print_json, print_rows
from keyguard.clock import wall_clock
from keyguard.units import as_datetime, microseconds


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the action of `keyguard audit`, and its options: without an action it lists."""
    _add_options(parser, None)
    parser.set_defaults(run=_list)
    actions = parser.add_subparsers(metavar="ACTION")
    what = "list the changes that were made by hand, oldest first; of the last 400 days"
    _add_options(actions.add_parser("list", help=what, description=what), argparse.SUPPRESS)


def _add_options(command: argparse.ArgumentParser, default: str | None) -> None:
    """Add the options of listing. Behind the action they have no default: they leave alone what stands before it."""
    add_store(command, "redis://localhost")
    add_json(command)
    command.add_argument("--since", type=duration, metavar="SPAN", default=default, help="of the last 24h, say")
    command.add_argument(
        "--action", default=default, help="only this one, such as limits.grant, or limits for all of them"
    )
    command.add_argument("--caller", default=default, help="only those that concern this caller, as `list` names it")
    command.add_argument("--actor", default=default, help="only those that this user made")


def _list(options: argparse.Namespace) -> int:
    store = store_for(
        options, "--store redis://localhost", instead="is the app's own: ask it there, with guard.audit.list()"
    )
    since = None
    if options.since is not None:
        since = as_datetime(wall_clock() - microseconds("--since", options.since))
    log = AuditLog(store)
    records = log.list(since=since, action=options.action, caller=options.caller, actor=options.actor)
    if options.json:
        print_json([_members(record) for record in records])
    elif records:
        print_rows(["WHEN (UTC)", "WHO", "WHAT", "LIMIT", "CALLER", "BEFORE", "AFTER"], [_row(one) for one in records])
    else:
        print("There are no such records.", file=sys.stderr)
    return 0


def _members(record: AuditRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "at": moment_text(record.at),
        "actor": record.actor,
        "action": record.action,
        "caller": record.caller,
        "limit": record.limit,
        "before": dict(record.before),
        "after": dict(record.after),
    }


def _row(record: AuditRecord) -> list[str]:
    values = [
        ", ".join([f"{name} {_shown(value)}" for name, value in each])
        for each in (record.before.items(), record.after.items())
    ]
    return [moment_text(record.at), record.actor, record.action, record.limit or "", record.caller or "", *values]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, (str, int)) else json.dumps(value)
