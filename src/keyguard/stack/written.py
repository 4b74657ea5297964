"""The rules of a stack, written down in its store under `stack|{name}`, for commands that know nothing but its URL.

Rules:
- They are written when the app begins: at its lifespan's start, or at its first request, in a thread of their own that
  ends with it. Nobody waits for that, and an app starts whether its store answers or not: then it is tried again, less
  and less often, for a day.
- Each process does so once, and again when a store that was out of order answers: it may have come back empty. A store
  that holds the same text already is left as it is.
- A store of one process alone, or of limits alone, gets none.
- The text is JSON with a version, `1`. A reader leaves out what it does not know of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from os import getpid
from typing import Any
from weakref import WeakSet

from keyguard.checks import is_name, is_whole
from keyguard.clock import pause
from keyguard.counter_names import LimitFacts
from keyguard.errors import ConfigurationError, KeyguardError, StoreError
from keyguard.http.addresses import IPV6_PREFIX
from keyguard.lazy import instances_of
from keyguard.logs import logger, plain
from keyguard.ops import Put, Store, traits_of
from keyguard.process.fork import ProcessLock, forks_in_c, run_aside
from keyguard.rates import Limit, described, limit_of
from keyguard.stack.deployment import warn_of_travels
from keyguard.stores.places import place_of

POOL = "stack"
"""The pool of what stacks have written down."""

_VERSION = 1
_LONGEST = 128  # characters of a name
_PAUSES = (1, 4, 15, 60, *[300] * 288)  # seconds: for a day
_PATIENCE = 4  # failures after which the log tells of it

log = logger("keyguard")


# -- the text -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrittenStack:
    """The limits that a stack has written down."""

    name: str
    facts: tuple[LimitFacts, ...]
    unknown: tuple[str, ...]
    """The limits of which this keyguard cannot say what they mean, each with the reason."""
    overridable: tuple[str, ...] = ()
    """The names of the limits of which it reads overrides."""
    bans: tuple[str, ...] = ()
    """The names of its guards that ban, as they stand in the keys of what these count."""


def encode(name: str, facts: Sequence[LimitFacts], bans: Sequence[str] = ()) -> bytes:
    """Return what a stack of that name writes down."""
    names = [each.name for each in fields(LimitFacts)]
    limits = [{name: getattr(each, name) for name in names} | {"limit": _described(each.limit)} for each in facts]
    for limit in limits:
        del limit["overridable"]  # which stands beside, by the names of guards
        if limit["ipv6_prefix"] == IPV6_PREFIX:  # the text stays what earlier versions have written
            del limit["ipv6_prefix"]
    members: dict[str, Any] = {"v": _VERSION, "name": name, "limits": limits}
    overridable = names_of_overridable(facts)
    if overridable:
        members["overridable"] = sorted(overridable)
    if bans:
        members["bans"] = sorted(bans)
    return json.dumps(members, separators=(",", ":")).encode()


def names_of_overridable(facts: Iterable[LimitFacts]) -> set[str]:
    """Return the names of the guards in the place of whose limits overrides may put others."""
    return {each.guard for each in facts if each.overridable}


def names_of_bans(guards: Iterable[object]) -> list[str]:
    """Return the names of the guards that ban, as they stand in the keys of what these count."""
    found = instances_of(guards, "keyguard.guards.bans.guard", "Ban")  # by its class: no other guard bans
    return [guard.pool_name for guard in found]


def _described(limit: Limit | None) -> dict[str, Any] | None:
    if limit is None:
        return None
    try:
        return described(limit)
    except ConfigurationError:
        return {"kind": "", "text": limit.text}


def decode(data: bytes) -> WrittenStack:
    """Return what a stack has written down. Raises `StoreError` if it cannot be read."""
    facts, unknown = [], []
    try:
        found: dict[str, Any] = json.loads(data)
        if found["v"] != _VERSION:
            raise StoreError(f"the rules of a stack were written by a later keyguard, in version {found['v']!r:.20}")
        for each in found["limits"]:
            try:
                limit = None if each["limit"] is None else limit_of(each["limit"])
            except ConfigurationError:
                unknown.append(f"{str(each['name'])!r}: it is of a kind that this keyguard does not know")
                continue
            facts.append(_fact(each, limit))
        overridable = tuple(map(str, found.get("overridable", ())))
        known = tuple([replace(each, overridable=each.guard in overridable) for each in facts])
        bans = tuple(map(str, found.get("bans", ())))
        return WrittenStack(str(found["name"]), known, tuple(unknown), overridable, bans)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError("the rules of a stack are damaged: start its app again, which writes them anew") from error


def _fact(each: dict[str, Any], limit: Limit | None) -> LimitFacts:
    texts = {name: str(each[name]) for name in ("guard", "name", "prefix", "by", "if_store_fails")}
    lists = {name: tuple(map(str, each[name])) for name in ("methods", "paths")}
    prefix = each.get("ipv6_prefix", IPV6_PREFIX)  # earlier ones have none
    if not is_whole(prefix):
        raise ValueError("a prefix is a number")
    plans = None if each["plans"] is None else tuple(map(str, each["plans"]))
    return LimitFacts(limit=limit, plans=plans, default=each["default"] is True, ipv6_prefix=prefix, **texts, **lists)  # type: ignore[arg-type]


def read_stacks(store: Store) -> list[WrittenStack]:
    """Return what all stacks of a store have written down, by name. One that cannot be read hides no other."""
    found = []
    for key, value in store.scan(f"{POOL}|"):
        try:
            found.append(decode(value))
        except StoreError as error:
            name = key.removeprefix(f"{POOL}|")
            found.append(WrittenStack(name, (), (f"the limits of the stack {name!r}: {error}",)))
    return found


# -- writing it -----------------------------------------------------------------------------------------------------


class StackNote:
    """The rules of one stack, to be written down once in each process."""

    def __init__(
        self,
        store: Store,
        name: str | None,
        otherwise: str,
        facts: Iterable[LimitFacts],
        bans: Iterable[str] = (),
    ) -> None:
        self._store = store
        self.bans = tuple(bans)
        self.facts = tuple(facts)
        self.named = name is not None
        """Whether the user gave the stack its name."""
        self._place = place_of(store)
        self._process = 0
        with _lock:
            self.name = _checked(name) if name is not None else self._free(otherwise)
            alike = [note for note in _notes if note.name == self.name and note.differs_from(self)]
            _notes.add(self)
        if alike:
            log.warning(
                "two stacks of this process are called %r, and commands know the rules of the one that starts last: "
                "give them names of their own, Keyguard(name=...)",
                self.name,
            )

    @cached_property
    def text(self) -> bytes:
        """The text that is written, but for the name."""
        return encode("", self.facts, self.bans)

    def add(self, facts: Iterable[LimitFacts]) -> None:
        """Take in the facts of limits that came later, and write all down if some of them are written already."""
        with _lock:
            known = {(fact.name, fact.prefix) for fact in self.facts}
            self.facts += tuple([fact for fact in facts if (fact.name, fact.prefix) not in known])
            vars(self).pop("text", None)
            begun, self._process = self._process == getpid(), 0
        if begun:
            self.begin()

    def differs_from(self, other: StackNote) -> bool:
        """Tell whether both write different rules into one store."""
        return self._place == other._place and self.text != other.text and bool(self.facts and other.facts)

    def _free(self, name: str) -> str:
        """Return a name that no other stack of this process has, but for one with the same rules."""
        number, free = 1, name
        while any(note.name == free and note.differs_from(self) for note in _notes):
            number += 1
            free = f"{name}-{number}"
        return free

    def begin(self) -> None:
        """Write them down, soon. It is called when the app begins, and does nothing in a process that has done so."""
        warn_of_travels(self._store)
        traits = traits_of(self._store)
        process = getpid()
        if self._process == process or not (self.facts or self.bans) or forks_in_c():
            return
        self._process = process
        if traits.place is None or traits.of_one_process or not traits.holds_values:
            return
        try:
            run_aside("keyguard-rules", self._write)
        except RuntimeError:  # no room for a thread: another process may have it
            log.warning("the rules of the stack %r are not written down: there is no room for a thread", self.name)

    def again(self) -> None:
        """Write them down once more, if this process has done so: its store may have lost them."""
        if self._process == getpid():
            self._process = 0
            self.begin()

    def _write(self, wait: Callable[[float], None] = pause) -> None:
        op = Put(f"{POOL}|{self.name}", encode(self.name, self.facts, self.bans))
        for failures, seconds in enumerate(_PAUSES, 1):
            try:
                self._store.execute([op])
                return
            except KeyguardError as error:
                if failures == _PATIENCE:
                    log.warning("the rules of the stack %r are not written down yet: %s", self.name, plain(error))
            except Exception:
                log.exception("the rules of the stack %r cannot be written down", self.name)
                return
            wait(seconds)


def check_names(outer: StackNote, inner: StackNote) -> None:
    """Raise `ConfigurationError` if two stacks around one app were given one name, and have different rules."""
    if outer.named and inner.named and outer.name == inner.name and outer.text != inner.text:
        raise ConfigurationError(
            f"two stacks around one app are called {outer.name!r}, and have different limits: give them "
            "names of their own"
        )


_notes: WeakSet[StackNote] = WeakSet()
_lock = ProcessLock()


def _checked(name: object) -> str:
    if is_name(name, _LONGEST) and "|" not in name:
        return name
    raise ConfigurationError(f"name is a printable text of 1 to {_LONGEST} characters without '|', not {name!r:.80}")


def module_of_caller() -> str:
    """Return the name of the module that makes a stack: of the first caller outside of keyguard."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__")):
        frame = frame.f_back
    name = frame.f_globals.get("__name__")
    if name == "__main__":
        spec, file = frame.f_globals.get("__spec__"), frame.f_globals.get("__file__")
        name = spec.name.removesuffix(".__main__") if spec is not None else _stem(file)
    return name if is_name(name, _LONGEST) and "|" not in name else "app"


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and (name == "keyguard" or name.startswith("keyguard."))


def _stem(file: object) -> str:
    return str(file).replace("\\", "/").rpartition("/")[2].removesuffix(".py") if file else "app"
