"""A key that is revoked, rotated or given another plan: every process knows within a second, on every store."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, RateLimit
from keyguard.errors import StoreError
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.servers import Postgres, RedisCluster, RedisServer

PLANS = {"free": "1000/hour", "pro": "2000/hour"}


def stack(store: Any, **options: Any) -> Keyguard:
    limit = RateLimit(lambda request: PLANS[request.identity.plan], by="subject", name="plan")
    return Keyguard(APIKeys(**options), limit, store=store)


def within_a_second(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 1.0
    while not condition():
        assert time.monotonic() < end, "not within a second"
        time.sleep(0.02)


@pytest.fixture(params=["sqlite", "redis", "cluster", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/keys.db?timeout=5"
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        found = f"{postgres.url}?schema=changes&timeout=1"
        open_store(found).migrate()  # type: ignore[attr-defined]
        return found
    server: RedisServer | RedisCluster = request.getfixturevalue("valkey" if request.param == "redis" else "cluster")
    return f"{server.url}?namespace=changes{tmp_path.name}&timeout=1"


@pytest.mark.slow
def test_changes_reach_the_others(url: str) -> None:
    here, there = open_store(url), open_store(url)  # two processes, but for the process
    one, other = stack(here), stack(there)
    issued = one.keys.issue("acme", plan="free")
    headers = {"Authorization": f"Bearer {issued.key.reveal()}"}

    def quota() -> str:
        return (play(other, headers=headers).header("RateLimit-Policy") or "").split(";q=")[-1].split(";")[0]

    assert play(other, headers=headers).status == 200
    assert quota() == "1000"
    one.keys.update(issued.record.id, plan="pro")
    within_a_second(lambda: quota() == "2000")
    left = (play(other, headers=headers).header("RateLimit") or "").split(";r=")[-1].split(";")[0]
    assert int(left) < 2000 - 2  # what was used under the old plan is still used

    successor = one.keys.rotate(issued.record.id, overlap=0)
    within_a_second(lambda: play(other, headers=headers).status == 401)
    new = {"Authorization": f"Bearer {successor.key.reveal()}"}
    assert play(other, headers=new).status == 200
    one.keys.revoke(successor.record.id)
    within_a_second(lambda: play(other, headers=new).status == 401)
    for store in (here, there):
        store.close()  # type: ignore[attr-defined]


class Breakable(MemoryStore):
    broken = False

    def execute(self, ops: Any) -> list[Any]:
        if self.broken:
            raise StoreError("broken")
        return super().execute(ops)


def wrapped(store: Breakable) -> Any:
    """Not a `MemoryStore` to the stack, which knows that those cannot fail."""

    class Store:
        execute = staticmethod(store.execute)
        scan = staticmethod(store.scan)

    return Store()


def test_without_the_store_a_key_is_accepted_for_a_while_and_no_longer() -> None:
    clock = ManualClock()
    store = Breakable(clock=clock)
    guard = Keyguard(APIKeys(stale_if_error=60), store=wrapped(store), clock=clock)
    issued = guard.keys.issue("acme")
    headers = {"Authorization": f"Bearer {issued.key.reveal()}"}
    assert play(guard, headers=headers).status == 200
    store.broken = True
    clock.advance(59)
    assert play(guard, headers=headers).status == 200
    clock.advance(2)
    assert play(guard, headers=headers).status == 503
    strict = Keyguard(APIKeys(if_store_fails="refuse"), store=wrapped(store), clock=clock)
    store.broken = False
    assert play(strict, headers=headers).status == 200
    store.broken = True
    clock.advance(1)
    assert play(strict, headers=headers).status == 503


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"if_store_fails": "allow"}, "nobody is let in unknown"),
        ({"stale_if_error": -1}, "a duration from 0 seconds to 1 day"),
        ({"stale_if_error": "soon"}, "stale_if_error is a duration"),
    ],
)
def test_a_wrong_setting_stops_the_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        APIKeys(**options)
    with pytest.raises(ValueError, match="'local', 'refuse' or 'allow'"):
        RateLimit("1/minute", if_store_fails="open")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number of processes"):
        Keyguard(workers=0)
