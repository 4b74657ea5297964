"""A fake provider and another origin, served for the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyguard.testing import FakeProvider


@pytest.fixture(scope="module")
def provider() -> FakeProvider:
    return FakeProvider(keys={"sk-A": "a", "sk-B": "b"})


@pytest.fixture(scope="module")
def url(provider: FakeProvider) -> Iterator[str]:
    with provider.serving() as url:
        yield url


@pytest.fixture(scope="module")
def other() -> FakeProvider:
    return FakeProvider(keys={"sk-other": "other"})


@pytest.fixture(scope="module")
def elsewhere(other: FakeProvider) -> Iterator[str]:
    with other.serving() as url:
        yield url


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    """Begin each test with no hits."""
    for name in ("provider", "other"):
        if name in request.fixturenames:
            request.getfixturevalue(name).hits.clear()
