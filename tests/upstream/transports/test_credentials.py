"""What is taken off a request before it leaves."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

import pytest

from keyguard.upstream import profiles
from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.transports.credentials import clean_query, clean_target, clean_url, is_taken_off

OPENAI = profiles.get("openai")
BASIC = "Basic " + b64encode(f"{PLACEHOLDER}:".encode()).decode()

FIELDS = [
    ("Authorization", "Bearer sk-of-the-caller", True, False),
    ("X-API-Key", "sk-of-the-caller", True, False),
    ("api-key", "sk-of-the-caller", True, False),
    ("x-goog-api-key", "sk-of-the-caller", True, False),
    ("authorization", f"Bearer {PLACEHOLDER}", True, True),
    ("x-something-else", PLACEHOLDER, True, True),
    ("cookie", f"a=1; token={PLACEHOLDER}", True, True),
    ("Authorization", BASIC, True, True),
    ("x-forwarded-auth", BASIC.replace("Basic", "basic "), True, True),
    ("accept", "application/json", False, False),
    ("x-request-id", "Basic not-base64!", False, False),
    ("x-request-id", "Basic ü", False, False),
]


@pytest.mark.parametrize(("name", "value", "ours", "others"), FIELDS)
def test_fields(name: str, value: str, ours: bool, others: bool) -> None:
    """To the provider goes no credential but the pool's; to others none of the pool's; the placeholder to nobody."""
    assert is_taken_off(name, value, OPENAI) is ours
    assert is_taken_off(name, value, None) is others


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (f"key={PLACEHOLDER}", ""),
        (f"a=1&key={PLACEHOLDER}&b=%20x", "a=1&b=%20x"),
        (f"a=1&x={PLACEHOLDER}", "a=1"),
        ("a=1&token=" + PLACEHOLDER.replace("-", "%2D"), "a=1"),
        ("a=+&b&=&c=%zz", "a=+&b&=&c=%zz"),
        ("", ""),
    ],
)
def test_the_placeholder_in_a_query(query: str, left: str) -> None:
    assert clean_query(query, None) == left
    assert clean_target(f"/v1/x?{query}".encode(), None) == (f"/v1/x?{left}" if left or not query else "/v1/x").encode()
    whole = f"https://a.example/x?{query}#y?z"
    assert clean_url(whole, None) == (
        f"https://a.example/x?{left}#y?z" if left or not query else "https://a.example/x#y?z"
    )


def test_a_key_in_the_query_is_taken_off_on_the_way_to_its_provider_alone() -> None:
    gemini = replace(OPENAI, takes_off_query=("key",))
    assert clean_query("alt=sse&key=AIza-of-the-caller&KEY=x", gemini) == "alt=sse"
    assert clean_query("alt=sse&key=1", None) == "alt=sse&key=1"


def test_what_has_no_query_stays() -> None:
    assert clean_target(b"/v1/%ff", OPENAI) == b"/v1/%ff"
    assert clean_url("https://a.example/x#y", OPENAI) == "https://a.example/x#y"
