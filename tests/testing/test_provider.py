"""The fake provider: what it answers in each dialect and counts, what scripts make of it, what it remembers."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from keyguard import ConfigurationError
from keyguard.testing import FakeProvider, ManualClock, Played
from keyguard.testing.provider import Answer, ErrorEvent, Reset, Stall
from keyguard.upstream import UpstreamCause

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello there, you"}], "max_tokens": 5}
GEMINI = {"contents": [{"parts": [{"text": "Hello there, you"}]}], "generationConfig": {"maxOutputTokens": 5}}
PLACES: dict[Any, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", CHAT),
    "azure": ("/openai/deployments/m/chat/completions?api-version=1", CHAT),
    "anthropic": ("/v1/messages", CHAT),
    "gemini": ("/v1beta/models/m:generateContent", GEMINI),
    "mistral": ("/v1/chat/completions", CHAT),
    "groq": ("/openai/v1/chat/completions", CHAT),
    "openrouter": ("/api/v1/chat/completions", CHAT),
    "github": ("/repos/o/r", {}),
    "stripe": ("/v1/charges", {}),
    "generic": ("/things", {}),
}
EVERY = pytest.mark.parametrize("dialect", PLACES)


def made(dialect: Any, clock: ManualClock | None = None, **limits: int) -> FakeProvider:
    limit = {"limits": {"org": limits}} if limits else {}
    return FakeProvider(dialect, keys={"sk-a": "org", "sk-b": "org"}, clock=clock or ManualClock(), **limit)  # type: ignore[arg-type]


def asked(provider: FakeProvider, dialect: Any, key: str = "sk-a", **more: Any) -> Played:
    path, body = PLACES[dialect]
    return provider.ask(path, {**body, **more}, key=key)


def told(answer: Played) -> dict[str, str]:
    """The fields that tell of limits and waits."""
    return {name: value for name, value in answer.headers if "limit" in name.lower() or "retry" in name}


@EVERY
def test_keys_are_known_and_share_the_limits_of_their_group(dialect: Any) -> None:
    provider = made(dialect, rpm=2)
    statuses = [asked(provider, dialect, key).status for key in ("sk-a", "sk-b", "sk-a")]
    assert statuses == [200, 200, 403 if dialect == "github" else 429]
    unknown = asked(provider, dialect, "sk-placeholder")
    assert unknown.status == (400 if dialect == "gemini" else 401)
    assert told(unknown) == {}
    assert provider.hits == {"sk-a": 2, "sk-b": 1, "sk-placeholder": 1}
    assert provider.served == {"org": 2}
    assert provider.refused == {"org": 1}


@pytest.mark.parametrize(
    ("dialect", "limits", "fields"),
    [
        (
            "openai",
            {"rpm": 3, "tpm": 1000},
            {
                "x-ratelimit-limit-requests": "3",
                "x-ratelimit-remaining-requests": "2",
                "x-ratelimit-reset-requests": "20s",
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": "991",
                "x-ratelimit-reset-tokens": "540ms",
            },
        ),
        (
            "groq",
            {"rpd": 30, "rpm": 3},
            {
                "x-ratelimit-limit-requests": "30",
                "x-ratelimit-remaining-requests": "29",
                "x-ratelimit-reset-requests": "48m0s",
            },
        ),
        (
            "anthropic",
            {"rpm": 3, "itpm": 1000},
            {
                "anthropic-ratelimit-requests-limit": "3",
                "anthropic-ratelimit-requests-remaining": "2",
                "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:20Z",
                "anthropic-ratelimit-input-tokens-limit": "1000",
                "anthropic-ratelimit-input-tokens-remaining": "996",
                "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:00Z",
            },
        ),
        ("mistral", {"rpm": 3}, {"x-ratelimit-limit-req-minute": "3", "x-ratelimit-remaining-req-minute": "2"}),
        (
            "github",
            {"rph": 60},
            {
                "x-ratelimit-limit": "60",
                "x-ratelimit-remaining": "59",
                "x-ratelimit-used": "1",
                "x-ratelimit-reset": "1800000060",
                "x-ratelimit-resource": "core",
            },
        ),
        ("generic", {"rpm": 3}, {"ratelimit-policy": '"rpm";q=3;w=60', "ratelimit": '"rpm";r=2;t=20'}),
        ("gemini", {"rpm": 3}, {}),
        ("openrouter", {"rpm": 3}, {}),
        ("stripe", {"rps": 3}, {}),
    ],
)
def test_fields_are_those_of_the_provider(dialect: Any, limits: dict[str, int], fields: dict[str, str]) -> None:
    assert told(asked(made(dialect, **limits), dialect)) == fields


def test_fields_may_be_left_out() -> None:
    provider = FakeProvider("openai", keys={"sk-a": "org"}, limits={"org": {"rpm": 1}}, fields=False)
    assert told(asked(provider, "openai")) == {}


@pytest.mark.parametrize(
    ("kind", "waits"),
    [("bucket", "20"), ("window", "40")],
)
def test_a_refusal_tells_how_long_to_wait_and_it_is_true(kind: Any, waits: str) -> None:
    clock = ManualClock()
    clock.advance(20)
    provider = FakeProvider("openai", keys={"sk-a": "org"}, limits={"org": {"rpm": 3}}, kind=kind, clock=clock)
    assert [asked(provider, "openai").status for _ in range(3)] == [200] * 3
    refused = asked(provider, "openai")
    assert refused.header("retry-after") == waits
    assert refused.header("retry-after-ms") == f"{waits}000"
    error = json.loads(refused.body)["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert f"Limit 3, Used 3, Requested 1. Please try again in {waits}s." in error["message"]
    clock.advance(int(waits) - 0.001)
    assert asked(provider, "openai").status == 429
    clock.advance(0.001)
    assert asked(provider, "openai").status == 200


def test_a_request_that_is_too_large_is_told_so_and_takes_nothing() -> None:
    provider = made("openai", tpm=100)
    error = json.loads(asked(provider, "openai", max_tokens=200).body)["error"]
    assert error["message"].startswith("Request too large for m on tokens per min (TPM): Limit 100, Requested 204.")
    assert provider.remaining("org", "tpm") == 100


def test_a_hidden_burst_refuses_with_room_advertised() -> None:
    clock = ManualClock()
    provider = FakeProvider(
        "openai", keys={"sk-a": "org"}, limits={"org": {"rpm": 100}}, hidden_burst=(2, 1), clock=clock
    )
    answers = [asked(provider, "openai") for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].header("x-ratelimit-remaining-requests") == "98"
    assert answers[-1].header("retry-after-ms") == "1000"
    assert provider.possible("org") == 2
    clock.advance(1)
    assert asked(provider, "openai").status == 200
    assert provider.possible("org") == 4


@pytest.mark.parametrize(
    ("kind", "possible"),
    [("bucket", [0, 3, 3, 4, 6]), ("window", [0, 3, 3, 3, 6])],
)
def test_it_knows_what_was_possible(kind: Any, possible: list[int]) -> None:
    clock = ManualClock()
    provider = FakeProvider("openai", keys={"sk-a": "org"}, limits={"org": {"rpm": 3}}, kind=kind, clock=clock)
    found = [provider.possible("org")]
    asked(provider, "openai")
    for seconds in (0, 19, 1, 40):
        clock.advance(seconds)
        found.append(provider.possible("org"))
    assert found == possible
    assert made("openai").possible("org") == 0
    free = made("openai")
    asked(free, "openai")
    assert free.possible("org") is None


@pytest.mark.parametrize("kind", ["bucket", "window"])
def test_others_may_use_the_same_keys(kind: Any) -> None:
    clock = ManualClock()
    provider = FakeProvider("openai", keys={"sk-a": "org"}, limits={"org": {"rpm": 3}}, kind=kind, clock=clock)
    provider.spend("org", {"requests": 2})
    assert [asked(provider, "openai").status for _ in range(2)] == [200, 429]
    assert provider.possible("org") == 1
    clock.advance(60)
    assert provider.possible("org") == 4
    provider.spend("org", {"requests": 5})
    assert provider.remaining("org", "rpm") == 0
    assert provider.possible("org") == 1


def test_models_may_have_limits_of_their_own_and_others_do_not_exist() -> None:
    provider = FakeProvider(
        keys={"sk-a": "org"}, limits={"org": {"rpm": 1}}, per_model=True, models=["m", "n"], clock=ManualClock()
    )
    found = [asked(provider, "openai", model=model).status for model in ("m", "n", "m", "other")]
    assert found == [200, 200, 429, 404]


def test_credits_are_used_up_and_can_be_bought() -> None:
    provider = FakeProvider("anthropic", keys={"sk-a": "org", "sk-b": "org"}, credits={"org": 1})
    answers = [asked(provider, "anthropic", key) for key in ("sk-a", "sk-b")]
    assert [answer.status for answer in answers] == [200, 400]
    assert "credit balance is too low" in json.loads(answers[1].body)["error"]["message"]
    provider.credits["org"] = 1
    assert asked(provider, "anthropic").status == 200
    del provider.keys["sk-a"]
    assert asked(provider, "anthropic").status == 401


@EVERY
@pytest.mark.parametrize("cause", [cause for cause in UpstreamCause if cause not in ("ok", "unreachable", "busy")])
def test_each_refusal_can_be_made(dialect: Any, cause: UpstreamCause) -> None:
    provider = made(dialect)
    provider.script("sk-a", [provider.error(cause)])
    answers = [asked(provider, dialect) for _ in range(2)]
    assert answers[0].status >= 400
    assert isinstance(json.loads(answers[0].body), dict)
    assert answers[1].status == 200


STREAMS = {name: PLACES[name] for name in ("openai", "anthropic", "openrouter")}
STREAMS["responses"] = ("/v1/responses", {"model": "m", "input": "Hello there, you"})
STREAMS["gemini"] = ("/v1beta/models/m:streamGenerateContent?alt=sse", GEMINI)
STREAMED = pytest.mark.parametrize("name", STREAMS)


def streamed(name: str, steps: list[Any] = [], **more: Any) -> list[Any]:  # noqa: B006 - it is not changed
    """The data of a stream's events."""
    provider = made("openai" if name == "responses" else name)
    provider.script("sk-a", steps)
    path, body = STREAMS[name]
    answer = provider.ask(path, {**body, "stream": True, **more}, key="sk-a")
    assert answer.status == 200
    assert answer.header("content-type") == "text/event-stream; charset=utf-8"
    lines = [line for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) if line != "data: [DONE]" else "[DONE]" for line in lines]


def words_of(events: list[Any]) -> str:
    """The text that the events of any dialect have."""
    found = ""
    for each in events:
        if not isinstance(each, dict):
            continue
        for choice in each.get("choices", []):
            found += choice["delta"].get("content", "")
        for candidate in each.get("candidates", []):
            found += candidate["content"]["parts"][0]["text"]
        if each.get("type") in ("content_block_delta", "response.output_text.delta"):
            found += each["delta"] if isinstance(each["delta"], str) else each["delta"]["text"]
    return found


@STREAMED
def test_streams_say_what_plain_answers_say(name: str) -> None:
    assert words_of(streamed(name)) == "Hello from the fake provider."


def test_the_usage_of_a_stream_is_told_if_it_is_asked_for() -> None:
    *_, usage, done = streamed("openai", stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert not any("usage" in each for each in streamed("openai") if each != "[DONE]")
    assert streamed("responses")[-1]["response"]["usage"]["output_tokens"] == 5
    assert streamed("anthropic")[-2]["usage"] == {"output_tokens": 5}
    assert streamed("gemini")[-1]["usageMetadata"]["totalTokenCount"] == 9


@STREAMED
@pytest.mark.parametrize(("after", "words"), [(0, ""), (2, "Hello from")])
def test_errors_come_as_events_before_and_after_content(name: str, after: int, words: str) -> None:
    events = streamed(name, [ErrorEvent(after=after)])
    assert words_of(events) == words
    assert "error" in events[-1] or events[-1]["type"] == "error"
    assert len(events) == 1 or after


def test_an_error_event_is_a_refusal_where_no_stream_was_asked_for() -> None:
    provider = made("anthropic")
    provider.script("sk-a", [ErrorEvent()])
    assert asked(provider, "anthropic").status == 529


def test_scripts_are_followed_one_by_one() -> None:
    provider = made("openai", rpm=1)
    hurt = [Reset(), Reset(after=1), Stall(5), Stall(5, after=0)]
    whole = [Answer(503, {"Retry-After": "7"}, "later"), Answer(307, {"location": "http://other.example/"})]
    provider.script("sk-a", [whole[0], None, whole[1]])
    provider.script("*", [Answer(418)])
    seen = [asked(provider, "openai", key) for key in ("sk-a", "sk-a", "sk-b", "sk-a", "sk-a")]
    assert [each.status for each in seen] == [503, 200, 418, 307, 429]
    assert (seen[0].header("retry-after"), seen[0].body) == ("7", b"later")
    for step in hurt:
        provider.script("sk-b", [step])
        with pytest.raises(ConnectionResetError if isinstance(step, Reset) else TimeoutError):
            asked(provider, "openai", "sk-b")
    assert provider.under_way == 0
    assert provider.most_at_once == 1


def test_error_bodies_may_be_compressed() -> None:
    provider = made("openai")
    provider.script("sk-a", [Answer(429, body={"error": {"code": "slow_down"}}, gzipped=True)])
    answer = asked(provider, "openai")
    assert answer.header("content-encoding") == "gzip"
    assert json.loads(gzip.decompress(answer.body)) == {"error": {"code": "slow_down"}}


def test_it_remembers_all_that_it_was_sent() -> None:
    provider = FakeProvider("gemini", keys={"sk-a": "org"}, remembers=2)
    provider.ask("/v1beta/models/m:generateContent?key=sk-a", GEMINI, headers={"X-Other": "one sk-b two"})
    (received,) = provider.requests
    assert (received.key, received.method, received.query) == ("sk-a", "POST", "key=sk-a")
    assert received.header("X-Other") == "one sk-b two"
    path = "POST /v1beta/models/m:generateContent"
    assert provider.saw("sk-a") == [f"{path}: query"]
    assert provider.saw("sk-b") == [f"{path}: x-other"]
    assert provider.saw("Hello there") == [f"{path}: body"]
    assert provider.saw("sk-c") == []


def test_what_it_remembers_is_bounded() -> None:
    provider = FakeProvider("generic", keys={"sk-a": "org"}, remembers=2, per_model=True)
    for number in range(1100):
        provider.ask("/", b"x" * 5000, key=f"sk-{number}")
    assert len(provider.hits) == 1001
    assert provider.hits["..."] == 100
    assert [len(each.body) for each in provider.requests] == [4096, 4096]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dialect": "other"}, "dialect is one of openai"),
        ({"kind": "leaky"}, "kind is 'bucket' or 'window'"),
        ({"limits": {"other": {"rpm": 1}}}, "no key has the group 'other' that limits names"),
        ({"credits": {"other": 1}}, "no key has the group 'other' that credits names"),
        ({"limits": {"org": {"rpm": 0}}}, "limit 'rpm' of 'org' is a whole number of 1 or more"),
        ({"limits": {"org": {"requests": 1}}}, "'requests' is not a dimension"),
        ({"hidden_burst": (0, 1)}, "hidden_burst is a number of requests and of seconds"),
        ({"latency": -1}, "latency is a number of seconds"),
        ({"pace": float("nan")}, "pace is a number of seconds"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FakeProvider(**{"keys": {"sk-a": "org"}, **settings})


def test_its_date_is_that_of_its_clock() -> None:
    provider = made("anthropic")
    provider.script("sk-b", [Answer(503, {"Date": "Fri, 01 Jan 2027 00:00:00 GMT"})])
    assert asked(provider, "anthropic").header("date") == "Fri, 15 Jan 2027 08:00:00 GMT"
    assert asked(provider, "anthropic", "sk-b").header("date") == "Fri, 01 Jan 2027 00:00:00 GMT"


def test_a_request_it_cannot_read_is_no_accident() -> None:
    provider = made("openai")
    for body in (b"{", b"[" * 100_000, b"[]", b""):
        assert provider.ask("/v1/chat/completions", body, key="sk-a").status == 200
    assert provider.ask("/v1/nothing", key="sk-a").status == 404


def test_over_a_socket_connections_are_reset_and_stall() -> None:
    """One server for all: starting one takes its time."""
    provider = FakeProvider(keys={"sk-a": "org"}, latency=0.001)
    path, body = PLACES["openai"]
    stream = {**body, "stream": True}
    with provider.serving() as url, httpx2.Client(base_url=url, headers={"authorization": "Bearer sk-a"}) as client:
        assert client.get("/v1/models").json()["object"] == "list"
        assert client.post(path, json=body).json()["choices"][0]["message"]["content"].startswith("Hello")
        assert client.post(path, json=stream).text.endswith("data: [DONE]\n\n")
        provider.script("sk-a", [Reset(), Reset(after=2), Reset(after=1), Stall(60), Stall(60, after=2)])
        with pytest.raises(httpx2.TransportError):
            client.post(path, json=body)
        with client.stream("POST", path, json=stream) as answer:
            assert answer.status_code == 200
            seen: list[str] = []
            with pytest.raises(httpx2.TransportError):
                seen.extend(answer.iter_text())
        with pytest.raises(httpx2.TransportError):
            client.post(path, json=body)
        with pytest.raises(httpx2.ReadTimeout):
            client.post(path, json=body, timeout=0.1)
        with pytest.raises(httpx2.ReadTimeout):
            client.post(path, json=stream, timeout=0.1)
        assert client.post(path, json=body).status_code == 200
    assert provider.hits == {"sk-a": 9}
    assert provider.left == 2
    assert provider.under_way == 0
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)


def test_importing_the_helpers_for_tests_loads_no_provider() -> None:
    code = "import sys, keyguard.testing; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"keyguard.testing.provider", "uvicorn", "httpx2", "h11"} & set(done.stdout.split()) == set()
