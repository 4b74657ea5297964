"""How large a request is, and what an answer cost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard.upstream.profiles import PROFILES
from keyguard.upstream.sizes import MOST, size_of, used

WORDS = "word" * 100  # 400 characters, which is 100 tokens and 1
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": WORDS}]}
"""The role is a text of one more token, or two."""

REQUESTS: list[tuple[str, str, Any, str, dict[str, int]]] = [
    ("openai", "/v1/chat/completions", CHAT, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": 50}, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": 500}, "m", {"tokens": 500}),
    ("openai", "/v1/chat/completions", CHAT | {"max_completion_tokens": 700}, "m", {"tokens": 700}),
    ("openai", "/v1/responses", {"model": "m", "input": WORDS, "max_output_tokens": 900}, "m", {"tokens": 900}),
    ("openai", "/v1/embeddings", {"model": "e", "input": [WORDS, WORDS]}, "e", {"tokens": 202}),
    ("openai", "/v1/models", None, "", {}),
    ("openai", "/v1/files", b"--boundary\r\n", "", {}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": -1}, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": 1e400}, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": "many"}, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": 10**14}, "m", {"tokens": 2**31}),
    ("openai", "/v1/chat/completions", CHAT | {"max_tokens": 10**30}, "m", {"tokens": 2**31}),
    ("openai", "/v1/chat/completions", CHAT | {"model": ["m"]}, "m", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"model": None}, "", {"tokens": 103}),
    ("openai", "/v1/chat/completions", CHAT | {"model": "x" * 9000}, "x" * 256, {"tokens": 103}),
    ("azure", "/openai/deployments/gpt%2D4/chat/completions", CHAT, "gpt-4", {"tokens": 103}),
    ("azure", "/openai/v1/chat/completions", CHAT, "m", {"tokens": 103}),
    ("groq", "/openai/v1/chat/completions", CHAT | {"max_tokens": 50}, "m", {"tokens": 153}),
    ("mistral", "/v1/chat/completions", CHAT | {"max_tokens": 50}, "m", {"tokens": 153}),
    ("openrouter", "/api/v1/chat/completions", CHAT | {"max_tokens": 50}, "m", {"tokens": 153}),
    ("anthropic", "/v1/messages", CHAT | {"max_tokens": 50}, "m", {"input_tokens": 103, "output_tokens": 50}),
    (
        "gemini",
        "/v1beta/models/gemini-2.5-flash:generateContent",
        {"contents": [{"parts": [{"text": WORDS}]}], "generationConfig": {"maxOutputTokens": 70}},
        "gemini-2.5-flash",
        {"input_tokens": 101, "output_tokens": 70},
    ),
    ("gemini", "/v1beta/openai/chat/completions", CHAT, "m", {"input_tokens": 103, "output_tokens": 0}),
    ("github", "/repos/a/b/issues", {"title": "model", "model": "m"}, "m", {}),
    ("stripe", "/v1/charges", b"amount=2000", "", {}),
    ("generic", "/", CHAT, "m", {}),
]


@pytest.mark.parametrize(("profile", "path", "body", "model", "cost"), REQUESTS)
def test_requests(profile: str, path: str, body: Any, model: str, cost: dict[str, int]) -> None:
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    assert size_of(PROFILES[profile], path, raw) == (model, {"requests": 1, **cost})


def test_a_picture_is_not_counted_by_its_length() -> None:
    data = "A" * 400_000
    pictures: list[tuple[str, dict[str, Any]]] = [
        ("openai", {"messages": [{"content": [{"image_url": {"url": f"data:image/png;base64,{data}"}}]}]}),
        ("openai", {"messages": [{"content": [{"input_audio": {"data": data, "format": "wav"}}]}]}),
        ("anthropic", {"messages": [{"content": [{"source": {"media_type": "image/png", "data": data}}]}]}),
        ("gemini", {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": data}}]}]}),
    ]
    for profile, body in pictures:
        cost = size_of(PROFILES[profile], "/", json.dumps(body).encode()).cost
        assert 1000 <= cost.get("tokens", cost.get("input_tokens", 0)) <= 1010


def test_a_body_that_is_too_long_is_not_parsed() -> None:
    front = b'{"model":"m","messages":[{"content":"' + b"x" * MOST + b'"}]}'
    assert size_of(PROFILES["openai"], "/", front) == ("m", {"requests": 1, "tokens": 100_000})
    back = b'{"messages":[{"content":"' + b"x" * MOST + b'"}],"model":"m"}'
    assert size_of(PROFILES["anthropic"], "/", back).model == ""
    assert size_of(PROFILES["gemini"], "/v1beta/models/g:generateContent", back).model == "g"


def test_a_body_of_very_many_values_is_bounded() -> None:
    body = b'{"model":"m","messages":[' + b"[]," * 300_000 + b'"x"]}'
    assert size_of(PROFILES["openai"], "/", body).model == "m"


USED: list[tuple[str, Any, dict[str, int]]] = [
    ("openai", {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}, {"tokens": 21}),
    ("openai", {"usage": {"input_tokens": 9, "output_tokens": 12, "total_tokens": 21}}, {"tokens": 21}),
    (
        "openai",
        {"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}},
        {"tokens": 7},
    ),
    ("openai", {"choices": [], "usage": None}, {}),
    ("openai", {"usage": {}}, {}),
    ("openai", {"usage": {"total_tokens": -5}}, {}),  # it tells nothing: what was booked stays booked
    ("openai", {"usage": {"total_tokens": 1e400}}, {}),
    ("openai", {"usage": {"total_tokens": 10**30}}, {}),
    ("openai", {"usage": {"total_tokens": "many", "prompt_tokens": 9, "completion_tokens": 3}}, {"tokens": 12}),
    ("anthropic", {"usage": {"input_tokens": -1, "output_tokens": 3}}, {"output_tokens": 3}),
    ("groq", {"x_groq": {"id": "1", "usage": {"prompt_tokens": 3, "completion_tokens": 4}}}, {"tokens": 7}),
    ("mistral", {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, {"tokens": 7}),
    (
        "anthropic",
        {
            "usage": {
                "input_tokens": 5,
                "cache_creation_input_tokens": 7,
                "cache_read_input_tokens": 90,
                "output_tokens": 2,
            }
        },
        {"input_tokens": 12, "output_tokens": 2},
    ),
    (
        "gemini",
        {"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 5, "thoughtsTokenCount": 6}},
        {"input_tokens": 4, "output_tokens": 11},
    ),
    (
        "gemini",
        [
            {"usageMetadata": {"promptTokenCount": 4}},
            {"usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 5}},
        ],
        {"input_tokens": 4, "output_tokens": 5},
    ),
    ("github", {"usage": {"total_tokens": 5}}, {}),
    ("openai", "[DONE]", {}),
    ("openai", "", {}),
    ("openai", "[" * 100_000, {}),
]


@pytest.mark.parametrize(("profile", "body", "units"), USED, ids=lambda value: str(value)[:40])
def test_what_an_answer_cost(profile: str, body: Any, units: dict[str, int]) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    assert used(PROFILES[profile], text) == used(PROFILES[profile], text.encode()) == units


def test_what_a_stream_cost() -> None:
    """What an event tells replaces what those before it told."""
    events = [
        {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"text": '{"usage":{"output_tokens":99}}'}},
        {"type": "message_delta", "usage": {"output_tokens": 15}},
        {"type": "message_stop"},
    ]
    units: dict[str, int] = {}
    for event in events:
        units |= used(PROFILES["anthropic"], json.dumps(event))
    assert units == {"input_tokens": 25, "output_tokens": 15}


ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["model", "messages", "max_tokens", "usage", "data", "format", "input", "total_tokens"]),
            inner,
        ),
    ),
    max_leaves=8,
).map(lambda value: json.dumps(value).encode())


@given(st.sampled_from(list(PROFILES.values())), st.text(max_size=30), st.one_of(st.binary(), ANY_JSON))
def test_whatever_comes(profile: Any, path: str, body: bytes) -> None:
    cost = size_of(profile, path, body).cost
    assert cost["requests"] == 1
    for units in (*cost.values(), *used(profile, body).values()):
        assert 0 <= units <= 2**32
