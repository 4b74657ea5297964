"""The commands `keyguard upstream ...`: the keys with which apps call others, by the store's URL alone.

keyguard upstream status --store redis://localhost
keyguard upstream enable eu --pool openai

Which pools there are, the apps have written into the store (`keyguard.upstream.written`). What is enabled is noted in
the audit log, with the user of the operating system.
"""

from __future__ import annotations

import argparse
import sys

from keyguard.audit import writing
from keyguard.cli.input import adding_to
from keyguard.cli.opening import store_for
from keyguard.cli.operator import operator
from keyguard.cli.output import end_text, print_json, print_rows
from keyguard.errors import KeyguardError
from keyguard.logs import plain
from keyguard.ops import Learn, ReadWithTime, Store
from keyguard.upstream.enabling import enabling, record_of
from keyguard.upstream.snapshot import (
    DimensionSnapshot,
    GroupSnapshot,
    KeySnapshot,
    PoolSnapshot,
    names_of,
    snapshot_of,
)
from keyguard.upstream.written import WrittenPool, read_pools

_COLUMNS = ["KEY", "STATE", "POOL", "GROUP", "MODELS", "CAUSE", "LEFT", "WORKS AGAIN (UTC)"]


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard upstream`."""
    action = adding_to(parser, store="redis://localhost")
    status = action("status", _status, "show each key: whether it is used, why not, and when it works again")
    enable = action("enable", _enable, "have a key, and its group, tried again at once: after it was paid for, say")
    enable.add_argument("key", metavar="KEY", help="its id, as `status` names it")
    for command in (status, enable):
        command.add_argument("--pool", metavar="NAME", help="the keys of this pool alone")


def _store(options: argparse.Namespace) -> Store:
    return store_for(options, "--store redis://localhost", instead="is the app's own: ask it there, with snapshot()")


def _pools(store: Store, options: argparse.Namespace) -> list[WrittenPool]:
    found = [pool for pool in read_pools(store) if options.pool in (None, pool.name)]
    if not found and options.pool is not None:
        raise KeyguardError("there is no pool of this name: `keyguard upstream status` lists all")
    return found


def _snapshot(store: Store, pool: WrittenPool) -> PoolSnapshot:
    now, values = store.execute([ReadWithTime(*names_of(pool))])[0]
    return snapshot_of(pool, now, values)


def _status(options: argparse.Namespace) -> int:
    store = _store(options)
    found = [_snapshot(store, pool) for pool in _pools(store, options)]
    if options.json:
        # What a process alone knows is not told: how many of its requests wait.
        print_json([{name: value for name, value in one.as_dict().items() if name != "waiting"} for one in found])
    elif found:
        print_rows(_COLUMNS, [_row(pool, group, key) for pool in found for group in pool.groups for key in group.keys])
    else:
        print("No pool has written anything down here: its app does so at its first requests.", file=sys.stderr)
    return 0


def _row(pool: PoolSnapshot, group: GroupSnapshot, key: KeySnapshot) -> list[str]:
    full = max([one.room_at for one in group.dimensions if one.room_at is not None and not one.remaining], default=None)
    if key.state != "ok":
        state, cause, until = key.state, key.state, key.until
    elif group.cause != "ok":
        state, cause, until = "left alone", str(group.cause), group.until
    else:
        state, cause, until = "ok" if full is None else "used up", "", full
    left = ", ".join(map(_left, group.dimensions))
    back = end_text(until) if until is not None else "" if state == "ok" else "nobody knows"
    models = group.model_class if group.model_class != "*" or any(one.model_class != "*" for one in pool.groups) else ""
    return [key.id, state, pool.name, group.name, models, cause, left, back]


def _left(one: DimensionSnapshot) -> str:
    return f"{one.remaining}/{one.limit} {one.name}{' (learnt)' if one.learnt else ''}"


def _enable(options: argparse.Namespace) -> int:
    store = _store(options)
    there = [
        (pool, group, key)
        for pool in _pools(store, options)
        for group in pool.groups
        for key in group.keys
        if key.id == options.key
    ]
    if not there:
        raise KeyguardError("no pool has a key of this id: `keyguard upstream status` lists them")
    if len(there) > 1:
        names = " and ".join([pool.name for pool, _, _ in there])
        raise KeyguardError(f"add --pool: {names} have a key of this id")
    pool, group, key = there[0]
    record = record_of(_snapshot(store, pool), key.id, operator())
    store.execute([Learn(enabling(pool, group, key.digest))])
    store.execute([writing(record)])
    before = record.before
    if options.json:
        print_json({"pool": pool.name, "key": key.id, "before": before})
    else:
        was = before["cause"] if before["cause"] != "ok" else before["state"]
        print(plain(f"{key.id} of {pool.name} is tried again at once; it was {'in use' if was == 'ok' else was}"))
    return 0
