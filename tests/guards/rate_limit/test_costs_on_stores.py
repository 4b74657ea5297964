"""Costs known later, in one story on every store: charged, reserved, settled, refused, and counted if they failed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Identity, Keyguard, Outcome, RateLimit, Refused, smooth
from keyguard.stores.leased import Leased
from tests.guards.rate_limit.test_handlers import left
from tests.support.every_store import KINDS, store_of
from tests.support.harness import Ask, aask, ask_wsgi


def settle(outcome: Outcome) -> int:
    return int(outcome.headers["x-cost"])


def lookup(key: str) -> Identity | None:
    return Identity(key) if key == "ada" else None


TOKENS = RateLimit("100/hour", by="key", name="tokens", cost=0)
PACED = RateLimit(smooth("100/hour", burst=50), by="subject", name="paced", cost=0)
SETTLED = RateLimit("100/day", by="key", name="settled", cost=3, settle=settle)
LOGIN = RateLimit("10/hour", by="ip", name="log-ins", paths=["/login"], count="failures")
LIMITS = {TOKENS: "ada", PACED: "ada", SETTLED: "ada", LOGIN: "198.51.100.1"}

STORY: list[tuple[str, int, dict[str, int]]] = [
    ("/?charge=7&cost=5", 200, {"tokens": 7, "settled": 5}),
    ("/?paced=9&cost=0", 200, {"paced": 9}),
    ("/?charge=1&reserve=50&actual=20&cost=1", 200, {"tokens": 21, "settled": 1}),
    ("/?charge=9&reserve=90&actual=20&cost=1", 429, {}),
    ("/?charge=2&reserve=90&actual=20&cost=2&catch=1", 200, {"tokens": 2, "settled": 2}),
    ("/login?cost=1", 200, {"settled": 1}),
    ("/login?cost=1&status=401", 401, {"settled": 1, "log-ins": 1}),
    ("/?charge=200&cost=0", 200, {"tokens": 70}),
    ("/?reserve=1&actual=1&cost=0", 429, {}),
]


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
@pytest.mark.parametrize("kind", [*KINDS, "leased"])
def test_the_story(kind: str, world: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = store_of("redis" if kind == "leased" else kind, request, tmp_path, world)
    tier = Leased(store, workers=1) if kind == "leased" else store
    guard = Keyguard(LOGIN, APIKeys(lookup=lookup), TOKENS, PACED, SETTLED, store=tier)

    def parts(query: str) -> dict[str, int]:
        return {name: int(value) for name, _, value in (part.partition("=") for part in query.split("&"))}

    def work(asked: dict[str, int]) -> None:
        if "charge" in asked:
            guard.charge(asked["charge"], "tokens")
        if "paced" in asked:
            guard.charge(asked["paced"], "paced")

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        asked = parts(scope["query_string"].decode())
        work(asked)
        with suppress(*([Refused] if "catch" in asked else [])):
            if "reserve" in asked:
                async with guard.reserve(asked["reserve"], "tokens") as hold:
                    hold.settle(asked["actual"])
        fields = [(b"x-cost", b"%d" % asked["cost"])]
        await send({"type": "http.response.start", "status": asked.get("status", 200), "headers": fields})
        await send({"type": "http.response.body", "body": b""})

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        asked = parts(environ["QUERY_STRING"])
        work(asked)
        with suppress(*([Refused] if "catch" in asked else [])):
            if "reserve" in asked:
                with guard.reserve(asked["reserve"], "tokens") as hold:
                    hold.settle(asked["actual"])
        start_response(f"{asked.get('status', 200)} Any", [("x-cost", str(asked["cost"]))])
        return [b""]

    def spent() -> dict[str, int]:
        return {one.name: one.rules[0].limit.max_cost - left(store, one, bucket) for one, bucket in LIMITS.items()}

    async def send_all() -> None:
        app = guard.asgi(asgi)
        for target, status, costs in STORY:
            before = spent()
            answer = await aask(app, Ask(target, (("X-API-Key", "ada"),)), lint=False)
            check(target, status, costs, answer, before)
        if hasattr(tier, "aclose"):
            await tier.aclose()

    def check(target: str, status: int, costs: dict[str, int], answer: Any, before: dict[str, int]) -> None:
        assert (target, answer.status) == (target, status)
        if kind == "leased" and hasattr(tier, "flush"):
            tier.flush()
        assert (target, spent()) == (target, {name: before[name] + costs.get(name, 0) for name in before})

    if world == "asgi":
        asyncio.run(send_all())
    else:
        app = guard.wsgi(wsgi)
        for target, status, costs in STORY:
            before = spent()
            answer = ask_wsgi(app, Ask(target, (("X-API-Key", "ada"),)), lint=False)
            check(target, status, costs, answer, before)
