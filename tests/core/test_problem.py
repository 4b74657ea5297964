"""Refusals as they are sent: from ready pieces, and what plain code would write for one request."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, Cause, Identity, Keyguard, RateLimit, Refusal, Request, Response, refuse
from keyguard.problem import problem_details
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from keyguard.units import in_words
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS: dict[str, tuple[Callable[..., Answer], Any]] = {"asgi": (ask_asgi, asgi_app), "wsgi": (ask_wsgi, wsgi_app)}
NOW = datetime(2027, 1, 15, 8, tzinfo=UTC)
NASTY = st.text(max_size=80) | st.sampled_from(
    ["", '"', '", "instance": "', "\\", '\\", "instance": "x', "{}", "%d%s{0}", "\ud800", "\U0001f600", "\x7f\x00"]
)
REFUSALS = st.fixed_dictionaries(
    {
        "cause": st.sampled_from(Cause),
        "detail": NASTY | st.text(min_size=500, max_size=600),
        "reason": st.sampled_from(["mine", "two words", "a=b"]),
        "status": st.none() | st.sampled_from([400, 401, 402, 403, 429, 503]),
        "retry_after": st.none() | st.integers(1, 10**9),
        "policies": st.lists(NASTY, max_size=3),
        "headers": st.lists(
            st.tuples(st.sampled_from(["X-Mine", "Vary", "Set-Cookie"]), st.sampled_from(["", "a, b", "é"])), max_size=3
        ),
        "key_id": st.sampled_from(["", "4fK2mQ9x"]),
        "subject": st.sampled_from(["", "grace"]),
    }
)
ASKS = st.builds(
    lambda id, method: Ask("/", () if id is None else (("X-Request-ID", id),), method),
    st.none() | st.from_regex(r"[A-Za-z0-9._~:@=+/-]{1,128}", fullmatch=True),
    st.sampled_from(["GET", "HEAD", "POST"]),
)


def plainly(refusal: Refusal, headers: list[tuple[str, str]], method: str) -> Answer:
    """Return the answer as it is written without ready pieces."""
    body = json.dumps(problem_details(refusal)).encode()
    fields = [("content-type", "application/problem+json"), ("cache-control", "no-store")]
    if refusal.retry_after is not None and refusal.status in (429, 503):
        fields.append(("retry-after", str(refusal.retry_after)))
    fields += [(name.lower(), value) for name, value in headers]
    if method == "HEAD":
        return Answer(refusal.status, fields, b"")
    return Answer(refusal.status, [*fields, ("content-length", str(len(body)))], body)


@pytest.mark.parametrize("world", WORLDS)
@given(says=REFUSALS, ask=ASKS, known=st.booleans())
def test_ready_pieces_say_what_plain_code_says(world: str, says: dict[str, Any], ask: Ask, known: bool) -> None:
    heard: list[Refusal] = []

    def guard(request: Request) -> Response:
        if known:
            request.state.identity = Identity("ada", key_id="k1")
        return refuse(request, **says)

    stack = Keyguard(guard, on_refusal=heard.append, clock=ManualClock(NOW))
    send, app = WORLDS[world]
    answers = [send(getattr(stack, world)(app), ask) for _ in range(2)]
    for answer, refusal in zip(answers, heard, strict=True):
        assert type(refusal) is Refusal
        wait, status = says["retry_after"], says["status"]
        assert refusal == Refusal(
            says["cause"],
            status or refusal.status,
            says["detail"],
            says["reason"],
            dict(ask.headers).get("X-Request-ID") or refusal.request_id,
            wait,
            None if wait is None else NOW + timedelta(seconds=wait),
            tuple(says["policies"]),
            says["key_id"] or ("k1" if known else ""),
            says["subject"] or ("ada" if known else ""),
            "198.51.100.1",
            ask.method,
            "/",
        )
        assert answer == plainly(refusal, says["headers"], ask.method)


@pytest.mark.parametrize("world", WORLDS)
@given(
    waits=st.lists(st.integers(1, 4000), min_size=1, max_size=3, unique=True),
    name=st.sampled_from(["ip", 'we"ird', "back\\slash", "100%d", "{x}", "a<b>&'c'"]),
    later=st.integers(0, 3_600_000_000),
)
def test_limits_say_what_plain_code_says(world: str, waits: list[int], name: str, later: int) -> None:
    clock, heard = ManualClock(NOW), list[Refusal]()
    limit = RateLimit("; ".join(f"1/{wait} seconds" for wait in waits), name=name)
    stack = Keyguard(limit, on_refusal=heard.append, store=MemoryStore(clock=clock), clock=clock)
    send, app = WORLDS[world]
    guarded = getattr(stack, world)(app)
    clock.advance(timedelta(microseconds=later))
    begun = clock.now
    assert send(guarded, Ask()).status == 200
    clock.advance(timedelta(seconds=min(waits)) / 2)
    answer = send(guarded, Ask())
    (refusal,) = heard
    assert type(refusal) is Refusal
    names = [f"{name}:{rule.limit.text}" for rule in limit.all_rules]
    used = " and ".join(f"'{one}'" for one in names)
    verb = "The limit {} is used up." if len(names) == 1 else "The limits {} are used up."
    ends = begun + timedelta(seconds=max(waits))
    left = -(-(ends - clock.now) // timedelta(seconds=1))
    moment = ends if not ends.microsecond else ends.replace(microsecond=0) + timedelta(seconds=1)
    detail = f"{verb.format(used)} It works again in {in_words(left)}, at {moment:%Y-%m-%dT%H:%M:%SZ}."
    expected = Refusal(
        *(Cause.USAGE, 429, detail, "limit-reached", refusal.request_id, left, moment, tuple(names)),
        client="198.51.100.1",
        method="GET",
        route="/",
    )
    assert refusal == expected
    fields = [(key, value) for key, value in answer.headers if key.startswith("ratelimit")]
    assert [key for key, _ in fields] == ["ratelimit-policy", "ratelimit"]
    assert answer == plainly(refusal, fields, "GET")


@pytest.mark.parametrize("world", WORLDS)
def test_callers_who_are_told_the_same_share_nothing_else(world: str) -> None:
    """The notice is written once; what a guard outside adds to one response is not in the next."""

    async def adding(request: Request, forward: Any) -> Response:
        response: Response = await forward(request)
        response.headers.add("X-Asked", request.header("x-ask") or "")
        response.headers.join("Cache-Control", "private")
        response.headers.remove("Content-Type")
        return response

    stack = Keyguard(adding, APIKeys())
    send, app = WORLDS[world]
    guarded = getattr(stack, world)(app)
    answers = [send(guarded, Ask("/", (("X-Ask", text),))) for text in ("one", "two")]
    assert [answer.all("x-asked") for answer in answers] == [["one"], ["two"]]
    assert [answer.all("cache-control") for answer in answers] == [["no-store, private"]] * 2
    assert len({json.loads(answer.body)["instance"] for answer in answers}) == 2
