"""The audit log: what was changed by hand stands there, in order, for 400 days, on every store."""

from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, AuditLog, AuditRecord, ConfigurationError, Keyguard, ResponseCache, StoreError
from keyguard.audit import KEPT, decode, encode, new_record, writing
from keyguard.keys import ForeignKey, KeyRegistry
from keyguard.ops import Put
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.every_store import KINDS, store_of

NOON = 1_790_000_000_000_000


def record(number: int = 0, **given: Any) -> AuditRecord:
    wanted = {"actor": "ada", "action": "limits.grant", "caller": "acme", "limit": "key:5/day", **given}
    return new_record(NOON + number, before={"spent": 5}, after={"spent": 5 - number}, **wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_listed_as_they_were_written_oldest_first(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = store_of(kind, request, tmp_path)
    records = [record(3, action="bans.lift", limit=None), record(1), record(2, caller="bolt", actor="bob"), record(1)]
    for one in records:
        assert store.execute([writing(one)]) == [True]
    log = AuditLog(store)
    assert log.list() == sorted(records, key=lambda one: one.at)
    assert log.list(action="limits") == [records[1], records[3], records[2]]
    assert log.list(action="lim") == []
    assert log.list(caller="bolt") == log.list(actor="bob") == [records[2]]
    assert log.list(since=records[2].at) == [records[2], records[0]]
    assert asyncio.run(log.alist(since=records[0].at)) == [records[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_that_is_sent_again_stands_there_once_and_none_is_written_over(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = store_of(kind, request, tmp_path)
    one = record()
    other = AuditRecord(one.at, "mallory", "limits.reset", id=one.id)
    assert store.execute([writing(one), writing(one), writing(other)]) == [True, False, False]
    assert AuditLog(store).list() == [one]


def test_a_record_leaves_after_400_days() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    store.execute([writing(record())])
    clock.advance(timedelta(microseconds=KEPT - 1))
    assert len(AuditLog(store).list()) == 1
    clock.advance(timedelta(microseconds=1))
    assert AuditLog(store).list() == []


def test_a_stack_shows_its_stores_log() -> None:
    store = MemoryStore()
    store.execute([writing(record())])
    assert [one.actor for one in Keyguard(store=store).audit.list()] == ["ada"]


def test_its_format_is_json_with_a_version() -> None:
    """Others read it: what stands here stays as it is."""
    one = record(7)
    assert json.loads(encode(one)) == {
        "v": 1, "at": NOON + 7, "actor": "ada", "action": "limits.grant", "caller": "acme", "limit": "key:5/day",
        "before": {"spent": 5}, "after": {"spent": -2},
    }  # fmt: skip
    assert one.key == f"audit|{one.id}"
    assert len(one.id) == 32
    assert one.id.startswith(f"{NOON + 7:016x}")
    assert decode(one.id, encode(one)) == one


def test_what_cannot_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.execute([writing(record()), Put("audit|later", b'{"v": 2}'), Put("audit|dam\naged", b"{}")])
    with caplog.at_level(logging.WARNING):
        assert len(AuditLog(store).list()) == 1
    assert [one.getMessage() for one in caplog.records] == ["the audit record 'dam\\naged' is damaged"]
    with pytest.raises(StoreError, match="damaged"):
        decode("1", b'{"v": 1, "at": "soon"}')


@pytest.mark.parametrize("actor", ["", " ", "a\nb", "a" * 257, None, 7])
def test_an_actor_is_a_name(actor: Any) -> None:
    with pytest.raises(ValueError, match="actor is a printable text"):
        new_record(NOON, actor=actor, action="limits.reset")


def test_a_moment_has_a_time_zone() -> None:
    with pytest.raises(ConfigurationError, match="since is a datetime with a time zone"):
        AuditLog(MemoryStore()).list(since=datetime(2026, 1, 1))
    assert AuditLog(MemoryStore()).list(since=datetime(2026, 1, 1, tzinfo=UTC)) == []


# -- what is noted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_change_of_a_key_is_noted_whoever_makes_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    guard = Keyguard(APIKeys(), store=store_of(kind, request, tmp_path))
    keys = guard.keys
    first = keys.issue("acme", plan="free", metadata={"card": "4929-1234"}, actor="ada").record
    keys.update(first.id, plan="pro", actor="bob")
    keys.update(first.id, plan="pro", actor="bob")  # which changes nothing
    keys.disable(first.id)
    keys.enable(first.id)
    second = keys.rotate(first.id, overlap=timedelta(hours=1), actor="ada").record
    keys.revoke(first.id, "left")
    keys.revoke(first.id, "left again")
    keys.delete(first.id, actor="ada")
    asyncio.run(keys.aupdate(second.id, owner="Acme Ltd", actor="eve"))
    keys.issue_if_absent("acme", "main", actor="deploy")
    keys.issue_if_absent("acme", "main", actor="deploy")
    keys.import_keys([ForeignKey("bolt", key="sk_live_51Hx8zQ9rT2mVbN4")], actor="ada")
    told = [(one.actor, one.action) for one in sorted(guard.audit.list(), key=lambda one: one.action)]
    assert told == [
        ("ada", "keys.delete"),
        ("app", "keys.disable"),
        ("app", "keys.enable"),
        ("ada", "keys.import"),
        ("ada", "keys.issue"),
        ("deploy", "keys.issue"),
        ("app", "keys.revoke"),
        ("ada", "keys.rotate"),
        ("bob", "keys.update"),
        ("eve", "keys.update"),
    ]
    (update,) = guard.audit.list(actor="bob")
    assert (update.caller, update.before, update.after) == (first.id, {"plan": "free"}, {"plan": "pro"})
    (rotated,) = guard.audit.list(action="keys.rotate")
    assert rotated.after == {"replaced_by": second.id, "overlap": "1 hour"}
    assert "4929" not in str(guard.audit.list())


def test_a_key_that_was_made_is_not_lost_with_its_record(caplog: pytest.LogCaptureFixture) -> None:
    class Deaf(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            if any(key.startswith("audit|") for op in ops for key in op.keys):
                raise StoreError("it is full\nof records")
            return super().execute(ops)

    keys = KeyRegistry(Deaf())
    with caplog.at_level(logging.WARNING):
        issued = keys.issue("acme")
    assert keys.get(issued.record.id) == issued.record
    assert [one.getMessage() for one in caplog.records] == [
        "the change keys.issue was made, and is not in the audit log: it is full\\nof records"
    ]


def test_whoever_changes_a_key_has_a_name() -> None:
    keys = KeyRegistry(MemoryStore())
    id = keys.issue("acme").record.id
    bad: Any = "a\nb"
    for change in (
        lambda: keys.issue("acme", actor=bad),
        lambda: keys.issue_if_absent("acme", "main", actor=bad),
        lambda: keys.update(id, plan="pro", actor=bad),
        lambda: keys.rotate(id, actor=bad),
        lambda: keys.revoke(id, actor=bad),
        lambda: keys.disable(id, actor=bad),
        lambda: keys.enable(id, actor=bad),
        lambda: keys.delete(id, actor=bad),
        lambda: keys.migrate(actor=bad),
        lambda: keys.import_keys([], actor=bad),
    ):
        with pytest.raises(ValueError, match="actor is a printable text"):
            change()
    assert [record.status(datetime.now(UTC)) for record in keys.list()] == ["active"]


def test_a_purge_is_noted_if_somebody_makes_it_and_its_query_is_not() -> None:
    guard = Keyguard(ResponseCache(store=MemoryStore()), store=MemoryStore())
    guard.cache.purge("/products/7")
    guard.cache.purge("https://ada:secret@example.com/products?api_key=kg_live_1", actor="ada")
    guard.cache.purge(tag="products", actor="ada")
    asyncio.run(guard.cache.apurge_all(actor="bob"))
    told = [(one.actor, one.action, one.after["purged"]) for one in guard.audit.list()]
    assert sorted(told) == [
        ("ada", "cache.purge", "https://example.com/products?..."),
        ("ada", "cache.purge", "the tag products"),
        ("bob", "cache.purge", "everything"),
    ]
    with pytest.raises(ValueError, match="actor is a printable text"):
        guard.cache.purge_all(actor="")
