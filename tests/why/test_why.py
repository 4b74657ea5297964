"""`guard.why` and `keyguard why`: what bars a caller, since when, who has spent it, until when, and what helps."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from keyguard import APIKeys, Ban, ConfigurationError, Keyguard, RateLimit, Request, Usage, quota
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


def test_what_is_over_in_a_moment_is_a_warning_and_other_limits_are_told_with_their_span(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(quota("10/day"), "4/second", by="subject"))
    shop.ask(times=6)
    found = shop.guard.why("acme")
    assert (found.state, found.level, found.limits[0].name) == ("exhausted", "warning", "subject:4/second")
    assert found.headline[1] == "acme works again at 08:00:01, in 1 s."
    shop.clock.advance("1 second")
    shop.ask(times=6, every="1 second")
    shop.rest()
    shop.ask(times=3)
    shop.rest()
    found = shop.guard.why("acme")
    assert (found.state, found.level) == ("exhausted", "bad")
    assert found.details[2:] == (
        "3 requests were refused since.",
        "In the last 24 h 2 requests were refused by subject:4/second.",
        "The counter and the ledger agree.",
    )


def test_what_is_nearly_used_up_and_what_nobody_has_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop = Shop(tmp_path, RateLimit(quota("10/day"), by="subject"))
    assert shop.why(capsys, "acme").splitlines()[:2] == [
        "acme: not used (2027-01-15 08:00:00 UTC)",
        "Nothing has been asked for in the last 24 h, and nothing bars the caller.",
    ]
    shop.ask(times=8)
    shop.rest()
    assert shop.why(capsys, "acme").splitlines()[:2] == [
        "acme: nearly used up (2027-01-15 08:00:02 UTC)",
        "80 % of the daily quota of 10 is used: 2 are left until 00:00.",
    ]


@pytest.mark.parametrize(
    ("change", "state", "said", "helps"),
    [
        ("disable", "disabled", "The key is disabled, and is refused until it is enabled again.", "keys enable"),
        ("rotate", "replaced", "has stopped working at 08:00:00.", "The client has to use its successor"),
    ],
)
def test_other_states_of_a_key(change: str, state: str, said: str, helps: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    if change == "rotate":
        shop.guard.keys.rotate(shop.id, overlap=0)
    else:
        shop.guard.keys.disable(shop.id)
    shop.clock.advance("1 hour")
    found = shop.guard.why(shop.id)
    assert (found.state, found.level, found.subject) == (state, "bad", "acme")
    assert said.replace("08:00:00", "08:00") in found.headline[0]
    assert helps in found.advice[0]


def test_a_key_that_begins_later(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    id = shop.guard.keys.issue("bolt", not_before="2 hours").record.id
    found = shop.guard.why(id)
    assert (found.state, found.headline) == ("pending", ("The key works only later: at 10:00, in 2 h.",))


def test_limits_of_which_nothing_can_be_told_are_named(tmp_path: Path) -> None:
    def chosen(request: Request) -> str:
        return "5/minute"

    by_plan = RateLimit(plans={"free": "2/day", "pro": "100/day"}, default="free", by="subject", name="plans")
    shop = Shop(tmp_path, by_plan, RateLimit(chosen, by="subject", name="chosen"))
    found = shop.guard.why("somebody")
    assert found.unseen == (
        "'plans' depends on the caller's plan, which no key tells (--plan)",
        "a function chooses the limits of 'chosen' on each request",
    )
    assert "Not looked at: a function chooses the limits of 'chosen' on each request." in found.details
    assert [limit.limit for limit in shop.guard.why("somebody", plan="free").limits] == [2]
    assert [limit.limit for limit in shop.guard.why(shop.id).limits] == [100]


def test_two_bans_in_a_row_and_the_ban_of_an_address_of_a_key(tmp_path: Path) -> None:
    ban = Ban(after="2/minute", of=(404,), for_="10 minutes", name="gate")
    shop = Shop(tmp_path, outer=[ban])
    for _ in range(2):
        shop.ask("/nowhere", times=3, client="203.0.113.9")
        shop.clock.advance("11 minutes")
    shop.ask("/nowhere", times=3, client="203.0.113.9")
    shop.rest()
    found = shop.guard.why("203.0.113.9")
    assert found.headline[1] == "It is let in again at 08:32, in 9 min 58 s. It is the ban number 3 in a row."
    of_key = shop.guard.why(shop.id)
    assert (of_key.state, [one.caller for one in of_key.bans]) == ("works", ["203.0.113.9"])
    told = "The address 203.0.113.9, from which it has called, is banned by gate: it is let in at 08:32, in 9 min 58 s."
    assert told in of_key.details


def test_under_test_no_ledger_is_asked() -> None:
    guard = Keyguard(APIKeys(), RateLimit("2/hour", by="subject"), store="memory://", usage=Usage())
    with guard.testing():
        key = guard.keys.issue("acme").key.reveal()
        play(guard, headers={"X-API-Key": key})
        assert guard.why("acme").ledger == "none"


def test_odd_names_are_callers_like_others(tmp_path: Path) -> None:
    shop = Shop(tmp_path, RateLimit(quota("1/day"), by="subject"))
    for subject in ("*", "-", "<b>&amp;", "bölt", "x" * 200):
        key = shop.guard.keys.issue("odd", subject=subject).key.reveal()
        shop.ask(times=2, key=key)
        shop.rest()
        found = shop.guard.why(subject)
        assert (found.state, found.requests is not None and found.requests.requests) == ("exhausted", 2), subject
    with pytest.raises(ValueError, match="a caller is an address"):
        shop.guard.why("")
    with pytest.raises(ConfigurationError, match="since is a duration"):
        shop.guard.why("acme", since="soon")
