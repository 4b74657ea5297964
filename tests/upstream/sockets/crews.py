"""A crew: some worker processes that share a pool, in front of a fake provider on 127.0.0.1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from keyguard.testing import FakeProvider
from tests.support.servers import python, wait_until

ROOT = Path(__file__).parents[3]
WORKERS = 4


class Figures(NamedTuple):
    """What came of a run, by the provider's own record."""

    served: int
    possible: int
    refused: int
    answers: int
    seen: Counter[str]
    """What the workers saw that lived to tell."""
    late: float
    """How late the event loop of a worker was, in seconds."""

    @property
    def part_served(self) -> float:
        return self.served / self.possible

    @property
    def part_refused(self) -> float:
        return self.refused / self.answers

    def __str__(self) -> str:
        told = f"{self.served} of {self.possible} possible served ({100 * self.part_served:.1f} %), {self.refused}"
        return f"{told} refusals ({100 * self.part_refused:.1f} %), event loops {1000 * self.late:.0f} ms late"


class Crew:
    """Worker processes, ready to begin."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self.processes = processes

    def begin(self) -> None:
        for process in self.processes:
            self._tell(process)

    def kill_one(self) -> None:
        """End one as `kill -9` does, in the middle of what it does."""
        process = self.processes.pop()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> tuple[Counter[str], float]:
        """Have the others stop, and return what they have seen, and how late one of them was at most."""
        for process in self.processes:
            self._tell(process)
        seen: Counter[str] = Counter()
        late = 0.0
        for process in self.processes:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            seen.update(told["seen"])
            late = max(late, told["late"])
        return seen, late

    def _tell(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


@contextmanager
def crew(**settings: Any) -> Iterator[Crew]:
    """Start workers, and wait until all are ready."""
    with ExitStack() as stack:
        words = ("-m", "tests.upstream.sockets.worker", json.dumps({**settings, "workers": WORKERS}))
        processes = [stack.enter_context(python(*words, cwd=ROOT)) for _ in range(WORKERS)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield Crew(processes)


def run(provider: FakeProvider, seconds: float, *, left: int, **settings: Any) -> Figures:
    """Let a crew work for some seconds, kill one of it half-way, and return what came of it.

    Others have used the same keys: when it begins, each group has `left` requests.
    """
    groups = sorted(set(provider.keys.values()))
    keys = {f"key-{group}": (secret, group) for secret, group in provider.keys.items()}
    with provider.serving() as url, crew(url=url, keys=keys, **settings) as workers:
        workers.begin()
        wait_until(lambda: provider.served.total() or _use_up(provider, groups, left), "the first answer")
        begun = time.monotonic()
        time.sleep(seconds / 2)
        workers.kill_one()
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        possible = [provider.possible(group, tokens=10) for group in groups]
        served, statuses = provider.served.total(), provider.statuses.copy()
        seen, late = workers.stop()
    return Figures(served, sum(each or 0 for each in possible), statuses[429], statuses.total(), seen, late)


def _use_up(provider: FakeProvider, groups: Iterable[str], left: int) -> None:
    for group in groups:
        provider.spend(group, {"requests": max(0, provider.remaining(group, "rpm") - left)})
