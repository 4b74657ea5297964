"""On real servers: nothing is buffered, events arrive at once, websockets, threads, forked workers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for

ROOT = Path(__file__).parents[2]

SERVERS = {
    "uvicorn": ["uvicorn", "tests.support.served:asgi", "--host=127.0.0.1", "--port={port}", "--log-level=warning"],
    "uvicorn h11, no lifespan": [
        "uvicorn", "tests.support.served:asgi", "--host=127.0.0.1", "--port={port}", "--http=h11", "--lifespan=off",
        "--log-level=warning",
    ],
    "gunicorn": [
        "gunicorn", "tests.support.served:wsgi", "--bind=127.0.0.1:{port}", "--workers=1", "--threads=16",
        "--log-level=error",
    ],
    "waitress": ["tests.support.served", "{port}"],
}  # fmt: skip


def listens(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 5).close()
    return True


@contextlib.contextmanager
def server(command: list[str], folder: Path, **environment: str) -> Iterator[int]:
    """A server in a process of its own, up; ended by its pid."""
    port = free_port()
    words = [sys.executable, "-m", *[word.format(port=port) for word in command]]
    store = {"KEYGUARD_STORE": f"sqlite:///{folder}/served.db?timeout=5"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=ROOT, env={**os.environ, **store, **environment}, stdout=log, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or listens(port), f"{command} to be up", 60)
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def get(port: int, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


ODD = [
    b"GET / HTTP/1.0\r\n\r\n",
    b"BREW / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET //x/..%2f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET http://other/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: \xff\xfe\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(90)) + b"Connection: close\r\n\r\n",
]


def left(headers: http.client.HTTPMessage) -> int:
    found = re.search(r";r=([0-9]+)", headers["RateLimit"])
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize("name", list(SERVERS))
def test_a_server_from_its_start_to_a_used_up_limit(name: str, tmp_path: Path) -> None:
    """200 MB add next to no memory, the first event arrives at once, odd requests get an answer, and sixteen at once
    are counted exactly."""
    with server(SERVERS[name], tmp_path) as port:
        get(port, "/warm")
        before = int(get(port, "/peak")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/big")
        answer = connection.getresponse()
        assert answer.headers["X-Guarded"] == "yes"
        received = 0
        while chunk := answer.read(1 << 20):
            received += len(chunk)
        connection.close()
        after = int(get(port, "/peak")[2])
        assert received in (200 * 2**20 + 3, 200 * 2**20)
        assert after - before <= 2048  # KiB

        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.read(13) == b"data: first\n\n"
        first = time.monotonic()
        assert answer.read() == b"end"
        assert time.monotonic() - first > 0.2, "the first came with the last, 0.8 s later"
        connection.close()
        assert get(port, "/ended")[2] == b"5"

        for request in ODD:
            odd = socket.create_connection(("127.0.0.1", port), 60)
            odd.sendall(request)
            head = odd.recv(100)
            odd.close()
            assert head.startswith(b"HTTP/1."), request
            assert not head.split(b" ")[1].startswith(b"5"), (request, head)

        free = left(get(port, "/")[1])
        assert 100 - 7 - len(ODD) <= free <= 100 - 7
        with ThreadPoolExecutor(16) as pool:
            statuses = [answer[0] for answer in pool.map(lambda _: get(port, "/"), range(free + 30))]
    assert (statuses.count(200), statuses.count(429)) == (free, 30)


def test_workers_forked_after_import_share_one_count(tmp_path: Path) -> None:
    command = [
        "gunicorn",
        "tests.support.served:wsgi",
        "--preload",
        "--bind=127.0.0.1:{port}",
        "--workers=3",
        "--log-level=error",
    ]
    with server(command, tmp_path) as port, ThreadPoolExecutor(12) as pool:
        processes: set[bytes] = set()

        def all_answer() -> bool:
            processes.update(body for _, _, body in pool.map(lambda _: get(port, "/process"), range(24)))
            return len(processes) == 3

        wait_until(all_answer, "all workers to answer")
        answers = list(pool.map(lambda _: get(port, "/"), range(130)))
    statuses = [status for status, _, _ in answers]
    assert (statuses.count(200), statuses.count(429)) == (100, 30)


@pytest.mark.parametrize("implementation", ["websockets", "wsproto"])
def test_who_leaves_ends_the_request_and_websockets_are_counted_and_refused(
    implementation: str, tmp_path: Path
) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    async def talk(port: int) -> str:
        async with connect(f"ws://127.0.0.1:{port}/") as socket:
            await socket.send("hello")
            return str(await socket.recv())

    asked = 0

    def three_more_have_ended() -> bool:
        nonlocal asked
        asked += 1  # each time, the one before has ended too
        return int(get(port, "/ended")[2]) >= before + asked + 3

    with server([*SERVERS["uvicorn"], f"--ws={implementation}"], tmp_path) as port:
        before = int(get(port, "/ended")[2])
        for _ in range(3):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(1000)
            connection.close()
        wait_until(three_more_have_ended, "the requests of clients that left to end")
        assert asyncio.run(talk(port)) == "echo hello"
        while left(get(port, "/")[1]):
            pass
        with pytest.raises(InvalidStatus) as caught:
            asyncio.run(talk(port))
        assert caught.value.response.status_code == 429
        assert b'"cause": "usage"' in (caught.value.response.body or b"")
