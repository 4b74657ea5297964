"""Random operations on alerts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from keyguard.clock import SECOND
from keyguard.ops import DecideAlerts, FireAlert, LeaseDeliveries, ListenAgain, Op, ResolveAlert, SettleDelivery
from keyguard.rates.limit import JSON, NEVER
from keyguard.testing.conformance.remembering import RememberSteps

_ABOUT: dict[str, JSON] = {
    "type": "keyguard.limit.threshold",
    "severity": "warning",
    "subject": "acme \u00e9\n",
    "limit": "subject:1000/day",
    "facts": {"used": 800},
}


class AlertSteps(RememberSteps):
    """Draws what processes decide and deliver."""

    random: random.Random
    latest: int

    def alert(self) -> Op[Any]:
        ways: list[Callable[[], Op[Any]]] = [self._fire, self._fire, self._several, self._resolve]
        ways += [self._lease, self._lease, self._settle, self._settle, lambda: ListenAgain("one")]
        return self.random.choice(ways)()

    def _fire(self) -> FireAlert:
        return FireAlert(
            self.random.choice("abc"),
            self.random.choice([50, 80, 100]),
            self.random.choice(["1", "1", "2"]),
            about={**_ABOUT, "loud": self.random.random() < 0.3},
            to=self.random.choice([["one"], ["one", "two"], []]),
            seen=self._moment(),
            until=self.random.choice([None, self.latest + self.random.randrange(40 * SECOND)]),
        )

    def _several(self) -> DecideAlerts:
        return DecideAlerts([self._fire(), self._resolve(), self._fire()])

    def _resolve(self) -> ResolveAlert:
        return ResolveAlert(self.random.choice("abc"), self._moment(), mute=self.random.random() < 0.2)

    def _lease(self) -> Op[Any]:
        to = self.random.choice([["one"], ["two"], ["one", "two"]])
        return LeaseDeliveries(self._who(), self.random.randrange(1, 9 * SECOND), to, quiet=self.random.random() < 0.2)

    def _settle(self) -> Op[Any]:
        again = self.random.choice([None, None, NEVER, self.random.randrange(1, 9 * SECOND)])
        draws = [True, self.random.random() < 0.8]
        number = self.random.randrange(1, 40)
        return SettleDelivery(number, again, who=self._who(), gone=self.random.random() < 0.05, tried=draws[1])

    def _who(self) -> str:
        return self.random.choice(["p1", "p2"])

    def _moment(self) -> int | None:
        return self.random.choice([None, self.latest - self.random.randrange(3 * SECOND)])
