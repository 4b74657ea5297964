"""The commands `keyguard keys ...`: API keys, from a terminal or a script.

keyguard keys issue --owner acme --plan pro --store sqlite:///keyguard.db
keyguard keys update 4fK2mQ9xTzLb --plan team --expires 90d
keyguard keys revoke - --store @/run/secrets/store_url
keyguard keys list --json

A key is printed once, when it is issued. Each change is noted in the audit log, with the user of the operating system.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from keyguard.cli import key_import
from keyguard.cli.input import FORMS, adding_to, duration, given, separated, when
from keyguard.cli.last_used import last_used, unused
from keyguard.cli.ledger import add_ledger, ledger_beside
from keyguard.cli.opening import app_of, store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import members_of, print_json, print_table, show_issued, show_record, warn
from keyguard.clock import SECOND, wall_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.keys import KeyRecord, KeyRegistry
from keyguard.logs import plain
from keyguard.units import as_datetime, microseconds, rfc3339

_MOMENT = "30d from now, a date (its begin in UTC), or an ISO 8601 moment"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard keys`."""
    action = adding_to(parser, store="sqlite:///keyguard.db")

    issue = action("issue", _issue, "make a new key, and print it once")
    issue.add_argument("--owner", required=True, help="who answers for the key")
    issue.add_argument("--subject", help="whom its limits belong to; the owner, if not given")
    issue.add_argument("--plan", help="such as pro; KEYGUARD_PLANS=free,pro warns of any other")
    issue.add_argument("--scope", action="extend", type=separated, default=[], help="several by commas, or given again")
    issue.add_argument(
        "--network", action="extend", type=separated, default=[], help="a network from which it may be used; likewise"
    )
    issue.add_argument("--metadata", action="append", default=[], type=_pair, metavar="NAME=VALUE")
    issue.add_argument("--not-before", type=when, metavar="WHEN", help=_MOMENT)
    issue.add_argument("--expires", type=when, metavar="WHEN", help=_MOMENT)
    issue.add_argument("--name", help="what you call it, for people to read")
    issue.add_argument(
        "--if-absent",
        action="store_true",
        help="only if the subject has no key of this --name that is not revoked, expired or deleted; else it is left "
        "as it is, nothing stands on standard output, and the exit code is 0 all the same",
    )
    issue.add_argument("--prefix", help="how the key begins: kg, if not given")
    issue.add_argument("--env", help="its second word: live, if not given; APIKeys accepts one alone, if not told to")

    listing = action("list", _list, "list the keys")
    listing.add_argument("--owner", help="only this one's")
    listing.add_argument("--subject", help="only those whose limits belong to this one")
    listing.add_argument(
        "--status",
        choices=["active", "rotating", "pending", "expired", "replaced", "revoked", "disabled"],
        help="only these",
    )

    named = f"the id of the key, or the key itself, {FORMS}"
    listing.add_argument(
        "--unused", type=duration, metavar="SPAN", help="only those that were not used for so long, such as 90d"
    )
    add_ledger(listing)

    show = action("show", _show, "show one key's record; never the key")
    show.add_argument("id", help=named)

    update = action("update", _update, "change what is given of a key, within a second, and nothing else")
    update.add_argument("id", help=named)
    update.set_defaults(without=[])

    def changeable(name: str, option: str, none: str, help: str, **how: Any) -> None:
        either = update.add_mutually_exclusive_group()
        either.add_argument(option, help=help, **how)
        either.add_argument(none, dest="without", action="append_const", const=name, help=f"no {name} any more")

    changeable("plan", "--plan", "--no-plan", "such as pro; KEYGUARD_PLANS=free,pro warns of any other")
    several = "in the place of all; several by commas, or given again"
    changeable("scopes", "--scope", "--no-scopes", several, action="extend", type=separated)
    changeable("networks", "--network", "--no-networks", several, action="extend", type=separated)
    changeable(
        "metadata", "--metadata", "--no-metadata", several, action="append", type=_pair, metavar="NAME=VALUE"
    )  # fmt: skip
    changeable("expires", "--expires", "--no-expiry", _MOMENT, type=when, metavar="WHEN")
    update.add_argument("--owner", help="who answers for the key; its subject stays the same")

    revoke = action("revoke", _revoke, "make a key invalid, for good, within a second")
    revoke.add_argument("id", help=named)
    revoke.add_argument("--reason", help="noted in the record")

    disable = action("disable", _disable, "put a key out of use, within a second, until it is enabled again")
    enable = action("enable", _enable, "put a key that was disabled into use again")
    delete = action("delete", _delete, "delete a key and all that is known of it; to revoke it keeps the record")
    for command in (disable, enable, delete):
        command.add_argument("id", help=named)
    delete.add_argument("--force", action="store_true", help="also one that still works")

    taking = action("import", _import, "take over keys that were made elsewhere, all of a file or none")
    taking.add_argument("file", metavar="FILE", help="- for standard input")
    taking.add_argument("--format", choices=["lines", "csv", "jsonl"], help="else by the file's name; lines")
    taking.add_argument("--of", choices=["key", "sha256", "hmac-sha256"], default="key", help="what a line is: key")
    taking.add_argument("--owner", help="of those that name none; else their subject")
    taking.add_argument("--subject", help="of those that name none: whom their limits belong to")
    taking.add_argument("--plan", help="of those that name none")
    taking.add_argument("--scope", action="extend", type=separated, help="of those that name none; by commas")
    taking.add_argument("--expires", type=when, metavar="WHEN", help=f"of those that name none; {_MOMENT}")
    taking.add_argument("--skip-broken", action="store_true", help="leave broken lines out, and tell them")
    taking.add_argument("--dry-run", action="store_true", help="check the file, and write nothing")

    rotate = action("rotate", _rotate, "issue a successor; the old key works on for a while")
    rotate.add_argument("id", help=named)
    rotate.add_argument(
        "--overlap", type=duration, default="24h", metavar="SPAN", help="how long the old one works: 24h"
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not a pair: write name=value")
    return name, value


# -- the commands -----------------------------------------------------------------------------------------------


def _issue(options: argparse.Namespace) -> int:
    if options.if_absent and not options.name:
        raise ConfigurationError("--if-absent needs the --name that tells whether the key is there")
    registry = _registry(options, make=True)
    _warn_of_plan(registry, options.plan)
    given: dict[str, Any] = {
        "subject": options.subject,
        "plan": options.plan,
        "scopes": options.scope,
        "networks": options.network,
        "metadata": dict(options.metadata),
        "not_before": options.not_before,
        "expires": options.expires,
        "env": options.env,
        "actor": operator(),
    }
    if options.if_absent:
        issued = registry.issue_if_absent(options.owner, options.name, **given)
        if isinstance(issued, KeyRecord):
            return _show_present(issued, options)
    else:
        issued = registry.issue(options.owner, name=options.name, **given)
    return show_issued(issued, options)


def _show_present(record: KeyRecord, options: argparse.Namespace) -> int:
    """Tell that the key is there: a script that reads standard output gets nothing, or JSON without a `key`."""
    if options.json:
        return show_record(record, options)
    status = record.status(as_datetime(wall_clock()))
    what = "" if status in ("active", "rotating") else f", and is {status}"
    print(plain(f"Key {record.id} of {record.owner} is there already{what}: none was made."), file=sys.stderr)
    return 0


def _rotate(options: argparse.Namespace) -> int:
    registry = _registry(options)
    issued = registry.rotate(_key(options), overlap=options.overlap, actor=operator())
    if not options.json:
        ends = wall_clock() + microseconds("--overlap", options.overlap)
        print(f"The old key {issued.record.replaces} works until {rfc3339(ends // SECOND)}.", file=sys.stderr)
    return show_issued(issued, options)


def _list(options: argparse.Namespace) -> int:
    registry = _registry(options)
    records = registry.list(subject=options.subject, owner=options.owner, status=options.status)
    used = last_used(records, ledger_beside(options, registry.store))
    if options.unused is not None:
        records = unused(records, used, options.unused)
    if options.json:
        print_json([members_of(record) | used.members(record) for record in records])
    elif records:
        print_table(records, used.column)
    else:
        print("There are no keys.", file=sys.stderr)
    return 0


def _show(options: argparse.Namespace) -> int:
    return show_record(_registry(options).get(_key(options)), options)


def _revoke(options: argparse.Namespace) -> int:
    return show_record(_registry(options).revoke(_key(options), options.reason, actor=operator()), options)


def _disable(options: argparse.Namespace) -> int:
    return show_record(_registry(options).disable(_key(options), actor=operator()), options)


def _enable(options: argparse.Namespace) -> int:
    return show_record(_registry(options).enable(_key(options), actor=operator()), options)


def _delete(options: argparse.Namespace) -> int:
    registry, id = _registry(options), _key(options)
    status = registry.get(id).status(as_datetime(wall_clock()))
    if status in ("active", "rotating", "pending") and not options.force:
        raise ConfigurationError(f"this key is {status}: revoke or disable it first, or delete it by --force")
    return show_record(registry.delete(id, actor=operator()), options)


def _import(options: argparse.Namespace) -> int:
    registry = _registry(options, make=True)
    _warn_of_plan(registry, options.plan)
    return key_import.run(registry, options)


def _update(options: argparse.Namespace) -> int:
    changes = {name: value for name, value in _changes(options).items() if value is not None}
    changes |= dict.fromkeys(options.without)
    if not changes:
        raise ConfigurationError("nothing is to be changed: give --plan, --scope, --expires, --owner or the like")
    for name in {"scopes", "networks"} & set(options.without):
        changes[name] = ()
    registry, id = _registry(options), _key(options)
    _warn_of_plan(registry, options.plan, but_for=id)
    return show_record(registry.update(id, **changes, actor=operator()), options)


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `keys update` is given, with `None` for each thing that is not to be changed."""
    return {
        "plan": options.plan,
        "scopes": options.scope,
        "networks": options.network,
        "metadata": None if options.metadata is None else dict(options.metadata),
        "expires": options.expires,
        "owner": options.owner,
    }


def _warn_of_plan(registry: KeyRegistry, plan: str | None, but_for: str = "") -> None:
    """Warn if a plan is not among those in `KEYGUARD_PLANS` or, without these, among those that other keys have.

    It is not an error: a plan has to have its first key.
    """
    if plan is None:
        return
    known = {name.strip() for name in os.environ.get("KEYGUARD_PLANS", "").split(",")} - {""}
    whose = "KEYGUARD_PLANS has"
    if not known:
        whose = "other keys have"
        try:
            known = {record.plan for record in registry.list() if record.plan and record.id not in but_for}
        except StoreError:
            return  # what is wrong is told when the key is made
    if known and plan not in known:
        names = ", ".join(map(repr, sorted(known)))
        warn(f"no plan {plan!r} is known; {whose} {names}", [plan])


def _registry(options: argparse.Namespace, *, make: bool = False) -> KeyRegistry:
    words = {name: getattr(options, name) for name in ("prefix", "env") if getattr(options, name, None)}
    instead = "ends with this command: name a store that lasts, such as sqlite:///file.db"
    store = store_for(options, "--store sqlite:///keyguard.db", make=make, instead=instead)
    app = app_of(options)
    if app is None:
        return KeyRegistry(store, **words)
    if "prefix" in words:
        raise ConfigurationError("keys of this app begin as APIKeys(prefix=...) says: leave --prefix out")
    return app.keys


def _key(options: argparse.Namespace) -> str:
    return given(options.id, "a key or the id of one")
