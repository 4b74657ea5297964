"""Servers that fork after the first request: each process has connections of its own."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest
import requests

from tests.upstream.transports.worlds import a_pool


class TellsPort(BaseHTTPRequestHandler):
    """Answers with the port from which it is asked, which tells connections apart."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = str(self.client_address[1]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: Any) -> None: ...


@pytest.fixture
def ports() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), TellsPort) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def by_httpx(family: ModuleType, url: str) -> Iterator[Callable[[], str]]:
    with family.Client(transport=a_pool(origin=url).transport()) as client:
        yield lambda: client.get(url).text


@contextmanager
def by_requests(_: Any, url: str) -> Iterator[Callable[[], str]]:
    with requests.Session() as session:
        session.trust_env = False
        session.mount(url, a_pool(origin=url).requests_adapter())
        yield lambda: session.get(url).text


def in_child(ask: Callable[[], str], results: Any) -> None:
    results.put([ask(), ask()])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("way", "family"),
    [(by_httpx, httpx), (by_httpx, httpx2), (by_requests, requests)],
    ids=["httpx", "httpx2", "requests"],
)
def test_a_child_uses_no_connection_of_its_parent(way: Any, family: ModuleType, ports: str) -> None:
    """Two processes that write to one connection would mix up requests, and get each other's answers."""
    with way(family, ports) as ask:
        before = ask()
        assert ask() == before, "the connection is kept"
        fork = multiprocessing.get_context("fork")
        results = fork.Queue()
        child = fork.Process(target=in_child, args=(ask, results))
        child.start()
        first, second = results.get(timeout=60)
        child.join(60)
        assert first == second != before
        assert ask() == before
