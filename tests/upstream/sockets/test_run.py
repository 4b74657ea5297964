"""Four processes that share a pool, over sockets: one of them is killed, and the provider has a limit that it hides.

What was possible is what the provider itself could have served meanwhile. Where event loops get no turn for long,
requests are sent late and in heaps, whatever the pool says; so less is asked of a machine that is so busy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard.testing import FakeProvider
from tests.support.servers import RedisServer
from tests.upstream.sockets.crews import Figures, run

pytestmark = pytest.mark.slow

GROUPS = ("org-a", "org-b", "org-c")
SECONDS = 18
TASKS = 3
LEFT = 10
STARVED = 0.05
"""How late an event loop is, in seconds, whose machine is too busy to send requests when they are due."""


def provider() -> FakeProvider:
    """Five requests a second for each of three groups; and at most eight in half a second, of which nothing tells."""
    return FakeProvider(
        keys={f"sk-{group}": group for group in GROUPS},
        limits={group: {"rpm": 300} for group in GROUPS},
        hidden_burst=(8, 0.5),
        latency=0.02,
    )


@contextlib.contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/pool.db?timeout=1"
        return
    with RedisServer() as server:
        yield f"{server.url}?timeout=1"


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_four_workers_get_what_is_possible_and_are_hardly_ever_refused(kind: str, tmp_path: Path) -> None:
    with store_of(kind, tmp_path) as store:
        pool = run(provider(), SECONDS, left=LEFT, way="pool", store=store, tasks=TASKS)
    plain = run(provider(), SECONDS / 3, left=LEFT, way="plain", store="", tasks=TASKS)
    print(f"\npool on {kind}: {pool}\nplain retries, a model: {plain}")
    served, refused = (0.95, 0.02) if pool.late < STARVED else (0.75, 0.1)
    assert pool.served >= served * pool.possible
    assert pool.refused <= refused * pool.answers
    assert refusals_seen(pool) == 0, "callers see none of them"
    assert plain.refused > 0.2 * plain.answers, "the provider is not a lenient one"


def refusals_seen(figures: Figures) -> Any:
    return sum(count for status, count in figures.seen.items() if status != "200")
