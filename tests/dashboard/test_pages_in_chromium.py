"""Each page in a real Chromium, under the strict policy: nothing is told on its console, and nothing is too wide."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from keyguard.dashboard import views
from tests.dashboard.other_pages import MARKUP, PAGES, store_down
from tests.dashboard.pictures import runs_out, unused, used_up
from tests.dashboard.shown import Site, site

ALL = {make.__name__: make for make in (used_up, runs_out, unused, *PAGES)}

# What a page must have, whatever it shows. Each line is a fault.
FAULTS = """() => {
  const all = (what) => [...document.querySelectorAll(what)], found = [];
  const fault = (what, elements) => elements.forEach((one) => found.push(what + ": " + one.outerHTML.slice(0, 120)));
  if (all("h1").length !== 1) found.push("not one h1, but " + all("h1").length);
  if (all("main").length !== 1) found.push("not one main");
  fault("a style or a script inside the page", all("[style], style, script:not([src]), [onclick], [onload]"));
  fault("comes from elsewhere", all("[src], link[href], form[action]").filter((one) =>
    new URL(one.src || one.href || one.action).origin !== location.origin));
  fault("a field without a label", all("input:not([type=hidden], [hidden]), select, textarea").filter((one) =>
    !one.labels.length));
  fault("a picture without words", all("svg[role]").filter((one) => !one.getAttribute("aria-label")));
  fault("a picture that is neither named nor hidden", all("main svg:not([role], [aria-hidden])").filter((one) =>
    !one.parentElement.closest("svg")));
  fault("a link or button without a name", all("a, button").filter((one) =>
    !(one.textContent.trim() || one.getAttribute("aria-label"))));
  const ids = all("[id]").map((one) => one.id);
  fault("an id that stands twice", all("[id]").filter((one) => ids.indexOf(one.id) !== ids.lastIndexOf(one.id)));
  fault("a posted form without a token", all("form[method=post]").filter((one) => !one.elements.csrf?.value));
  return found;
}"""
# What stands beyond the right edge, if it is not in a box of its own that can be moved.
TOO_WIDE = """() => [...document.querySelectorAll("body :not(.wide *, nav *, .unseen, .skip, .over, .over *)")]
  .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
  .map((one) => one.outerHTML.slice(0, 100))
  .concat(document.documentElement.scrollWidth > innerWidth ? ["the page can be moved sideways"] : [])"""


@pytest.fixture(scope="module")
def shown() -> Iterator[Site]:
    with site() as found:
        found.pages |= ALL
        yield found


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(viewport={"width": 1280, "height": 900})
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    found = context.new_page()
    yield found
    found.close()


@pytest.fixture
def told(page: Page) -> list[str]:
    """All that a page tells on its console: there is to be nothing."""
    found: list[str] = []
    page.on("console", lambda message: found.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def test_pages_are_in_order_at_each_width(page: Page, told: list[str], shown: Site) -> None:
    """All are put into one tab, one after the other: opening each anew takes a processor three times as long."""
    page.goto(shown.url + "log_in")
    each = f"""async (names) => {{
      const faults = {FAULTS}, wide = {TOO_WIDE}, found = {{}}, texts = window.texts ??= {{}};
      for (const name of names) {{
        const known = texts[name], text = known ?? await (await fetch(name)).text();
        texts[name] = text;
        document.body.replaceWith(new DOMParser().parseFromString(text, "text/html").body);
        found[name] = known ? wide() : [...faults(), ...wide()];
      }}
      return found;
    }}"""
    for width in (1280, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        names = list(ALL) if width > 320 else ["used_up", "overview", "keys", "issue", "stores", "audit"]
        found: dict[str, list[str]] = page.evaluate(each, names)
        assert {name: faults for name, faults in found.items() if faults} == {}, width
    assert told == []


def test_what_somebody_calls_a_key_is_text(page: Page, told: list[str], shown: Site) -> None:
    def hostile() -> views.OneKey:
        page = runs_out()
        share = views.Share(MARKUP, 3, href="javascript:alert(1)")
        return replace(
            page,
            head=replace(page.head, name=MARKUP, owner=MARKUP, plan=MARKUP, subject=MARKUP, scopes=(MARKUP,)),
            verdict=views.Verdict("fine", sentences=(MARKUP, MARKUP)),
            routes=views.Shares((share,), 3),
            latest=tuple([replace(row, route=MARKUP, client=MARKUP, policies=(MARKUP,)) for row in page.latest or ()]),
        )

    shown.pages["hostile"] = hostile
    page.goto(shown.url + "hostile")
    assert page.locator("h1").inner_text() == MARKUP
    assert page.title() == f"{MARKUP} – keyguard"
    assert page.locator("main script, main b[title]:not(.pair b)").count() == 0
    page.locator(".shares a").first.click()  # the policy runs no script of a link
    assert all("Content Security Policy" in line for line in told)


def test_text_of_charts_is_as_large_on_a_telephone(page: Page, shown: Site) -> None:
    page.goto(shown.url + "runs_out")
    sizes = """() => [...document.querySelectorAll(".chart .axis")].filter((one) => one.getBoundingClientRect().width)
        .map((one) => [one.textContent, getComputedStyle(one).fontSize, one.getBoundingClientRect().width])"""
    wide = page.evaluate(sizes)
    page.set_viewport_size({"width": 390, "height": 844})
    narrow = page.evaluate(sizes)
    assert {size for _, size, _ in wide + narrow} == {"11.5px"}
    widths = {text: width for text, _, width in wide}
    assert all(abs(width - widths[text]) < 0.5 for text, _, width in narrow)
    assert [text for text, _, _ in narrow if ":" in text and text[0].isdigit()] == [
        "00:00", "06:00", "12:00", "18:00", "24:00", "18:00", "06:00", "12:00",
    ]  # fmt: skip


def test_colours_and_motion_follow_the_system(page: Page, shown: Site) -> None:
    page.goto(shown.url + "used_up")
    colours = """() => ["body", ".card", ".chart path.served", ".chart .usage", "main .said"].map((what) => {
        const style = getComputedStyle(document.querySelector(what));
        return what.startsWith(".chart") ? style.fill : style.backgroundColor })"""
    page.emulate_media(color_scheme="light")
    assert page.evaluate(colours) == [
        "rgb(245, 246, 248)", "rgb(255, 255, 255)", "rgb(31, 87, 168)", "rgb(208, 130, 0)", "rgb(253, 238, 236)",
    ]  # fmt: skip
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colours)[:4] == [
        "rgb(14, 17, 22)", "rgb(22, 26, 33)", "rgb(91, 151, 236)", "rgb(242, 176, 74)",
    ]  # fmt: skip
    page.evaluate("document.querySelector('main').setAttribute('aria-busy', 'true')")
    moving = "getComputedStyle(document.querySelector('main'), '::before').animationName"
    page.emulate_media(reduced_motion="no-preference")
    assert "waiting" in page.evaluate(moving)
    page.emulate_media(reduced_motion="reduce")
    assert "waiting" not in page.evaluate(moving)


def test_the_keyboard_reaches_all_and_sees_where_it_is(page: Page, shown: Site) -> None:
    page.goto(shown.url + "runs_out")
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("one => one === document.activeElement && one.getBoundingClientRect().top >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = []
    for _ in range(9):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline == "solid", name
        seen.append(name)
    assert seen == [
        "Keys", "Change limits", "Rotate", "Revoke", "1 h", "24 h", "7 d", "30 d", "The same as a table",
    ]  # fmt: skip
    page.locator("#requests-table summary").press("Enter")
    assert page.locator("#requests-table tbody tr").count() == 96
    assert "15:15" in page.locator("#requests-table tbody tr").first.inner_text()


class TestLive:
    """The page fetches itself, and says so if it cannot. Time is the browser's own, and moved by hand."""

    def opened(self, page: Page, shown: Site, make: Callable[[], views.Page]) -> None:
        shown.pages["live"] = make
        shown.asked.clear()
        shown.status = 200
        now = datetime.now(UTC)
        page.clock.install(time=now)
        page.clock.pause_at(now + timedelta(minutes=1))  # or it would go on by itself, too
        page.goto(shown.url + "live?span=24h")

    def rounds(self, page: Page, shown: Site, count: int = 1) -> None:
        """Let five seconds pass, and wait for the request that they bring."""
        for _ in range(count):
            before = len(shown.asked)
            with page.expect_response(lambda response: "/live" in response.url):
                page.clock.run_for(5000)
            assert len(shown.asked) == before + 1
            page.locator('main[aria-busy="false"]').wait_for()

    def test_it_shows_what_is_new_and_keeps_what_is_open(self, page: Page, told: list[str], shown: Site) -> None:
        now = [runs_out()]
        self.opened(page, shown, lambda: now[0])
        page.locator("#requests-table summary").click()
        page.locator("main .crumbs a").focus()
        page.locator("#requests-table .wide").evaluate("one => one.scrollTo(0, 700)")
        page.evaluate("window.first = document.querySelector('main')")
        self.rounds(page, shown)
        assert shown.asked[-1] == ("live", 304)
        assert page.evaluate("window.first === document.querySelector('main')")
        now[0] = used_up()
        self.rounds(page, shown)
        assert page.locator("h1").inner_text() == "Acme nightly sync"
        assert page.title() == "Acme nightly sync – keyguard"
        assert page.locator("#requests-table").get_attribute("open") is not None
        assert page.locator("#requests-table .wide").evaluate("one => one.scrollTop") == 700
        assert page.evaluate("document.activeElement.textContent") == "Keys"
        self.rounds(page, shown)
        assert shown.asked[-1] == ("live", 304)
        assert page.url.endswith("live?span=24h")
        assert told == []

    def test_not_while_somebody_is_at_work(self, page: Page, shown: Site) -> None:
        self.opened(page, shown, lambda: replace(ALL["refusals"](), shell=runs_out().shell))
        page.locator("#request").focus()
        page.clock.run_for(20_000)
        page.evaluate("document.activeElement.blur(); getSelection().selectAllChildren(document.querySelector('h1'))")
        page.clock.run_for(20_000)
        page.evaluate(
            "getSelection().empty(); Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})"
        )
        page.clock.run_for(20_000)
        assert shown.asked == [("live", 200)]
        page.evaluate("delete document.hidden")
        self.rounds(page, shown)
        assert page.locator(".bar time").inner_text() == "15:25:15 UTC"

    def test_a_form_is_left_alone(self, page: Page, shown: Site) -> None:
        self.opened(page, shown, ALL["issue"])
        page.clock.run_for(60_000)
        assert shown.asked == [("live", 200)]

    def test_it_tells_if_nobody_answers(self, page: Page, shown: Site) -> None:
        self.opened(page, shown, runs_out)
        late = page.locator(".late")
        assert late.is_hidden()
        shown.status = 500
        self.rounds(page, shown, 2)
        assert late.inner_text().startswith("No answer since 15:24:15 UTC.")
        shown.status = 200
        self.rounds(page, shown)
        assert late.is_hidden()

    def test_a_session_that_has_ended_leads_to_the_log_in(self, page: Page, shown: Site) -> None:
        self.opened(page, shown, runs_out)
        shown.status = 401
        with page.expect_navigation():
            page.clock.run_for(5000)
        shown.status = 200
        assert page.locator("h1").inner_text() == "Log in"


def test_the_store_is_down(page: Page, shown: Site) -> None:
    shown.pages["down"] = store_down
    page.goto(shown.url + "down")
    assert page.locator(".light").inner_text() == "Stores and processes:\nRedis out of order"
    assert [said.inner_text().split(":")[0] for said in page.locator(".said:visible .what").all()] == [
        "As of 15",
        "The store is out of order since 15",
    ]
    assert page.locator(".grid").evaluate("one => getComputedStyle(one).filter") == "grayscale(1)"
