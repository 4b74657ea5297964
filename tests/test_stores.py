"""Every store means the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keyguard import ConfigurationError, ops
from keyguard.clock import Clock
from keyguard.ops import Op, Store
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import Reference, check_store


def makers(folder: Path) -> dict[str, Callable[[Clock], Store]]:
    numbers = iter(range(100))
    return {
        "memory": lambda clock: MemoryStore(clock=clock),
        "sqlite": lambda clock: SQLiteStore(folder / f"{next(numbers)}.db", clock=clock),
    }


@pytest.mark.parametrize("name", ["memory", "sqlite"])
def test_the_conformance_suite(name: str, tmp_path: Path) -> None:
    check_store(makers(tmp_path)[name], steps=5000)


class Broken(Reference):
    """A store with one mistake."""

    def __init__(self, clock: Clock, mistake: str) -> None:
        super().__init__(clock)
        self.mistake = mistake

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        results = []
        for op in batch:
            now = self.clock()
            if self.mistake == "whole seconds":
                now = now // 1_000_000 * 1_000_000
            before = dict(self.table)
            result = ops.run(op, self.table, now)
            if self.mistake == "no expiry":
                self.table = {key: (value, None) for key, (value, _) in self.table.items()}
            if self.mistake == "forgets the second key" and len(op.keys) > 1:
                self.table = {k: v for k, v in self.table.items() if k != op.keys[1]}
                self.table.update({k: v for k, v in before.items() if k == op.keys[1]})
            if self.mistake == "text":
                self.table = {k: (v.replace(b"\0", b""), end) for k, (v, end) in self.table.items()}
            results.append(result)
        return results

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        found = super().scan(prefix)
        return found[::-1] if self.mistake == "scans backwards" else found


@pytest.mark.parametrize("mistake", ["whole seconds", "no expiry", "forgets the second key", "text", "scans backwards"])
def test_the_conformance_suite_catches(mistake: str) -> None:
    with pytest.raises(AssertionError, match="expected"):
        check_store(lambda clock: Broken(clock, mistake))


def test_the_reference_passes_its_own_suite() -> None:
    check_store(lambda clock: Broken(clock, "none"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis-nonsense://user:secret@host", "no store for the scheme 'redis-nonsense'"),
        ("sqlite://file.db", "three slashes"),
        ("sqlite:///", "no file"),
        ("sqlite:///:memory:", "no file"),
        ("sqlite:////no/such/folder/x.db", "cannot use"),
        ("sqlite:///x.db?timeout=soon", "timeout is a number"),
        ("sqlite:///x.db?timeout=0", "above 0"),
        ("sqlite:///x.db?timeut=1", "no option 'timeut'"),
        ("memory://name", "takes no name"),
        ("memory://?max_bytes=1_000_000", "max_bytes is a number"),
        ("memory://?max_bytes=10", "at least"),
        ("", "no store for the scheme"),
    ],
)
def test_a_wrong_url_stops_the_start(url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_store_object_is_taken_as_it_is_and_anything_else_refused() -> None:
    store = MemoryStore()
    assert open_store(store) is store
    with pytest.raises(ConfigurationError, match="unlike dict"):
        open_store({})  # type: ignore[arg-type]
