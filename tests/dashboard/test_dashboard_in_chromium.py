"""The dashboard as operators meet it: mounted in an app on a real server, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from threading import Thread

import pytest
import uvicorn
from playwright.sync_api import Browser, ConsoleMessage, Error, Page
from starlette.applications import Starlette
from starlette.routing import Mount

from tests.dashboard.world import Desk
from tests.support.harness import Ask, ask_wsgi

SECTIONS = ("./", "keys", "refusals", "alerts", "cache", "stores", "audit", "keys/issue")
WIDTHS = "[document.querySelectorAll('h1').length, document.documentElement.scrollWidth]"


@pytest.fixture(scope="module")
def desk() -> Desk:
    found = Desk()
    found.buy(6)  # two of them are refused
    return found


@pytest.fixture(scope="module")
def root(desk: Desk) -> Iterator[str]:
    """Where the dashboard is mounted on a real server."""
    app = Starlette(routes=[Mount("/ops", app=desk.dashboard.asgi)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))
    thread = Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/ops/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One tab for all stories, which begin as a new browser does: without a cookie."""
    context = browser.new_context(viewport={"width": 390, "height": 844})
    yield context.new_page()
    context.close()


@pytest.fixture
def told(page: Page) -> Iterator[list[str]]:
    """All that a page tells on its console."""
    found: list[str] = []

    def tell(what: ConsoleMessage | Error) -> None:
        found.append(what.text if isinstance(what, ConsoleMessage) else str(what))

    page.on("console", tell)
    page.on("pageerror", tell)
    yield found
    page.remove_listener("console", tell)
    page.remove_listener("pageerror", tell)


def log_in(page: Page, root: str, desk: Desk, key: str = "") -> None:
    page.context.clear_cookies()
    page.goto(root)
    page.fill("#field-key", key or desk.admin.key.reveal())
    page.locator("main button").click()


def inside(page: Page, root: str, desk: Desk) -> None:
    """Go on with the session of the admin, or begin one."""
    if not any(cookie["name"] == "keyguard-session" for cookie in page.context.cookies()):
        log_in(page, root, desk)


def bought_with(desk: Desk, key: str) -> int:
    return ask_wsgi(desk.shop, Ask("/v1/orders", headers=(("X-API-Key", key),)), lint=False).status


def test_an_operator_logs_in_and_looks_at_all_pages(page: Page, told: list[str], root: str, desk: Desk) -> None:
    log_in(page, root, desk, desk.acme.key.reveal()[:-1] + "!")
    assert page.locator("#about-key").inner_text() == "This is not a valid key."
    assert page.locator("#field-key").input_value() == ""
    wrong = len(told)
    page.fill("#field-key", desk.admin.key.reveal())
    page.locator("main button").press("Enter")
    assert page.locator("h1").inner_text() == "Overview"
    assert page.url == root
    assert page.evaluate("document.cookie") == ""  # no script can read it
    for section in (*SECTIONS, f"keys/{desk.id}?change=revoke", f"keys/{desk.id}?span=30d"):
        answer = page.goto(root + section)
        assert answer is not None
        assert answer.status == 200, section
        assert page.evaluate(WIDTHS) == [1, 390], section  # one h1, and nothing beyond the edge of a telephone
        here = page.locator(".bar [aria-current]").bounding_box()
        nav = page.locator(".bar nav").bounding_box()
        assert here
        assert nav
        assert section == "stores" or nav["x"] <= here["x"] < here["x"] + here["width"] <= nav["x"] + nav["width"] + 1
    assert page.locator("h1").inner_text() == "nightly & sync"
    assert page.locator(".title .pill").inner_text() == "Exhausted"
    assert page.locator("main .said .what").inner_text().startswith("The daily quota of 4 was used up")
    assert told[wrong:] == []
    assert ["403" in line for line in told] == [True]  # Chromium itself tells of the answer to a wrong key


def test_a_key_is_issued_shown_once_and_revoked(page: Page, told: list[str], root: str, desk: Desk) -> None:
    inside(page, root, desk)
    page.goto(root + "keys")
    page.locator("#issue").click()
    page.fill("#field-owner", "Globex <Ltd>")
    page.fill("#field-scopes", "orders:read")
    page.fill("#field-expires", "someday")
    page.locator("main .button.main").click()
    assert page.locator("#field-expires").get_attribute("aria-invalid") == "true"
    assert page.locator("#about-expires.wrong").count() == 1
    assert page.locator("#field-owner").input_value() == "Globex <Ltd>"
    page.fill("#field-expires", "30 days")
    page.locator("main .button.main").click()
    secret = page.locator("#secret").inner_text()
    assert bought_with(desk, secret) == 200
    page.reload()  # which sends the form once more
    assert page.locator("h1").inner_text() == "This form was sent already"
    page.goto(root + "keys")
    page.locator("text=Globex <Ltd>").first.click()
    assert secret not in page.content()
    assert page.locator("h1").inner_text() == "Globex <Ltd>"
    page.locator("#revoke").click()
    page.fill("#field-reason", "leaked")
    page.locator("main .button.main").click()
    assert page.locator(".title .pill").inner_text() == "Revoked"
    assert page.locator(".actions").count() == 0
    assert bought_with(desk, secret) == 401
    assert [line for line in told if "422" not in line and "409" not in line] == []


def test_a_form_that_is_not_from_here_changes_nothing(page: Page, root: str, desk: Desk) -> None:
    inside(page, root, desk)
    page.goto(f"{root}keys/{desk.id}?change=revoke")
    page.evaluate("document.querySelector('main [name=csrf]').value = 'f0rged'")
    page.locator("main .button.main").click()
    assert page.locator("h1").inner_text() == "This form did not come from here"
    elsewhere = root.replace("127.0.0.1", "localhost")  # another site, with the same server behind it
    page.route(elsewhere, lambda route: route.fulfill(body=(
        f'<form method=post action="{root}keys/{desk.id}/revoke"><input name=reason value=x><button></form>'
    ), content_type="text/html"))  # fmt: skip
    page.goto(elsewhere)
    page.locator("button").click()
    page.wait_for_url(re.compile("127.0.0.1"))
    assert page.locator("h1").inner_text() in ("This form did not come from here", "Log in")
    assert desk.guard.keys.get(desk.id).revoked is None


def test_logging_out(page: Page, told: list[str], root: str, desk: Desk) -> None:
    inside(page, root, desk)
    page.goto(root + "audit")
    page.locator("text=Log out").click()
    page.goto(root + "keys")
    assert page.locator("h1").inner_text() == "Log in"
    assert told == []


def test_a_session_ends_with_its_key(page: Page, root: str, desk: Desk) -> None:
    key = desk.guard.keys.issue("Bob", scopes=["keyguard:read"])
    page.clock.install()
    log_in(page, root, desk, key.key.reveal())
    page.goto(f"{root}keys/{desk.id}")
    assert page.locator(".actions").count() == 0  # who may only look
    desk.guard.keys.revoke(key.record.id)
    with page.expect_navigation(url=re.compile("log-in")):
        page.clock.run_for(5000)
    assert page.locator("h1").inner_text() == "Log in"
    page.context.clear_cookies()
