"""The commands `keyguard alerts ...`: what people were told of, and whether it has reached them.

keyguard alerts list --store redis://localhost
keyguard alerts resolve 'keyguard.overload|shop'
keyguard alerts test --app shop.web:guard
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from keyguard.alerts.book import Alert, AlertBook
from keyguard.alerts.observer import Alerts
from keyguard.cli.app import add_app, stack_of
from keyguard.cli.input import adding_to
from keyguard.cli.opening import store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import moment_text, print_json, print_rows
from keyguard.errors import KeyguardError
from keyguard.logs import plain
from keyguard.observer import observer_of


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard alerts`."""
    action = adding_to(parser, store="redis://localhost")
    listing = action("list", _list, "list the alerts that are open, and the latest that are over")
    listing.add_argument("--open", action="store_true", help="only those that are open")
    resolve = action("resolve", _resolve, "say that an alert is over; its receivers are told")
    resolve.add_argument("id", metavar="ID", help="as `list --json` tells it")
    enable = action("enable", _enable, "deliver again to a receiver that had answered 410")
    enable.add_argument("receiver", metavar="RECEIVER", help="its name, as `list --json` tells it")
    test = action("test", _test, "send a test, now, to all receivers of an app's stack")
    add_app(test)


def _book(options: argparse.Namespace) -> AlertBook:
    store = store_for(
        options, "--store redis://localhost", instead="is the app's own: ask it there, with guard.alerts.list()"
    )
    return AlertBook(store)


def _list(options: argparse.Namespace) -> int:
    found = [alert for alert in _book(options).list() if alert.open or not options.open]
    if options.json:
        print_json([_members(alert) for alert in found])
    elif found:
        print_rows(["SINCE (UTC)", "UNTIL (UTC)", "SEVERITY", "WHAT", "DELIVERY"], [_row(alert) for alert in found])
    else:
        print("There are no alerts.", file=sys.stderr)
    return 0


def _row(alert: Alert) -> list[str]:
    told = "; ".join(map(str, alert.notices[-1].deliveries)) if alert.notices else ""
    until = "open" if alert.until is None else moment_text(alert.until)
    return [moment_text(alert.since), until, alert.severity, alert.title, told]


def _members(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "type": alert.type,
        "severity": alert.severity,
        "level": alert.level,
        "title": alert.title,
        "text": alert.text,
        "subject": alert.subject,
        "limit": alert.limit,
        "since": moment_text(alert.since),
        "until": None if alert.until is None else moment_text(alert.until),
        "facts": dict(alert.facts),
        "notices": [
            {
                "id": notice.id,
                "level": notice.level,
                "severity": notice.severity,
                "at": moment_text(notice.at),
                "deliveries": [
                    {
                        "to": one.to,
                        "state": one.state,
                        "tries": one.tries,
                        "at": None if one.at is None else moment_text(one.at),
                        "again": None if one.again is None else moment_text(one.again),
                    }
                    for one in notice.deliveries
                ],
            }
            for notice in alert.notices
        ],
    }


def _resolve(options: argparse.Namespace) -> int:
    if not _book(options).resolve(options.id, actor=operator()):
        raise KeyguardError("no such alert is open")
    if options.json:
        print_json({"id": options.id, "resolved": True})
    else:
        print(plain(f"{options.id} is over"))
    return 0


def _enable(options: argparse.Namespace) -> int:
    if not _book(options).enable(options.receiver, actor=operator()):
        raise KeyguardError("no such receiver is turned off")
    if options.json:
        print_json({"receiver": options.receiver, "enabled": True})
    else:
        print(plain(f"{options.receiver} gets alerts again"))
    return 0


def _test(options: argparse.Namespace) -> int:
    stack = stack_of(options)
    alerts = observer_of(stack._observers, Alerts)
    if alerts is None or not alerts.receivers:
        raise KeyguardError(f"{stack!r} has no receivers of alerts: alerts=Alerts(to=[...])")
    found = alerts.test()
    if options.json:
        print_json([{"to": name, "sent": not error, "error": error or None} for name, error in found])
    else:
        for name, error in found:
            print(plain(f"{name}: {error or 'sent'}"))
    return 1 if any(error for _, error in found) else 0
