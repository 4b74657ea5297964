"""The adapter of requests."""

from __future__ import annotations

import gzip
import json
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from keyguard.testing import FakeProvider
from keyguard.testing.provider import Answer, Reset
from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.pool import KeyPool
from tests.upstream.transports.worlds import ASKED, a_pool

PATH = "/v1/chat/completions"
BOTH = {"Authorization": f"Bearer {PLACEHOLDER}", "x-api-key": PLACEHOLDER}


def session_of(pool: KeyPool, url: str, **settings: Any) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount(url, pool.requests_adapter(**settings))
    return session


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_key_runs_dry_and_then_all_do(provider: FakeProvider, url: str, stream: bool, gzipped: bool) -> None:
    refusal = provider.error("exhausted", wait=300)
    refusal = Answer(refusal.status, refusal.headers, refusal.body, gzipped=gzipped)
    provider.script("sk-A", [refusal])
    with session_of(a_pool(origin=url), url) as session:
        response: Any = session.post(f"{url}{PATH}?key={PLACEHOLDER}", json=ASKED, headers=BOTH, stream=stream)
        assert response.json()["usage"]
        assert (response.keyguard.key, response.keyguard.attempts) == ("b", 2)
        assert response.request.headers["x-api-key"] == PLACEHOLDER
        assert dict(provider.hits) == {"sk-A": 1, "sk-B": 1}
        provider.script("sk-B", [refusal])
        for hits in (2, 2):
            response = session.post(f"{url}{PATH}", json=ASKED, stream=stream)
            assert response.status_code == 429
            assert response.json()["error"]["message"]
            assert response.headers["x-should-retry"] == "false"
            assert int(response.headers["retry-after"]) > 200
            assert response.keyguard.cause == "exhausted"
            assert provider.hits["sk-B"] == hits
    assert provider.saw(PLACEHOLDER) == []


@pytest.mark.parametrize("name", list(BOTH))
@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_to_another_origin_takes_no_key_along(
    provider: FakeProvider, url: str, other: FakeProvider, elsewhere: str, name: str, status: int
) -> None:
    provider.script("sk-A", [Answer(status, {"location": f"{elsewhere}/there"})])
    with session_of(a_pool(origin=url), url) as session:
        session.headers[name] = BOTH[name]
        assert session.post(f"{url}{PATH}", json=ASKED).url == f"{elsewhere}/there"
    assert dict(provider.hits) == {"sk-A": 1}
    assert dict(other.hits) == {"": 1}
    assert other.saw("sk-A") == other.saw(PLACEHOLDER) == []


def test_other_origins_get_neither_key_nor_placeholder(other: FakeProvider, elsewhere: str, url: str) -> None:
    with session_of(a_pool(origin=url), elsewhere) as session:
        session.get(f"{elsewhere}/v1/models?key={PLACEHOLDER}", headers=BOTH)
    assert dict(other.hits) == {"": 1}


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"not gzip", {"content-encoding": "gzip"}), (b"x" * 200_000, {}), (gzip.compress(b"{}" * 9), {"x-a": "b"})],
    ids=["no gzip", "long", "coded and not told"],
)
def test_bodies_of_errors_can_be_read(provider: FakeProvider, url: str, body: bytes, headers: dict[str, str]) -> None:
    provider.script("sk-A", [Answer(400, headers, body)])
    with session_of(a_pool(origin=url), url) as session:
        response = session.post(f"{url}{PATH}", json=ASKED, stream=True)
        assert response.raw.read(decode_content=False) == body


def test_a_body_that_is_not_what_it_claims_to_be(provider: FakeProvider, url: str) -> None:
    provider.script("sk-A", [Answer(400, {"content-encoding": "gzip"}, b"not gzip")])
    session = session_of(a_pool(origin=url), url)
    with session, pytest.raises(requests.exceptions.ContentDecodingError):
        session.post(f"{url}{PATH}", json=ASKED)


def test_an_error_that_breaks_off(provider: FakeProvider, url: str) -> None:
    provider.script("sk-A", [Answer(429, {"content-length": "999", "retry-after": "300"}, b"{")])
    provider.script("sk-B", [Reset()])
    session = session_of(a_pool(origin=url), url)
    with session, pytest.raises(requests.ConnectionError) as caught:
        session.post(f"{url}{PATH}", json=ASKED, headers=BOTH)
    assert dict(provider.hits) == {"sk-A": 1, "sk-B": 1}  # it was sent, so it is not sent again
    assert caught.value.request is not None
    assert caught.value.request.headers["x-api-key"] == PLACEHOLDER
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "sk-B" not in told


def test_a_body_that_is_made_while_it_is_sent_is_sent_once(provider: FakeProvider, url: str) -> None:
    def made() -> Iterator[bytes]:
        yield json.dumps(ASKED).encode()

    provider.script("sk-A", [provider.error("exhausted", wait=300)])
    with session_of(a_pool(origin=url), url) as session:
        assert session.post(f"{url}{PATH}", data=made()).status_code == 429
    assert dict(provider.hits) == {"sk-A": 1}


def test_a_connection_that_is_not_made() -> None:
    session = session_of(a_pool(origin="http://127.0.0.1:9"), "http://127.0.0.1:9", options={"max_wait": 0})
    with session, pytest.raises(requests.ConnectionError):
        session.get("http://127.0.0.1:9/")


def test_a_session_with_a_pool_is_not_pickled(url: str) -> None:
    with pytest.raises(TypeError, match="a pool of its own"):
        pickle.dumps(session_of(a_pool(origin=url), url))
