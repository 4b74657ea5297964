"""Alerts about the app's own keys: what a pool finds out is told once, by whichever process, until it has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard import AlertMessage, Alerts, Key, Keyguard, KeyPool, StoreError, UpstreamExhausted
from keyguard.ops import DecideAlerts
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock

UPSTREAM = "keyguard.upstream."
MONEY = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Pay first."}}'
DEAD = b'{"error": {"type": "invalid_request_error", "code": "invalid_api_key", "message": "Incorrect key."}}'


class Process:
    """A stack with a pool, as one process has them."""

    def __init__(self, clock: ManualClock, store: Any, **settings: Any) -> None:
        self.clock = clock
        self.told: list[AlertMessage] = []
        keys = [Key("eu", "sk-secret-eu", group="org-a"), Key("us", "sk-secret-us", group="org-b", rank=1)]
        self.pool = KeyPool.openai(keys, store=store, clock=clock, max_wait=0)
        alerts = Alerts(to=[self.told.append], **settings)
        self.guard = Keyguard(store=store, clock=clock, alerts=alerts, pools=[self.pool], name="shop")
        self.guard.wsgi(lambda environ, start_response: [])
        alerts.begin()

    def call(self, answers: Callable[[str], tuple[int, dict[str, str], bytes]]) -> str:
        """Send one request, as the first key that has room; that is how `answers` say by the key's id."""
        try:
            with self.pool.acquire() as grant:
                grant.report(*answers(grant.key.id))
                return grant.key.id
        except UpstreamExhausted:
            return ""

    @property
    def kinds(self) -> list[str]:
        return [message.type.removeprefix(UPSTREAM) for message in self.told]


def rest(*processes: Process, seconds: int = 5) -> None:
    for _ in range(seconds):
        processes[0].clock.advance("1 second")


def fine(key: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, b""


def eu(status: int, body: bytes = b"", **fields: str) -> Callable[[str], tuple[int, dict[str, str], bytes]]:
    """Answers that refuse the first key."""
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return lambda key: (status, headers, body) if key == "eu" else fine(key)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def two(clock: ManualClock) -> tuple[Process, Process]:
    store = MemoryStore(clock=clock)
    return Process(clock, store), Process(clock, store)


def told(*processes: Process) -> list[str]:
    return [kind for process in processes for kind in process.kinds]


def both(two: tuple[Process, Process], answer: tuple[int, dict[str, str], bytes]) -> None:
    """Each process sends a request as the first key, before either has its answer."""
    one, other = two
    with one.pool.acquire() as first, other.pool.acquire() as second:
        assert (first.key.id, second.key.id) == ("eu", "eu")
        first.report(*answer)
        second.report(*answer)


def test_a_key_that_is_used_up_is_told_once_and_that_it_works_again(two: tuple[Process, Process]) -> None:
    both(two, (429, {"retry-after": "3600"}, b""))
    rest(*two)
    assert told(*two) == ["key.exhausted"]
    (message,) = [message for process in two for message in process.told]
    assert (message.severity, message.facts["group"], message.facts["key"]) == ("warning", "org-a", "eu")
    assert message.title == "The limit group org-a of the pool openai is used up"
    assert message.text.startswith("A limit of the provider is reached (exhausted), as the key eu was told. It works")
    assert str(message.facts["until"])[:16] in message.text.replace(" ", "T")
    two[0].clock.advance("30 minutes")
    two[0].pool.enable("eu")
    assert [process.call(fine) for process in two] == ["eu", "eu"]
    rest(*two)
    assert told(*two).count("key.exhausted.resolved") == 1
    assert len(told(*two)) == 2
    assert "sk-" not in "".join(str(message) for process in two for message in process.told)


def test_it_is_over_at_the_moment_that_the_provider_told_though_nobody_asks(two: tuple[Process, Process]) -> None:
    two[0].call(eu(429, retry_after="3600"))
    rest(*two)
    two[0].clock.advance("1 hour")
    rest(*two)
    assert sorted(told(*two)) == ["key.exhausted", "key.exhausted.resolved"]


def test_a_limit_that_has_room_again_within_minutes_is_no_alert(two: tuple[Process, Process]) -> None:
    for _ in range(5):
        two[0].call(eu(429, retry_after="20"))
        rest(*two, seconds=60)
    assert told(*two) == []


@pytest.mark.parametrize(
    ("answer", "kind", "title"),
    [
        ((401, {}, DEAD), "key.invalid", "The key eu of the pool openai is not valid any more"),
        ((429, {}, MONEY), "group.billing", "The limit group org-a of the pool openai has no money left"),
    ],
)
def test_what_only_people_can_help_with_is_told_once_until_they_have(
    two: tuple[Process, Process], answer: Any, kind: str, title: str
) -> None:
    both(two, answer)
    for _ in range(30):
        for process in two:
            process.call(eu(answer[0], answer[2]))
        rest(*two, seconds=1)
        two[0].clock.advance("5 minutes")
    assert told(*two) == [kind]
    (message,) = [message for process in two for message in process.told]
    assert (message.severity, message.title) == ("critical", title)
    assert message.text.endswith("Nobody knows when it works again.")
    two[1].pool.enable("eu")
    assert two[1].call(fine) == "eu"
    rest(*two)
    assert sorted(told(*two)) == [kind, f"{kind}.resolved"]


def test_that_somebody_else_had_a_key_tried_again_is_read_from_the_store(clock: ManualClock, tmp_path: Path) -> None:
    """Who has found out that a key is dead may have ended meanwhile; others share its store, and close the alert."""
    url = tmp_path / "keys.db"
    first = Process(clock, SQLiteStore(url, clock=clock))
    first.call(eu(401, DEAD))
    rest(first)
    first.guard.close()
    clock.advance("2 hours")
    other = Process(clock, SQLiteStore(url, clock=clock))
    rest(other, seconds=50)
    assert told(first, other) == ["key.invalid"]
    operator = KeyPool.openai(other.pool.keys, store=SQLiteStore(url, clock=clock), clock=clock)
    operator.enable("eu")
    rest(other, seconds=15)
    assert told(first, other) == ["key.invalid", "key.invalid.resolved"]
    other.guard.close()


def test_a_pool_without_room_is_told_also_at_night_and_over_when_nobody_is_given_up(clock: ManualClock) -> None:
    process = Process(clock, MemoryStore(clock=clock), quiet="00:00-23:59 UTC")
    for _ in range(5):
        process.call(lambda key: (429, {"retry-after": "600"}, b""))
        rest(process, seconds=50)
    assert process.kinds == ["pool.exhausted"]
    (message,) = process.told
    assert (message.severity, message.title) == ("critical", "All keys of the pool openai are used up")
    assert "Requests are given up" in message.text
    rest(process, seconds=200)
    assert process.kinds == ["pool.exhausted", "pool.exhausted.resolved"]


def test_what_is_found_out_while_the_store_is_away_is_told_when_it_answers(clock: ManualClock) -> None:
    class Away(MemoryStore):
        away = False
        decided = 0

        def execute(self, ops: Any) -> list[Any]:
            if self.away:
                raise StoreError("it is away")
            self.decided += sum(isinstance(op, DecideAlerts) for op in ops)
            return super().execute(ops)

    store = Away(clock=clock)
    process = Process(clock, store)
    store.away = True
    process.call(eu(401, DEAD))
    rest(process, seconds=2)
    assert process.kinds == []
    store.away = False
    rest(process, seconds=60)
    assert process.kinds == ["key.invalid"]
    assert store.decided == 1  # and nothing more is asked of the store while nothing happens


def test_alerts_about_keys_are_counted_listed_and_in_the_audit_log(two: tuple[Process, Process]) -> None:
    two[0].call(eu(401, DEAD))
    rest(*two)
    (alert,) = two[1].guard.alerts.list()
    assert (alert.type, alert.open) == (f"{UPSTREAM}key.invalid", True)
    assert [record.action for record in two[1].guard.audit.list()] == ["alerts.fire"]
    assert two[0].guard.alerts.counts == {f"{UPSTREAM}key.invalid": 1}
