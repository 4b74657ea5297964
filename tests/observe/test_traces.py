"""Traces: which one a request belongs to, in records, in refusals and in the log, and refusals on spans."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import INVALID_SPAN, get_current_span, use_span

from keyguard import Decision, Keyguard, RateLimit, Refusal
from keyguard.problem import problem_details
from tests.support.harness import Ask, ask_asgi, ask_wsgi

SENT = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACER = TracerProvider().get_tracer("a test")


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


class Service:
    def __init__(self, world: str) -> None:
        self.records: list[Decision] = []
        self.refusals: list[Refusal] = []
        guard = Keyguard(
            *(RateLimit("1/hour", by="ip"), RateLimit("9/hour", by="ip", name="slow")),
            on_decision=self.records.append,
            on_refusal=self.refusals.append,
            store="memory://",
        )
        self._app = guard.asgi(asgi) if world == "asgi" else guard.wsgi(wsgi)
        self._ask = ask_asgi if world == "asgi" else ask_wsgi

    def ask(self, **fields: str) -> Any:
        return self._ask(self._app, Ask("/a", tuple(fields.items())), lint=False)


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_the_trace_that_a_request_came_with_stands_everywhere(world: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(world)
    caplog.set_level(logging.INFO, "keyguard")
    service.ask(traceparent=f"00-{SENT}-00f067aa0ba902b7-01")
    answer = service.ask(traceparent=f"00-{SENT}-00f067aa0ba902b7-01")
    told = json.loads(answer.body)
    assert told["trace_id"] == SENT
    assert list(told.items()) == list(problem_details(service.refusals[0]).items())
    assert [record.trace_id for record in service.records] == [SENT, SENT]
    assert f"trace={SENT} " in caplog.text
    page = service.ask(traceparent=f"00-{SENT}-00f067aa0ba902b7-01", accept="text/plain")
    assert f"trace_id: {SENT}\n" in page.body.decode()


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_request_of_no_trace_tells_of_none(world: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(world)
    caplog.set_level(logging.INFO, "keyguard")
    service.ask()
    told = [json.loads(service.ask(**fields).body) for fields in ({}, {"traceparent": "00-" + "g" * 32})]
    assert [one.get("trace_id") for one in told] == [None, None]
    assert "trace=- " in caplog.text


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_a_refusal_stands_on_the_span_that_is_open(world: str) -> None:
    service, spans = Service(world), []
    for _ in range(2):
        with TRACER.start_as_current_span("GET /a") as span:
            answer = service.ask(traceparent=f"00-{SENT}-00f067aa0ba902b7-01")
        spans.append(span)
    trace = f"{spans[1].get_span_context().trace_id:032x}"
    assert json.loads(answer.body)["trace_id"] == trace == service.records[1].trace_id == service.refusals[0].trace_id
    assert dict(spans[0].attributes) == {}
    assert dict(spans[1].attributes) == {
        "error.type": "usage",
        "keyguard.reason": "limit-reached",
        "keyguard.rules": ("ip:1/hour",),
    }


def test_a_span_that_is_none_changes_nothing() -> None:
    with use_span(INVALID_SPAN):
        assert get_current_span() is INVALID_SPAN
        service = Service("wsgi")
        service.ask()
        assert json.loads(service.ask(traceparent=f"00-{SENT}-00f067aa0ba902b7-01").body)["trace_id"] == SENT


def test_who_has_no_opentelemetry_needs_none() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from keyguard import Keyguard, RateLimit; from keyguard.testing import play\n"
        "limit = RateLimit('1/hour', by='ip')\n"
        "stack = Keyguard(limit, store='memory://')\n"
        "print([play(stack).status for _ in range(2)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[200, 429]\n", done.stderr
