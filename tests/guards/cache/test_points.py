"""The stories of `cache_stories.py`, in both worlds, and those that need more than a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyguard.http.dates import parse_date
from tests.support.cache_site import PAGE, WORLDS, Site, asks, get, ok, served
from tests.support.cache_stories import MINUTE, NOW, STORED, STORIES
from tests.support.cache_stories_reuse import REUSE

ALL = STORIES | REUSE


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("name", ALL)
def test_stories(world: str, name: str) -> None:
    story = ALL[name]
    options, turns = story if isinstance(story, tuple) else ({}, story)
    site = Site(world, **options)
    try:
        answer = site.play(*turns)
        assert len(answer.all("age")) <= 1
    finally:
        site.close()


@pytest.fixture
def site(world: str) -> Iterator[Site]:
    made = Site(world)
    yield made
    made.close()


def test_6_duplicates_come_back_in_order(world: str) -> None:
    site = Site(world, set_cookie=True)
    fields = (("Set-Cookie", "a=1"), ("X-A", "1"), ("Set-Cookie", "b=2"), ("X-A", "2"))
    site.play(asks(PAGE, ok("max-age=60", *fields)))
    answer = site.play(served(PAGE))
    assert (answer.all("set-cookie"), answer.all("x-a")) == (["a=1", "b=2"], ["1", "2"])
    site.close()


def test_11_dates_of_all_three_forms(site: Site) -> None:
    for text in ("Fri, 15 Jan 2027 08:01:00 GMT", "Friday, 15-Jan-27 08:01:00 GMT", "Fri Jan 15 08:01:00 2027"):
        assert parse_date(text, NOW) == NOW + 60
        site.play(asks(get(f"/{text[3]}"), ok(None, ("Expires", text))), served(get(f"/{text[3]}")))


def test_15_a_clock_that_is_set_back_makes_nothing_fresh_again(site: Site) -> None:
    site.play(asks(PAGE, ok("max-age=60", ("Age", "50"))), asks(PAGE, MINUTE, wait=-3600))
    site.play(asks(PAGE, MINUTE, wait=3610))


def test_14_an_absolute_target_is_not_cached(world: str) -> None:
    site = Site(world)
    ask = get("http://example.test/a")
    for _ in range(2):
        site.reply = MINUTE
        assert site.ask(ask, lint=False).get("cache-status") == "keyguard; fwd=bypass"
    assert site.calls == 2
    site.close()


def test_21_a_location_that_is_no_url_troubles_nobody(site: Site) -> None:
    site.play(asks(PAGE, MINUTE))
    site.reply = ok(None, ("Location", "http://["))
    assert site.ask(get(method="POST"), lint=False).status == 200
    site.play(asks(PAGE, MINUTE))


def test_14_an_empty_content_length_is_none() -> None:
    """Some WSGI servers set the variable for every request."""
    site = Site("wsgi")
    ask = get("/", ("Content-Length", ""))
    site.play(asks(ask, MINUTE, cache_status=STORED), served(ask), served(PAGE))
    site.close()
