"""Tests of `fastapi_app.py`, as an app of your own has them.

pytest examples/test_fastapi_app.py
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from fastapi_app import app, guard
from keyguard.testing import UnderTest


@pytest.fixture
def g() -> Iterator[UnderTest]:
    """Put the app's guard under test. The plugin has such a fixture, `keyguard`: see `docs/testing.md`."""
    with guard.testing(identity="alice") as under_test:
        yield under_test


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_a_caller_may_ask_ten_times_a_second(g: UnderTest, client: TestClient) -> None:
    assert [client.get("/items/7").status_code for _ in range(11)] == [200] * 10 + [429]
    g.advance("1 second")
    assert client.get("/items/7").status_code == 200


def test_one_who_has_spent_all_is_told_when_to_come_again(g: UnderTest, client: TestClient) -> None:
    g.exhaust("alice")
    refused = client.get("/items/7")
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0


def test_keys_are_needed_and_can_be_revoked(g: UnderTest, client: TestClient) -> None:
    g.identity = None
    assert client.get("/items/7").status_code == 401
    assert client.get("/health").status_code == 200
    issued = guard.keys.issue("acme")
    sent = {"X-API-Key": issued.key.reveal()}
    assert client.get("/items/7", headers=sent).status_code == 200
    guard.keys.revoke(issued.record.id)
    assert client.get("/items/7", headers=sent).status_code == 401


def test_the_app_goes_on_without_its_store(g: UnderTest, client: TestClient) -> None:
    assert client.get("/items/7").status_code == 200
    with g.break_store():
        assert client.get("/items/7").status_code == 200
        assert not guard.health.ok
    assert client.get("/items/7").status_code == 200
    assert guard.health.ok
