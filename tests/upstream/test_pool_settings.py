"""The settings of a pool: what is refused at its start, and that no message repeats a secret."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard import ConfigurationError, Key, KeyPool
from keyguard.upstream.answers import UpstreamRequest
from keyguard.upstream.keys import PLACEHOLDER

SECRET = "sk-very-secret-1234567890"
NAN = float("nan")
INFINITY = float("inf")
HUGE = 10**5000
"""Too large for a float, and Python does not write it either."""


def key(id: str = "a", secret: str = SECRET, **settings: Any) -> Key:
    return Key(id, secret, **settings)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("one", {}),
        ("one", {"secret": SECRET, "env": "HOME"}),
        ("not set", {"env": "KEYGUARD_NO_SUCH_VARIABLE"}),
        ("empty", {"secret": ""}),
        ("placeholder", {"secret": PLACEHOLDER}),
        ("line break", {"secret": f"{SECRET}\n"}),
        ("line break", {"secret": f"{SECRET}\r\nx: y"}),
        ("blank", {"secret": f"{SECRET} x"}),
        ("not ASCII", {"secret": f"{SECRET}é"}),
        ("a text", {"secret": 17}),
        ("rank", {"secret": SECRET, "rank": -1}),
        ("rank", {"secret": SECRET, "rank": 1.5}),
        ("weight", {"secret": SECRET, "weight": 0}),
        ("weight", {"secret": SECRET, "weight": NAN}),
        ("weight", {"secret": SECRET, "weight": INFINITY}),
        ("weight", {"secret": SECRET, "weight": HUGE}),
        ("rank", {"secret": SECRET, "rank": HUGE}),
        ("not set", {"env": 5}),
        ("limit group", {"secret": SECRET, "group": "a|b"}),
    ],
)
def test_keys_that_are_refused(words: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        Key("a", **given)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("id", ["", "a b", "a|b", "a/b", "-a", "a\n", "x" * 65, 5])
def test_ids_that_are_refused(id: Any) -> None:
    with pytest.raises(ConfigurationError, match="id of a key"):
        Key(id, SECRET)


def test_a_secret_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    assert Key("a", env="UPSTREAM_KEY").reveal() == SECRET
    monkeypatch.setenv("UPSTREAM_KEY", "")
    with pytest.raises(ConfigurationError, match="empty"):
        Key("a", env="UPSTREAM_KEY")


@pytest.mark.parametrize(
    ("words", "keys", "settings"),
    [
        ("one key at least", [], {}),
        ("a list of keys", "sk-very-secret", {}),
        ("a list of keys", key(), {}),
        ("takes keys", [SECRET], {}),
        ("have the id 'a'", [key(), key(secret="sk-other")], {}),
        ("same secret", [key(), key("b")], {}),
        ("http", [key()], {"origin": "http://api.example.com"}),
        ("origin", [key()], {"origin": "api.example.com"}),
        ("origin", [key()], {"origin": "ftp://api.example.com"}),
        ("origin", [key()], {"origin": "https://user@api.example.com"}),
        ("origin", [key()], {"origin": "https://api.example.com/v1"}),
        ("origin", [key()], {"origin": "https://api.example.com?key=1"}),
        ("origin", [key()], {"origin": ""}),
        ("origin", [key()], {"origin": [7]}),
        ("origin", [key()], {"origin": 7}),
        ("needs origin", [key()], {"profile": "generic", "origin": None}),
        ("profile", [key()], {"profile": "opneai"}),
        ("profile", [key()], {"profile": 5}),
        ("group of no key: there are 'a'", [key()], {"limits": {"b": {"rpm": 5}}}),
        ("by group", [key()], {"limits": {"rpm": 5}}),
        ("by group", [key()], {"limits": [("a", 5)]}),
        ("dimension", [key()], {"limits": {"a": {"requests": 5}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": 0}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": -1}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": NAN}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": INFINITY}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": 0.5}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": True}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": "5"}}}),
        ("greater than 0", [key()], {"limits": {"a": {"rpm": HUGE}}}),
        ("list of names", [key()], {"models": "gpt-5*"}),
        ("printable", [key()], {"models": ["gpt 5"]}),
        ("printable", [key()], {"models": [5]}),
        ("leave", [key()], {"models": ["*"]}),
        ("twice", [key()], {"models": ["m", "m"]}),
        ("max_wait", [key()], {"max_wait": -1}),
        ("max_wait", [key()], {"max_wait": NAN}),
        ("max_wait", [key()], {"max_wait": "20"}),
        ("max_wait", [key()], {"max_wait": HUGE}),
        ("workers", [key()], {"workers": HUGE}),
        ("max_waiting", [key()], {"max_waiting": -1}),
        ("max_attempts", [key()], {"max_attempts": 0}),
        ("workers", [key()], {"workers": 0}),
        ("workers", [key()], {"workers": 1.5}),
        ("replay", [key()], {"replay": "all"}),
        ("name of a pool", [key()], {"name": "a/b"}),
        ("name of a pool", [key()], {"name": ""}),
        ("cost", [key()], {"cost": 5}),
        ("on_event", [key()], {"on_event": "print"}),
        ("store", [key()], {"store": "nonsense://"}),
        ("store", [key()], {"store": 5}),
        ("clock", [key()], {"clock": 5}),
    ],
)
def test_pools_that_are_refused(words: str, keys: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=words) as refused:
        KeyPool(keys, **{"profile": "openai", **settings})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8000", "http://localhost", "http://[::1]:8", "https://x.example"])
def test_origins_that_get_a_key(origin: str) -> None:
    pool = KeyPool.generic([key()], origin)
    assert pool.allows(f"{origin}/v1/chat?x=1")
    for other in (
        "https://other.example/",
        "https://x.example.evil/",
        "https://x.example:8443/",
        "https://x.example@e/",
    ):
        assert not pool.allows(other)


@pytest.mark.parametrize(
    "options",
    [
        5,
        True,
        "affinity",
        b"x",
        ["affinity"],
        {"afinity": "x"},
        {5: "x"},
        {"affinity": None},
        {"affinity": 5},
        {"model": 5},
        {"cost": "tokens"},
        {"cost": {"words": 5}},
        {"cost": {"tokens": -1}},
        {"cost": {"tokens": HUGE}},
        {"max_wait": NAN},
        {"max_wait": -1},
        {"max_wait": HUGE},
    ],
    ids=range(17),
)
def test_options_of_a_request_that_are_refused(options: Any) -> None:
    """They are a mistake in the app, and nothing is sent: their error leaves a transport as it is."""
    pool = KeyPool.openai([key()])
    with pytest.raises(ConfigurationError):
        pool.asked(UpstreamRequest("POST", "https://api.openai.com/v1/responses", {}, b"{}"), options)


def test_what_a_pool_is_by_default() -> None:
    pool = KeyPool.openai([key(), key("b", "sk-other"), key("c", "sk-third", group="a")])
    assert (pool.name, pool.parts.max_attempts, pool.placeholder) == ("openai", 4, PLACEHOLDER)
    assert pool.allows("https://api.openai.com/v1/responses")
    assert not pool.allows("http://api.openai.com/v1/responses")
    assert [group.name for group in pool.parts.groups] == ["a", "b"]
    many = KeyPool.openai([key(f"k{n}", f"sk-{n}") for n in range(20)])
    assert many.parts.max_attempts == 8
    assert SECRET not in repr(pool)


def request(body: bytes | None = b'{"model": "gpt-5-mini", "max_tokens": 100, "messages": []}') -> UpstreamRequest:
    return UpstreamRequest("POST", "https://api.openai.com/v1/chat/completions", {}, body)


def test_what_a_request_asks_for() -> None:
    pool = KeyPool.openai([key()], models=["gpt-5*"], max_wait=7)
    asked = pool.asked(request())
    assert (asked.model, asked.affinity, asked.max_wait, asked.replayable) == ("gpt-5-mini", "", 7, True)
    assert asked.cost["requests"] == 1
    assert asked.cost["tokens"] >= 100
    assert not pool.asked(request(None)).replayable
    own = pool.asked(request(), {"affinity": "user-1", "cost": {"tokens": 5}, "max_wait": 0, "model": "m"})
    assert own[:4] == ("m", "user-1", {"tokens": 5}, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"afinity": "x"},
        {"affinity": 5},
        {"model": 5},
        {"cost": 5},
        {"cost": {"token": 5}},
        {"cost": {"tokens": -5}},
        {"cost": {"tokens": 1.5}},
        {"max_wait": -1},
        {"max_wait": NAN},
    ],
)
def test_wishes_of_a_request_that_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        KeyPool.openai([key()]).asked(request(), options)


def test_a_function_says_what_a_request_costs_and_the_estimate_holds_if_it_fails() -> None:
    pool = KeyPool.openai([key()], cost=lambda request: {"tokens": len(request.body or b"")})
    assert pool.asked(request(b"12345")).cost == {"tokens": 5}
    failing = KeyPool.openai([key()], cost=lambda request: {"tokens": 1 // 0})
    assert failing.asked(request()).cost["tokens"] >= 100


def test_made_up_names_of_models_make_no_classes() -> None:
    parts = KeyPool.openai([key()], models=["gpt-5*", "o3"]).parts
    assert parts.classes == ("gpt-5*", "o3", "*")
    assert [parts.class_of(model) for model in ("gpt-5-mini", "o3", "o33", "", "*", "gpt-[", "x" * 500)] == [
        "gpt-5*",
        "o3",
        "*",
        "*",
        "*",
        "*",
        "*",
    ]
