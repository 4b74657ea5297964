"""Who gets in, who may change something, and what stops everybody else: by ASGI and WSGI the same."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest

from keyguard import Alerts, APIKeys, ConfigurationError, Keyguard, StoreError
from keyguard.alerts.book import STATE_KEY
from keyguard.keys import record_key
from keyguard.ops import Put
from keyguard.request import Request
from keyguard.response import Response
from keyguard.stores.memory import MemoryStore
from tests.dashboard.world import WORLDS, Browser, Desk, named
from tests.support.harness import Ask, ask_asgi, ask_wsgi

# Its rule is that of RFC 2616; by RFC 9110, section 10.2.2, a place may be relative.
pytestmark = pytest.mark.filterwarnings("ignore:Absolute URLs required for location header")

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Row:
    name: str
    status: int
    target: str = "/"
    method: str = "GET"
    who: str = "admin"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: bool = False
    """Whether the right field `csrf` is added to the body."""
    has: dict[str, str | None] = field(default_factory=dict)
    says: str = ""


TABLE = [
    Row("the overview", 200),
    Row("the overview, without its slash", 307, "", has={"location": "ops/"}),
    *[Row(f"the page {page}", 200, f"/{page}") for page in ("keys", "refusals", "alerts", "cache", "stores", "audit")],
    Row("the form of a new key", 200, "/keys/issue"),
    Row("a key", 200, "/keys/{id}"),
    Row("a key that is not there", 404, "/keys/4fK2mQ9xTzLb"),
    Row("a page that is not there", 404, "/nothing"),
    Row("a page below one", 404, "/keys/{id}/more/and/more"),
    Row("a slash too many", 404, "/keys//"),
    Row("a path that can be read in two ways", 404, "/keys%2Fissue"),
    Row("dot segments", 404, "/keys/../audit"),
    Row("the head of a page", 200, "/keys", "HEAD", has={"content-type": "text/html; charset=utf-8"}),
    Row("another method", 405, "/keys", "DELETE", has={"allow": "GET, HEAD"}),
    Row("a method that nobody knows", 405, "/", "BREW", has={"allow": "GET, HEAD"}),
    Row("a form for a page that takes none", 405, "/audit", "POST", headers=FORM, token=True),
    Row("a form for no page", 404, "/nothing", "POST", headers=FORM, token=True),
    Row("a style", 200, "/static/dashboard.css", who="", has={"content-type": "text/css; charset=utf-8"}),
    Row("a file that is not there", 303, "/static/secrets.txt", who=""),
    Row("a file of the folder above", 404, "/static/..%2Fpage.py"),
    # Forms
    Row("a form of another site", 403, "/keys/issue", "POST", headers={**FORM, "Sec-Fetch-Site": "cross-site"},
        token=True, says="csrf"),
    Row("one of a neighbour's host", 403, "/keys/issue", "POST", headers={**FORM, "Sec-Fetch-Site": "same-site"},
        token=True),
    Row("one without its token", 403, "/keys/issue", "POST", headers=FORM, body=b"owner=Eve"),
    Row("one with another token", 403, "/keys/issue", "POST", headers=FORM, body=b"owner=Eve&csrf=AAAA"),
    Row("an old browser's", 400, "/keys/issue", "POST", token=True,
        headers={"Content-Type": FORM["Content-Type"], "Origin": "http://example.test"}),
    Row("an old browser's from another site", 403, "/keys/issue", "POST", token=True,
        headers={"Content-Type": FORM["Content-Type"], "Origin": "https://evil.example"}),
    Row("one whose origin is not told", 403, "/keys/issue", "POST", token=True,
        headers={"Content-Type": FORM["Content-Type"], "Origin": "null"}),
    Row("one from nowhere", 403, "/keys/issue", "POST", token=True, headers={"Content-Type": FORM["Content-Type"]}),
    Row("JSON", 400, "/keys/issue", "POST", headers={**FORM, "Content-Type": "application/json"}, body=b"{}"),
    Row("a file", 400, "/keys/issue", "POST", headers={**FORM, "Content-Type": "multipart/form-data; boundary=x"},
        body=b"--x--"),
    Row("a form in another charset", 400, "/keys/issue", "POST", body=b"a=b",
        headers={**FORM, "Content-Type": "application/x-www-form-urlencoded; charset=utf-16"}),
    Row("a form with a field twice", 400, "/keys/issue", "POST", headers=FORM, body=b"owner=a&owner=b", token=True),
    Row("a form of many fields", 400, "/keys/issue", "POST", headers=FORM,
        body=b"&".join(b"f%d=" % n for n in range(40))),
    Row("bytes that are no text", 400, "/keys/issue", "POST", headers=FORM, body=b"owner=%ff", token=True),
    Row("a huge form", 413, "/keys/issue", "POST", headers=FORM, body=b"owner=" + b"x" * 40_000),
    Row("no form at all", 400, "/keys/issue", "POST", headers=FORM, token=True),
    # Those who only look
    Row("a reader sees a key", 200, "/keys/{id}", who="reader"),
    Row("a reader sees no form", 403, "/keys/issue", who="reader"),
    Row("a reader issues nothing", 403, "/keys/issue", "POST", who="reader", headers=FORM, token=True),
    Row("a reader revokes nothing", 403, "/keys/{id}/revoke", "POST", who="reader", headers=FORM, token=True),
    # Nobody
    Row("nobody sees the overview", 303, "/", who="", has={"location": "./log-in"}),
    Row("nobody sees a key, and comes back to it", 303, "/keys/{id}?span=7d", who="",
        has={"location": "../log-in?next=keys/{id}%3Fspan=7d"}),
    Row("a script is told", 401, "/", who="", headers={"Sec-Fetch-Dest": "empty"},
        has={"www-authenticate": 'Cookie realm="keyguard"', "location": None}),
    Row("somebody from a link in a message asks again", 200, "/", who="",
        headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, has={"refresh": "0"}),
    Row("nobody sends a form", 401, "/keys/{id}/revoke", "POST", who="", headers=FORM, token=True),
    Row("a made-up session", 303, "/", who="",
        headers={"Cookie": "__Host-keyguard-session=4fK2mQ9xTzLb.99999999999." + "A" * 16 + "." + "B" * 43}),
    Row("a session that is none", 303, "/", who="", headers={"Cookie": "__Host-keyguard-session=x"}),
]  # fmt: skip


@cache
def there(world: str, who: str) -> tuple[Desk, Browser, str]:
    """Return a desk that no row changes, a browser of somebody, and the token of their forms."""
    desk = Desk() if not who else there(world, "")[0]
    browser = desk.inside(world, getattr(desk, who)) if who else desk.browser(world)
    return desk, browser, browser.token("/" if who else "/log-in")


def outcome(world: str, row: Row) -> Any:
    desk, browser, token = there(world, row.who)
    body = b"&".join([one for one in (row.body, b"csrf=" + token.encode() if row.token else b"") if one])
    length = {"Content-Length": str(len(body))} if row.method == "POST" else {}
    return desk, browser.send(row.method, row.target.replace("{id}", desk.id), body, **row.headers, **length)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_table(row: Row) -> None:
    """Each row is asked in both worlds, which answer the same."""
    heads = []
    for world in WORLDS:
        desk, answer = outcome(world, row)
        assert answer.status == row.status, (world, answer.body[-2000:])
        for name, value in row.has.items():
            assert answer.get(name) == (value and value.replace("{id}", desk.id)), (world, name)
        assert answer.get("x-content-type-options") == "nosniff"
        assert answer.get("referrer-policy") == "same-origin"
        assert (answer.get("content-security-policy") or "").startswith("default-src 'none'")
        if not row.target.startswith("/static/dashboard"):
            assert answer.get("cache-control") == "no-store"
        heads.append(sorted({name for name, _ in answer.headers}))
    assert heads[0] == heads[1]


@pytest.mark.parametrize("world", WORLDS)
def test_a_session_from_log_in_to_log_out(world: str) -> None:
    desk = Desk()
    browser = desk.browser(world)
    answer = browser.log_in(desk.admin.key.reveal(), next=f"keys/{desk.id}?span=7d")
    assert answer.status == 303
    assert browser.follow("/log-in") == f"/keys/{desk.id}?span=7d"
    cookie = answer.all("set-cookie")[-1]
    assert cookie.startswith(f"__Host-keyguard-session={desk.admin.record.id}.")
    assert {part.strip() for part in cookie.split(";")[1:]} == {"Path=/", "Secure", "HttpOnly", "SameSite=Strict"}
    assert desk.admin.key.reveal().split("_")[3] not in cookie
    assert browser.get("/log-in").status == 303  # who is there need not knock
    before = dict(browser.cookies)
    assert browser.form("/", "/log-out").status == 303
    assert browser.follow("/log-out") == "/log-in"
    assert "__Host-keyguard-session" not in browser.cookies
    assert browser.get("/").status == 303
    browser.cookies = before
    desk.clock.advance("7 hours 59 minutes")
    assert browser.get("/").status == 200
    desk.clock.advance("1 minute")
    assert browser.get("/").status == 303
    assert b"ended" in browser.get("/log-in").body
    assert "__Host-keyguard-session" not in browser.cookies


@pytest.mark.parametrize("world", WORLDS)
def test_a_session_ends_with_its_key(world: str) -> None:
    desk = Desk()
    browser, reader = desk.inside(world), desk.inside(world, desk.reader)
    desk.guard.keys.update(desk.admin.record.id, scopes=["keyguard:read"])
    assert browser.get("/keys/issue").status == 403
    desk.guard.keys.update(desk.admin.record.id, scopes=[])
    assert browser.get("/").status == 303
    desk.guard.keys.revoke(desk.reader.record.id)
    assert reader.get("/", **{"Sec-Fetch-Dest": "empty"}).status == 401
    assert reader.get("/").status == 303


@pytest.mark.parametrize("world", WORLDS)
def test_a_key_that_may_not_be_used_from_there(world: str) -> None:
    desk = Desk()
    desk.guard.keys.update(desk.admin.record.id, networks=["203.0.113.0/24"])
    assert desk.browser(world).log_in(desk.admin.key.reveal()).status == 403
    desk.guard.keys.update(desk.admin.record.id, networks=["198.51.100.0/24"])
    browser = desk.inside(world)
    desk.guard.keys.update(desk.admin.record.id, networks=["203.0.113.0/24"])
    assert browser.get("/").status == 303


@pytest.mark.parametrize("world", WORLDS)
def test_wrong_keys_count_as_guesses_of_their_address(world: str) -> None:
    """They share the limit of the app's `APIKeys`, 20 a minute. A right key passes until then."""
    desk = Desk()
    browser = desk.browser(world)
    token = browser.token()
    wrong = desk.admin.key.reveal()[:-8] + "AAAAAAAA"
    statuses = [browser.post("/log-in", {"key": wrong, "csrf": token}).status for _ in range(20)]
    assert set(statuses) == {403}
    assert browser.post("/log-in", {"key": "hunter2", "csrf": token}).status == 429
    assert browser.post("/log-in", {"key": desk.acme.key.reveal(), "csrf": token}).status == 429


@pytest.mark.parametrize(
    "place", ["https://evil.example/", "//evil.example", "/\\evil.example", "../../x", "keys\r\nA: b"]
)
def test_a_log_in_leads_nowhere_else(place: str) -> None:
    desk = Desk()
    browser = desk.browser("wsgi")
    browser.log_in(desk.admin.key.reveal(), next=place)
    assert browser.follow("/log-in") == "/"


@pytest.mark.parametrize("world", WORLDS)
def test_without_tls(world: str) -> None:
    """On this machine it works, by cookies that need not be secure. From elsewhere no key is taken in clear."""
    desk = Desk()
    browser = desk.browser(world)
    token = browser.token()
    form = {"key": desk.admin.key.reveal(), "csrf": token}
    answer = browser.post("/log-in", form, Origin="http://example.test")
    assert answer.status == 403
    assert answer.all("set-cookie") == []
    for host in ("127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        ask, app = (ask_asgi, desk.dashboard.asgi) if world == "asgi" else (ask_wsgi, desk.dashboard.wsgi)
        headers = (("Host", host),)
        page = ask(app, Ask("/log-in", headers, host=False))
        (cookie,) = page.all("set-cookie")
        assert cookie.startswith("keyguard-form=")
        assert "Secure" not in cookie
        forwarded = ask(app, Ask("/log-in", (*headers, ("X-Forwarded-For", "203.0.113.1")), host=False))
        assert forwarded.all("set-cookie")[0].startswith("__Host-keyguard-form=")


@pytest.mark.parametrize("world", WORLDS)
def test_a_forged_host_is_repeated_nowhere(world: str) -> None:
    desk = Desk()
    browser = desk.inside(world)
    for target in ("/", "", "/keys", "/nothing"):
        headers = (("Host", "evil.example"), ("X-Forwarded-Host", "evil.example"))
        cookies = (("Cookie", "; ".join(f"{name}={value}" for name, value in browser.cookies.items())),)
        for pairs in (headers, headers + cookies):
            answer = browser.ask(browser.app, Ask(f"/ops{target}", pairs, root="/ops", host=False))
            assert b"evil" not in answer.body + repr(answer.headers).encode()


@pytest.mark.parametrize("world", WORLDS)
def test_operators_that_the_app_knows(world: str) -> None:
    desk = Desk(auth=named)
    ada = desk.browser(world, headers={"X-Operator": "ada"})
    assert "ada" in ada.text("/")
    assert ada.get("/log-in").status == 404
    assert ada.form(f"/keys/{desk.id}?change=revoke", f"/keys/{desk.id}/revoke", reason="it leaked").status == 303
    assert [(one.actor, one.action) for one in desk.guard.audit.list(action="keys.revoke")] == [("ada", "keys.revoke")]
    nobody = desk.browser(world)
    assert nobody.get("/").status == 403
    assert nobody.get("/static/dashboard.css").status == 200
    # A form that somebody was sent with another cookie is not one of theirs.
    eve = desk.browser(world, headers={"X-Operator": "ada"})
    assert eve.post("/keys/issue", {"csrf": ada.token("/keys/issue"), "owner": "Eve"}).status == 403


@pytest.mark.parametrize("world", WORLDS)
def test_what_a_function_may_return(world: str) -> None:
    def auth(request: Request) -> Any:
        return {"b": Response(302, [("Location", "/sso")]), "n": 7, "e": ""}.get(request.header("x-case") or "")

    desk = Desk(auth=auth)
    assert desk.browser(world, headers={"X-Case": "b"}).get("/").get("location") == "/sso"
    assert desk.browser(world, headers={"X-Case": "n"}).get("/").status == 503
    assert desk.browser(world, headers={"X-Case": "e"}).get("/").status == 503
    assert desk.browser(world).get("/").status == 403


def test_a_function_that_is_async_or_fails() -> None:
    async def auth(request: Request) -> str | None:
        return "ada" if request.header("x-operator") else None

    desk = Desk(auth=auth)
    assert desk.browser("asgi", headers={"X-Operator": "1"}).get("/").status == 200
    assert desk.browser("asgi").get("/").status == 403
    with pytest.raises(ConfigurationError, match="async"):
        _ = desk.dashboard.wsgi

    def broken(request: Request) -> str:
        raise LookupError("of the app's own")

    assert Desk(auth=broken).browser("wsgi").get("/").status == 503


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "who may see the dashboard"),
        ({"auth": None}, "who may see the dashboard"),
        ({"auth": "key"}, "auth is 'keys', or a function"),
        ({"auth": True}, "auth is 'keys', or a function"),
        ({"auth": lambda: "ada"}, "auth is called with the request alone"),
    ],
)
def test_a_dashboard_for_everybody_does_not_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Keyguard(APIKeys(), store="memory://").dashboard(**options)


def test_keys_that_nobody_could_have(tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs an APIKeys"):
        Keyguard(store="memory://").dashboard(auth="keys")
    with pytest.raises(ConfigurationError, match="needs an APIKeys"):
        Keyguard(APIKeys(lookup=lambda key: None), store="memory://").dashboard(auth="keys")
    with pytest.raises(ConfigurationError, match="KEYGUARD_PEPPER"):
        Keyguard(APIKeys(), store=f"sqlite:///{tmp_path}/k.db").dashboard(auth="keys")


def test_without_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyguard.dashboard.mounted.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'keyguard\[dashboard\]'"):
        Keyguard(APIKeys(), store="memory://").dashboard(auth="keys")


class Failing(MemoryStore):
    """A store that can be out of order."""

    failing = False

    def execute(self, ops: Any) -> Any:
        if self.failing:
            raise StoreError("nobody answers")
        return super().execute(ops)


@pytest.mark.parametrize("world", WORLDS)
def test_a_store_that_is_out_of_order(world: str) -> None:
    """Who was let in just now sees what was read last, and may change nothing; others come in when it is back."""
    desk = Desk(store=Failing)
    browser = desk.inside(world)
    page = browser.text("/keys")
    token = browser.token("/")
    desk.guard.store.failing = True  # type: ignore[attr-defined]
    answer = browser.get("/keys")
    assert answer.status == 200
    assert desk.id in page
    assert desk.id in answer.body.decode()
    assert browser.get("/audit").status == 503  # it was not shown before
    assert browser.post(f"/keys/{desk.id}/revoke", {"csrf": token}).status == 503
    stranger = desk.browser(world)
    assert stranger.log_in(desk.admin.key.reveal()).status == 503
    stranger.cookies = {"__Host-keyguard-session": browser.cookies["__Host-keyguard-session"][:-1] + "A"}
    assert stranger.get("/keys").status == 503
    desk.guard.store.failing = False  # type: ignore[attr-defined]
    assert browser.get("/audit").status == 200


@pytest.mark.parametrize("world", WORLDS)
def test_it_is_mounted_inside_its_own_limits(world: str, caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(auth=named)
    guard = Keyguard(store="memory://")
    app: Any = guard.asgi(desk.dashboard.asgi) if world == "asgi" else guard.wsgi(desk.dashboard.wsgi)
    ask = ask_asgi if world == "asgi" else ask_wsgi
    with caplog.at_level(logging.WARNING, "keyguard"):
        for _ in range(2):
            assert ask(app, Ask("/", (("X-Operator", "ada"),))).status == 200
    assert [one.message for one in caplog.records if "inside" in one.message] != []
    assert len([one for one in caplog.records if "dashboard" in one.message]) == 1


def test_a_websocket_is_refused() -> None:
    import asyncio

    desk, sent = Desk(auth=named), []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {**Ask("/").scope(), "type": "websocket", "scheme": "ws", "subprotocols": []}
    scope.pop("method")
    asyncio.run(desk.dashboard.asgi(scope, receive, send))
    assert sent[0]["type"] in ("websocket.close", "websocket.http.response.start")


def test_it_is_served_alone() -> None:
    """As the only app of a server it has a lifespan, which keyguard answers."""
    import asyncio

    desk, sent = Desk(auth=named), []
    words = iter(["startup", "shutdown"])

    async def receive() -> Any:
        return {"type": f"lifespan.{next(words)}"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(desk.dashboard.asgi({"type": "lifespan", "asgi": {"version": "3.0"}}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_secret_of_a_session_is_not_known_to_who_reads_the_store() -> None:
    """A code is made with the pepper, so another pepper makes another one, and neither is a key."""
    from keyguard.dashboard.cookies import Signing, read_session
    from keyguard.keys import Peppers

    one, other = Signing(Peppers("one pepper of many bytes")), Signing(Peppers("another pepper of bytes"))
    both = Signing(Peppers({2: "another pepper of bytes", 1: "one pepper of many bytes"}))
    session = read_session(one.new("4fK2mQ9xTzLb", b"digest", 1_000_000))
    assert session is not None
    assert one.right(session, b"digest")
    assert both.right(session, b"digest")
    assert not other.right(session, b"digest")
    assert not one.right(session, b"another record")
    named_zero = Signing(Peppers({1: "one pepper of many bytes", 0: None}))
    bare = read_session(Signing(Peppers({0: None})).new("4fK2mQ9xTzLb", b"digest", 1_000_000))
    assert bare is not None
    assert not named_zero.right(bare, b"digest")


def test_what_stands_in_the_store_may_be_of_a_later_version_or_damaged() -> None:
    """The store answers, so it is not out of order: the page says what it cannot read, and the others go on."""
    desk = Desk(alerts=Alerts())
    browser = desk.inside("wsgi")
    desk.guard.store.execute([Put(record_key("A" * 12), b"damaged"), Put(STATE_KEY, b'{"v": 99}')])
    answer = browser.get("/keys/" + "A" * 12)
    assert answer.status == 503
    assert b"damaged" in answer.body
    for page in ("/", "/keys", "/alerts", f"/keys/{desk.id}"):
        assert browser.get(page).status == 200, page


@pytest.mark.parametrize("skip", ["50", "-1", "x", "9" * 5000, "\u0663", ""])
def test_a_list_begins_anywhere(skip: str) -> None:
    _, browser, _ = there("wsgi", "admin")
    for page in ("keys", "audit"):
        assert browser.get(f"/{page}?skip={quote(skip)}").status == 200


@pytest.mark.parametrize("world", WORLDS)
def test_a_key_leaves_no_trace(world: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the log, not in the store, not in a header: neither the key that logs in, nor those that are looked for
    or issued."""
    with caplog.at_level(logging.DEBUG):
        desk = Desk()
        browser = desk.inside(world)
        wrong = desk.admin.key.reveal()[:-1] + "x"
        answers = [browser.answer, desk.browser(world).log_in(wrong), desk.browser(world).log_in("hunter2 of Ada")]
        answers.append(browser.form("/keys", "/keys/find", find=desk.acme.key.reveal()))
        issued = browser.form("/keys/issue", "/keys/issue", owner="Globex")
        answers += [browser.get(f"/{page}") for page in ("", "keys", "audit", f"keys/{desk.id}")]
    new = re.findall(r"kg_live_\w{12}_(\w{38})", issued.body.decode())[0]
    secrets = [key.key.reveal().rpartition("_")[2] for key in (desk.admin, desk.acme)]
    told = "".join(repr(answer) for answer in answers) + repr(issued.headers) + caplog.text
    told += repr(list(desk.guard.store.scan("")))
    for secret in (*secrets, new, wrong.rpartition("_")[2], "hunter2"):
        assert secret not in told


@pytest.mark.parametrize("world", WORLDS)
def test_who_only_looks_may_look_for_a_key(world: str) -> None:
    desk = Desk()
    browser = desk.inside(world, desk.reader)
    assert browser.form("/keys", "/keys/find", find="acme").status == 303
    assert browser.follow("/keys/find") == "/keys?find=acme"
    assert browser.post("/keys/find", {"find": "acme", "csrf": "another"}).status == 403
