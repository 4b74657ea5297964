"""The parts that all pages have in common: the frame around them, what it tells of, and how they read the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

from keyguard.alerts.book import Alert
from keyguard.clock import monotonic
from keyguard.dashboard.answers import Shown
from keyguard.dashboard.asked import Asked
from keyguard.dashboard.operators import Operator
from keyguard.dashboard.service import Service
from keyguard.dashboard.views import Notice, Problem, Section, Shell, StoreLight
from keyguard.errors import StoreError
from keyguard.logs import logger, plain
from keyguard.ops import ReadWithTime, Store, tiers_of
from keyguard.units import as_datetime
from keyguard.usage import Usage

log = logger("keyguard")
R = TypeVar("R")

_NOTHING = "dashboard|"
"""A key of the store under which nothing stands."""
_STORES = {
    "MemoryStore": "Memory",
    "SQLiteStore": "SQLite",
    "RedisStore": "Redis",
    "PostgresStore": "PostgreSQL",
}


def _quoted(text: str) -> str:
    """Return a text as a part of a URL. Halves of signs, which callers may be named by, are no text there: `?`."""
    return quote(text, safe="", errors="replace")


def name_of(store: Store) -> str:
    """Return what a store is called: `Redis`. Of one with a tier in front of it, what lies behind."""
    *_, last = tiers_of(store)
    return next(
        (_STORES[kind.__name__] for kind in type(last).__mro__ if kind.__name__ in _STORES), type(last).__name__
    )


class Reading:
    """The making of one page."""

    def __init__(self, service: Service, asked: Asked) -> None:
        self.service = service
        self.asked = asked
        self.now = as_datetime(service.clock()).astimezone(UTC)
        self.operator: Operator | None = None
        self.notices: list[Notice] = []
        self._token = ""
        self._keys = False
        self._seconds: float | None = None
        self._processes: int | None = None
        self._hosts: int | None = None
        self._open = 0
        self.alerts: Sequence[Alert] | None = None
        """The alerts, once somebody has looked around; `None` if the app has none."""
        self._error: StoreError | None = None

    def welcome(self, operator: Operator | None, token: str, *, keys: object) -> None:
        """Note who asks, and the field `csrf` of forms. `keys`: whether operators log in here."""
        self.operator = operator
        self._token = token
        self._keys = keys is not None
        if operator is not None and not operator.may_change and operator.seen:
            self.notices.append(Notice("read-only"))
        if self.asked.request.inherited:
            self.notices.append(Notice("inside-limits"))

    @property
    def actor(self) -> str:
        """Return who does it, for the audit log."""
        return "" if self.operator is None else self.operator.name

    def href(self, *parts: str, **query: str) -> str:
        """Return a link to another page."""
        more = "&".join(f"{name}={_quoted(value)}" for name, value in query.items() if value)
        return self.asked.root + "/".join(map(_quoted, parts)) + (f"?{more}" if more else "")

    # -- what may fail --------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask the store for the time, and note how long that took. Raises `StoreError` if it does not answer."""
        began = monotonic()
        read: Any = self.service.store.execute([ReadWithTime(_NOTHING)])[0]
        self._seconds = monotonic() - began
        self.now = as_datetime(read[0]).astimezone(UTC)

    def failed(self, error: StoreError) -> None:
        """Note that the store of the app does not answer."""
        self._error = error
        log.warning("the dashboard cannot read the store: %s", plain(error))
        self.tell(Notice("store-down"))

    def tell(self, notice: Notice) -> None:
        """Add a notice, once."""
        if notice not in self.notices:
            self.notices.append(notice)

    def ledger(self, ask: Callable[[Usage], R]) -> R | None:
        """Ask the ledger; `None`, with a notice, if there is none or it does not answer."""
        usage = self.service.usage
        if usage is None:
            self.tell(Notice("no-usage"))
            return None
        if Notice("ledger-down") in self.notices:
            return None  # its time-out has passed once
        try:
            return ask(usage)
        except StoreError as error:
            log.warning("the dashboard cannot read the ledger: %s", plain(error))
            self.tell(Notice("ledger-down"))
            return None

    def look_around(self) -> None:
        """Find out which alerts are open, for the bar, and which processes there are, for the foot of the page."""
        alerting = self.service.alerts
        if alerting is not None:
            try:
                self.alerts = alerting.list()
            except StoreError as error:  # a later keyguard has written them
                log.warning("the dashboard cannot read the alerts: %s", plain(error))
            self._open = sum(one.open for one in self.alerts or ())
        processes = self.ledger(lambda usage: usage.processes())
        if processes is None:
            usage = self.service.usage
            if usage is not None and usage.dropped:
                self.tell(Notice("dropped", count=usage.dropped))
            return
        there = [one for one in processes if not one.vanished]
        self._processes, self._hosts = len(there), len({one.host for one in there})
        dropped = sum(one.dropped for one in there)
        if dropped:
            self.tell(Notice("dropped", count=dropped))

    # -- what is shown --------------------------------------------------------------------------------------

    def shell(self, here: Section, *, reload: int = 5, done: Notice | None = None) -> Shell:
        """Return what stands around the page. Forms, and what is shown once, have `reload=0`."""
        operator, service = self.operator, self.service
        light = None
        if operator is not None:
            health = service.health
            up = health.ok and self._error is None
            since = health.since or (self.now if not up else None)
            light = StoreLight(name_of(service.store), up, self._seconds, since)
        usage = service.usage
        return Shell(
            here=here,
            root=self.asked.root,
            now=self.now,
            store=light,
            operator="" if operator is None else operator.name,
            may_change=operator is not None and operator.may_change,
            csrf=self._token,
            log_out=self._keys and operator is not None,
            notices=(*([] if done is None else [done]), *self.notices) if operator is not None else (),
            processes=self._processes,
            hosts=self._hosts,
            every=None if usage is None else timedelta(seconds=usage.every),
            alerts_open=self._open,
            upstream=bool(service.pools),
            reload=reload,
        )

    def problem(self, status: int, kind: Any, headers: tuple[tuple[str, str], ...] = (), text: str = "") -> Shown:
        """Return a page that says one thing."""
        request_id = self.asked.request.id if status >= 500 else ""
        return Shown(Problem(self.shell("", reload=0), status, kind, request_id, text), status, headers)
