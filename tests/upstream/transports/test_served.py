"""The transports over sockets: with the library's own connections, through proxies, in logs."""

from __future__ import annotations

import logging
from types import ModuleType

import httpx
import httpx2
import pytest

from keyguard.testing import FakeProvider
from keyguard.testing.provider import Reset, Stall
from keyguard.upstream.transports.httpx import PoolTransport
from tests.upstream.transports.worlds import ASKED, a_pool

FAMILIES = pytest.mark.parametrize("family", [httpx, httpx2], ids=lambda family: family.__name__)
PATH = "/v1/chat/completions"


@FAMILIES
def test_no_key_stands_in_a_log(
    family: ModuleType, provider: FakeProvider, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpx2", "httpcore", "httpcore2", "h11", "hpack", "keyguard"):
        caplog.set_level(logging.DEBUG, logger=name)
    provider.script("sk-A", [provider.error("exhausted", wait=300)])
    with family.Client(transport=PoolTransport(a_pool(origin=url))) as client:
        assert client.post(f"{url}{PATH}", json=ASKED).status_code == 200
    assert dict(provider.hits) == {"sk-A": 1, "sk-B": 1}
    assert "send_request_headers" in caplog.text
    assert not [record for record in caplog.records if "sk-" in record.getMessage() or "sk-" in str(record.args)]


@FAMILIES
def test_proxies_of_the_environment_are_used(
    family: ModuleType, provider: FakeProvider, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is given a transport uses none of itself."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", url.removeprefix("http://"))
    origin = "http://provider.localhost:9"
    with family.Client(transport=PoolTransport(a_pool(origin=origin))) as client:
        assert client.post(f"{origin}{PATH}", json=ASKED).status_code == 200
    assert dict(provider.hits) == {"sk-A": 1}
    for trust_env, exempt in ((False, ""), (True, "provider.localhost")):
        monkeypatch.setenv("NO_PROXY", exempt)
        transport = PoolTransport(a_pool(origin=origin), trust_env=trust_env)
        with family.Client(transport=transport) as client, pytest.raises(family.ConnectError):
            client.post(f"{origin}{PATH}", json=ASKED, extensions={"keyguard": {"max_wait": 0}})
    assert dict(provider.hits) == {"sk-A": 1}


@FAMILIES
@pytest.mark.parametrize("after", [None, 1])
def test_a_connection_that_is_reset(family: ModuleType, provider: FakeProvider, url: str, after: int | None) -> None:
    provider.script("sk-A", [Reset(after=after)])
    with family.Client(transport=PoolTransport(a_pool(origin=url))) as client, pytest.raises(family.TransportError):
        client.post(f"{url}{PATH}", json=ASKED)
    assert dict(provider.hits) == {"sk-A": 1}


@FAMILIES
def test_connections_are_kept_and_closed_with_the_client(family: ModuleType, provider: FakeProvider, url: str) -> None:
    pool = a_pool(origin=url)
    transport = PoolTransport(pool, limits=family.Limits(max_connections=1))
    for _ in range(2):  # it can be used again
        with family.Client(transport=transport, timeout=30) as client:
            provider.script("sk-A", [provider.error("exhausted", wait=0.01)])
            for _ in range(3):
                assert client.post(f"{url}{PATH}", json=ASKED).status_code == 200


@FAMILIES
def test_an_answer_that_stands_still_ends_by_the_time_limit_of_the_client(
    family: ModuleType, provider: FakeProvider, url: str
) -> None:
    provider.script("sk-A", [Stall()])
    transport = PoolTransport(a_pool(origin=url))
    with family.Client(transport=transport, timeout=0.2) as client, pytest.raises(family.ReadTimeout):
        client.post(f"{url}{PATH}", json=ASKED)
    assert dict(provider.hits) == {"sk-A": 1}


@FAMILIES
def test_waiting_for_a_key_is_no_reading(family: ModuleType, provider: FakeProvider, url: str) -> None:
    """It ends by `max_wait` alone."""
    timeout = family.Timeout(60, read=10, pool=0.001)
    for key in ("sk-A", "sk-B"):
        provider.script(key, [provider.error("exhausted", wait=0.3)])
    with family.Client(transport=PoolTransport(a_pool(origin=url, max_wait=60)), timeout=timeout) as client:
        response = client.post(f"{url}{PATH}", json=ASKED)
    assert response.status_code == 200
    assert response.extensions["keyguard"].waited >= 0.2
