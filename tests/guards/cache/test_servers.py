"""The response cache on real servers: the same answers everywhere, nothing held back, nothing left over."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.drivers.test_servers import server
from tests.support.servers import wait_until

pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for

UVICORN = ["uvicorn", "tests.support.served_cache:asgi", "--host=127.0.0.1", "--port={port}", "--log-level=warning"]
SERVERS = {
    "uvicorn": [*UVICORN, "--http=httptools"],
    "uvicorn h11, no lifespan": [*UVICORN, "--http=h11", "--lifespan=off"],
    "gunicorn": [
        "gunicorn", "tests.support.served_cache:wsgi", "--bind=127.0.0.1:{port}", "--workers=1", "--threads=110",
        "--log-level=error",
    ],
    "waitress": ["tests.support.served_cache", "{port}"],
}  # fmt: skip
every_server = pytest.mark.parametrize("name", list(SERVERS))

BODY = b"abcdefghijklmnopqrstuvwxyz"


@contextmanager
def served(name: str, folder: Path, **environment: str) -> Iterator[int]:
    with server(SERVERS[name], folder, **{"KEYGUARD_STORE": "memory://", **environment}) as port:
        yield port
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()


@pytest.fixture(scope="module", params=SERVERS)
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """One server for all tests that leave it as it was, but for entries of their own."""
    with served(request.param, tmp_path_factory.mktemp("served")) as port:
        yield port


class Got(NamedTuple):
    status: int
    body: bytes
    cache: str | None
    """`Cache-Status`, its `ttl` left out."""
    length: str | None
    range: str | None


class Connection:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        self._connection.connect()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, path: str, method: str = "GET", **fields: str) -> Got:
        names = {name.replace("_", "-"): value for name, value in fields.items()}
        self._connection.request(method, path, headers=names)
        with self._connection.getresponse() as answer:
            body = answer.read()
            headers = answer.headers
        cache = headers["Cache-Status"]
        return Got(
            answer.status,
            body,
            cache and re.sub("; ttl=-?[0-9]+", "", cache),
            headers["Content-Length"],
            headers["Content-Range"],
        )


def ask(port: int, path: str, method: str = "GET", **fields: str) -> Got:
    with Connection(port) as connection:
        return connection.ask(path, method, **fields)


MISS, HIT, NOT_STORED = "keyguard; fwd=uri-miss; stored", "keyguard; hit", "keyguard; fwd=uri-miss"
TAG = {"If_None_Match": '"v1"'}

# method, path, fields -> status, body, Cache-Status, Content-Length ("?": as the server likes), Content-Range
TABLE: list[tuple[tuple[str, str, dict[str, str]], Got]] = [
    (("GET", "/item", {}), Got(200, BODY, MISS, "26", None)),
    (("GET", "/item", {}), Got(200, BODY, HIT, "26", None)),
    (("HEAD", "/item", {}), Got(200, b"", HIT, "26", None)),
    (("GET", "/item", TAG), Got(304, b"", HIT, None, None)),
    (("HEAD", "/item", TAG), Got(304, b"", HIT, None, None)),
    (("GET", "/item", {"If_None_Match": '"v2"'}), Got(200, BODY, HIT, "26", None)),
    (("GET", "/item", {"Range": "bytes=2-5"}), Got(206, b"cdef", HIT, "4", "bytes 2-5/26")),
    (("GET", "/item", {"Range": "bytes=-3"}), Got(206, b"xyz", HIT, "3", "bytes 23-25/26")),
    (("GET", "/item", {"Range": "bytes=25-"}), Got(206, b"z", HIT, "1", "bytes 25-25/26")),
    (("GET", "/item", {"Range": "bytes=26-"}), Got(416, b"", HIT, "0", "bytes */26")),
    (("GET", "/item", {"Range": "bytes=0-1", "If_Range": '"v2"'}), Got(200, BODY, HIT, "26", None)),
    (
        ("GET", "/item", {"Cache_Control": "no-cache"}),
        Got(200, BODY, "keyguard; fwd=request; fwd-status=304; stored", "26", None),
    ),
    (("GET", "/item", {}), Got(200, BODY, HIT, "26", None)),
    (("POST", "/item", {}), Got(200, BODY, "keyguard; fwd=method", "26", None)),
    (("GET", "/item", {}), Got(200, BODY, MISS, "26", None)),
    (("GET", "/purge?/item", {}), Got(404, b"", NOT_STORED, "0", None)),
    (("GET", "/item", {}), Got(200, BODY, MISS, "26", None)),
    (("GET", "/streamed", {}), Got(200, BODY, MISS, None, None)),
    (("GET", "/streamed", {}), Got(200, BODY, HIT, "26", None)),
    (("HEAD", "/streamed", {}), Got(200, b"", HIT, "26", None)),
    (("GET", "/streamed", {"Range": "bytes=0-0"}), Got(206, b"a", HIT, "1", "bytes 0-0/26")),
    (("HEAD", "/one", {}), Got(200, b"", NOT_STORED, "?", None)),
    (("GET", "/one", {}), Got(200, BODY, MISS, "?", None)),
    (("GET", "/one", {}), Got(200, BODY, HIT, "26", None)),
    (("GET", "/private", {}), Got(200, BODY, NOT_STORED, "?", None)),
    (("GET", "/private", {}), Got(200, BODY, NOT_STORED, "?", None)),
    (
        ("GET", "/none", {"Cache_Control": "only-if-cached"}),
        Got(504, b"?", f"{NOT_STORED}; detail=only-if-cached", "?", None),
    ),
]  # fmt: skip


def told(port: int) -> None:
    with Connection(port) as connection:
        connection.ask("/streamed?first")  # opens what a process opens once
        for (method, path, fields), expected in TABLE:
            got = connection.ask(path, method, **fields)
            if expected.length == "?":
                got = got._replace(length="?")
            if expected.body == b"?":
                got = got._replace(body=b"?")
            assert got == expected, (method, path, fields)


def test_the_same_answers_on_every_server(port: int) -> None:
    told(port)


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn"])
def test_the_same_answers_from_a_file_in_both_worlds(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path, KEYGUARD_STORE=f"sqlite:///{tmp_path}/cache.db?timeout=1") as port:
        told(port)


def test_the_next_request_after_a_miss_is_a_hit(port: int) -> None:
    """On the same connection, and on another one that asks as soon as the last byte is there."""
    with Connection(port) as one, Connection(port) as other:
        for number in range(20):
            for path in ("/item", "/streamed", "/one"):
                again = one if number % 2 else other
                assert one.ask(f"{path}?{number}").cache == MISS
                assert again.ask(f"{path}?{number}").cache == HIT, (path, number)


def test_events_are_not_held_back(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/events")
    with connection.getresponse() as answer:
        assert answer.read(13) == b"data: first\n\n"
        first = time.monotonic()
        assert answer.read() == b"end"
        assert time.monotonic() - first > 0.2, "the first came with the last, a second later"
    connection.close()


@every_server
def test_a_large_response_flows_past_the_cache(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path, BIG_MIB="128") as port:
        ask(port, "/item")
        before = int(ask(port, "/peak").body)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        start = time.monotonic()
        connection.request("GET", "/big")
        received = 0
        with connection.getresponse() as answer:
            answer.read(1)
            first = time.monotonic() - start
            while chunk := answer.read(1 << 20):
                received += len(chunk)
        connection.close()
        whole = time.monotonic() - start
        assert received == 128 * 2**20 - 1
        assert first < whole / 4
        added = int(ask(port, "/peak").body) - before
        assert added <= 1024 + 4096  # KiB: what an entry may hold at most, and the parts that are on their way
        assert ask(port, "/calls?/big").body == b"1"


@pytest.mark.parametrize("query", ["sized", "unsized"])
def test_a_client_that_leaves_in_the_middle_leaves_no_half_entry(port: int, query: str) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET /parts?{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
    connection.recv(1000)
    connection.close()
    for _ in range(3):
        got = ask(port, f"/parts?{query}")
        assert (got.status, len(got.body)) == (200, 900_000)
    assert got.cache == HIT


def test_who_waits_for_a_client_that_leaves_is_served(port: int) -> None:
    with ThreadPoolExecutor(8) as pool:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"GET /slow?left HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        wait_until(lambda: ask(port, "/calls?/slow?left").body == b"1", "the app to run")
        followers = [pool.submit(ask, port, "/slow?left") for _ in range(4)]
        connection.close()
        answers = [follower.result(20) for follower in followers]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert int(ask(port, "/calls?/slow?left").body) <= 2


def test_a_hundred_misses_at_once_run_the_app_once(port: int) -> None:
    with ThreadPoolExecutor(100) as pool:
        ask(port, "/item")
        answers = list(pool.map(lambda _: ask(port, "/slow"), range(100)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, b"1")}
        assert ask(port, "/calls?/slow").body == b"1"
        told = [answer.cache for answer in answers]
        assert told.count(MISS) == 1
        assert set(told) <= {MISS, HIT, f"{HIT}; collapsed"}


def test_a_stale_answer_comes_at_once_and_is_refreshed_behind(port: int) -> None:
    assert ask(port, "/swr").body == b"1"
    stale = ask(port, "/swr")
    assert (stale.body, stale.cache) == (b"1", HIT)
    assert ask(port, "/calls?done:/swr").body == b"1", "it waited for the app"
    wait_until(lambda: ask(port, "/swr").body == b"2", "the refresh")


@every_server
def test_a_refresh_that_hangs_does_not_hold_up_the_end(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path, PATIENCE="0.5") as port:
        assert ask(port, "/hangs").body == b"1"
        assert ask(port, "/hangs").cache == HIT
        wait_until(lambda: ask(port, "/calls?/hangs").body == b"2", "the refresh to begin")
        start = time.monotonic()
    assert time.monotonic() - start < 8  # the refresh would take a minute


def test_workers_share_entries_in_a_file(tmp_path: Path) -> None:
    command = [
        "gunicorn",
        "tests.support.served_cache:wsgi",
        "--bind=127.0.0.1:{port}",
        "--workers=2",
        "--log-level=error",
    ]
    with server(command, tmp_path, KEYGUARD_STORE=f"sqlite:///{tmp_path}/cache.db?timeout=1") as port:
        with ThreadPoolExecutor(8) as pool:
            wait_until(
                lambda: len({got.body for got in pool.map(lambda _: ask(port, "/pid"), range(16))}) == 2, "both workers"
            )
            answers = list(pool.map(lambda _: ask(port, "/pid?shared"), range(100)))
        assert len({got.body for got in answers}) == 1
        assert ask(port, "/purge?/pid%3Fshared").status == 404
