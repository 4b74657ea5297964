"""The ledger is exact when a server has been told to stop, and a process that is killed loses one interval at most.

gunicorn's own workers have the last story; an app without a lifespan is Django.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyguard import UsageReader
from keyguard.stores import open_store
from keyguard.usage import ledger_store
from tests.support.neighbours import ASGI_SERVERS, UWSGI_WORKERS, WSGI_SERVERS, Served, served
from tests.support.servers import Proxy, RedisServer, wait_until

pytestmark = pytest.mark.slow

GUNICORN = [word for word in WSGI_SERVERS["gunicorn"] if not word.startswith("--threads")]
UVICORN = ASGI_SERVERS["uvicorn"]
SERVERS = {
    "gunicorn with threads, forked and recycled": (
        [*GUNICORN, "-w2", "--threads=2", "--preload", "--max-requests=15"],
        "wsgi",
    ),
    "gunicorn with gevent": ([*GUNICORN, "-k", "gevent"], "wsgi"),
    "uvicorn, two workers": ([*UVICORN, "--workers=2"], "asgi"),
    "uvicorn, Django with the guard around it": (UVICORN, "django:around"),
    "hypercorn": ([*ASGI_SERVERS["hypercorn"], "--workers=0"], "asgi"),
    "granian, ASGI": (ASGI_SERVERS["granian"], "asgi"),
    "granian, WSGI": (WSGI_SERVERS["granian"], "wsgi"),
    "uWSGI": ([*UWSGI_WORKERS, "--stats={folder}/stats"], "wsgi"),
    "waitress that exits": (WSGI_SERVERS["waitress"], "wsgi"),
}
KEYS = [f"key-number-{number}" for number in range(4)]


def outcome(status: int, body: str) -> str:
    """What the ledger counts such an answer under."""
    return "served" if status == 200 else json.loads(body)["cause"]


def ask(server: Served, keys: list[str], path: str = "/") -> Counter[tuple[str, str]]:
    """What came of a request with each of these keys, four at a time."""

    def one(key: str) -> tuple[str, str]:
        return key, outcome(*server.get(path, X_API_Key=key)[:2])

    with ThreadPoolExecutor(4) as pool:
        return Counter(pool.map(one, keys))


def reached(server: Served, processes: int) -> Counter[tuple[str, str]]:
    """What came of requests that were sent until so many processes have answered."""
    seen: Counter[tuple[str, str]] = Counter()
    pids: set[str] = set()

    def all_answer() -> bool:
        keys = [f"key-of-{len(seen) + number}" for number in range(8)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda key: server.get(X_API_Key=key), keys))
        for key, (status, body, fields) in zip(keys, answers, strict=True):
            seen[key, outcome(status, body)] += 1
            pids.add(fields["x-pid"])
        return len(pids) >= processes

    wait_until(all_answer, "all workers to answer")
    return seen


def counted(ledger: str, keys: list[str]) -> Counter[tuple[str, str]]:
    """What the ledger tells of them, read from its store alone."""
    found: Counter[tuple[str, str]] = Counter()
    store = ledger_store(open_store(ledger), make=False)
    if store is None:
        return found
    reader = UsageReader(store)
    for key in keys:
        report = reader.of(key)
        assert report.complete
        found[key, "served"] = report.served
        for cause, count in report.by_cause.items():
            found[key, cause] = count
    close = getattr(store, "close", None)
    if close is not None:
        close()
    return +found


def is_idle(stats: Path) -> bool:
    """Tell whether no worker of uWSGI is in a request: one that is runs nothing at its end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(stats))
        text = b""
        while part := client.recv(65536):
            text += part
    return not any(core["in_request"] for worker in json.loads(text)["workers"] for core in worker["cores"])


@pytest.mark.parametrize("name", SERVERS)
def test_each_request_is_counted_once_when_the_server_has_stopped(name: str, tmp_path: Path) -> None:
    command, app = SERVERS[name]
    place, _, app = app.rpartition(":")
    module = f"tests.support.served_usage{place and '_'}{place}"
    store = f"sqlite:///{tmp_path}/k.db?timeout=10"
    words = {"KEYGUARD_STOPS": "yes"} if name == "waitress that exits" else {}
    command = [word.replace("{folder}", str(tmp_path)) for word in command]
    with served(command, f"{module}:{app}", tmp_path, KEYGUARD_STORE=store, **words) as server:
        seen = ask(server, KEYS * 6)
        if "two workers" in name:
            seen += reached(server, 2)
        assert counted(store, KEYS) == {} or "recycled" in name  # nothing was written but at an end
        if name == "uWSGI":
            wait_until(lambda: is_idle(tmp_path / "stats"), "its workers to be idle")
        log = server.stop()
    assert counted(store, sorted({key for key, _ in seen})) == seen, log
    assert {key: seen[key, "served"] for key in KEYS} == dict.fromkeys(KEYS, 4)


def test_a_process_that_is_killed_loses_what_came_after_it_had_last_written(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/k.db?timeout=10"
    with served(
        WSGI_SERVERS["waitress"], "tests.support.served_usage:wsgi", tmp_path,
        KEYGUARD_STORE=store, KEYGUARD_EVERY="0.3",
    ) as server:  # fmt: skip
        seen = ask(server, KEYS * 3)
        wait_until(lambda: counted(store, KEYS) == seen, "the interval to pass")
        seen += ask(server, KEYS[:1], "/close")
        # What is closed has been written; what comes then is written again as before.
        assert sum(counted(store, KEYS).values()) >= 12
        seen += ask(server, KEYS[:2])
        wait_until(lambda: counted(store, KEYS) == seen, "it to go on")
        last = ask(server, KEYS)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    found = counted(store, KEYS)
    assert seen <= found <= seen + last


def test_nothing_is_lost_or_counted_twice_while_the_ledger_s_store_stops_and_its_answers_are_lost(
    tmp_path: Path,
) -> None:
    """Four processes write to it; decisions are made elsewhere."""
    keys = [f"key-number-{number}" for number in range(12)]
    with RedisServer() as redis, Proxy(redis.port) as proxy:
        ledger = f"{redis.url}?namespace=usage&timeout=1"
        words = {
            "KEYGUARD_STORE": f"sqlite:///{tmp_path}/k.db?timeout=10",
            "KEYGUARD_LEDGER": f"redis://127.0.0.1:{proxy.port}/0?namespace=usage&timeout=0.3",
            "KEYGUARD_EVERY": "0.1",
        }
        command = [*GUNICORN, "-w4", "--preload"]
        with served(command, "tests.support.served_usage:wsgi", tmp_path, **words) as server:
            seen = reached(server, 4)
            wait_until(lambda: counted(ledger, [key for key, _ in seen]) == seen, "them to be written")
            for mode in ("drop", "cut", "reset"):
                proxy.mode, before = mode, proxy.replies
                seen += ask(server, keys * 2)
                wait_until(lambda before=before: proxy.replies > before + 3, "answers to be lost")
            proxy.mode = ""
            redis.signal(signal.SIGSTOP)
            began = threading.Timer(1.5, redis.signal, [signal.SIGCONT])
            began.start()
            seen += ask(server, keys * 2)
            began.join()
            log = server.stop()
        assert counted(ledger, sorted({key for key, _ in seen})) == seen, log
        assert "usage is not written down" in log
