"""What the pages say: each is read as an operator reads it, and held to what has happened."""

from __future__ import annotations

import html
import re
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from keyguard import Alerts
from tests.dashboard.world import WORLDS, Browser, Desk
from tests.support.every_store import url_of

pytestmark = pytest.mark.filterwarnings("ignore:Absolute URLs required for location header")


def words(page: str) -> str:
    """Return what stands in a page, without its marks."""
    main = page.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    main = re.sub(r"<svg.*?</svg>", " ", main, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", main)).split()).replace("\u202f", " ").replace("\u2009", " ")


@pytest.mark.parametrize("world", WORLDS)
def test_the_story_of_a_key_that_is_exhausted(world: str) -> None:
    """The page says by which limit, since when and until when; so do the refusals, the alerts and the overview."""
    desk = Desk(alerts=Alerts())
    desk.buy(3)
    desk.clock.advance("20 minutes")
    last = desk.buy(3)
    assert last.status == 429
    desk.clock.advance("3 seconds")
    browser = desk.inside(world)
    page = browser.text(f"/keys/{desk.id}")
    said = words(page)
    assert "Exhausted" in said
    assert "23:20" in said  # when it was used up
    assert "00:00" in said  # when it works again
    assert "4 of 4" in said
    row = words(browser.text("/keys"))
    assert "Exhausted" in row
    assert "100 %" in row  # of the quota
    assert "Limit reached" in said
    assert "198.51.100.1" in said
    assert "daily:4/day" in words(browser.text("/stores"))
    assert "acme" in words(browser.text("/"))
    assert "100 % of daily:4/day used" in words(browser.text("/alerts"))
    listed = words(browser.text("/refusals?cause=usage"))
    assert "Limit reached" in listed
    request_id = desk.guard.refusals("acme")[0].request_id
    explained = words(browser.text(f"/refusals?request={request_id}"))
    assert "daily:4/day" in explained
    assert "No refusal with this" in words(browser.text("/refusals?request=nothing-of-ours"))


@pytest.mark.parametrize("world", WORLDS)
def test_a_key_from_issue_to_revocation(world: str) -> None:
    """It is shown once, rotated, changed, found and revoked; each change stands in the audit log under the operator."""
    desk = Desk()
    browser = desk.inside(world)
    answer = browser.form(
        "/keys/issue", "/keys/issue", owner="Globex <i>", name="trial", scopes="read, write", expires="30 days", plan=""
    )
    assert answer.status == 200
    (secret,) = set(re.findall(r"kg_live_\w{12}_\w{38}", answer.body.decode()))
    assert answer.get("cache-control") == "no-store"
    id = secret.split("_")[2]
    record = desk.guard.keys.get(secret)
    assert (record.owner, record.name, sorted(record.scopes)) == ("Globex <i>", "trial", ["read", "write"])
    assert secret.split("_")[3] not in browser.text(f"/keys/{id}") + browser.text("/keys") + browser.text("/audit")
    # By its text, as it may have leaked; it does not come back in a URL.
    assert browser.form("/keys", "/keys/find", find=secret).status == 303
    assert browser.follow("/keys/find") == f"/keys/{id}"
    assert browser.get(f"/keys?find={secret}").get("location") == f"./keys/{id}"
    assert browser.form("/keys", "/keys/find", find="globex <I>").status == 303
    assert id in browser.text(browser.follow("/keys/find"))
    # Changed, and what is not in the form stays.
    target = f"/keys/{id}/update"
    assert browser.form(f"/keys/{id}?change=update", target, plan="pro", expires="2027-03-01").status == 303
    record = desk.guard.keys.get(id)
    assert (record.plan, sorted(record.scopes), f"{record.expires:%d.%m.%Y}") == (
        "pro",
        ["read", "write"],
        "01.03.2027",
    )
    answer = browser.form(f"/keys/{id}?change=rotate", f"/keys/{id}/rotate", overlap="2 hours")
    (other,) = set(re.findall(r"kg_live_\w{12}_\w{38}", answer.body.decode()))
    assert desk.guard.keys.get(other).replaces == id
    answer = browser.form(f"/keys/{id}?change=rotate", f"/keys/{id}/rotate", overlap="2 hours")
    assert answer.status == 422  # it was rotated already
    assert "rotated already" in words(answer.body.decode())
    new = other.split("_")[2]
    assert browser.form(f"/keys/{new}?change=revoke", f"/keys/{new}/revoke", reason="it <b>leaked").status == 303
    assert "it <b>leaked" in words(browser.text(browser.follow(f"/keys/{new}/revoke")))
    actor = f"ada at work ({desk.admin.record.id})"
    done = [one.action for one in desk.guard.audit.list(actor=actor)]
    assert sorted(done) == ["keys.issue", "keys.revoke", "keys.rotate", "keys.update"]
    assert "keys.rotate" in words(browser.text("/audit"))
    assert "keys.rotate" not in words(browser.text("/audit?what=keys.revoke"))


@pytest.mark.parametrize("world", WORLDS)
def test_a_form_that_is_sent_twice_makes_one_key(world: str) -> None:
    desk = Desk()
    browser = desk.inside(world)
    text = browser.text("/keys/issue")
    form = {**dict(re.findall(r'name="(csrf|once)" value="([^"]+)"', text)), "owner": "Globex"}
    assert browser.post("/keys/issue", {**form, "expires": "whenever"}).status == 422  # a mistake does not use it up
    assert [browser.post("/keys/issue", form).status for _ in range(2)] == [200, 409]
    assert len(desk.guard.keys.list(owner="Globex")) == 1
    assert browser.post("/keys/issue", {**form, "once": ""}).status == 400


WRONG = [
    ({"owner": ""}, "Say who answers for the key"),
    ({"scopes": 'a"b'}, "scope"),
    ({"networks": "10.0.0.0/99"}, "10.0.0.0/99"),
    ({"expires": "2027-02-30"}, "There is no such day"),
    ({"expires": "tomorrow"}, "Write a day"),
    ({"expires": "2020-01-01"}, "expires"),
    ({"name": "kg_live_4fK2mQ9xTzLb_" + "x" * 38}, "holds a whole key"),
    ({"plan": "a\x07b"}, "printable"),
]


@pytest.mark.parametrize(("form", "says"), WRONG, ids=[str(form) for form, _ in WRONG])
def test_what_is_wrong_with_a_form_is_said_in_it(form: dict[str, str], says: str) -> None:
    desk = Desk()
    browser = desk.inside("wsgi")
    answer = browser.form("/keys/issue", "/keys/issue", **{"owner": "Globex", **form})
    assert answer.status == 422
    assert says.lower() in words(answer.body.decode()).lower()
    assert desk.guard.keys.list(owner="Globex") == []
    if form.get("owner") != "":
        assert 'value="Globex"' in answer.body.decode()


EVIL = "<script>alert(1)</script>\"'&{{7*7}}"


@pytest.mark.parametrize("target", ["", "keys", "keys/{id}", "keys/{id}?change=update", "refusals", "alerts", "audit"])
def test_markup_in_texts_of_others_stays_text(target: str) -> None:
    desk = Desk(alerts=Alerts())
    desk.guard.keys.update(desk.id, owner=EVIL, plan=EVIL)
    evil = desk.guard.keys.issue(EVIL, subject=EVIL, name=EVIL)
    desk.acme = evil
    desk.buy(6, "/<script>alert(2)</script>")
    desk.clock.advance("3 seconds")
    browser = desk.inside("wsgi", desk.guard.keys.issue(EVIL, scopes=["keyguard:admin"]))
    page = browser.text("/" + target.replace("{id}", evil.record.id))
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "{{7*7}}" in words(page)
    assert all(" src=" in mark for mark in re.findall(r"<script[^>]*>", page))
    assert not re.search(r"<[^>]+\s(?:on\w+|style)=", page)
    browser.text("/keys?find=%3Cscript%3Ealert(3)%22")


@pytest.mark.parametrize("world", WORLDS)
def test_a_page_that_has_not_changed_is_not_sent_again(world: str) -> None:
    desk = Desk()
    desk.buy(2)
    browser = desk.inside(world)
    first = browser.get(f"/keys/{desk.id}")
    tag = first.get("etag")
    assert tag is not None
    again = browser.get(f"/keys/{desk.id}", **{"If-None-Match": tag})
    assert (again.status, again.body, again.get("etag")) == (304, b"", tag)
    desk.buy(1)
    changed = browser.get(f"/keys/{desk.id}", **{"If-None-Match": tag})
    assert changed.status == 200
    assert changed.get("etag") != tag
    style = re.search(r'href="([^"]+dashboard\.css\?v=[^"]+)"', first.body.decode())
    assert style is not None
    assert browser.get("/" + style[1].replace("../", "")).get("cache-control") == "public, max-age=31536000, immutable"
    assert browser.get("/static/dashboard.css?v=old").get("cache-control") == "no-cache"


@cache
def busy() -> tuple[Desk, Browser]:
    """Return a desk at which something has happened, and that nobody changes."""
    desk = Desk(alerts=Alerts())
    desk.buy(6)
    desk.clock.advance("3 seconds")
    return desk, desk.inside("wsgi")


@pytest.mark.parametrize("target", ["", "keys", "keys/{id}", "refusals", "alerts", "cache", "stores", "audit"])
def test_all_links_are_relative_and_lead_somewhere(target: str) -> None:
    desk, browser = busy()
    asked = "/" + target.replace("{id}", desk.id)
    page = browser.text(asked)
    links = set(re.findall(r'(?:href|src|action)="([^"#]*)"', page))
    assert links
    for link in links:
        assert not re.match(r"[a-z]+:|/", link), link
        browser.answer.headers.append(("location", html.unescape(link)))  # type: ignore[union-attr]
        place = browser.follow(asked)
        browser.answer.headers.pop()  # type: ignore[union-attr]
        assert place.startswith("/"), link
        assert browser.ask(browser.app, _of(browser, place)).status in (200, 303, 405), (link, place)


def _of(browser: Any, place: str) -> Any:
    from tests.support.harness import Ask

    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return Ask("/ops" + place, (("Cookie", cookies),), root="/ops")


def test_without_a_ledger_it_starts_and_says_what_is_missing() -> None:
    desk = Desk(usage=False)
    desk.buy(6)
    browser = desk.inside("wsgi")
    for target in ("/", f"/keys/{desk.id}", "/refusals", "/stores", "/keys"):
        assert "Usage()" in words(browser.text(target)), target
    assert "4 of 4" in words(browser.text(f"/keys/{desk.id}"))  # the counters are known without it


def test_a_list_of_many_keys_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("keyguard.dashboard.pages.keys"), "MOST_KEYS", 60)
    desk = Desk()
    for number in range(58):
        desk.guard.keys.issue(f"owner {number}")
    browser = desk.inside("wsgi")
    page = browser.text("/keys")
    assert len(set(re.findall(r'keys/([0-9A-Za-z]{12})"', page))) == 50
    more = re.search(r'href="(\./keys\?skip=50)"', page)
    assert more is not None
    assert len(set(re.findall(r'keys/([0-9A-Za-z]{12})"', browser.text("/keys?skip=50")))) == 10
    assert "of 61" not in words(page)  # nobody has counted them
    # Whoever has called is found by the subject all the same, and each key by its id.
    desk.buy(1)
    monkeypatch.setattr(import_module("keyguard.dashboard.pages.keys"), "MOST_KEYS", 0)
    assert desk.id in browser.text("/keys?find=acme")
    oldest = desk.guard.keys.list()[0].id
    assert f'keys/{oldest}"' in browser.text(f"/keys?find={oldest}")
    assert browser.form("/keys", "/keys/find", find=oldest).status == 303
    assert "of 61" not in words(browser.text(browser.follow("/keys/find")))
    assert browser.get(f"/keys/{oldest}").status == 200


def test_the_cache_and_what_is_purged() -> None:
    desk = Desk()
    browser = desk.inside("wsgi")
    desk.buy(1, "/page")
    assert "no-store" in words(browser.text("/cache?url=/page"))
    assert browser.form("/cache", "/cache/purge", url="/page").status == 200
    assert browser.form("/cache", "/cache/purge").status == 422
    assert browser.form("/cache", "/cache/purge", url="::").status in (200, 422)
    assert [one.action for one in desk.guard.audit.list(action="cache")] != []


@pytest.mark.parametrize("kind", ["redis", "cluster", "postgresql"])
def test_on_every_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Under an event loop, where what blocks is asked in a thread."""
    desk = Desk(store=url_of(kind, request, tmp_path))
    request.addfinalizer(desk.guard.close)
    desk.buy(5)
    browser = desk.inside("asgi")
    assert "Exhausted" in words(browser.text(f"/keys/{desk.id}"))
    issued = browser.form("/keys/issue", "/keys/issue", owner="Globex")
    assert issued.status == 200
    assert "Globex" in words(browser.text("/keys"))
    assert "keys.issue" in words(browser.text("/audit"))
    assert browser.form(f"/keys/{desk.id}?change=revoke", f"/keys/{desk.id}/revoke").status == 303
    assert "revoked" in words(browser.text(f"/keys/{desk.id}")).lower()
