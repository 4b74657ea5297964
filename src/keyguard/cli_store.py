"""The commands `keyguard store ...`: making, checking and copying stores.

keyguard store init postgresql://localhost/app
keyguard store check redis://localhost
keyguard store copy sqlite:///keyguard.db redis://localhost
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from keyguard.conformance import check_store
from keyguard.errors import ConfigurationError, KeyguardError, StoreError
from keyguard.ops import Put, Store
from keyguard.stores import open_store

Entry: TypeAlias = tuple[str, bytes, "int | None"]
"""Key, value, and microseconds to live."""

_KEYS = "key|"
_COPIED = (_KEYS, "rl:")
_BATCH = 200
_PASSES = 5


def open_for_operators(url: str, *, make: bool = True) -> Store:
    """A store with the patience that a person has, and a request has not; `make` also where there is no file yet."""
    scheme, query = url.partition(":")[0], url.partition("?")[2]
    if scheme == "sqlite" and not make:
        path = Path(unquote(urlsplit(url).path[1:]))
        if not path.exists():
            raise ConfigurationError(f"there is no file {path}; a misspelt name would be a new, empty store")
    if scheme != "memory" and "timeout" not in dict(parse_qsl(query)):
        url += ("&" if query else "?") + "timeout=1"
    return open_store(url)


@contextmanager
def _opened(url: str, *, make: bool = True) -> Iterator[Any]:
    store: Any = open_for_operators(url, make=make)
    try:
        yield store
    finally:
        if hasattr(store, "close"):
            store.close()


def add_commands(parser: argparse.ArgumentParser) -> None:
    """The actions of `keyguard store`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        command = actions.add_parser(name, help=help, description=help)
        command.set_defaults(run=run)
        return command

    for name, help in (
        ("init", "make what a store needs before it is used: tables, in a database"),
        ("migrate", "bring the tables of an older keyguard to the layout of this one"),
    ):
        action(name, _migrate, help).add_argument("url", metavar="URL")
    check = action("check", _check, "hold a real store to the meaning of every operation, in a place of its own")
    check.add_argument("url", metavar="URL")
    check.add_argument("--steps", type=_count, default=3000, help="random operations: 3000")
    check.add_argument("--seed", type=int, default=1)
    copy = action("copy", _copy, "copy keys and counters to another store; again, it goes on where it stopped")
    copy.add_argument("source", metavar="FROM")
    copy.add_argument("target", metavar="TO")
    copy.add_argument("--replace", action="store_true", help="also keys that stand there already, and differ")


def _migrate(options: argparse.Namespace) -> int:
    with _opened(options.url) as store:
        if not hasattr(store, "migrate"):
            _say("This store has no tables: there is nothing to do.")
            return 0
        before, after = store.migrate()
    _say(f"The tables have layout {after}." if before == after else f"From layout {before} to {after}.")
    return 0


def _check(options: argparse.Namespace) -> int:
    with _opened(options.url) as store:
        if not hasattr(store, "scratch"):
            raise ConfigurationError("this store cannot make an empty one beside it: run keyguard.testing.check_store")
        compensates = options.url.startswith("redis+cluster:")
        try:
            check_store(store.scratch, steps=options.steps, seed=options.seed, compensates=compensates)
        except AssertionError as error:
            if isinstance(error.__cause__, StoreError):
                raise error.__cause__ from None  # it did not answer: what it means is not known
            print(f"{store!r} does not mean what every store means: {error}")
            return 1
    print(f"{store!r} means what every store means: {options.steps} random steps, threads and tasks.")
    return 0


# -- copying ----------------------------------------------------------------------------------------------------


def _copy(options: argparse.Namespace) -> int:
    with _opened(options.source, make=False) as source, _opened(options.target) as target:
        return _copy_all(source, target, replace=options.replace)


def _copy_all(source: Any, target: Any, *, replace: bool) -> int:
    for store in (source, target):
        if not hasattr(store, "dump"):
            raise ConfigurationError(f"{store!r} cannot be copied from or to")
    here, there = _entries(source), _entries(target)
    if not here:
        raise KeyguardError(f"{source!r} holds no keys and no counters: there is nothing to copy")
    if not replace:
        _check_keys(here, there)
    written = 0
    for _ in range(_PASSES):
        # What is in use changes while it is copied: what differs is copied again.
        missing = _missing(here, there)
        if not missing:
            break
        written += _write(target, missing)
        here, there = _entries(source), _entries(target)
    theirs = {entry[0]: entry for entry in there}
    both = [theirs[entry[0]] for entry in here if entry[0] in theirs]
    digest, other = _digest(here), _digest(both)
    _say(f"{len(here)} entries here, {len(both)} of them there; {written} were written.")
    print(f"from {digest}\nto   {other}")
    if digest != other:
        raise KeyguardError("the stores differ: the source is being used. Stop its app, and run the same again")
    more = len(there) - len(both)
    _say(f"There are {more} more there, and the rest is the same." if more else "Both hold the same.")
    return 0


def _check_keys(here: list[Entry], there: list[Entry]) -> None:
    """Raise where a key would be replaced: what was revoked there since would work again."""
    stand = {key for key, _, _ in there}
    differing = [key for key, _, _ in _missing(here, there) if key in stand and key.startswith(_KEYS)]
    if differing:
        raise KeyguardError(
            f"{len(differing)} keys differ from those that stand there, such as {differing[0].removeprefix(_KEYS)}: "
            "they were changed here or there, or revoked. Where those here are right, run the same with --replace"
        )


def _entries(store: Any) -> list[Entry]:
    return [entry for prefix in _COPIED for entry in store.dump(prefix)]


def _missing(source: Iterable[Entry], target: Iterable[Entry]) -> list[Entry]:
    there = {key: value for key, value, _ in target}
    return [entry for entry in source if there.get(entry[0]) != entry[1]]


def _write(target: Store, entries: list[Entry]) -> int:
    for start in range(0, len(entries), _BATCH):
        target.execute([Put(*entry) for entry in entries[start : start + _BATCH]])
        _show_progress(min(start + _BATCH, len(entries)), len(entries))
    return len(entries)


def _show_progress(done: int, all: int) -> None:
    if sys.stderr.isatty():
        filled = 40 * done // all
        end = "\n" if done == all else ""
        print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done}/{all}", end=end, file=sys.stderr, flush=True)


def _digest(entries: Iterable[Entry]) -> str:
    """Of keys and values; how long each has to live differs by the moments at which it was read."""
    found = hashlib.sha256()
    for key, value, _ in sorted(entries):
        for part in (key.encode("utf-8", "surrogatepass"), value):
            found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps: a whole number, at least 1")
    return int(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
