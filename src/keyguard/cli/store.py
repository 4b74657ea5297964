"""The commands `keyguard store ...`: making, checking and copying stores.

keyguard store init postgresql://localhost/app
keyguard store check redis://localhost
keyguard store copy sqlite:///keyguard.db @/run/secrets/redis_url
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from keyguard.audit import POOL
from keyguard.cli.input import FORMS, adding_to, given, store_url
from keyguard.cli.opening import app_of, open_for_operators
from keyguard.cli.operator import operator
from keyguard.cli.output import print_json
from keyguard.cli.progress import progress
from keyguard.errors import ConfigurationError, KeyguardError, StoreError
from keyguard.keys import KeyRegistry
from keyguard.keys.flows import PEPPERED
from keyguard.keys.record import has_pepper
from keyguard.logs import plain, word
from keyguard.ops import SETTLED, Put, Store, is_counter, traits_of
from keyguard.testing.conformance import check_store

Entry: TypeAlias = tuple[str, bytes, "int | None"]
"""Key, value, and microseconds to live."""

_KEYS = "key|"
_COPIED = (_KEYS, "rl:", f"{POOL}|")
_FOR_PEOPLE = argparse.Namespace(json=False)
_BATCH = 200
_PASSES = 5


@contextmanager
def _opened(url: str, *, make: bool = True) -> Iterator[Any]:
    store: Any = open_for_operators(url, make=make)
    try:
        yield store
    finally:
        close = traits_of(store).close
        if close is not None:
            close()


@contextmanager
def _meant(options: argparse.Namespace, *, make: bool = True) -> Iterator[Any]:
    """Open the store that a command names; that of the app that runs it is open, and stays so."""
    app = app_of(options)
    if app is not None:
        yield traits_of(app.store).store or app.store  # leases may stand in front of it
        return
    with _opened(store_url(options, "keyguard store check redis://localhost"), make=make) as store:
        yield store


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard store`."""
    action = adding_to(parser)

    help = f"such as redis://localhost, {FORMS}; else KEYGUARD_STORE"
    for name, run, what in (
        ("init", _init, "make what a store needs before it is used: tables, in a database"),
        (
            "migrate",
            _migrate,
            "bring the tables and the records of keys of an older keyguard to the layout of this one",
        ),
    ):
        action(name, run, what).add_argument("store", metavar="URL", nargs="?", default=argparse.SUPPRESS, help=help)
    check = action("check", _check, "hold a real store to the meaning of every operation, under names that no app uses")
    check.add_argument("store", metavar="URL", nargs="?", default=argparse.SUPPRESS, help=help)
    check.add_argument("--steps", type=_count, default=3000, help="random operations: 3000")
    check.add_argument("--seed", type=int, default=1)
    copy = action(
        "copy", _copy, "copy keys, counters and the audit log to another store; run again, it goes on from there"
    )
    copy.add_argument("source", metavar="FROM", help=f"a URL, {FORMS}")
    copy.add_argument("target", metavar="TO", help="the same")
    copy.add_argument("--replace", action="store_true", help="also keys that stand there already, and differ")


def _init(options: argparse.Namespace) -> int:
    with _meant(options) as store:
        if traits_of(store).migrate is None:
            layouts = {}
            _say("This store has no tables: there is nothing to do.", options)
        else:
            layouts = _bring_tables(store, options)
    if options.json:
        print_json({"tables": bool(layouts), **layouts})
    return 0


def _migrate(options: argparse.Namespace) -> int:
    with _meant(options, make=False) as store:
        layouts = {} if traits_of(store).migrate is None else _bring_tables(store, options)
        sealed, left = _registry(options, store).migrate(actor=operator())
    if options.json:
        print_json({"tables": bool(layouts), **layouts, "sealed": sealed, "left": left})
        return 0
    if sealed:
        _say(f"{sealed} records of keys were sealed.", options)
    if left:
        _say(
            f"{left} were left as they are: their pepper is not set, or they are damaged. Set KEYGUARD_PEPPER as the "
            "app has it, with 0: for keys that were made without one, and run the same again.",
            options,
        )
    if not sealed and not left:
        _say("All is in the layout of this keyguard.", options)
    return 0


def _registry(options: argparse.Namespace, store: Store) -> KeyRegistry:
    app = app_of(options)
    if app is not None:
        with suppress(ConfigurationError):  # an app without keys may share its store with one that has some
            return app.keys  # it knows the app's peppers
    return KeyRegistry(store)


def _bring_tables(store: Any, options: argparse.Namespace) -> dict[str, int]:
    before, after = store.migrate()
    _say(f"The tables have layout {after}." if before == after else f"From layout {before} to {after}.", options)
    return {"before": before, "after": after}


def _check(options: argparse.Namespace) -> int:
    with _meant(options) as store:
        if traits_of(store).scratch is None:
            raise ConfigurationError("this store cannot make an empty one beside it: run keyguard.testing.check_store")
        compensates = traits_of(store).spread
        try:
            with progress("checked", options.steps, options) as tell:
                check_store(
                    store.scratch,
                    steps=options.steps,
                    seed=options.seed,
                    compensates=compensates,
                    tell=lambda share: tell(int(share * options.steps)),
                )
        except AssertionError as error:
            if isinstance(error.__cause__, StoreError):
                raise error.__cause__ from None  # it did not answer: what it means is not known
            if options.json:
                print_json({"store": repr(store), "right": False, "problem": plain(str(error))})
            else:
                print(plain(f"{store!r} does not mean what every store means: {error}"))
            return 1
    if options.json:
        print_json({"store": repr(store), "right": True, "steps": options.steps})
        return 0
    print(plain(f"{store!r} means what every store means: {options.steps} random steps, threads and tasks."))
    return 0


# -- copying ----------------------------------------------------------------------------------------------------


def _copy(options: argparse.Namespace) -> int:
    here, there = (given(text, "the URL of a store") for text in (options.source, options.target))
    with _opened(here, make=False) as source, _opened(there) as target:
        return _copy_all(source, target, replace=options.replace, options=options)


def _copy_all(source: Any, target: Any, *, replace: bool, options: argparse.Namespace = _FOR_PEOPLE) -> int:
    for store in (source, target):
        if traits_of(store).dump is None:
            raise ConfigurationError(f"{store!r} cannot be copied from or to")
    here, there = _entries(source), _entries(target)
    if not here:
        raise KeyguardError(f"{source!r} holds no keys and no counters: there is nothing to copy")
    if not replace:
        _check_keys(here, there)
    copying = _Copying(target, there)
    for _ in range(_PASSES):
        # Keys in use change while they are copied: those that differ are copied again.
        missing = copying.missing(here, there)
        if not missing:
            break
        with progress("copied", len(missing), options) as tell:
            copying.write(missing, tell)
        here, there = _entries(source), _entries(target)
    copying.missing(here, there)
    theirs = {entry[0]: entry for entry in there}
    ours = [entry for entry in here if entry[0] not in copying.left]
    both = [theirs[entry[0]] for entry in ours if entry[0] in theirs]
    digest, other = _digest(ours), _digest(both)
    _say(f"{len(here)} entries here, {len(both)} of them there; {copying.written} were written.", options)
    if not options.json:
        print(f"from {digest}\nto   {other}")
    if digest != other:
        raise KeyguardError("the stores differ: the source is being used. Stop its app, and run the same again")
    changed = copying.changed()
    if changed:
        raise KeyguardError(
            f"{len(changed)} entries were changed in the target while they were copied, such as "
            f"{_name(changed[0])}: they stay as they are there, and all others are the same"
        )
    more = len(there) - len(both)
    if options.json:
        print_json({"entries": len(here), "written": copying.written, "more": more, "digest": digest})
    _say(f"There are {more} more there, and the rest is the same." if more else "Both hold the same.", options)
    return 0


class _Copying:
    """Knows of a copy's target what stood there at first, and what the copy has written since.

    Anything else was written by others meanwhile, and is newer than what is copied: a key was revoked there, say. It is
    left as it is, whatever has been asked for.
    """

    def __init__(self, target: Store, there: Iterable[Entry]) -> None:
        self._target = target
        self._known: dict[str, bytes] = {key: value for key, value, _ in there}
        self.left: set[str] = set()
        """The entries that are left as they are there: changed by others, or counters that have ended."""
        self._ended: set[str] = set()
        self.written = 0

    def missing(self, here: Iterable[Entry], there: Iterable[Entry]) -> list[Entry]:
        """Return what is to be written, and note what is to be left."""
        now = {key: value for key, value, _ in there}
        found = []
        for entry in here:
            key, value, _ = entry
            if now.get(key) == value or key in self.left:
                continue
            if now.get(key) == self._known.get(key):
                found.append(entry)
                continue
            self.left.add(key)
            if key not in now and is_counter(key):
                self._ended.add(key)
        return found

    def write(self, entries: list[Entry], tell: Callable[[int], None]) -> None:
        """Write each entry, if what is known still stands in its place. `tell` hears how many are done."""
        for start in range(0, len(entries), _BATCH):
            batch = entries[start : start + _BATCH]
            if any(key.startswith(_KEYS) and has_pepper(value) for key, value, _ in batch):
                self._target.execute([Put(PEPPERED, b"1")])  # first: a copy may be stopped at any moment
            puts = [Put(*entry, expected=self._known.get(entry[0])) for entry in batch]
            for (key, value, _), done in zip(batch, self._target.execute(puts), strict=True):
                if done:
                    self._known[key] = value
                    self.written += 1
            tell(min(start + _BATCH, len(entries)))

    def changed(self) -> list[str]:
        """Return the keys of what others have changed, API keys first."""
        return sorted(self.left - self._ended, key=lambda key: (not key.startswith(_KEYS), key))


def _check_keys(here: list[Entry], there: list[Entry]) -> None:
    """Raise if a key would be replaced: one that was revoked there since would work again."""
    stand = {key: value for key, value, _ in there}
    differing = [key for key, value, _ in here if key.startswith(_KEYS) and stand.get(key, value) != value]
    if differing:
        raise KeyguardError(
            f"{len(differing)} keys differ from those that stand there, such as {_name(differing[0])}: "
            "they were changed here or there, or revoked. Where those here are right, run the same with --replace"
        )


def _name(key: str) -> str:
    """Return the name by which a person knows an entry: of an API key its id."""
    return word(key.removeprefix(_KEYS))


def _entries(store: Any) -> list[Entry]:
    # The tokens of settlements mean nothing in another store, and are gone in seconds.
    return [entry for prefix in _COPIED for entry in store.dump(prefix) if not entry[0].startswith(f"{SETTLED}|")]


def _digest(entries: Iterable[Entry]) -> str:
    """Of keys and values; how long each has to live differs by the moments at which it was read."""
    found = hashlib.sha256()
    for key, value, _ in sorted(entries):
        for part in (key.encode("utf-8", "surrogatepass"), value):
            found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**7:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps: a whole number, at least 1")
    return int(text)


def _say(text: str, options: argparse.Namespace) -> None:
    if not options.json:
        print(plain(text), file=sys.stderr)
