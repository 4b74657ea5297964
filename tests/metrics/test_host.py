"""Metrics of a host: any of its processes shows what all have counted, and a restart goes on from there."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from keyguard import Alerts, Keyguard, RateLimit, ResponseCache, StoreError, Usage
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.metrics.test_metrics import ByName, asgi, samples
from tests.support.harness import Ask, ask_asgi
from tests.support.servers import free_port, wait_until

SERVED = ("keyguard_requests_total", "served")


class Process:
    """What a process of a service has: its own stack, and a store that it shares."""

    def __init__(self, store: Any, clock: ManualClock, name: str = "shop", **settings: Any) -> None:
        self.guard = Keyguard(
            *(ResponseCache(), RateLimit("900/hour", by="ip")), name=name, store=store, clock=clock, **settings
        )
        self._app, self._page = self.guard.asgi(asgi), self.guard.metrics().asgi

    def ask(self, times: int = 1) -> None:
        for number in range(times):
            ask_asgi(self._app, Ask(f"/{number}?{time.monotonic()}"), lint=False)

    def shown(self) -> dict[tuple[str, ...], float]:
        return samples(ask_asgi(self._page, Ask("/metrics")).body.decode())


def test_any_process_shows_what_all_have_counted_and_a_new_one_goes_on(tmp_path: Path) -> None:
    clock, store = ManualClock(), f"sqlite:///{tmp_path}/k.db?timeout=1"
    one, other = (Process(store, clock, usage=Usage()) for _ in range(2))
    apart = Process(store, clock, "admin", usage=Usage())
    one.ask(3)
    other.ask(4)
    apart.ask(1)
    assert SERVED not in one.shown(), "not its own alone: that would be less at the next process that is asked"
    clock.advance("2 seconds")
    assert one.shown()[SERVED] == other.shown()[SERVED] == 7
    assert apart.shown()[SERVED] == 1
    shown = one.shown()
    assert shown["keyguard_cache_requests_total", "miss"] == 7
    assert shown["keyguard_store_operation_duration_seconds_count", "decisions"] >= 7
    assert shown["keyguard_store_up", "usage"] == 1
    one.ask(2)
    one.guard.close()
    assert other.shown()[SERVED] == 9, "what is left is written at the end"
    later = Process(store, clock, usage=Usage())
    assert later.shown()[SERVED] == 9
    later.ask(1)
    clock.advance("2 seconds")
    assert later.shown()[SERVED] == 10
    for process in (other, apart, later):
        process.guard.close()


class Failing(MemoryStore):
    down = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("it is down")
        return super().execute(ops)


def test_a_ledger_that_is_down_shows_no_totals_rather_than_others(caplog: pytest.LogCaptureFixture) -> None:
    clock, ledger = ManualClock(), Failing()
    process = Process("memory://", clock, usage=Usage(ledger))
    process.ask(3)
    clock.advance("2 seconds")
    ledger.down = True
    process.ask(2)
    clock.advance("2 seconds")
    shown = process.shown()
    assert shown == {
        ("keyguard_store_up", "decisions"): 1,
        ("keyguard_store_up", "usage"): 0,
    }
    ledger.down = False
    process.guard.usage._ledger_here._again = 0.0  # it waits by the real clock
    clock.advance("2 seconds")
    assert process.shown()[SERVED] == 5
    assert [record.levelno for record in caplog.records if record.name == "keyguard.usage"] == [logging.WARNING] * 2


def test_two_stacks_with_one_ledger_are_counted_apart() -> None:
    clock, usage = ManualClock(), Usage()
    one = Process("memory://", clock, usage=usage)
    other = Process("memory://", clock, usage=usage)
    one.ask(3)
    other.ask(1)
    clock.advance("2 seconds")
    assert (one.shown()[SERVED], other.shown()[SERVED]) == (3, 1)


def test_alerts_are_counted_and_begin_at_zero() -> None:
    clock = ManualClock()
    limit = RateLimit("4/hour", by="subject")
    guard = Keyguard(ByName(), limit, store="memory://", clock=clock, alerts=Alerts(at=(50,), to=[]))
    app, page = guard.asgi(asgi), guard.metrics().asgi
    name = "keyguard_alerts_total", "keyguard.limit.threshold"
    assert samples(ask_asgi(page, Ask("/")).body.decode())[name] == 0
    for _ in range(3):
        ask_asgi(app, Ask("/", (("x-name", "ada"),)), lint=False)
    clock.advance("2 seconds")
    assert samples(ask_asgi(page, Ask("/")).body.decode())[name] == 1


def test_processes_that_share_no_ledger_are_told_of(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    Keyguard(store=f"sqlite:///{tmp_path}/k.db?timeout=1", usage=Usage(), workers=3).metrics()
    assert "each shows the metrics of its own" not in caplog.text
    Keyguard(store="memory://", usage=Usage(), workers=3).metrics()
    assert "each shows the metrics of its own" in caplog.text


APP = """
from keyguard import Keyguard, RateLimit, Usage

guard = Keyguard(RateLimit("100000/hour", by="ip"), store={store!r}, usage=Usage(every=0.2))


def shop(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


served, page = guard.wsgi(shop), guard.metrics().wsgi


def app(environ, start_response):
    return (page if environ["PATH_INFO"] == "/metrics" else served)(environ, start_response)
"""


@contextmanager
def gunicorn(folder: Path) -> Iterator[str]:
    port = free_port()
    words = ["-m", "gunicorn", "app:app", f"--bind=127.0.0.1:{port}", "--workers=2", "--log-level=warning"]
    with subprocess.Popen([sys.executable, *words], cwd=folder) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _get(f"{url}/metrics"), "gunicorn answers")
            yield url
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


def _get(url: str) -> bytes:
    try:
        with urlopen(url, timeout=30) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


@pytest.mark.slow
def test_on_a_real_server_counters_of_several_workers_never_fall(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(store=f"sqlite:///{tmp_path}/k.db?timeout=1"))
    seen = [0.0]

    def shown(url: str) -> float:
        found = samples(_get(f"{url}/metrics").decode()).get(SERVED, 0.0)
        assert found >= seen[-1], "for Prometheus that is a restart, and all of it is counted anew"
        seen.append(found)
        return found

    asked = 0
    for _ in range(2):  # the second time after a restart
        with gunicorn(tmp_path) as url:
            for _ in range(40):
                asked += _get(f"{url}/") == b"ok"
                shown(url)
            wait_until(lambda: shown(url) == asked, "all requests are shown")  # noqa: B023 - it is called here
    assert asked == 80
