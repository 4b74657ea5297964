"""What an answer means: a table of recorded answers, and all that may come instead."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError
from keyguard.upstream import profiles
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.judge import fingerprint, judge, judge_event
from keyguard.upstream.profiles import PROFILES, Profile
from tests.upstream.answers import NOW, expected, recorded, rows

ANSWERS, EVENTS = rows("answer"), rows("event")


def judged(profile: Profile, row: dict[str, Any]) -> Verdict:
    if "event" in row:
        return judge_event(profile, row["event"], row["data"], NOW)
    return judge(profile, row["status"], row.get("headers", {}), row.get("body", "").encode(), NOW)


@pytest.mark.parametrize("name", ANSWERS)
def test_answers(name: str) -> None:
    profile, row = ANSWERS[name]
    assert judged(PROFILES[profile], row) == expected(row)


@pytest.mark.parametrize("name", EVENTS)
def test_events(name: str) -> None:
    profile, row = EVENTS[name]
    assert judged(PROFILES[profile], row) == expected(row)
    assert judge_event(PROFILES[profile], row["event"], row["data"].encode(), NOW) == expected(row)


def test_there_are_enough_of_them() -> None:
    numbers = Counter(profile for profile, _ in [*ANSWERS.values(), *EVENTS.values()])
    assert set(numbers) == set(PROFILES)
    assert min(numbers.values()) >= 10
    assert sum(numbers.values()) >= 120


@pytest.mark.parametrize("name", PROFILES)
def test_every_rule_decides_an_answer_that_was_recorded(name: str) -> None:
    """No rule stands behind another one that takes all of its answers."""
    profile = PROFILES[name]
    answers = [*recorded(name)["answer"], *recorded(name).get("event", [])]
    idle = []
    for place, rule in enumerate(profile.rules):
        if name != "openai" and rule in PROFILES["openai"].rules:
            continue  # it is shared
        odd = replace(rule, cause=UpstreamCause.UNREACHABLE)
        changed = replace(profile, rules=(*profile.rules[:place], odd, *profile.rules[place + 1 :]))
        if all(judged(changed, row).cause is not UpstreamCause.UNREACHABLE for row in answers):
            idle.append((rule.statuses, [(path, pattern.pattern) for path, pattern in rule.members]))
    assert idle == []


# -- what is quoted decides nothing ---------------------------------------------------------------------------------

CODES = sorted(
    {
        code
        for profile in PROFILES.values()
        for rule in profile.rules
        for _, pattern in (*rule.members, *profile.known)
        for code in re.findall(r"[A-Za-z_ ]{4,}", pattern.pattern)
    }
)
"""Every word that some rule looks for."""

HARMLESS = {
    400: "request",
    404: "request",
    422: "request",
    429: "exhausted",
    500: "system",
    503: "overload",
}


@pytest.mark.parametrize("name", PROFILES)
def test_text_that_quotes_every_code(name: str) -> None:
    quoted = " ".join(CODES)
    assert "invalid_api_key" in quoted
    inner: dict[str, Any] = {"error": {"code": "invalid_api_key", "type": "insufficient_quota", "message": quoted}}
    bodies: list[Any] = [
        {"error": {"message": f"unexpected text: {quoted}"}},
        {"error": {"message": f"unexpected text: {json.dumps(inner)}", "param": quoted}},
        {"error": {"message": "bad input", "innererror": inner, "input": inner, "context": [inner]}},
        {"message": f"unexpected text: {quoted}"},
        {"detail": [{"loc": ["body"], "msg": quoted, "input": inner}]},
        {"detail": quoted, "request": inner},
        {"error": quoted},
        [quoted, *CODES],
        quoted,
        *CODES,
    ]
    raw = [json.dumps(body).encode() for body in bodies] + [quoted.encode(), f"<html><p>{quoted}</p></html>".encode()]
    for status, cause in HARMLESS.items():
        for body in raw:
            verdict = judge(PROFILES[name], status, {}, body, NOW)
            assert (verdict.cause, verdict.seen) == (cause, ()), body[:200]


@pytest.mark.parametrize("name", PROFILES)
def test_content_of_a_stream_that_quotes_every_code(name: str) -> None:
    inner = {"error": {"code": "invalid_api_key", "message": " ".join(CODES)}}
    for event in ({"choices": [{"delta": {"content": json.dumps(inner)}}]}, {"type": "delta", "delta": inner}, CODES):
        assert judge_event(PROFILES[name], "", json.dumps(event), NOW).cause == "ok"
    assert judge_event(PROFILES[name], "", " ".join(CODES), NOW).cause == "ok"


def test_a_made_up_model_that_a_message_quotes() -> None:
    """A name with blanks is no model's: it could make a minute's limit look like a day's."""
    model = "x on tokens per day (TPD): Limit 1"
    words = f"Rate limit reached for {model} in organization org-1 on requests per min (RPM): Limit 3, Used 3."
    body = json.dumps({"error": {"code": "rate_limit_exceeded", "type": "requests", "message": words}}).encode()
    verdict = judge(PROFILES["openai"], 429, {}, body, NOW, model)
    assert (verdict.cause, str(verdict.dimension)) == ("exhausted", "rpm")


# -- whatever comes -------------------------------------------------------------------------------------------------


NO_ERRORS = [
    b"[" * 100_000,
    b'{"error":' * 20_000,
    b'{"error":{"message":"' + b"x" * 200_000,
    b"\xff\xfe\x00{",
    b"null",
    b"[]",
    b"[[]]",
    b"[null]",
    b"1" * 60_000,
    b'{"error":{"code":' + b"9" * 6_000 + b"}}",
    b'{"error":{"code":1e400,"type":NaN,"message":[{"a":[1,2,{}]}]}}',
    b'{"error":[1,2,3]}',
    b'{"error":{"error":{"error":null}},"error":7}',
    b"\xef\xbb\xbf{}",
    b'{"error":{"details":[[],[[{"violations":[{"quotaId":[]}]}]],7]}}',
    b"{" + b'"a":{' * 5_000,
]


@pytest.mark.parametrize("body", NO_ERRORS, ids=lambda body: repr(body[:24]))
def test_bodies_that_say_nothing(body: bytes) -> None:
    for profile in PROFILES.values():
        for status in (200, 400, 401, 403, 429, 500, 599, 0, -1):
            by_status = judge(profile, status, {}, b"", NOW)
            verdict = judge(profile, status, {}, body[: 70_000 if status == 429 else 9_000], NOW)
            assert verdict[:3] == by_status[:3]
        assert isinstance(judge_event(profile, "error", body[:9_000], NOW), Verdict)
    assert len(fingerprint(429, body)) < 200


def test_a_body_that_was_cut_off_decides_by_its_whole_members() -> None:
    long = b'{"error":{"code":"insufficient_quota","type":"insufficient_quota","message":"' + b"x" * 100_000 + b'"}}'
    assert judge(PROFILES["openai"], 429, {}, long, NOW).cause == "billing"
    late = b'{"error":{"message":"' + b"x" * 100_000 + b'","code":"insufficient_quota"}}'
    assert judge(PROFILES["openai"], 429, {}, late, NOW).cause == "exhausted"
    half = b'{"error":{"type":"tokens","code":"insufficient_quo'
    assert judge(PROFILES["openai"], 429, {}, half, NOW).cause == "exhausted"
    nested = b'{"error":{"details":[{"reason":"API_KEY_INVALID"},{"reason":"OTHER'
    assert judge(PROFILES["gemini"], 400, {}, nested, NOW).cause == "invalid"


HEADERS = st.dictionaries(
    st.sampled_from(
        sorted(
            {
                name
                for profile in PROFILES.values()
                for fields in profile.fields
                for name in (fields.limit, fields.remaining, fields.reset)
                if name
            }
            | {"retry-after", "retry-after-ms", "date", "ratelimit", "ratelimit-policy", "ratelimit-limit"}
            | {"ratelimit-remaining", "ratelimit-reset", "x-ratelimit-limit", "x-ratelimit-reset"}
        )
    ),
    st.one_of(
        st.sampled_from(["-1", "", "0", "1e400", "NaN", "inf", "9" * 400, "1, 2", "5, 5", "\x00", "٣", "0x10", "1_0"]),
        st.sampled_from(["Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "9999-12-31T23:59:59Z"]),
        st.sampled_from(["99999999h", "6m0s", '"a";r=1;t=5', '"a";q=1;w=60', "limit=1, remaining=0, reset=1", "1;w=0"]),
        st.text(max_size=40),
        st.integers().map(str),
        st.floats().map(str),
    ),
    max_size=8,
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(CODES)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["error", "code", "type", "status", "message", "details", "metadata", "reason"]),
                inner,
                max_size=4,
            ),
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(list(PROFILES.values())),
    st.integers(100, 620),
    HEADERS,
    BODIES,
    st.sampled_from([NOW, 0, -1, 2**63, 10**30]),
)
def test_there_is_always_a_verdict(profile: Profile, status: int, headers: Any, body: bytes, now: int) -> None:
    for verdict in (judge(profile, status, headers, body, now), judge_event(profile, "error", body, now)):
        assert verdict.wait is None or 0 <= verdict.wait <= 31 * 86400 * SECOND
        for seen in verdict.seen:
            assert seen.limit is None or seen.limit > 0
            assert seen.remaining is None or 0 <= seen.remaining <= (seen.limit or seen.remaining)
            assert seen.reset is None or 0 <= seen.reset <= 31 * 86400 * SECOND
    assert len(fingerprint(status, body)) < 400


# -- the rest -------------------------------------------------------------------------------------------------------


def test_a_fingerprint_has_codes_and_no_text() -> None:
    body = {"error": {"code": "new_limit", "type": "tokens", "message": "sk-secret", "details": {"reason": "X_Y"}}}
    assert fingerprint(429, json.dumps(body).encode()) == "429 tokens new_limit X_Y"
    body = {"error": {"code": "sk-proj-Zq9s8d7f6g5h4j3k2l1", "type": "A sentence, with text."}}
    assert fingerprint(400, json.dumps(body).encode()) == "400 ?"
    assert fingerprint(502, b"<html>") == "502"
    gemini = b'[{"error":{"code":429,"status":"NEW","details":[{"reason":"A"},{"reason":"B"}]}}]'
    assert fingerprint(429, gemini) == "429 429 NEW A"


def test_profiles_by_name() -> None:
    assert profiles.get("openai") is PROFILES["openai"]
    for name in ("opnai", "", None, 7):
        with pytest.raises(ConfigurationError, match="is not a profile: there are anthropic, azure, gemini"):
            profiles.get(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_a_profile_takes_off_every_credential(profile: Profile) -> None:
    assert profile.credential.field in profile.takes_off
    assert {"authorization", "x-api-key", "api-key", "x-goog-api-key"} <= set(profile.takes_off)
    assert all(origin.startswith("https://") and origin.count("/") == 2 for origin in profile.origins)
    assert profile.credential.value("k1") in ("k1", "Bearer k1")


def test_causes_that_no_wait_helps_have_none() -> None:
    """A provider that says to come back in a second when there is no money would be asked for ever."""
    for profile in PROFILES.values():
        for status in (400, 401, 402, 404, 422):
            verdict = judge(profile, status, {"retry-after": "1"}, b"", NOW)
            assert verdict.wait is None
            assert verdict.scope in (Scope.KEY, Scope.GROUP, Scope.REQUEST)
