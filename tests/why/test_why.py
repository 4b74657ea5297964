"""`guard.why` and `keyguard why`: what bars a caller, since when, who has spent it, until when, and what helps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, Usage, quota
from keyguard.cli.command_line import main
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from tests.why.world import Shop


def test_a_quota_that_is_used_up(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(quota("20/day"), "100/second", by="subject"))
    shop.ask("/v1/export", times=12, every="10 minutes")
    shop.ask("/v1/orders/17", times=8, every="10 minutes", client="203.0.113.7")
    shop.ask("/v1/orders/17", times=5)
    shop.rest()
    found = shop.guard.why(shop.id)
    assert (found.state, found.level, found.exhausted, found.kind, found.subject) == (
        "exhausted", "bad", True, "key", "acme"
    )  # fmt: skip
    assert found.headline == (
        "The daily quota of 20 was used up at 11:10.",
        "The key works again at 00:00, in 12 h 40 min.",
    )
    assert found.details == (
        "60 % went to GET /v1/export.",
        "68 % of the requests came from 198.51.100.1.",
        "5 requests were refused since.",
        "The counter and the ledger agree.",
    )
    assert found.advice == (
        "Wait: it works again at 00:00.",
        "Let it go on now: keyguard limits grant acme 2 --limit subject:20/day.",
    )
    first, second = found.limits
    assert (first.kind, first.unit, first.spent, first.remaining, first.refused) == ("quota", "day", 20, 0, 5)
    assert (second.kind, second.remaining) == ("window", 100)
    assert (found.requests is not None and found.requests.requests, found.ledger) == (25, "complete")
    assert [(row.name, row.units, row.share) for row in found.routes] == [
        ("GET /v1/export", 12, 0.6),
        ("GET /v1/orders/<id>", 8, 0.4),
    ]
    of_subject = shop.guard.why("acme")
    assert [(key.id, key.status, key.requests) for key in of_subject.keys] == [(shop.id, "active", 25)]
    assert of_subject.headline[1] == "acme works again at 00:00, in 12 h 40 min."
    assert shop.guard.why(shop.key).headline == found.headline
    assert asyncio.run(shop.guard.awhy(shop.id)) == found


def test_json_has_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path, RateLimit(quota("2/day"), by="subject"))
    shop.ask(times=3)
    shop.rest()
    capsys.readouterr()
    assert main(["why", "acme", "--json"], app=shop.guard) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == shop.guard.why("acme").as_json()
    assert (found["state"], found["limits"][0]["works_at"]) == ("exhausted", "2027-01-16T00:00:00Z")


def test_a_request_is_explained_by_its_id_and_a_response_by_its_url(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit("1/hour", by="subject"))
    shop.ask()
    answer = shop.ask()
    id = json.loads(answer.body)["instance"]
    found = shop.guard.explain(id)
    assert str(found).splitlines() == [
        "GET /v1/orders of acme at 08:00 UTC was refused, with status 429: limit reached.",
        "subject:1/hour had 0 of 1 units left.",
        "It would have been admitted with 1 more, or at 09:00, in 1 h.",
    ]
    shop.rest()
    others = Keyguard(
        APIKeys(), store=SQLiteStore(tmp_path / "k.db", clock=shop.clock), usage=Usage(), clock=shop.clock, name="other"
    )
    assert others.explain(id) == found
    assert others.refusals("acme") == others.refusals() == (found,)
    assert asyncio.run(others.aexplain(id)) == found
    assert str(others.explain("unheard")).startswith("No request of this id is known")
    with pytest.raises(ConfigurationError, match="no ResponseCache"):
        others.explain("/v1/orders")
    with pytest.raises(ConfigurationError, match="no requests are remembered"):
        Keyguard(store="memory://").explain(id)


def test_without_a_ledger_it_says_what_it_can() -> None:
    guard = Keyguard(APIKeys(), RateLimit("2/hour", by="key"), store="memory://", clock=ManualClock())
    issued = guard.keys.issue("acme")
    for _ in range(3):
        play(guard, headers={"X-API-Key": issued.key.reveal()})
    for who in (issued.record.id, "acme"):
        found = guard.why(who)
        assert (found.state, found.requests, found.ledger) == ("exhausted", None, "none")
        assert found.headline[0] == "The limit of 2 an hour is used up."
        assert found.details == ("No ledger is kept, Keyguard(usage=Usage()): who has asked for what is not known.",)
