"""The latest requests, to be found by their ids: those of this process in memory, refusals of all in the store.

Rules:
- A process remembers its last 2,000 requests. To note one is an append.
- With each flush of the ledger it writes what was refused or has failed since: at most 200 requests, and of these at
  most 10 of one caller for one reason, so that a flood hides nobody else.
- They stand in the ledger's store for an hour by id, a thousand for each minute; and for a day the latest of each
  subject. No key is looked for that is not known beforehand.

    recent:{shard}|{minute}    by id: its shard, and the minute of the request
    recent:who|{subject}       the latest of a subject, as the ledger spells it; `*` for all
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from zlib import crc32

from keyguard.clock import SECOND
from keyguard.decision import Decision
from keyguard.errors import KeyguardError, StoreError
from keyguard.observer import Observed, Sink
from keyguard.ops import Op, Read, Store
from keyguard.ops.remembering import Remember, lines_of
from keyguard.units import as_datetime
from keyguard.usage import Usage
from keyguard.usage.names import EVERYBODY, MINUTE, spelled
from keyguard.why.requests import RequestReport, line_of, report_in, report_of

REMEMBERED = 2000
"""Requests that a process remembers."""
A_FLUSH = 200
"""Requests that are written with one flush."""
_ALIKE = 10
"""Of these, those of one caller for one reason."""
_SHARDS = 16
_A_MINUTE = 64  # lines of a shard
_MINUTES = 60
_HOUR = 3600 * SECOND
_LATEST, _LATEST_OF_ALL = 20, 100  # of a subject; of callers without a key, and of all
_NEVER = as_datetime(0)


class Recall:
    """The latest requests of a stack, for `Keyguard.explain`. It is an observer that stands behind the ledger."""

    def __init__(self) -> None:
        self._ring: deque[Decision] = deque(maxlen=REMEMBERED)
        self._store: Store | None = None

    def attach(self, stack: Observed, /) -> Sink:
        """Take note of a stack; return what is told of each request."""
        for observer in stack.before:
            if isinstance(observer, Usage):
                self._store, _ = observer._ledger()
                observer.listen(self.write)
        return self._ring.append

    def begin(self) -> None:
        """Do nothing: the ledger begins."""

    def close(self) -> None:
        """Do nothing: the ledger writes a last time."""

    def find(self, request_id: str) -> RequestReport | None:
        """Return the report of a request that this process remembers."""
        for decision in reversed(self._ring.copy()):
            if decision.request_id == request_id:
                return report_of(decision)
        return None

    def write(self, decisions: Sequence[Decision]) -> None:
        """Write those that were refused or have failed, in the background."""
        ops = writing(decisions)
        if ops and self._store is not None:
            try:
                self._store.execute(ops)
            except KeyguardError:
                return  # the ledger tells of a store that fails; these may be missed


def writing(decisions: Iterable[Decision]) -> list[Op[Any]]:
    """Return the operations that write the refusals among some records."""
    chosen: deque[Decision] = deque()
    alike: Counter[tuple[str, str]] = Counter()
    for decision in reversed([*decisions]):  # the latest first
        if decision.cause is None:
            continue
        kind = decision.subject or decision.client, decision.reason
        alike[kind] += 1
        if alike[kind] <= _ALIKE:
            chosen.appendleft(decision)
            if len(chosen) == A_FLUSH:
                break
    lines: dict[tuple[str, int, int], list[bytes]] = {}
    for decision in chosen:
        line = line_of(report_of(decision))
        lines.setdefault((_key(decision.request_id, decision.at // MINUTE), _A_MINUTE, _HOUR), []).append(line)
        own = _LATEST if decision.subject else _LATEST_OF_ALL
        for who, most in ((spelled(decision.subject), own), (EVERYBODY, _LATEST_OF_ALL)):
            lines.setdefault((_latest_key(who), most, 24 * _HOUR), []).append(line)
    return [Remember(key, found, most, ttl) for (key, most, ttl), found in lines.items()]


async def written(request_id: str, now: int) -> RequestReport | None:
    """Return the report of a refusal that some process has written in the last hour: a flow on the ledger's store."""
    minute = now // MINUTE + 1
    values = await Read(*[_key(request_id, minute - back) for back in range(_MINUTES + 2)])
    for report in _reports(values):
        if report.request_id == request_id:
            return report
    return None


async def latest(subject: str | None) -> tuple[RequestReport, ...]:
    """Return the latest refusals of a subject, or of all, the last one first: a flow on the ledger's store."""
    values = await Read(_latest_key(EVERYBODY if subject is None else spelled(subject)))
    found = sorted(_reports(values), key=lambda report: report.at or _NEVER, reverse=True)
    return tuple(found)


def _reports(values: Iterable[bytes | None]) -> Iterator[RequestReport]:
    for value in values:
        for line in lines_of(value):
            with suppress(StoreError):  # one that is damaged hides no other
                report = report_in(line)
                if report is not None:
                    yield report


def _key(request_id: str, minute: int) -> str:
    return f"recent:{crc32(request_id.encode('utf-8', 'replace')) % _SHARDS}|{minute}"


def _latest_key(who: str) -> str:
    return f"recent:who|{who}"
