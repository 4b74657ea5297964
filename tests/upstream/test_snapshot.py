"""What operators see of a pool, and what they do with it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from keyguard import ConfigurationError, Key, KeyPool, StoreError, UpstreamCause
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock


def pool_of(store: Any = "memory://", **settings: Any) -> tuple[KeyPool, ManualClock]:
    clock = ManualClock()
    keys = [Key("a", "sk-a", group="org"), Key("b", "sk-b", group="org"), Key("spare", "sk-c", rank=1)]
    if store == "memory":
        store = MemoryStore(clock=clock)
    return KeyPool.openai(keys, store=store, clock=clock, max_wait=0, **settings), clock


def call(pool: KeyPool, status: int, code: str = "", headers: dict[str, str] | None = None, **asked: Any) -> str:
    with pool.acquire(**asked) as grant:
        grant.report(status, headers or {}, json.dumps({"error": {"code": code}}).encode())
    pool.close()
    return grant.key.id


def test_a_pool_of_which_nothing_is_known() -> None:
    pool, clock = pool_of(limits={"org": {"rpm": 60, "tpm": 1000}}, models=["m*"])
    shot = pool.snapshot()
    assert (shot.name, shot.at, shot.waiting, shot.store_ok) == ("openai", clock.now, 0, True)
    assert [(group.name, group.model_class, group.rank, group.cause) for group in shot.groups] == [
        ("org", "*", 0, UpstreamCause.OK),
        ("org", "m*", 0, UpstreamCause.OK),
        ("spare", "*", 1, UpstreamCause.OK),
        ("spare", "m*", 1, UpstreamCause.OK),
    ]
    assert [(one.name, one.limit, one.remaining, one.learnt) for one in shot.groups[0].dimensions] == [
        ("rpm", 60, 60, False),
        ("tpm", 1000, 1000, False),
    ]
    assert [(key.id, key.state, key.until, key.since) for key in shot.groups[0].keys] == [
        ("a", "ok", None, None),
        ("b", "ok", None, None),
    ]


def test_what_is_spent_and_what_is_dead() -> None:
    pool, clock = pool_of(limits={"org": {"rpm": 60}})
    call(pool, 200)
    dead = call(pool, 401, "invalid_api_key")
    org, spare = pool.snapshot().groups
    assert org.dimensions[0].remaining == 58
    states = {key.id: (key.state, key.since) for key in org.keys}
    assert states[dead] == ("invalid", clock.now)
    assert sorted(state for state, _ in states.values()) == ["invalid", "ok"]
    assert spare.cause == UpstreamCause.OK


def test_a_group_without_money() -> None:
    pool, _ = pool_of(models=["m*"])
    call(pool, 429, "insufficient_quota", model="m1")
    assert [(group.name, group.cause, group.until) for group in pool.snapshot().groups] == [
        ("org", UpstreamCause.BILLING, None),
        ("org", UpstreamCause.BILLING, None),
        ("spare", UpstreamCause.OK, None),
        ("spare", UpstreamCause.OK, None),
    ]
    assert call(pool, 200) == "spare"


def test_it_is_the_same_in_an_event_loop_and_can_be_written_as_json() -> None:
    pool, _ = pool_of(limits={"org": {"rpm": 60}})
    call(pool, 401, "invalid_api_key")
    shot = pool.snapshot()
    assert asyncio.run(pool.asnapshot()) == shot
    told = json.loads(json.dumps(shot.as_dict()))
    assert told["groups"][0]["dimensions"][0]["name"] == "rpm"
    assert "invalid" in {key["state"] for key in told["groups"][0]["keys"]}


@pytest.mark.parametrize("code", ["invalid_api_key", "insufficient_quota"])
def test_what_was_paid_for_is_enabled(code: str) -> None:
    pool, _ = pool_of()
    first = call(pool, 401 if code == "invalid_api_key" else 429, code)
    pool.enable(first)
    assert {key.state for key in pool.snapshot().groups[0].keys} == {"ok"}
    assert pool.snapshot().groups[0].cause == UpstreamCause.OK
    assert call(pool, 200) in ("a", "b")
    asyncio.run(pool.aenable(first))
    with pytest.raises(ConfigurationError, match="no key"):
        pool.enable("nobody")


def test_without_the_store_it_is_what_this_process_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool, _ = pool_of("memory")
    dead = call(pool, 401, "invalid_api_key")

    def failing(ops: Any) -> Any:
        raise StoreError("down")

    monkeypatch.setattr(pool.place.store, "execute", failing)
    shot = pool.snapshot()
    assert not shot.store_ok
    assert [key.state for key in shot.groups[0].keys if key.id == dead] == ["invalid"]
    assert asyncio.run(pool.asnapshot()) == shot
    with pytest.raises(StoreError):
        pool.enable("a")
