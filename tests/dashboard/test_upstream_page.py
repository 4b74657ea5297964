"""The page about the app's own keys: what it shows of a pool, and its form, which has a key tried again."""

from __future__ import annotations

import re
from typing import Any

import pytest

from keyguard import Key, KeyPool, StoreError
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.dashboard.other_pages import upstream
from tests.dashboard.test_pages_of_data import words
from tests.dashboard.test_words import read
from tests.dashboard.world import WORLDS, Desk

pytestmark = pytest.mark.filterwarnings("ignore:Absolute URLs required for location header")

MONEY = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Pay first."}}'


class Away(MemoryStore):
    """A store that answers or does not."""

    away = False

    def execute(self, ops: Any) -> list[Any]:
        if self.away:
            raise StoreError("it is away")
        return super().execute(ops)


class Office:
    """A dashboard, and a pool of which one key must be paid for."""

    def __init__(self) -> None:
        clock = ManualClock()
        clock.advance("15 hours")
        self.store = Away(clock=clock)
        keys = [Key("eu", "sk-secret-eu", group="org-a"), Key("spare", "sk-secret-spare", group="org-b", rank=1)]
        self.pool = KeyPool.openai(keys, store=self.store, clock=clock, max_wait=0, limits={"org-a": {"rpm": 500}})
        with self.pool.acquire() as grant:
            grant.report(429, {}, MONEY)
        self.pool.close()
        self.desk = Desk(pools=[self.pool])

    def state(self) -> str:
        self.pool.close()
        return str(self.pool.snapshot().groups[0].cause)


def test_a_pool_is_shown_with_its_groups_keys_and_limits() -> None:
    said = read(upstream())
    for part in ("openai", "3 requests of this process waiting", "Quota used up", "To be paid for", "Not valid"):
        assert part in said
    for part in ("nobody knows", "200 000 of 200 000", "tpm (learnt)", "again in 20 s", "1 left", "gpt-5*"):
        assert part in said
    assert said.count("Try again") == 3  # not what works
    assert "Its store is out of order" in said


@pytest.mark.parametrize("world", WORLDS)
def test_a_key_that_was_paid_for_is_tried_again(world: str) -> None:
    office = Office()
    browser = office.desk.inside(world)
    page = browser.text("/upstream")
    assert "sk-" not in page
    assert re.search("eu To be paid for .*org-a .*nobody knows Try again", words(page))
    assert "499 left" in words(page)
    assert office.state() == "billing"
    assert browser.form("/upstream", "/upstream/enable", pool="openai", key="eu").status == 303
    after = words(browser.text(browser.follow("/upstream/enable")))
    assert "are tried again at once" in after
    assert "Try again" not in after
    assert office.state() == "ok"
    (record,) = office.desk.guard.audit.list(action="upstream")
    assert (record.action, record.caller) == ("upstream.enable", "openai/eu")
    assert record.before == {"state": "ok", "cause": "billing"}
    assert record.actor.startswith("ada at work")
    assert 'href="./upstream"' in browser.text("/audit").partition("<main")[2]


def test_what_cannot_be_done_changes_nothing_and_says_so() -> None:
    office = Office()
    browser = office.desk.inside("wsgi")
    wrong = [({"pool": "other", "key": "eu"}, 404), ({"pool": "openai", "key": "us"}, 404), ({"pool": "openai"}, 404)]
    for form, status in wrong:
        assert browser.form("/upstream", "/upstream/enable", **form).status == status
    assert browser.post("/upstream/enable", {"pool": "openai", "key": "eu"}).status == 403  # not from the page
    reader = office.desk.inside("wsgi", office.desk.reader)
    assert "Try again" not in words(reader.text("/upstream"))
    assert reader.form("/upstream", "/upstream/enable", pool="openai", key="eu").status == 403
    office.store.away = True
    answer = browser.form("/upstream", "/upstream/enable", pool="openai", key="eu")
    assert answer.status == 503
    assert "Nothing was changed." in words(answer.body.decode())
    assert "Its store is out of order" in words(answer.body.decode())
    office.store.away = False
    assert office.state() == "billing"
    assert office.desk.guard.audit.list(action="upstream") == []


def test_without_pools_there_is_no_page_and_no_link() -> None:
    browser = Desk().inside("wsgi")
    assert browser.get("/upstream").status == 404
    assert "upstream" not in browser.text("/")
    assert 'href="./upstream"' in Office().desk.inside("wsgi").text("/")
