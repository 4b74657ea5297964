"""A fake provider, and another origin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyguard.testing import FakeProvider


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider(keys={"sk-A": "a", "sk-B": "b"})


@pytest.fixture
def url(provider: FakeProvider) -> Iterator[str]:
    with provider.serving() as url:
        yield url


@pytest.fixture
def other() -> FakeProvider:
    return FakeProvider(keys={"sk-other": "other"})


@pytest.fixture
def elsewhere(other: FakeProvider) -> Iterator[str]:
    with other.serving() as url:
        yield url
