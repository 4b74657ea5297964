"""On real servers: requests beyond the limit are refused at once while others are held, and all is well after."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.neighbours import ASGI_SERVERS, WSGI_SERVERS, served
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow  # a server's start

SERVERS = {
    "uvicorn": ([*ASGI_SERVERS["uvicorn"], "--lifespan=off"], "asgi"),
    "gunicorn": (WSGI_SERVERS["gunicorn"], "wsgi"),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_full_app_refuses_and_recovers(name: str, tmp_path: Path) -> None:
    command, world = SERVERS[name]
    with served(command, f"tests.support.served_overload:{world}", tmp_path) as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(server.get, "/wait") for _ in range(3)]
        wait_until(lambda: json.loads(server.get("/seen")[1])["in_flight"] == 3, "three requests to be held", 60)
        for _ in range(5):
            status, body, fields = server.get("/wait")
            assert (status, json.loads(body)["cause"]) == (503, "overload")
            assert 1 <= int(fields["retry-after"]) <= 5
        assert server.get("/release")[0] == 200
        assert [request.result()[0] for request in waiting] == [200, 200, 200]
        status, body, _ = server.get("/")
        assert (status, json.loads(body)["in_flight"]) == (200, 0)
        assert json.loads(body)["shed"] == {"critical": 5}
