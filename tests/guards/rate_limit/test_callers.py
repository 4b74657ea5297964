"""What a function may say of whose a request is, and what callers get whose plan includes nothing."""

from __future__ import annotations

import enum
import math
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, Cause, Concurrency, ConfigurationError, Identity, Keyguard, RateLimit, Refusal, quota
from keyguard.buckets import digest
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS: dict[str, Callable[[Keyguard, Ask], Answer]] = {
    "asgi": lambda guard, ask: ask_asgi(guard.asgi(asgi_app), ask),
    "wsgi": lambda guard, ask: ask_wsgi(guard.wsgi(wsgi_app), ask),
}


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Taste(enum.Enum):
    RED = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


ONE = uuid.UUID(int=1)

# Each of these is another caller.
CALLERS: list[Any] = [
    *("a", b"a", "", b"", "1", b"1", 1, 0, -1, 1.5, -1.5, math.nan, math.inf, -math.inf),
    *(ONE, uuid.UUID(int=2), str(ONE), ONE.bytes, Colour.RED, Colour.GREEN, Taste.RED, "RED"),
    *(Rights.READ, Rights.READ | Rights.WRITE, Rights(0)),
    *((), ("a",), (1,), (1, 5), ("a", "b"), ("ab",), (("a",), "b"), ("a", ("b",)), (None,), (ONE, Colour.RED)),
]


def test_each_caller_has_a_bucket_of_its_own() -> None:
    callers = CALLERS
    assert len({digest(who) for who in callers}) == len(callers)


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (0.0, -0.0), (0, -0.0), (True, 1), (math.nan, -math.nan), (1e300, int(1e300))]
)
def test_nobody_has_two_buckets_by_writing_a_number_in_another_way(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


SIMPLE = st.one_of(
    st.text(), st.binary(), st.integers(), st.floats(allow_nan=False), st.uuids(), st.sampled_from([*Colour, *Taste])
)
WHO = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


@given(WHO, WHO)
def test_two_callers_share_a_bucket_if_they_are_equal_and_only_then(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) is (one == other)


@pytest.mark.parametrize("what", [[1], {"a": 1}, object(), 1j])
def test_what_is_none_of_these_names_nobody(what: Any) -> None:
    with pytest.raises(TypeError, match="a `by` function returns text, bytes, a number, a UUID"):
        digest(what)


@pytest.mark.parametrize("world", WORLDS)
def test_limits_count_by_all_of_them(world: str) -> None:
    now: list[Any] = [None]

    def by(request: Any) -> Any:
        return now[0]

    guard = Keyguard(RateLimit("1/hour", by=by), Concurrency(1, by=by, name="slots"))
    for who in (ONE, 1.5, Colour.RED, b"a", Rights.READ):
        now[0] = who
        assert [WORLDS[world](guard, Ask()).status for _ in range(2)] == [200, 429], who


# -- a plan that includes nothing -----------------------------------------------------------------------------------


def of_plan(key: str) -> Identity:
    return Identity(f"owner of {key}", key_id=key, plan=None if key == "none" else key)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("nothing", [0, "0/day", "0/month", "0 per 5 minutes"])
@pytest.mark.parametrize("neighbour", [False, True])
def test_a_plan_of_nothing_is_a_permission_that_lacks(world: str, nothing: Any, neighbour: bool) -> None:
    seen: list[Refusal] = []
    outside = RateLimit("100/day", by="key", name="all")
    export = RateLimit(plans={"free": nothing, "pro": quota("2/day")}, default="free", name="export", paths=["/export"])
    guards = [outside, export] if neighbour else [export]
    guard = Keyguard(APIKeys(lookup=of_plan), *guards, on_refusal=seen.append)

    def ask(key: str, path: str = "/export") -> Answer:
        return WORLDS[world](guard, Ask(path, (("X-API-Key", key),)))

    assert [ask("pro").status for _ in range(3)] == [200, 200, 429]
    for key in ("free", "none", "unheard-of"):
        answer = ask(key)
        assert answer.status == 403
        assert b"Your plan does not include this." in answer.body
        assert answer.get("retry-after") is None
        assert (seen[-1].cause, seen[-1].reason, seen[-1].policies) == (Cause.PERMISSION, "plan", ("export",))
        assert (seen[-1].retry_after, seen[-1].recovers_at) == (None, None)
        assert ask(key, "/other").status == 200
    if neighbour:  # who is refused is charged nowhere
        assert '"all:100/day";r=98' in (ask("free", "/other").get("ratelimit") or "")


@pytest.mark.parametrize("world", WORLDS)
def test_it_is_refused_whatever_functions_have_a_say(world: str) -> None:
    def by(request: Any) -> str | None:
        return None if request.path == "/spared" else "all"

    guard = Keyguard(
        APIKeys(lookup=of_plan),
        RateLimit(plans={"free": 0}, default=0, by=by, exempt=lambda request: request.path == "/exempt"),
    )
    paths = ("/", "/spared", "/exempt")
    asked = [WORLDS[world](guard, Ask(path, (("X-API-Key", "free"),))).status for path in paths]
    assert asked == [403, 200, 200]


@pytest.mark.parametrize("nothing", [False, 0.0, "0/dya", "0", "0/day; 1/hour", ["0/day"], -1])
def test_what_is_not_nothing_does_not_start(nothing: Any) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit(plans={"free": nothing}, default="1/day")
