"""The requests of a log, decided anew by a stack: on an empty store in memory, at the moments at which they came.

Rules:
- The app is not run. In its place stands one that answers with the status that the log tells.
- A caller that the log names is taken for authenticated. If the app's own store has a key of that id, plan and scopes
  are those of its record. A request without a caller is taken for one of its address, or it would be refused for
  having no key, which the log did not keep.
- A whole key in the place of a caller is named by its id alone, whatever wrote it into the log.
- Overrides count as they stand in the app's own store now, up to the moments at which they end.
- A log holds no bodies: limits by a field of one leave requests alone, and how many is told.
- `on_refusal` is not called, and the log tells nothing of these refusals.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from keyguard.body_fields import NO_BODY
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.identity import Identity
from keyguard.keys.format import holds_key, parse_key
from keyguard.manual_clock import ManualClock
from keyguard.ops import Put, Read
from keyguard.overrides import KEY
from keyguard.refusal import Refusal
from keyguard.replay.access_log import BrokenLine, Entry, Reader, decoded
from keyguard.units import as_datetime

if TYPE_CHECKING:
    from keyguard.stack.keyguard import Keyguard

_CALLERS = 100_000
"""So many callers are told apart among those who would have been refused."""
_BROKEN = 10
"""So many broken lines are named."""
_LONGEST = 256
"""Characters of a name by which callers are told apart."""


@dataclass
class Refusals:
    """The requests that one rule would have refused, alone or together with others."""

    cause: str
    rule: str
    """The name of the limit or the policy; the reason, if it has no name."""
    requests: int = 0
    callers: Counter[str] = field(default_factory=Counter)
    """How many of each caller: a subject, the id of a key, or an address."""
    first: datetime | None = None
    """When the first of them came."""


@dataclass
class Replay:
    """The decisions of a stack about the requests of a log."""

    requests: int = 0
    refused: int = 0
    refused_then: int = 0
    """How many of all were answered with 429 or 503 at the time."""
    begin: datetime | None = None
    end: datetime | None = None
    by_rule: dict[tuple[str, str], Refusals] = field(default_factory=dict)
    """By cause and rule."""
    callers: Counter[str] = field(default_factory=Counter)
    """How many requests of each caller would have been refused."""
    more_callers: bool = False
    """Whether there were more callers than can be told apart: then `callers` holds the first of them."""
    in_shadow: dict[str, int] = field(default_factory=dict)
    """How many requests each policy or guard in shadow mode would have refused, were it not. They went on."""
    broken: int = 0
    """How many lines could not be read."""
    broken_lines: list[tuple[int, str]] = field(default_factory=list)
    """The numbers of the first of these, and why."""
    late: int = 0
    """How many requests stand in the log after younger ones: they are taken for as late as these."""
    unnamed: int = 0
    """How many were taken for requests of their address, since the log names no caller."""
    without_body: int = 0
    """How many requests limits by a field of the body left alone: no log has bodies."""

    def note(self, caller: str, refusal: Refusal, at: int) -> None:
        """Count a refusal: one by several limits for each of them."""
        self.refused += 1
        self._count(self.callers, caller)
        for rule in refusal.policies or (refusal.guard or refusal.reason,):
            key = str(refusal.cause), rule
            found = self.by_rule.get(key)
            if found is None:
                found = self.by_rule[key] = Refusals(*key, first=as_datetime(at))
            found.requests += 1
            self._count(found.callers, caller)

    def _count(self, callers: Counter[str], caller: str) -> None:
        if caller in callers or len(callers) < _CALLERS:
            callers[caller] += 1
        else:
            self.more_callers = True


def replay(
    stack: Keyguard, lines: Iterable[str], *, reader: Reader | None = None, tell: Callable[[int], None] | None = None
) -> Replay:
    """Return what a stack would have decided about the requests of a log, whose lines are read one by one.

    `tell` is called with the number of each line that has been read. Rules at routes are not asked: the app does not
    run. Raises `ConfigurationError` for what is not a stack.
    """
    if not hasattr(stack, "testing"):
        raise ConfigurationError(f"a Keyguard is replayed, not {stack!r:.80}")
    return asyncio.run(_replay(stack, lines, reader or Reader(), tell))


async def _replay(stack: Any, lines: Iterable[str], reader: Reader, tell: Callable[[int], None] | None) -> Replay:
    found = Replay()
    status = 200

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None: ...

    people = _People(stack)
    overrides = _overrides_of(stack)
    before = {one.name: one.refused for one in stack.shadows}
    clock = ManualClock(as_datetime(0))
    with stack.testing(clock=clock) as test, _unheard(stack):  # in this order: at its end the stack is heard again
        if overrides is not None:
            stack.store.execute([Put(KEY, overrides)])
            stack._overridden.load(overrides)
        driver = stack.asgi(app)
        for number, line in enumerate(lines, 1):
            try:
                entry = reader.read(line)
            except BrokenLine as error:
                found.broken += 1
                if len(found.broken_lines) < _BROKEN:
                    found.broken_lines.append((number, str(error)))
                continue
            if entry is None:
                continue
            _move(clock, entry, found)
            caller = people.identity_of(entry)
            test.identity = caller
            found.unnamed += entry.caller is None
            found.requests += 1
            found.refused_then += entry.status in (429, 503)
            status = entry.status or 200
            scope = _scope(entry)
            await driver(scope, receive, send)
            found.without_body += scope["extensions"][NO_BODY]["asked"]
            refusal = scope["keyguard"].refusal
            if refusal is not None:
                found.note(caller.subject, refusal, entry.at)
            if tell is not None:
                tell(number)
    found.in_shadow = {one.name: one.refused - before[one.name] for one in stack.shadows}
    return found


def _overrides_of(stack: Any) -> bytes | None:
    """Return the overrides in the stack's own store, as they stand there; `None` if it reads none, or cannot."""
    found: bytes | None = None
    if stack._overridden is not None:
        with suppress(KeyguardError):
            ((found,),) = stack.store.execute([Read(KEY)])
    return found


def _move(clock: ManualClock, entry: Entry, found: Replay) -> None:
    """Have the clock show when a request came."""
    ahead = entry.at - clock()
    if found.begin is None:
        found.begin = as_datetime(entry.at)
    elif ahead < 0:
        found.late += 1
    if ahead > 0:
        clock.advance(timedelta(microseconds=ahead))
    found.end = clock.now


def _scope(entry: Entry) -> dict[str, Any]:
    path = decoded(entry.path)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": entry.method,
        "scheme": "http",
        "path": path,
        "raw_path": entry.path.encode("utf-8", "surrogateescape"),
        "query_string": entry.query.encode("utf-8", "surrogateescape"),
        "root_path": "",
        "headers": [],
        "client": None if entry.client is None else (entry.client, 0),
        "server": ("localhost", 80),
        "extensions": {NO_BODY: {"asked": False}},
    }


class _People:
    """The callers of a log."""

    def __init__(self, stack: Any) -> None:
        self._registry: Any = None
        with suppress(KeyguardError):  # a stack without keys, or one whose keys are looked up elsewhere
            self._registry = stack.keys
        self._known: dict[tuple[str | None, str | None, str | None], Identity] = {}

    def identity_of(self, entry: Entry) -> Identity:
        """Return whom a request is taken for."""
        caller = None if entry.caller is None else entry.caller[: 2 * _LONGEST]
        who = caller, entry.client if caller is None else None, entry.plan
        found = self._known.get(who)
        if found is None:
            if len(self._known) >= _CALLERS:
                self._known.clear()
            found = self._known[who] = self._found(entry)
        return found

    def _found(self, entry: Entry) -> Identity:
        name = (entry.caller or entry.client or "unknown address")[:_LONGEST]
        if holds_key(name):
            whole = parse_key(name)
            name = whole.id if whole is not None else "a text with a whole key"
        record = None
        if self._registry is not None and entry.caller is not None:
            with suppress(KeyguardError, ValueError):  # it is not the id of a key, or the store is out of order
                record = self._registry.get(entry.caller)
        if record is None:
            return Identity(subject=name, plan=entry.plan)
        return Identity(record.subject, record.id, entry.plan or record.plan, record.scopes, record.metadata)


@contextmanager
def _unheard(stack: Any) -> Iterator[None]:
    """Have nobody hear of requests and refusals that did not happen."""
    log = logging.getLogger("keyguard")
    notify, stack._notify = stack._notify, None
    sinks, stack._sinks = stack._sinks, ()  # its log may be the one that is read
    level, log_level = logging.CRITICAL + 1, log.level
    log.setLevel(level)
    try:
        yield
    finally:
        stack._notify, stack._sinks = notify, sinks
        log.setLevel(log_level)
