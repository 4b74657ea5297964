"""Units that the record of a request cannot know: they are in the ledger when the request is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, Outcome, RateLimit, Usage
from keyguard.policies import shadow
from keyguard.testing import ManualClock
from tests.support.harness import Ask, ask_asgi, ask_wsgi
from tests.usage.test_usage import ByName


class Worker:
    """An app whose handler does what it is told, in both worlds."""

    def __init__(self, world: str, folder: Path, *guards: Any) -> None:
        self.clock = ManualClock()
        self.guard = Keyguard(
            ByName(),
            *guards,
            store=f"sqlite:///{folder}/k.db?timeout=1",
            clock=self.clock,
            usage=Usage(),
            handlers=True,
        )
        self.work: Any = lambda: None
        self.world = world
        self.app: Any = self.guard.asgi(self._asgi) if world == "asgi" else self.guard.wsgi(self._wsgi)

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.work()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        self.work()
        start_response("200 OK", [("content-type", "text/plain"), ("content-length", "0")])
        return [b""]

    def ask(self, work: Any = lambda: None) -> int:
        self.work = work
        ask = Ask(headers=(("x-name", "acme"),))
        return (ask_asgi(self.app, ask) if self.world == "asgi" else ask_wsgi(self.app, ask)).status

    def units(self) -> dict[str, int]:
        """The units of acme by the names of limits, in the ledger and in the counters."""
        self.guard.usage.flush()
        found = self.guard.usage.of("acme").units
        counted = {
            fact.name: use.spent
            for fact in self.guard.limits.facts
            for use in self.guard.limits.peek("acme", by="subject")
            if use.name == fact.name and use.spent
        }
        told = {fact.name: found[fact.prefix] for fact in self.guard.limits.facts if found.get(fact.prefix)}
        assert told == counted
        return told


def used(outcome: Outcome) -> int:
    return 7


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_what_handlers_charge(world: str, tmp_path: Path) -> None:
    site = Worker(
        world,
        tmp_path,
        RateLimit("1000/day", by="subject", name="tokens", cost=0),
        RateLimit("1000/day", by="subject", name="calls"),
    )
    site.ask(lambda: site.guard.charge(5))
    site.ask(lambda: (site.guard.charge(2), site.guard.charge(3, "calls")))
    assert site.units() == {"tokens:1000/day": 7, "calls:1000/day": 5}
    found = site.guard.usage.of("acme")
    assert sum(sum(bucket.units.values()) for bucket in found.buckets) == 12
    site.guard.close()


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_cost_that_is_known_late(world: str, tmp_path: Path) -> None:
    site = Worker(
        world,
        tmp_path,
        RateLimit("1000/day", by="subject", name="tokens", cost=10, settle=used),
        RateLimit("1000/day", by="subject", name="calls", refund_on=(200,)),
        RateLimit("1000/day", by="subject", name="failures", count="failures"),
    )
    site.ask()
    assert site.units() == {"tokens:1000/day": 7}
    site.guard.close()


def test_what_handlers_reserve(tmp_path: Path) -> None:
    site = Worker("wsgi", tmp_path, RateLimit("100/day", by="subject", name="tokens", cost=0))

    def work() -> None:
        with site.guard.reserve(30) as hold:
            hold.settle(12)

    def too_much() -> None:
        with site.guard.reserve(500):
            pass

    assert [site.ask(work), site.ask(too_much)] == [200, 429]
    assert site.units() == {"tokens:100/day": 12}
    site.guard.close()


def test_a_limit_in_shadow_mode_is_nobodys_usage(tmp_path: Path) -> None:
    site = Worker("asgi", tmp_path, shadow(RateLimit("1000/day", by="subject", name="tokens", cost=10, settle=used)))
    site.ask()
    site.guard.usage.flush()
    assert site.guard.usage.of("acme").units == {}
    site.guard.close()
