"""On real servers: clients that stay and clients that leave, with FastAPI and with Flask."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.support.neighbours import ASGI_SERVERS, WSGI_SERVERS, Served, served
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow  # a server's start

SERVERS = {
    "uvicorn": ([*ASGI_SERVERS["uvicorn"], "--lifespan=off"], "asgi"),
    "hypercorn": (ASGI_SERVERS["hypercorn"], "asgi"),
    "gunicorn": (WSGI_SERVERS["gunicorn"], "wsgi"),
    "waitress": (WSGI_SERVERS["waitress"], "wsgi"),
}
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 1000})


def ask(server: Served, *, parts: int | None = None) -> bytes:
    """Ask for a stream, and read all of it, or leave after so many bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    try:
        assert answer.status == 200
        return answer.read() if parts is None else answer.read(parts)
    finally:
        answer.close()
        connection.close()


def use(server: Served) -> tuple[int, int]:
    found = json.loads(server.get("/use")[1])
    return found["spent"], found["held"]


@pytest.mark.parametrize("name", SERVERS)
def test_a_client_that_leaves_is_settled_exactly(name: str, tmp_path: Path) -> None:
    command, world = SERVERS[name]
    store = f"sqlite:///{tmp_path}/k.db?timeout=5"
    with served(command, f"tests.support.served_budget_{world}:app", tmp_path, KEYGUARD_STORE=store) as server:
        whole = ask(server)
        assert (whole.count(b"data:"), b"usage" in whole) == (20, False)
        wait_until(lambda: use(server) == (21, 0), "the first to be settled")
        for _ in range(3):
            ask(server, parts=5000)
        wait_until(lambda: use(server)[1] == 0, "those that left to be settled")
        assert use(server) == (84, 0), server.log


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_with_abort_it_pays_what_was_seen(name: str, tmp_path: Path) -> None:
    command, world = SERVERS[name]
    store = f"sqlite:///{tmp_path}/k.db?timeout=5"
    app = f"tests.support.served_budget_{world}:app"
    with served(command, app, tmp_path, KEYGUARD_STORE=store, LEAVING="abort") as server:
        ask(server, parts=5000)
        wait_until(lambda: use(server)[1] == 0, "it to be settled")
        assert 1000 < use(server)[0] < 20_000, server.log
