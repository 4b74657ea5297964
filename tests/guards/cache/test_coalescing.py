"""Several processes that miss the same at once: one of them asks the app, and the others wait for its answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cached import store_url
from tests.support.servers import python, wait_until

pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for

ROOT = Path(__file__).parents[3]
PROCESSES = 4
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("redis6", "cluster", "postgres")]
KINDS = ["valkey", "sqlite", *SLOW]


class Workers:
    """Processes that are ready to ask; those that have answered ask again for others."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.idle: list[subprocess.Popen[str]] = []
        self.notes = Path()

    def start(self, url: str, how: str, milliseconds: int, count: int) -> subprocess.Popen[str]:
        if not self.idle:
            self.idle.append(self.stack.enter_context(python("-m", "tests.support.cache_worker", cwd=ROOT)))
        process = self.idle.pop()
        say(process, json.dumps([url, how, milliseconds, count, str(self.notes)]))
        return process

    def calls(self) -> int:
        return len(self.notes.read_text().splitlines()) if self.notes.exists() else 0

    def result(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(line(process))
        self.idle.append(process)
        return found


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    with contextlib.ExitStack() as stack:
        yield Workers(stack)


@pytest.fixture
def workers(processes: Workers, tmp_path: Path) -> Workers:
    processes.notes = tmp_path / "calls"
    return processes


def say(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ready(process: subprocess.Popen[str]) -> None:
    assert line(process) == "ready\n"


def go(process: subprocess.Popen[str]) -> None:
    say(process, "go")


def all_at_once(workers: Workers, url: str, how: str, milliseconds: int, count: int) -> list[dict[str, Any]]:
    processes = [workers.start(url, how, milliseconds, count) for _ in range(PROCESSES)]
    for process in processes:
        ready(process)
    for process in processes:
        go(process)
    return [workers.result(process) for process in processes]


@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_misses_in_four_processes_run_the_app_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, workers: Workers
) -> None:
    with store_url(kind, request, tmp_path) as url:
        found = all_at_once(workers, url, "public", 200, 25)
    assert workers.calls() == 1, found
    assert sum(one["errors"] for one in found) == 0
    slowest = max(one["slowest"] for one in found)
    assert slowest < 0.2 * 5, found  # 1.2 times the app's time where nobody else uses the machine


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["valkey", "sqlite"])
def test_an_app_that_takes_long_is_waited_for(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, workers: Workers
) -> None:
    """Time that the app takes in another process is not time that the store takes."""
    with store_url(kind, request, tmp_path) as url:
        found = all_at_once(workers, url, "public", 2500, 3)  # longer than a request may wait for the store
    assert workers.calls() == 1, found


@pytest.mark.parametrize("kind", ["valkey", "sqlite"])
def test_what_turns_out_to_be_private_lets_the_others_go_at_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, workers: Workers
) -> None:
    """The first answer shows it: then all the others ask side by side, not one after the other."""
    with store_url(kind, request, tmp_path) as url:
        found = all_at_once(workers, url, "private", 300, 25)
    assert workers.calls() == 100
    assert max(one["slowest"] for one in found) < 0.3 * 6, found  # twice, where nobody else uses the machine


@pytest.mark.parametrize("kind", ["valkey", "sqlite"])
def test_a_leader_that_is_killed_is_followed_by_another(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, workers: Workers
) -> None:
    with store_url(kind, request, tmp_path) as url:
        leader = workers.start(url, "short", 60_000, 1)
        ready(leader)
        others = [workers.start(url, "short", 200, 5) for _ in range(2)]
        for process in others:
            ready(process)
        go(leader)
        wait_until(workers.calls, "the leader to ask")
        for process in others:
            go(process)
        os.kill(leader.pid, signal.SIGKILL)
        found = [workers.result(process) for process in others]
    assert 2 <= workers.calls() <= 3, found  # one more where the machine was busy for as long as they wait
    assert max(one["slowest"] for one in found) < 3, found
