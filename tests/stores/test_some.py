"""A list of some keys is bounded, however many there are, and says whether it has all."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyguard.audit import AuditLog, new_record, writing
from keyguard.keys import KeyRegistry
from keyguard.keys.listing import some_keys
from keyguard.ops import Put
from keyguard.testing import ManualClock
from tests.support.every_store import KINDS, store_of


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_many(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = store_of(kind, request, tmp_path)
    store.execute([Put(f"some|{number:02}", b"%d" % number) for number in range(12)])
    store.execute([Put("lasting|1", b"1", 60_000_000)])
    assert store.some("lasting|", 5) == ([("lasting|1", b"1")], True)
    store.execute([Put("other|1", b"1"), Put("somebody|1", b"1")])
    found, whole = store.some("some|", 20)
    assert (sorted(found), whole) == (store.scan("some|"), True)
    found, whole = store.some("some|", 12)
    assert (sorted(found), whole) == (store.scan("some|"), True)
    found, whole = store.some("some|", 5)
    assert len(set(found)) == 5
    assert set(found) < set(store.scan("some|"))
    assert not whole
    assert store.some("none|", 5) == ([], True)


def test_the_newest_keys_come_first_and_the_names_of_others_are_no_keys(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    clock = ManualClock()
    store = store_of("sqlite", request, tmp_path)
    keys = KeyRegistry(store, clock=clock)
    issued = []
    for owner in ("one", "two", "three"):
        issued.append(keys.issue_if_absent(owner, "a name"))
        clock.advance("1 second")
    there = some_keys(store, 100)
    assert [record.owner for record in there] == ["three", "two", "one"]
    assert there.whole
    store.execute([Put("key|" + "A" * 12, b"damaged")])
    assert [record.owner for record in some_keys(store, 100)] == ["three", "two", "one"]
    assert not some_keys(store, 2).whole


def test_the_latest_changes_are_found_however_long_ago_they_were(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    audit = AuditLog(store_of("sqlite", request, tmp_path))

    def change(actor: str) -> None:
        audit.store.execute([writing(new_record(clock(), actor=actor, action="keys.issue", caller=actor))])

    for actor in ("first", "second", "third"):
        change(actor)
        clock.advance("100 days")
    change("today")
    clock.advance("1 hour")
    assert [one.actor for one in audit.latest(1, now=clock())[0]] == ["today"]
    found, whole = audit.latest(10, now=clock())
    assert ([one.actor for one in found], whole) == (["today", "third", "second", "first"], True)
    assert [one.actor for one in audit.latest(10, now=clock(), actor="second")[0]] == ["second"]
    assert audit.latest(10, now=clock(), action="limits") == ([], True)
    monkeypatch.setattr("keyguard.audit._LOOKED_AT", 3)
    assert [one.actor for one in audit.latest(1, now=clock())[0]] == ["today"]
    found, whole = audit.latest(10, now=clock())
    assert ([one.actor for one in found], whole) == (["today", "third", "second", "first"], False)
    bare = AuditLog(Bare(audit.store.scan("audit|")))
    assert [one.actor for one in bare.latest(2, now=clock())[0]] == ["today", "third"]


class Bare:
    """A store of somebody's own, which can only scan."""

    def __init__(self, pairs: list[tuple[str, bytes]]) -> None:
        self.pairs = pairs

    def execute(self, ops: object) -> list[object]:
        return []

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        return [pair for pair in self.pairs if pair[0].startswith(prefix)]


def test_a_store_without_such_a_method_is_scanned() -> None:
    there = some_keys(Bare([(f"key|{number}", b"") for number in range(5)]), 3)
    assert (len(there.stored), there.whole) == (3, False)
