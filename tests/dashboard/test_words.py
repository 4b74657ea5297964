"""What pages say, and how they write numbers, moments and scales: tables, and the sentences of the pictures."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from html import unescape

import pytest

from keyguard.dashboard import looks, views
from keyguard.dashboard.looks import formats, limits, scales, sentences, words
from keyguard.refusal import Cause
from tests.dashboard.other_pages import issue, issued, overview
from tests.dashboard.pictures import DAY, MIDNIGHT, NOW, daily, head, runs_out, shell, today, unused, used_up

WEEK = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")


def plain(text: str) -> str:
    """A text with all spaces as one writes them."""
    return " ".join(re.sub("[\u2009\u00a0]", " ", text).split())


def read(page: views.Page) -> str:
    """What one reads of a page."""
    body = looks.page(page).body.decode()
    assert re.search(r"\sstyle=|<style|<script(?! defer src)|\son[a-z]+=", body) is None
    return plain(unescape(re.sub(r"<[^>]+>", " ", body.split("<main", 1)[1].split(">", 1)[1])))


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (formats.number(0), "0"),
        (formats.number(999), "999"),
        (formats.number(16_000), "16 000"),
        (formats.number(-1_234_567), "-1 234 567"),
        (formats.share(0), "0 %"),
        (formats.share(0.0001), "< 1 %"),
        (formats.share(0.4575), "46 %"),
        (formats.share(0.9999), "99 %"),
        (formats.share(1), "100 %"),
        (formats.size(512), "512 B"),
        (formats.size(64_000_000), "64 MB"),
        (formats.took(0.0004), "0.4 ms"),
        (formats.took(0.000001), "< 0.1 ms"),
        (formats.took(0.0123), "12 ms"),
        (formats.took(1.25), "1.2 s"),
        (formats.span(timedelta(0)), "0 s"),
        (formats.span(timedelta(seconds=0.2)), "1 s"),
        (formats.span(timedelta(hours=8, minutes=35, seconds=50)), "8 h 36 min"),
        (formats.span(timedelta(hours=23, minutes=59, seconds=30)), "1 d"),
        (formats.span(timedelta(days=2, hours=1, minutes=4)), "2 d 1 h"),
        (formats.span(timedelta(hours=5, minutes=43), short=True), "5 h"),
        (formats.span(timedelta(minutes=8), long=True), "8 minutes"),
        (formats.ago(NOW, NOW), "now"),
        (formats.ago(NOW + timedelta(minutes=10), NOW), "now"),  # another clock is ahead
        (formats.ago(NOW - timedelta(seconds=47), NOW), "40 s ago"),
        (formats.ago(NOW - timedelta(minutes=3), NOW), "3 min ago"),
        (formats.ago(today("06:19"), NOW), "06:19"),
        (formats.ago(NOW - 3 * DAY, NOW), "25 Nov, 15:24"),
        (formats.moment(MIDNIGHT + DAY, NOW), "00:00"),
        (formats.moment(NOW + 400 * DAY, NOW), "2 Jan 2028, 15:24"),
        (scales.short(750), "750"),
        (scales.short(2_500), "2.5k"),
        (scales.short(20_000_000), "20M"),
    ],
)
def test_how_it_is_written(written: str, wanted: str) -> None:
    assert plain(written) == wanted


@pytest.mark.parametrize(
    ("most", "lines"),
    [
        (0, [0, 1, 2, 3, 4]),
        (1, [0, 1, 2, 3, 4]),
        (5, [0, 2, 4, 6, 8]),
        (9, [0, 5, 10, 15, 20]),  # never half a request
        (40, [0, 10, 20, 30, 40]),
        (945, [0, 250, 500, 750, 1000]),
        (20_000, [0, 5_000, 10_000, 15_000, 20_000]),
        (37_500, [0, 10_000, 20_000, 30_000, 40_000]),
        (10**12 + 1, [0, 5 * 10**11, 10**12, 15 * 10**11, 2 * 10**12]),
    ],
)
def test_lines_of_a_chart(most: int, lines: list[int]) -> None:
    assert scales.steps_up_to(most) == lines


@pytest.mark.parametrize(
    ("begin", "span", "wanted"),
    [
        (MIDNIGHT, DAY, "00:00 03:00 06:00 09:00 12:00 15:00 18:00 21:00 24:00"),
        (today("15:30") - DAY, DAY, "18:00 21:00 Sat 28 Nov 03:00 06:00 09:00 12:00 15:00"),
        (today("14:25"), timedelta(hours=1), "14:30 14:40 14:50 15:00 15:10 15:20"),
        (today("15:00") - 7 * DAY, 7 * DAY, " ".join(f"{name} {22 + at} Nov" for at, name in enumerate(WEEK))),
        (MIDNIGHT - 27 * DAY, 30 * DAY, "1 Nov 6 Nov 11 Nov 16 Nov 21 Nov 26 Nov 1 Dec"),
        (today("10:00"), timedelta(minutes=1), "10:00 10:01"),
    ],
)  # fmt: skip
def test_times_below_a_chart(begin: datetime, span: timedelta, wanted: str) -> None:
    found = scales.ticks(begin, begin + span)
    assert " ".join(tick.text for tick in found) == wanted
    assert all(0 <= tick.place <= 1 for tick in found)


@pytest.mark.parametrize(
    ("limit", "title", "short", "named"),
    [
        (daily(16_000, 0), "16 000 a day", "16 000/day", "The daily quota of 16 000"),
        (views.Limit("a", "quota", 9, "hour"), "9 an hour", "9/hour", "The hourly quota of 9"),
        (views.Limit("a", "quota", 9, timedelta(days=30)), "9 in 30 d", "9/30 d", "The quota of 9 in 30 d"),
        (views.Limit("a", "window", 20, timedelta(seconds=1)), "20 a second", "20/second", "The limit of 20 a second"),
        (views.Limit("a", "window", 5, timedelta(seconds=10)), "5 in 10 s", "5/10 s", "The limit of 5 in 10 s"),
        (views.Limit("key:d", "quota", 9, None), "key:d", "key:d", "The quota of key:d"),
        (views.Limit("a", "at-once", 4, None), "4 at once", "4 at once", "The limit of 4 at once"),
    ],
)
def test_limits_in_words(limit: views.Limit, title: str, short: str, named: str) -> None:
    assert [plain(text) for text in (limits.title(limit), limits.short(limit), limits.named(limit))] == [
        title, short, named,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("used", "left", "tone"),
    [
        (None, "not known", "quiet"),
        (0, "16 000 left", "quiet"),
        (-500, "16 500 left", "quiet"),  # more was granted than was spent
        (12_800, "3 200 left", "warn"),
        (16_000, "0 left", "bad"),
        (17_000, "0 left", "bad"),  # the limit was lowered
    ],
)
def test_meters(used: int | None, left: str, tone: str) -> None:
    found = limits.metered(replace(daily(16_000, 0), used=used), NOW)
    assert (plain(found.left), found.tone, found.note) == (left, tone, "renewed 00:00")
    assert 0 <= found.part <= 1
    assert found.used is None or found.used >= 0


@pytest.mark.parametrize(
    ("page", "what", "more"),
    [
        (
            used_up,
            "The daily quota of 16 000 was used up at 12:26. The key works again at 00:00, in 8 h 36 min.",
            "46 % went to GET /v1/export. 10 332 requests were refused since. The counter and the ledger agree.",
        ),
        (
            runs_out,
            "At this pace the daily quota of 30 000 runs out at about 18:17, 5 h before it is renewed at 00:00.",
            "Likely between 17:42 and 19:17. 46 % went to GET /v1/export, which has more than doubled since 08:40.",
        ),
        (
            unused,
            "This key has not been used yet.",
            "Its limits are whole. Usage appears here within seconds of the first request.",
        ),
    ],
)
def test_the_verdicts_of_the_pictures(page: Callable[[], views.OneKey], what: str, more: str) -> None:
    said = sentences.verdict(page().verdict, NOW, key=True)
    assert (plain(said.what), plain(said.more)) == (what, more)


@pytest.mark.parametrize(
    ("verdict", "wanted"),
    [
        (views.Verdict("revoked", since=today("09:12")), "This key was revoked at 09:12. It works nowhere."),
        (views.Verdict("expired"), "This key expired."),
        (views.Verdict("disabled", since=today("09:12")), "This key is switched off since 09:12."),
        (views.Verdict("pending", back_at=NOW + 3 * DAY), "This key works from 1 Dec, 15:24 on."),
        (views.Verdict("store-down", since=today("15:20")), "The store is out of order since 15:20."),
        (views.Verdict("exhausted"), "A limit was used up."),
        (views.Verdict("will-run-out", earliest=today("22:00")), "At this pace a limit runs out."),
        (views.Verdict("fine", sentences=("It works.", "So.")), "It works."),
    ],
)
def test_other_verdicts(verdict: views.Verdict, wanted: str) -> None:
    assert plain(sentences.verdict(verdict, NOW, key=True).what) == wanted


@pytest.mark.parametrize(
    ("alerts", "tone", "wanted"),
    [
        ((), "good", "Everything is in order, and no limit is near its end."),
        (None, "good", "The store answers, and requests are served."),
        (overview().alerts, "bad", "3 alerts are open, the latest: Acme mobile app: Will run out: 30 000/day."),
        ((overview().alerts or ())[1:2], "warn", "1 alert is open: Acme mobile app: Will run out: 30 000/day."),
    ],
    ids=["none is open", "nobody watches", "three", "one"],
)
def test_the_verdict_of_the_service(alerts: tuple[views.Alert, ...] | None, tone: str, wanted: str) -> None:
    fine = views.Verdict("fine", refused=12, whole=400)
    said = sentences.service(replace(overview(), verdict=fine, alerts=alerts), NOW)
    assert (said.tone, plain(said.what), plain(said.more)) == (tone, wanted, "12 requests refused, of 400.")


def test_a_counter_that_is_wrong_is_told() -> None:
    verdict = replace(used_up().verdict, agree=False, difference=-1_200)
    assert "The counter and the ledger differ by 1 200" in plain(sentences.verdict(verdict, NOW, key=True).more)


def test_each_kind_has_words() -> None:
    """A kind that a view may have and looks do not know would be a page that fails."""
    assert set(words.SERIES_OF) == set(views.KINDS)
    assert {cause.value for cause in Cause} <= set(words.CAUSES)
    assert words.cause("of-tomorrow").title == "Of-tomorrow"
    for kind in views.Notice.__annotations__["kind"].split('"')[1::2]:
        assert words.notice(kind, 3, "").what or kind == "failed"
    for kind in views.Verdict.__annotations__["kind"].split('"')[1::2]:
        for key in (True, False):
            assert sentences.verdict(views.Verdict(kind), NOW, key=key).what
    for kind in views.Problem.__annotations__["kind"].split('"')[1::2]:
        assert words.PROBLEMS[kind][0] in read(views.Problem(shell(""), 400, kind))
    for kind in views.LogIn.__annotations__["error"].split('"')[3::2]:
        assert words.LOG_IN_ERRORS[kind] in read(views.LogIn(shell(""), kind))
    for kind in views.Happening.__annotations__["kind"].split('"')[1::2]:
        assert sentences.happened(views.Happening(NOW, kind, text="a"), NOW)[0]


@pytest.mark.parametrize(
    ("event", "wanted", "mark"),
    [
        (views.Happening(NOW, "threshold", number=80, limit=daily(30_000, 1)), "80 % of 30 000/day used", ""),
        (
            views.Happening(NOW, "exhausted", limit=daily(30_000, 1), delivery="sent"),
            "100 % of 30 000/day used",
            "webhook sent",
        ),
        (
            views.Happening(NOW, "threshold", number=90, delivery="failed", again_at=today("15:30")),
            "90 % used",
            "webhook failed, again 15:30",
        ),
        (views.Happening(NOW, "renewed", limit=daily(1, 0)), "Daily quota renewed", ""),
        (
            views.Happening(NOW, "anomaly", number=200, text="GET /a", delivery="anomaly"),
            "Pace doubled: GET /a",
            "anomaly",
        ),
        (views.Happening(NOW, "anomaly", number=410), "Pace 4 times the usual", ""),
        (views.Happening(NOW, "anomaly", text="acme: far more"), "Far more requests than usual", ""),
        (views.Happening(NOW, "key", text="issued"), "Key issued", ""),
        (views.Happening(NOW, "store", until=NOW + timedelta(minutes=8)), "Store out of order for 8 minutes", ""),
        (
            views.Happening(NOW, "overload", number=22, until=NOW + timedelta(minutes=12)),
            "Too busy: 12 minutes, 22 % shed",
            "",
        ),
        (views.Happening(NOW, "overload", number=22), "Too busy: still, 22 % shed", ""),
    ],
)
def test_what_happened(event: views.Happening, wanted: str, mark: str) -> None:
    assert [plain(text) for text in sentences.happened(event, NOW)] == [wanted, mark]


def test_who_may_only_look_is_shown_no_form() -> None:
    for page in (runs_out(), replace(runs_out(), changing="revoke"), views.Keys(shell(), "", ())):
        text = looks.page(replace(page, shell=replace(page.shell, may_change=False))).body.decode()
        assert re.findall(r'method="post" action="([^"]+)"', text) in ([], ["../keys/find"])
        assert "change=" not in text
        assert "keys/issue" not in text


def test_a_revoked_key_can_be_changed_no_more() -> None:
    assert "change=" not in looks.page(replace(runs_out(), head=head("Old", "revoked"))).body.decode()


def test_a_key_that_was_made_is_shown_once_and_named_nowhere() -> None:
    page = issued()
    assert read(page).count(page.secret) == 1
    assert page.secret not in repr(page)


def test_the_tag_is_that_of_what_is_shown() -> None:
    one, light = overview(), views.StoreLight("Redis", up=True, seconds=0.002)
    later = replace(one, shell=replace(one.shell, now=NOW + timedelta(seconds=1), store=light))
    assert looks.page(one).tag == looks.page(later).tag  # the clock and the light stand outside
    assert looks.page(one).tag != looks.page(replace(one, latest=())).tag


def test_what_was_wrong_stands_at_its_field() -> None:
    text = looks.page(issue()).body.decode()
    assert 'value="read wr!te" maxlength="1000" autocomplete="off" spellcheck="false" aria-invalid="true"' in text
    assert 'id="about-scopes" class="wrong">A scope is a word' in text


def test_files() -> None:
    assert looks.file("../page.py") is None
    for name, media_type in (
        ("dashboard.css", "text/css"),
        ("dashboard.js", "text/javascript"),
        ("icon.svg", "image/svg+xml"),
    ):
        found = looks.file(name)
        assert found
        assert found.media_type.startswith(media_type)
        assert b"http" not in found.body.replace(b"http://www.w3.org/2000/svg", b"")  # nothing from elsewhere


def test_colours_can_be_read() -> None:
    """WCAG 2.2, 1.4.3: text stands out from what is behind it by 4.5 to 1; 1.4.11: what charts show by 3 to 1."""
    css = looks.file("dashboard.css")
    assert css
    schemes = re.findall(r":root \{\n(.*?)\n\s*\}", css.body.decode(), re.S)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))
        for text in ("text", "muted", "link", "good", "warn", "bad"):
            behind = [f"{text}-back"] if text in ("good", "warn", "bad") else ["background", "soft"]
            for back in ("card", *behind):
                assert contrast(colours[text], colours[back]) >= 4.5, (text, back)
        for back in ("good-back", "warn-back", "bad-back"):
            assert contrast(colours["text"], colours[back]) >= 4.5
            assert contrast(colours["muted"], colours[back]) >= 4.5, back
        for kind in words.SERIES:
            assert contrast(colours[kind], colours["card"]) >= (2.9 if kind == "usage" else 3), kind


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
