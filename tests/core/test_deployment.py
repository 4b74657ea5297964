"""Where an app runs: which store its environment names, and how many processes serve it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import keyguard.asgi
from keyguard import APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit, ResponseCache
from keyguard.process.workers import seen_workers
from keyguard.stores.leased import Leased
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from tests.support.harness import asgi_app
from tests.support.servers import free_port, wait_until
from tests.support.warm import Program, run

SAYS = "memory:// belongs to one"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEB_CONCURRENCY", "KEYGUARD_STORE", "GUNICORN_CMD_ARGS", "UVICORN_WORKERS"):
        monkeypatch.delenv(name, raising=False)


# -- the store --------------------------------------------------------------------------------------------------------


def test_an_app_uses_the_store_of_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: str) -> None:
    """As the command does: a key that the one issues is known to the other."""
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    assert isinstance(Keyguard(APIKeys()).store, MemoryStore)
    monkeypatch.setenv("KEYGUARD_STORE", url)
    issued = run(warm, ["-m", "keyguard", "keys", "issue", "--owner", "acme", "--json"], needs=["keyguard"])
    key = next(word.strip('",') for word in issued.stdout.split() if "_live_" in word)
    stack = Keyguard(APIKeys())
    assert play(stack, headers={"X-API-Key": key}).status == 200
    layer = keyguard.asgi.APIKeys(asgi_app)
    assert isinstance(layer.engine.store, SQLiteStore)
    stack.store.close()  # type: ignore[attr-defined]
    layer.engine.store.close()


def test_a_store_that_is_named_in_the_app_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/k.db?timeout=5")
    mine = MemoryStore()
    assert Keyguard(APIKeys(), store=mine).store is mine
    assert isinstance(Keyguard(APIKeys(), store="memory://").store, MemoryStore)
    assert play(RateLimit("1/minute")).status == 200
    assert not (tmp_path / "k.db").exists(), "a guard that is tried touches no store that others use"


def test_the_store_s_url_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/k.db\n")
    monkeypatch.setenv("KEYGUARD_STORE", f"@{tmp_path}/url")
    assert isinstance(Keyguard(APIKeys()).store, SQLiteStore)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense://me:verysecret@host", "no store for the scheme"),
        ("-", "no standard input"),
        ("@/no/such/file", "cannot be read"),
    ],
)
def test_a_wrong_store_in_the_environment_stops_the_start(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYGUARD_STORE", text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        Keyguard(APIKeys())
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_names_none(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYGUARD_STORE", empty)
    assert isinstance(Keyguard(APIKeys()).store, MemoryStore)


# -- the processes ----------------------------------------------------------------------------------------------------


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if SAYS in record.getMessage()]


def lookup(key: str) -> None:
    return None


@pytest.mark.parametrize(
    ("guards", "words"),
    [
        ([RateLimit("5/minute")], ["3 times as much"]),
        ([APIKeys()], ["issued or revoked in one"]),
        ([APIKeys(), RateLimit("5/minute", by="key")], ["3 times as much", "issued or revoked in one"]),
        ([APIKeys(lookup=lookup)], ["counts wrong keys by itself"]),
    ],
)
@pytest.mark.parametrize("told", ["environment", "argument"])
def test_several_processes_over_memory_are_warned_of_once(
    guards: Any, words: list[str], told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if told == "environment":
        monkeypatch.setenv("WEB_CONCURRENCY", "3")
    stack = Keyguard(*guards, workers=3 if told == "argument" else None)
    stack.asgi(asgi_app)
    (message,) = warned(caplog)
    for word in words:
        assert word in message


def test_where_nothing_is_counted_apart_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Keyguard(APIKeys(), RateLimit("5/minute"))
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    Keyguard(IPFilter(deny=["203.0.113.0/24"]), ResponseCache())
    Keyguard(APIKeys(), RateLimit("5/minute"), workers=1)
    Keyguard(APIKeys(), RateLimit("5/minute"), store=f"sqlite:///{tmp_path}/k.db")
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    Keyguard(APIKeys(), RateLimit("5/minute"))
    assert warned(caplog) == []


def test_a_tier_in_front_of_memory_is_seen_through(caplog: pytest.LogCaptureFixture) -> None:
    Keyguard(RateLimit("5/minute"), store=Leased(MemoryStore(), workers=2), workers=2)
    assert len(warned(caplog)) == 1


@pytest.mark.parametrize(
    ("words", "environment", "seen"),
    [
        (["/bin/gunicorn", "-w", "4", "app:app"], {}, 4),
        (["/bin/gunicorn", "-w4", "app:app"], {}, 4),
        (["/bin/gunicorn", "--workers=4", "app:app"], {}, 4),
        (["/lib/gunicorn/__main__.py", "app:app"], {"GUNICORN_CMD_ARGS": "--bind=:80 --workers=4"}, 4),
        (["/bin/gunicorn", "app:app"], {"GUNICORN_CMD_ARGS": "'"}, None),
        (["/bin/uvicorn", "app:app", "--workers", "4"], {}, 4),
        (["/bin/uvicorn", "app:app"], {"UVICORN_WORKERS": "4"}, 4),
        (["/lib/uvicorn/__main__.py", "app:app", "--workers", "2"], {"WEB_CONCURRENCY": "4"}, 4),
        (["/bin/hypercorn", "-w", "4", "app:app"], {}, 4),
        (["/bin/granian", "--workers", "4", "app:app"], {}, 4),
        (["/bin/fastapi", "run", "--workers", "4"], {}, 4),
        (["/bin/uvicorn", "app:app"], {}, None),
        (["/bin/uvicorn", "app:app", "--workers"], {}, None),
        (["/bin/celery", "-w", "4"], {}, None),
        ([], {}, None),
        (["x"], {"WEB_CONCURRENCY": " 4 "}, 4),
        (["x"], {"WEB_CONCURRENCY": "auto"}, None),
        (["x"], {"WEB_CONCURRENCY": "0"}, None),
        (["x"], {"WEB_CONCURRENCY": "9" * 5000}, None),
    ],
)
def test_what_tells_the_number_of_processes(
    words: list[str], environment: dict[str, str], seen: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", words)
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    assert seen_workers() == seen


APP = """
import sys
from keyguard import Keyguard, RateLimit
from keyguard.process.workers import seen_workers
guard = Keyguard(RateLimit("5/minute"))
print("saw", seen_workers(), file=sys.stderr, flush=True)
def bare(environ, start_response): ...
async def asynchronous(scope, receive, send): ...
wsgi = guard.wsgi(bare)
asgi = guard.asgi(asynchronous)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-m", "gunicorn", "-c", "conf.py", "app:wsgi", "-b", "127.0.0.1:{port}"],
        ["-m", "gunicorn", "-w", "2", "--preload", "app:wsgi", "-b", "127.0.0.1:{port}"],
        ["-m", "uvicorn", "app:asgi", "--workers", "2", "--port", "{port}"],
        ["-c", "if __name__ == '__main__': import uvicorn; uvicorn.run('app:asgi', workers=2, port={port})"],
        ["-m", "hypercorn", "-w", "2", "app:asgi", "-b", "127.0.0.1:{port}"],
    ],
    ids=["gunicorn's file", "gunicorn", "uvicorn", "uvicorn.run", "hypercorn"],
)
def test_real_servers_tell(command: list[str], tmp_path: Path, warm: str) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "conf.py").write_text("workers = 2\n")
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        server = Program(
            warm,
            [word.format(port=port) for word in command],
            needs=["keyguard", "uvicorn"],
            cwd=tmp_path,
            stderr=log.fileno(),
            stdout=log.fileno(),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        )
        try:
            wait_until(lambda: b"saw" in (tmp_path / "log").read_bytes(), "the app is loaded")
        finally:
            server.terminate()
            server.wait(30)
    told = (tmp_path / "log").read_text()
    assert "saw 2" in told
    assert "2 processes serve this app" in told


# -- the store is out of order ----------------------------------------------------------------------------------------


class Down:
    timeout = 0.1

    def execute(self, ops: Any) -> list[Any]:
        raise keyguard.StoreError("as told")

    def scan(self, prefix: str) -> list[Any]:
        return []


@pytest.mark.parametrize("mode", ["local", "allow", "refuse"])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize(
    ("limit", "most"), [("5/minute", 5), (keyguard.smooth("60/minute", burst=4), 4), ("100/day", 100)]
)
def test_a_cost_above_the_limit_is_refused_without_a_store_as_it_is_with_one(
    mode: Any, workers: int, limit: Any, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    costs = [most]
    guards = [
        RateLimit(limit, by="ip", cost=lambda request: costs[-1], name=f"l{n}", if_store_fails=mode) for n in (1, 2)
    ]
    stack = Keyguard(*guards, store=Down(), workers=workers)
    assert play(stack).status == (503 if mode == "refuse" else 200), "what costs more than a part takes the whole part"
    for above in (most + 1, 10**9):
        costs.append(above)
        answer = play(stack, client="198.51.100.2")
        with_one = play(Keyguard(*guards, store=MemoryStore(clock=ManualClock())))
        assert answer.status == with_one.status == 429
        assert b"cost-above-limit" in answer.body or b"Waiting does not help" in answer.body
        assert answer.header("retry-after") is None
    costs.append(most)
    assert play(stack, client="198.51.100.2").status != 429, "and it has taken nothing"
