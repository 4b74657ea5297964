"""A stack with alerts, by a clock that is set by hand."""

from __future__ import annotations

from typing import Any

from keyguard import AlertMessage, Alerts, APIKeys, Keyguard, RateLimit
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_wsgi, wsgi_app


class Story:
    """Callers with keys, a limit, and what people are told."""

    def __init__(self, *limits: Any, store: Any = "memory://", app: Any = wsgi_app, **settings: Any) -> None:
        self.clock = settings.pop("clock", None) or ManualClock()
        self.told: list[AlertMessage] = []
        self.alerts = Alerts(to=settings.pop("receivers", [self.hear]), **settings)
        guards = [one if not isinstance(one, str) else RateLimit(one, by="subject") for one in limits]
        self.guard = Keyguard(APIKeys(), *guards, store=store, clock=self.clock, alerts=self.alerts, name="shop")
        self.app = self.guard.wsgi(app)
        self.keys: dict[str, str] = {}

    def hear(self, message: AlertMessage) -> None:
        self.told.append(message)

    def key(self, owner: str) -> str:
        if owner not in self.keys:
            self.keys[owner] = self.guard.keys.issue(owner=owner).key.reveal()
        return self.keys[owner]

    def calls(self, owner: str, many: int = 1, path: str = "/") -> int:
        """So many requests of somebody; the status of the last one. Then the background has had its time."""
        status = 0
        for _ in range(many):
            status = ask_wsgi(self.app, Ask(path, headers=(("X-API-Key", self.key(owner)),)), lint=False).status
        self.rest()
        return status

    def rest(self, span: str = "2 seconds") -> None:
        """Let time pass, until all that is due was decided and delivered."""
        self.clock.advance(span)
        for _ in range(2):
            self.clock.advance("1 second")

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.told]
