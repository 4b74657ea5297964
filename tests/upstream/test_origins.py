"""Origins in one spelling."""

from __future__ import annotations

import pytest

from keyguard.upstream.origins import Origin, made_of, origin_of

OPENAI = Origin("https", "api.openai.com", 443)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com",
        "https://api.openai.com/",
        "https://API.OpenAI.com/v1?x=1#y",
        "HTTPS://api.openai.com:443/v1",
        "https://api.openai.com./v1",
        "https://me:word@api.openai.com/v1",
    ],
)
def test_other_spellings_are_the_same_origin(url: str) -> None:
    assert origin_of(url) == OPENAI


@pytest.mark.parametrize(
    "url",
    [
        "http://api.openai.com",
        "https://api.openai.com:8443",
        "https://api.openai.com.evil.example",
        "https://evil.example/api.openai.com",
        "https://api.openai.com@evil.example",
        "https://openai.com",
        "https://api.openai.com..",
        "api.openai.com",
        "https://",
        "https://[::1",
        "https://api.openai.com:port",
        "",
    ],
)
def test_anything_else_is_another_one_or_none(url: str) -> None:
    assert origin_of(url) != OPENAI


def test_names_in_other_scripts_are_compared_as_they_are_looked_up() -> None:
    assert origin_of("https://bücher.example") == origin_of("https://xn--bcher-kva.example")


def test_addresses_of_version_6_have_brackets_in_urls_alone() -> None:
    assert origin_of("http://[::1]:8080") == made_of("http", "::1", 8080) == made_of("http", "[::1]", 8080)
    assert str(made_of("http", "::1", 8080)) == "http://[::1]:8080"
    assert str(OPENAI) == "https://api.openai.com"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("http://[::1]", True),
        ("http://localhost", True),
        ("http://fake.localhost:1", True),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://10.0.0.1", False),
        ("http://0.0.0.0", False),
    ],
)
def test_what_is_this_machine_itself(url: str, loopback: bool) -> None:
    found = origin_of(url)
    assert found is not None
    assert found.is_loopback is loopback
