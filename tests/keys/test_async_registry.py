"""The methods of a registry with an `a` before their name: under an event loop they do what the plain ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, ForeignKey, IssuedKey, Keyguard, KeyRegistry
from keyguard.errors import KeyNotFound
from keyguard.stores import open_store
from keyguard.testing import play

SENT = "sk_live_0123456789abcdefghij"


@pytest.fixture(params=["memory", "awaited"])
def guard(request: pytest.FixtureRequest, tmp_path: Path) -> Keyguard:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/keys.db?timeout=5"
    return Keyguard(APIKeys(imported=True, guesses=None), store=open_store(url))


def status(guard: Keyguard, key: str) -> int:
    return play(guard, headers={"Authorization": f"Bearer {key}"}).status


def test_keys_are_disabled_enabled_and_deleted(guard: Keyguard) -> None:
    async def story(keys: KeyRegistry, seen: Callable[[], Any]) -> None:
        issued = await keys.aissue_if_absent("acme", "deploy")
        assert isinstance(issued, IssuedKey)
        assert await keys.aissue_if_absent("acme", "deploy") == issued.record
        told.append(issued.key.reveal())
        id = issued.record.id
        assert (await keys.adisable(id)).id == id
        seen()
        await keys.aenable(id)
        seen()
        assert (await keys.adelete(id)).id == id
        seen()
        with pytest.raises(KeyNotFound):
            await keys.aenable(id)

    told: list[str] = []
    seen: list[int] = []
    # Each look is that of a process which knows nothing yet: how soon others know, other tests tell.
    asyncio.run(story(guard.keys, lambda: seen.append(status(Keyguard(APIKeys(), store=guard.store), told[0]))))
    assert seen == [401, 200, 401]


def test_keys_are_imported(guard: Keyguard) -> None:
    done: list[int] = []
    given = [ForeignKey("acme", key=SENT)]
    assert asyncio.run(guard.keys.aimport_keys(given, tell=done.append)).new == 1
    assert asyncio.run(guard.keys.aimport_keys(given)).there == 1
    assert done == [1]
    assert status(guard, SENT) == 200
