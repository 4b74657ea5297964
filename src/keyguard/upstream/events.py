"""What a pool tells of: an event for a function of the user's, and a line of the log.

Each is told once in a process, until it has changed: that a key is used up, say, and then that it works again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeAlias

from keyguard.logs import frames, logger, plain, word
from keyguard.process.fork import renew_after_fork
from keyguard.upstream.causes import UpstreamCause

log = logger("keyguard.upstream")

_LEVELS = {
    "key.exhausted": logging.INFO,
    "key.recovered": logging.INFO,
    "key.invalid": logging.ERROR,
    "group.billing": logging.ERROR,
    "pool.exhausted": logging.WARNING,
    "classify.unknown": logging.WARNING,
    "store.failed": logging.WARNING,
}
_MOST_ANSWERS = 100


class UpstreamEvent(NamedTuple):
    """Something that a pool tells of. No secret stands in it."""

    kind: str
    """`key.exhausted`, `key.recovered`, `key.invalid`, `group.billing`, `pool.exhausted`, `classify.unknown` or
    `store.failed`."""
    pool: str
    key: str | None = None
    """The id of a key."""
    group: str | None = None
    cause: UpstreamCause | None = None
    until: datetime | None = None
    """The moment at which it works again, if that is known."""
    detail: str = ""


Listener: TypeAlias = Callable[[str, str, UpstreamEvent | None], None]
"""A function that takes note of a kind of event, what it is about, and the event; `None` for that it has ended."""


class Telling:
    """The events that one pool has told of in this process."""

    def __init__(self, pool: str, on_event: Callable[[UpstreamEvent], None] | None) -> None:
        self._pool = pool
        self._on_event = on_event
        self.listeners: list[Listener] = []
        """The functions that hear of what begins each time that it is found to be so, and of what ends. They are called
        on requests, so they take note, and no more."""
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._told: set[tuple[str, str]] = set()
        self._unknown: set[str] = set()

    def begins(
        self,
        kind: str,
        name: str,
        *,
        key: str | None = None,
        group: str | None = None,
        cause: UpstreamCause | None = None,
        until: datetime | None = None,
        detail: str = "",
    ) -> bool:
        """Tell of something, unless that was done and has not ended since. Returns whether it was told."""
        event = UpstreamEvent(kind, self._pool, key, group, cause, until, detail)
        for hear in self.listeners:
            hear(kind, name, event)
        with self._lock:
            if (kind, name) in self._told:
                return False
            self._told.add((kind, name))
        self.tell(event)
        return True

    def ends(self, kind: str, name: str) -> bool:
        """Note that something has ended, so that it would be told of anew. Returns whether it had begun."""
        if (kind, name) not in self._told:
            return False
        with self._lock:
            if (kind, name) not in self._told:
                return False
            self._told.discard((kind, name))
        for hear in self.listeners:
            hear(kind, name, None)
        return True

    def recovered(self, name: str, key: str, group: str) -> None:
        """Tell that a group works which was told to be used up."""
        if self.ends("key.exhausted", name):
            self.tell(UpstreamEvent("key.recovered", self._pool, key, group, UpstreamCause.OK))

    def unknown(self, fingerprint: str, key: str, group: str) -> None:
        """Tell once of an answer that the profile does not know."""
        with self._lock:
            if fingerprint in self._unknown or len(self._unknown) >= _MOST_ANSWERS:
                return
            self._unknown.add(fingerprint)
        self.tell(UpstreamEvent("classify.unknown", self._pool, key, group, detail=fingerprint))

    def tell(self, event: UpstreamEvent) -> None:
        """Write a line of the log, and call the user's function. If that fails, it is logged, and all goes on."""
        told = [
            f"{name}={word(value)}"
            for name, value in (
                ("pool", event.pool),
                ("key", event.key),
                ("group", event.group),
                ("cause", event.cause),
                ("until", event.until.isoformat() if event.until else None),
                ("detail", event.detail or None),
            )
            if value is not None
        ]
        log.log(_LEVELS[event.kind], "%s %s", event.kind, " ".join(told))
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:
            log.error("on_event raised %s\n  %s", plain(type(error).__name__), frames(error))
