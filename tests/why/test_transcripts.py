"""What `keyguard why` says for each cause: `docs/why.md` shows the same, word for word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from keyguard import (
    APIKeys,
    Ban,
    Concurrency,
    IPFilter,
    Overload,
    RateLimit,
    StoreError,
    UpstreamCauses,
    credits,
    quota,
)
from keyguard.ops import Take
from keyguard.stores.sqlite import SQLiteStore
from tests.guards.upstream_causes.exhaustions import RateLimitError, exhausted
from tests.why.world import KEY_ID, Shop

PAGE = (Path(__file__).parents[2] / "docs" / "why.md").read_text()
Why: TypeAlias = Callable[..., str]
Story: TypeAlias = Callable[[Path, Callable[[Shop], Why]], str]


def used_up_quota(folder: Path, operator: Any) -> str:
    shop = Shop(folder, RateLimit(quota("20/day"), by="subject"))
    shop.ask("/v1/export", times=13, every="10 minutes")
    shop.ask("/v1/orders/17", times=7, every="10 minutes", client="203.0.113.7")
    shop.ask("/v1/orders", times=9, every="1 second")
    shop.rest()
    return operator(shop)("acme")


def used_up_rate(folder: Path, operator: Any) -> str:
    shop = Shop(folder, RateLimit("5/minute", by="subject"))
    shop.ask(times=8, every="2 seconds")
    return operator(shop)(shop.id)


def used_up_credits(folder: Path, operator: Any) -> str:
    shop = Shop(folder, RateLimit(credits(10), by="subject"))
    shop.ask(times=12, every="1 minute")
    return operator(shop)(shop.id)


def used_up_slots(folder: Path, operator: Any) -> str:
    shop = Shop(folder, Concurrency(2, by="subject"))
    said = []
    depth = iter(range(1, 9))

    def inside() -> None:
        if next(depth) < 2:
            shop.ask("/v1/export")
        else:
            shop.ask("/v1/export", times=3)
            shop.clock.advance("2 seconds")
            said.append(operator(shop)(shop.id))

    shop.inside = inside
    shop.ask("/v1/export")
    return said[0]


def fault(folder: Path, operator: Any) -> str:
    class Failing(SQLiteStore):
        failing = False

        def execute(self, ops: Any) -> Any:
            if self.failing and any(isinstance(op, Take) for op in ops):
                raise StoreError("no answer")
            return super().execute(ops)

    shop = Shop(folder, RateLimit("100/hour", by="subject", if_store_fails="refuse"), kind=Failing)
    shop.ask(times=6)
    shop.ask("/v1/broken", times=2)
    shop.clock.advance("5 minutes")
    shop.store.failing = True  # type: ignore[attr-defined]
    shop.ask(times=4, every="1 second")
    shop.store.failing = False  # type: ignore[attr-defined]
    shop.rest("1 minute")
    return operator(shop)(shop.id)


def overload(folder: Path, operator: Any) -> str:
    shop = Shop(folder, Overload(max_in_flight=1), RateLimit("100/hour", by="subject"))
    once = iter([True])

    def inside() -> None:
        if next(once, False):
            shop.ask("/v1/export", times=3)

    shop.inside = inside
    shop.ask("/v1/export")
    shop.rest()
    return operator(shop)(shop.id)


def upstream(folder: Path, operator: Any) -> str:
    def inside() -> None:
        raise RateLimitError(exhausted(seconds=None))

    shop = Shop(folder, RateLimit("100/hour", by="subject"), UpstreamCauses())
    shop.ask(times=6)
    shop.inside = inside
    shop.ask(times=4, every="1 second")
    shop.rest()
    return operator(shop)(shop.id)


def revoked(folder: Path, operator: Any) -> str:
    shop = Shop(folder, RateLimit("100/hour", by="subject"))
    shop.ask(times=3, every="1 second")
    shop.guard.keys.revoke(shop.id, "found in a public repository", actor="ada")
    shop.clock.advance("5 minutes")
    shop.ask(times=4, every="1 second")
    return operator(shop)(shop.id)


def expired(folder: Path, operator: Any) -> str:
    shop = Shop(folder)
    shop.guard.keys.update(shop.id, expires="2 hours", actor="ada")
    shop.clock.advance("3 hours")
    shop.ask()
    shop.rest()
    return operator(shop)(shop.id)


def unknown(folder: Path, operator: Any) -> str:
    shop = Shop(folder)
    shop.guard.keys.delete(shop.id, actor="ada")
    shop.clock.advance("2 seconds")
    shop.ask(times=2)
    shop.rest()
    return operator(shop)(shop.id)


def permission(folder: Path, operator: Any) -> str:
    shop = Shop(folder, keys=APIKeys(scopes={"orders:write"}))
    shop.guard.keys.update(shop.id, scopes=["orders:read"], actor="ada")
    shop.clock.advance("2 seconds")
    shop.ask(times=3, every="1 second", method="POST")
    return operator(shop)(shop.id)


def banned(folder: Path, operator: Any) -> str:
    shop = Shop(folder, outer=[Ban(after="3/minute", for_="10 minutes")])
    shop.ask(times=5, every="2 seconds", key="kg_live_nonsense", client="203.0.113.9")
    return operator(shop)("203.0.113.9")


def filtered(folder: Path, operator: Any) -> str:
    shop = Shop(folder, outer=[IPFilter(deny=["203.0.113.0/24"])])
    shop.ask(times=2, every="2 seconds", client="203.0.113.9")
    return operator(shop)("203.0.113.9")


def network(folder: Path, operator: Any) -> str:
    shop = Shop(folder)
    shop.guard.keys.update(shop.id, networks=["198.51.100.0/24"], actor="ada")
    shop.clock.advance("2 seconds")
    shop.ask(times=2, every="2 seconds", client="203.0.113.9")
    return operator(shop)(shop.id)


def request(folder: Path, operator: Any) -> str:
    shop = Shop(folder, RateLimit("100/hour", by="subject", paths=["/v1/orders/*"]))
    shop.ask("/v1/orders/1%2F2", times=2)
    shop.rest()
    return operator(shop)(shop.id)


STORIES = [
    used_up_quota, used_up_rate, used_up_credits, used_up_slots, fault, overload, upstream, revoked, expired, unknown,
    permission, banned, filtered, network, request,
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_page_shows_what_it_says(story: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def operator(shop: Shop) -> Why:
        return lambda who: f"$ keyguard why {KEY_ID if who == shop.id else who}\n{shop.why(capsys, who)}"

    told = story(tmp_path, operator)
    assert told in PAGE, told
