"""Exceptions are known by the exhaustion they stem from, as libraries carry it, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from keyguard.upstream import EXHAUSTION_FIELD, Exhaustion, UpstreamCause, behind, find, tell

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOON = Exhaustion("openai", UpstreamCause.EXHAUSTED, NOON, 2, "told-soon")
LATER = Exhaustion("github", UpstreamCause.QUOTA, NOON + timedelta(hours=1), 1, "told-later")
NEVER = Exhaustion("openai", UpstreamCause.BILLING, None, 3, "told-never")


@pytest.fixture(autouse=True)
def told() -> None:
    for one in (SOON, LATER, NEVER):
        tell(one)


class Fields(dict[str, object]):
    """Header fields, as libraries hold them."""


def fields(id: object) -> Fields:
    return Fields({EXHAUSTION_FIELD: id})


def answer(id: object) -> Any:
    return SimpleNamespace(status_code=429, headers=fields(id))


class LibraryError(Exception):
    """An exception with what libraries give it."""

    def __init__(self, **given: Any) -> None:
        super().__init__("429")
        vars(self).update(given)


class Unready(Exception):
    """As httpx has them: asked for its response, it raises."""

    @property
    def response(self) -> Any:
        raise RuntimeError("no response was set")

    raw_response = headers = response


def exhausted(one: Exhaustion = SOON) -> LibraryError:
    return LibraryError(response=answer(one.id))


EXHAUSTED = exhausted()


def group(*members: BaseException) -> BaseException:
    return BaseExceptionGroup("several", members)


def raised(work: Callable[[], Any]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def wrapped_with_cause(first: LibraryError | None = None) -> None:
    try:
        raise first or exhausted()
    except LibraryError as error:
        raise ValueError("no summary") from error


def wrapped_without() -> None:
    try:
        raise exhausted()
    except LibraryError:
        raise ValueError("no summary")  # noqa: B904 - as people write it


def hidden() -> None:
    try:
        raise exhausted()
    except LibraryError:
        raise ValueError("no summary") from None


def bug_after_it_was_caught() -> None:
    try:
        raise exhausted()
    except LibraryError:
        pass
    raise KeyError("choices")


def in_a_circle() -> BaseException:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    return first


def behind_a_thousand() -> BaseException:
    error: BaseException = exhausted()
    for _ in range(1000):
        further = ValueError("again")
        further.__cause__, error = error, further
    return error


ROWS: dict[str, tuple[BaseException, Exhaustion | None]] = {
    "openai, anthropic, httpx, requests: response": (exhausted(), SOON),
    "mistralai: raw_response": (LibraryError(raw_response=answer(SOON.id)), SOON),
    "aiohttp: headers": (LibraryError(headers=fields(SOON.id)), SOON),
    "a response without fields, and fields besides": (LibraryError(response=object(), headers=fields(SOON.id)), SOON),
    "wrapped, with from": (raised(wrapped_with_cause), SOON),
    "wrapped, without": (raised(wrapped_without), SOON),
    "wrapped, in a group of a group": (group(group(raised(wrapped_with_cause))), SOON),
    "two exhaustions: the one that lasts": (group(exhausted(LATER), exhausted(SOON)), LATER),
    "one of them for ever": (group(exhausted(NEVER), exhausted(LATER)), NEVER),
    "a member that stands behind another": (group(EXHAUSTED, raised(lambda: wrapped_with_cause(EXHAUSTED))), SOON),
    "hidden by from None: the app says that it is not why": (raised(hidden), None),
    "a bug after it was caught": (raised(bug_after_it_was_caught), None),
    "a group with a bug besides": (group(exhausted(), KeyError("choices")), None),
    "a 429 of the provider's own": (LibraryError(response=SimpleNamespace(headers=Fields())), None),
    "an id that no pool told of": (LibraryError(response=answer("made-up")), None),
    "no id": (LibraryError(response=answer("")), None),
    "an id that is none": (LibraryError(response=answer(7)), None),
    "fields that are none": (LibraryError(headers=[("a", "b")]), None),
    "fields that raise": (Unready(), None),
    "a circle": (in_a_circle(), None),
    "further behind than anybody looks": (behind_a_thousand(), None),
    "nothing of it": (KeyError("choices"), None),
}


@pytest.mark.parametrize("what", ROWS)
def test_what_stands_behind_an_exception(what: str) -> None:
    error, expected = ROWS[what]
    assert behind(error) == expected


def test_it_is_found_wherever_it_was_told() -> None:
    here = Exhaustion("openai", UpstreamCause.RAMP, NOON, 1, "told-in-a-thread")
    thread = Thread(target=tell, args=(here,))
    thread.start()
    thread.join()
    assert behind(exhausted(here)) is here


def test_the_last_few_thousand_are_known() -> None:
    for number in range(5000):
        tell(SOON._replace(id=f"told-{number}"))
    assert find("told-4999") is not None
    assert find("told-1000") is not None
    assert find("told-0") is None
