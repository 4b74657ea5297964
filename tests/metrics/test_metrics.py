"""What `/metrics` shows: what was counted, in both worlds and formats, bounded, and nothing secret."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text

from keyguard import ANONYMOUS, ConfigurationError, Guard, Identity, Keyguard, RateLimit, Request, ResponseCache
from keyguard.decision import Decision
from keyguard.metrics.process import BATCH, ProcessCounts
from keyguard.metrics.series import FAMILIES, MOST, Table, name_of, series_of
from keyguard.stores.memory import MemoryStore
from tests.support.harness import Ask, ask_asgi, ask_wsgi

OPEN = "application/openmetrics-text; version=1.0.0"


class ByName(Guard):
    """Takes callers at their word."""

    provides = frozenset({"identity"})

    def __call__(self, request: Request) -> None:
        name = request.headers.get("x-name")
        request.identity = Identity(name, key_id=f"id-{name}") if name else ANONYMOUS


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    status = int(scope["path"][-3:]) if scope["path"][-3:].isdigit() else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"cache-control", b"max-age=60")]})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    status = int(path[-3:]) if path[-3:].isdigit() else 200
    start_response(f"{status} Said", [("Cache-Control", "max-age=60")])
    return [b"hello"]


class Service:
    """A stack whose app is asked in one of the worlds, as are its metrics."""

    def __init__(self, world: str, *guards: Any, **settings: Any) -> None:
        settings.setdefault("store", "memory://")
        self.guard = Keyguard(*guards, **settings)
        self._app = self.guard.asgi(asgi) if world == "asgi" else self.guard.wsgi(wsgi)
        self.metrics = self.guard.metrics()  # late: the app is made already
        self._page = self.metrics.asgi if world == "asgi" else self.metrics.wsgi
        self._send: Callable[..., Any] = ask_asgi if world == "asgi" else ask_wsgi

    def ask(self, target: str, times: int = 1, **fields: str) -> list[int]:
        ask = Ask(target, tuple((name.replace("_", "-"), value) for name, value in fields.items()))
        return [self._send(self._app, ask, lint=False).status for _ in range(times)]

    def page(self, method: str = "GET", **fields: str) -> Any:
        named = tuple((name.replace("_", "-"), value) for name, value in fields.items())
        return self._send(self._page, Ask("/", named, method))

    def shown(self) -> dict[tuple[str, ...], float]:
        return samples(self.page().body.decode())


def samples(text: str) -> dict[tuple[str, ...], float]:
    """The samples of a page, by name and the values of labels that are not empty, in the order of their names."""
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()) if value)): one.value
        for family in plain_text(text)
        for one in family.samples
    }


WORLDS = pytest.mark.parametrize("world", ["asgi", "wsgi"])


@WORLDS
def test_what_was_counted_is_shown(world: str) -> None:
    service = Service(
        world, ByName(), RateLimit("3/hour", by="subject", paths=["/a/*"], cost=1), RateLimit("9/hour", by="ip")
    )
    assert service.ask("/a/1", 4, x_name="ada") == [200, 200, 200, 429]
    assert service.ask("/503") == [503]
    shown = service.shown()
    rule = "subject /a/*:3/hour"
    requests = {labels[1:]: number for labels, number in shown.items() if labels[0] == "keyguard_requests_total"}
    assert requests == {
        ("served", "/a/*"): 3,
        ("usage", "refused", "/a/*", rule): 1,
        ("fault", "failed"): 1,
    }
    assert shown["keyguard_limit_units_total", rule] == 3
    assert shown["keyguard_limit_units_total", "ip:9/hour"] == 4
    assert shown["keyguard_store_up", "decisions"] == 1
    assert shown["keyguard_usage_overflow_total",] == 0
    assert service.ask("/a/1", x_name="ada") == [429]
    assert service.shown()["keyguard_requests_total", "usage", "refused", "/a/*", rule] == 2


@WORLDS
def test_caches_and_stores_are_counted_as_well(world: str, tmp_path: Any) -> None:
    service = Service(
        world, ResponseCache(), RateLimit("2/hour", by="ip"), store=f"sqlite:///{tmp_path}/k.db?timeout=1"
    )
    assert service.ask("/a", 3) == [200] * 3
    shown = service.shown()
    assert shown["keyguard_cache_requests_total", "hit"] == 2
    assert shown["keyguard_cache_requests_total", "miss"] == 1
    assert shown["keyguard_cache_events_total", "stored"] == 1
    assert shown["keyguard_requests_total", "cached"] == 2
    assert shown["keyguard_store_up", "cache"] == 1
    took = {labels[1]: number for labels, number in shown.items() if labels[0].endswith("_seconds_count")}
    assert took["decisions"] >= 1
    assert took["cache"] >= 1
    assert 0 < shown["keyguard_store_operation_duration_seconds_sum", "decisions"] < 60
    assert shown["keyguard_store_operation_duration_seconds_bucket", "+Inf", "decisions"] == took["decisions"]


class Failing(MemoryStore):
    down = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise OSError("no route to host")
        return super().execute(ops)


@WORLDS
def test_a_store_that_is_down_is_shown_with_what_was_decided_without_it(world: str) -> None:
    store = Failing()
    service = Service(world, RateLimit("9/hour", by="ip", if_store_fails="refuse"), store=store)
    store.down = True
    assert service.ask("/a", 2) == [503, 503]
    shown = service.shown()
    assert shown["keyguard_store_up", "decisions"] == 0
    assert shown["keyguard_degraded_total", "ip refused"] == 2
    assert shown["keyguard_requests_total", "fault", "refused"] == 2


@WORLDS
def test_formats_methods_and_compression(world: str) -> None:
    service = Service(world, RateLimit("900/hour", by="ip"))
    service.ask("/a", 2)
    plain, opened = service.page(), service.page(accept=OPEN)
    assert plain.get("content-type").startswith("text/plain; version=")
    assert opened.get("content-type").startswith("application/openmetrics-text; version=1.0.0")
    assert opened.body.endswith(b"# EOF\n")
    read = {sample.name: sample.value for family in open_metrics(opened.body.decode()) for sample in family.samples}
    assert read["keyguard_requests_total"] == 2
    packed = service.page(accept_encoding="deflate, gzip;q=0.5")
    assert packed.get("content-encoding") == "gzip"
    assert samples(gzip.decompress(packed.body).decode()) == samples(plain.body.decode())
    assert service.page(accept_encoding="gzip;q=0").get("content-encoding") is None
    head = service.page("HEAD")
    assert (head.status, head.body, head.get("content-type")) == (200, b"", plain.get("content-type"))
    assert [service.page(method).status for method in ("OPTIONS", "POST", "DELETE")] == [200, 405, 405]
    assert all(one.get("cache-control") == "no-store" for one in (plain, head))


def test_no_key_no_caller_and_no_path_stands_in_them() -> None:
    service = Service("wsgi", ByName(), RateLimit("1/hour", by="subject"), RateLimit("2/hour", by="ip"))
    service.ask("/secret/path?token=abc", 3, x_name="ada", x_request_id="of-mine", x_api_key="kg_live_abcdef")
    text = service.page().body.decode()
    assert 'outcome="refused"' in text
    for word in ("ada", "secret", "token", "of-mine", "198.51.100.1", "kg_live"):
        assert word not in text


def test_there_are_never_more_than_a_thousand_series() -> None:
    table = Table()
    for family in FAMILIES.values():
        for number in range(2_000):
            labels = [
                f"{label}-{number % 4 if label == 'outcome' else number % 8 if label == 'cause' else number}"
                for label in family.labels
            ]
            table.add({(family.name, *labels): 1})
    totals = table.totals()
    assert {
        name: sum(total for series, total in totals.items() if series[0] == name) for name in FAMILIES
    } == dict.fromkeys(FAMILIES, 2_000), "what there is no room for is counted all the same"
    assert len(totals) < MOST - 40, "buckets, sums and gauges come on top"
    assert totals["requests", "outcome-1", "cause-1", "other", "other"] > 0
    assert totals["limit_units", "other"] == 1_850


def test_a_thousand_routes_end_in_other() -> None:
    counts = ProcessCounts()
    for number in range(1_000):
        counts.count([decision(route=f"/r{number}")] * 2)
    totals = counts.totals()
    assert sum(totals.values()) == 2_000
    assert totals["requests", "served", "", "other", "other"] == 1_000


def decision(**fields: Any) -> Decision:
    made = Decision(0, "", "", "", "", "", "GET", "", "served", None, "", 200, (), (), 0.0)
    return made._replace(**fields)


def test_requests_wait_to_be_counted_and_never_many() -> None:
    counts = ProcessCounts()
    for number in range(3 * BATCH + 7):
        counts.note(decision())
        assert len(counts._waiting) < BATCH, number
    assert counts.totals() == {("requests", "served", "", "", ""): 3 * BATCH + 7}


def test_what_is_handed_on_is_handed_on_once() -> None:
    said = {("alerts", "keyguard.overload"): 2}
    counts = ProcessCounts([lambda: dict(said)])
    counts.note(decision(route="/a"))
    assert series_of(counts.hand_on().items()) == {("requests", "served", "", "", "/a"): 1}, "not what was there before"
    said["alerts", "keyguard.overload"] = 5
    assert counts.hand_on() == {name_of(("alerts", "keyguard.overload")): 3}
    assert counts.hand_on() == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_begins_at_zero() -> None:
    said = {("degraded", "ip refused"): 0}
    counts = ProcessCounts([lambda: dict(said)])
    counts.note(decision())
    said["degraded", "ip refused"] = 4
    counts.totals()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said["degraded", "ip refused"] = 5
        counts.note(decision(outcome="failed"))
        os.write(write, repr(sorted(counts.totals().items())).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as told:
        assert told.read().decode() == "[(('degraded', 'ip refused'), 1), (('requests', 'failed', '', '', ''), 1)]"
    os.waitpid(child, 0)
    assert counts.totals() == {("requests", "served", "", "", ""): 1, ("degraded", "ip refused"): 4}


def test_names_of_a_later_version_are_left_out() -> None:
    names = {"requests\x1fserved\x1f\x1f\x1f/a": 1, "requests\x1fserved": 2, "of_tomorrow\x1fx": 3, "": 4}
    assert series_of(names.items()) == {("requests", "served", "", "", "/a"): 1}


def test_it_is_a_collector_too_and_the_same_at_each_call() -> None:
    service = Service("wsgi", RateLimit("9/hour", by="ip"))
    service.ask("/a", 2)
    assert service.guard.metrics() is service.metrics
    registry = CollectorRegistry()
    registry.register(service.metrics)  # type: ignore[arg-type]
    assert registry.get_sample_value("keyguard_limit_units_total", {"rule": "ip:9/hour"}) == 2


def test_several_processes_without_a_ledger_are_told_of(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path}/k.db?timeout=1"
    Keyguard(RateLimit("9/hour", by="ip"), store=store, workers=1).metrics()
    assert caplog.text == ""
    Keyguard(RateLimit("9/hour", by="ip"), store=store, workers=3).metrics()
    assert caplog.record_tuples[-1][1] == logging.WARNING
    assert "3 processes serve this app, and each shows the metrics of its own" in caplog.text


def test_requests_of_a_test_are_not_counted() -> None:
    service = Service("wsgi", RateLimit("1/hour", by="ip"))
    service.ask("/a")
    with service.guard.testing():
        service.ask("/a", 5)
    assert service.ask("/a") == [429]
    shown = service.shown()
    assert (shown["keyguard_requests_total", "served"], shown["keyguard_limit_units_total", "ip:1/hour"]) == (1, 1)
    assert shown["keyguard_requests_total", "usage", "refused", "ip:1/hour"] == 1


def test_who_lacks_the_library_is_told_what_to_install() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None; sys.modules['opentelemetry'] = None\n"
        "from keyguard import ConfigurationError, Keyguard\n"
        "metrics = Keyguard(store='memory://').metrics()\n"
        "for ask in ('asgi', 'wsgi', 'render()', 'collect()', 'instrument()'):\n"
        "    try: eval(f'metrics.{ask}')\n"
        "    except ConfigurationError as error: print(ask, str(error).partition(': ')[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert told == {
        **dict.fromkeys(["asgi", "wsgi", "render()", "collect()"], "pip install 'keyguard[prometheus]'"),
        "instrument()": "pip install 'keyguard[opentelemetry]'",
    }
    assert issubclass(ConfigurationError, Exception)


def test_the_app_answers_a_lifespan_and_closes_websockets() -> None:
    sent: list[dict[str, Any]] = []
    told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> dict[str, Any]:
        return next(told)

    async def send(message: Any) -> None:
        sent.append(message)

    page = Keyguard(store="memory://").metrics().asgi
    asyncio.run(page({"type": "lifespan"}, receive, send))
    asyncio.run(page({"type": "websocket"}, receive, send))
    assert [one["type"] for one in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
        "websocket.close",
    ]


@pytest.mark.parametrize("version", ["abc", "1e999", "1..2", pytest.param("9" * 5000, id="long")])
def test_a_version_that_is_no_number_gets_what_everybody_gets(version: str) -> None:
    metrics = Keyguard(RateLimit("5/hour", by="ip")).metrics()
    for kind in ("text/plain", "application/openmetrics-text"):
        assert metrics.render(f"{kind};version={version}").content_type == metrics.render().content_type
