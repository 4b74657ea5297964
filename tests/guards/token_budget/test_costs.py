"""What a request is charged: one table through both worlds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.guards.token_budget.models import CHAT, Model, Reply, Site, said, stream, used, whole

STREAM = {**CHAT, "stream": True, "max_tokens": 100}
SENT = len(json.dumps(STREAM).encode())
HUGE = 10**400


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


OPENAI = {"choices": [{"message": {"content": "hello you"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 12}}
ANTHROPIC = {"content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 9, "output_tokens": 12}}
CACHED = {"usage": {"input_tokens": 9, "output_tokens": 12, "cache_read_input_tokens": 100}}
GEMINI = {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 12, "totalTokenCount": 40}}
EMBEDDINGS = {"data": [{"embedding": [0.25] * 40}], "usage": {"prompt_tokens": 21, "total_tokens": 21}}

STARTED = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
DELTA = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hello you all"}}
ENDED = {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}}
COMPLETED = {"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 12}}}

COSTS: dict[str, tuple[Reply, int]] = {
    "one object of OpenAI": (whole(OPENAI), 21),
    "one of Anthropic": (whole(ANTHROPIC), 21),
    "cache reads count": (whole(CACHED), 121),
    "one of Gemini": (whole(GEMINI), 40),
    "embeddings": (whole(EMBEDDINGS), 21),
    "a total that is more than its parts": (whole({"usage": {"prompt_tokens": 9, "total_tokens": 30}}), 30),
    "a total that is less than its parts": (whole({"usage": {"prompt_tokens": 19, "total_tokens": 3}}), 19),
    "a stream of OpenAI": (stream(said("he"), said("llo"), used(9, 12), "[DONE]"), 21),
    "usage in each piece tells what was used so far": (
        stream({**said("a"), **used(9, 1)}, {**said("b"), **used(9, 2)}, used(9, 12), used(9, 12), "[DONE]"),
        21,
    ),
    "a stream of Anthropic": (
        stream(("message_start", STARTED), ("content_block_delta", DELTA), ("message_delta", ENDED)),
        21,
    ),
    "a stream of its Responses": (
        stream(
            ("response.output_text.delta", {"type": "response.output_text.delta", "delta": "hello"}),
            ("response.completed", COMPLETED),
        ),
        21,
    ),
    "lines end with CR LF": (stream(said("he"), used(9, 12), end="\r\n\r\n"), 21),
    "lines end with CR": (stream(said("he"), used(9, 12), end="\r\r"), 21),
    "the last event has no blank line": (Reply(b'data: {"usage": {"total_tokens": 21}}', kind="text/event-stream"), 21),
    "data of several lines": (
        Reply(b'data: {"usage":\ndata: {"total_tokens": 21}}\n\n', kind="text/event-stream"),
        21,
    ),
    "lines of JSON": (
        Reply(b'{"message": {"content": "a"}}\n{"usage"', b': {"total_tokens": 21}}', kind="application/x-ndjson"),
        21,
    ),
    "byte by byte": (
        Reply(*[bytes([one]) for one in b'data: {"usage": {"total_tokens": 21}}\r\n\r\n'], kind="text/event-stream"),
        21,
    ),
    "an answer of 307": (whole(OPENAI, 307), 0),
    "an answer of 400": (whole(OPENAI, 400), 0),
    "an answer of 503": (whole(OPENAI, 503), 0),
    "a stream that begins with an error": (stream({"error": {"message": "overloaded"}}), 0),
}


@pytest.mark.parametrize("mode", ["soft", "hard"])
@pytest.mark.parametrize("case", COSTS)
def test_usage_is_charged(world: str, mode: str, case: str) -> None:
    reply, cost = COSTS[case]
    site = Site(world, Model(reply), mode=mode, include_usage=False)
    answer = site.ask({**STREAM, "stream": "event" in reply.headers["content-type"]})
    assert answer.status == reply.status
    assert answer.body == b"".join(part for part in reply.parts if isinstance(part, bytes))
    assert site.use == (cost, 0)


WITHOUT: dict[str, tuple[Reply, int]] = {
    "a stream without usage": (stream(said("twelve chars"), said("and four"), "[DONE]"), 5),
    "usage that is null": (stream(said("twelve chars"), {"choices": [], "usage": None}), 3),
    "usage that is negative": (stream(said("twelve chars"), used(-9, -12)), 3),
    "usage that is text": (stream(said("twelve chars"), used("9", "12")), 3),
    "usage that is true": (stream(said("twelve chars"), used(True, True)), 3),
    "usage beyond all limits": (stream(said("twelve chars"), used(2**53, 2**53)), 3),
    "usage that is endless": (Reply(b'data: {"usage": {"total_tokens": 1e400}}\n\n', kind="text/event-stream"), 0),
    "usage that is no number": (Reply(b'data: {"usage": {"total_tokens": NaN}}\n\n', kind="text/event-stream"), 0),
    "usage of a number of 401 digits": (
        Reply(b'data: {"usage": {"total_tokens": %d}}\n\n' % HUGE, kind="text/event-stream"),
        0,
    ),
    "usage that is a list": (stream({"usage": [21], **said("four")}), 1),
    "an event that is text": (Reply(b"data: hello you\n\n", kind="text/event-stream"), 3),
    "the model writes of usage": (stream(said('{"usage": {"total_tokens": 1}}')), 8),
    "tools are called": (
        stream({"choices": [{"delta": {"tool_calls": [{"id": "x", "function": {"arguments": '{"a": 1}'}}]}}]}),
        2,
    ),
    "a stream of text in which the model writes of usage": (
        Reply(b'data: twelve chars\n\ndata: {"usage": {"total_tokens": 1}}\n\n', kind="text/event-stream"),
        3,
    ),
    "an object without usage": (whole({"id": "x", "choices": [{"message": {"content": "twelve chars"}}]}), 3),
    "a text": (Reply(b"twelve chars", kind="text/plain"), 3),
    "broken JSON": (Reply(b'{"twelve ch', kind="application/json"), 3),
    "deep JSON": (Reply(b"[" * 100_000, kind="application/json"), 25_000),
    "a stream that breaks off": (stream(said("twelve chars"), {"error": {"message": "gone"}}), 3),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_without_usage_what_was_seen_is_charged_in_soft_mode(world: str, case: str) -> None:
    reply, answered = WITHOUT[case]
    site = Site(world, Model(reply), "100000/day", include_usage=False)
    site.ask(STREAM)
    assert site.use == (-(-SENT // 4) + answered, 0)


@pytest.mark.parametrize("case", WITHOUT)
def test_and_what_was_reserved_in_hard_mode(world: str, case: str) -> None:
    site = Site(world, Model(WITHOUT[case][0]), "100000/day", mode="hard", include_usage=False)
    site.ask(STREAM)
    assert site.use == (SENT + 100, 0)


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_what_cannot_be_read_costs_what_was_reserved(world: str, mode: Any) -> None:
    for reply in (whole(OPENAI), Reply(b"\1\2\3", kind="audio/mpeg")):
        reply.headers["content-encoding"] = "gzip"
        site = Site(world, Model(reply), mode=mode)
        site.ask(STREAM)
        assert site.use == (SENT + 100 if mode == "hard" else -(-SENT // 4) + 100, 0)


def test_a_stream_of_anthropic_that_breaks_off_costs_its_input_and_what_was_seen(world: str) -> None:
    site = Site(world, Model(stream(STARTED, DELTA)))
    site.ask(STREAM, "/v1/messages")
    assert site.use == (9 + 4, 0)


def test_an_app_that_fails_before_it_answers_costs_nothing_and_after_that_what_was_seen(world: str) -> None:
    class Failing(Model):
        def take(self, body: bytes, head: dict[str, str]) -> Reply:
            raise ValueError("no model")

    site = Site(world, Failing(whole({})))
    site.ask(STREAM)
    assert site.use == (0, 0)
    reply = stream(said("twelve chars"))
    site = Site(world, Model(Reply(*reply.parts, ValueError("gone"), kind="text/event-stream")))
    site.ask(STREAM)
    assert site.use == (-(-SENT // 4) + 3, 0)


def test_of_a_long_answer_the_end_is_read(world: str) -> None:
    long = {"data": [{"embedding": [0.25] * 4000}], "text": 'a \\"usage\\": {"total_tokens": 1}', **used(9, 12)}
    data = json.dumps(long).encode()
    parts = [data[at : at + 1000] for at in range(0, len(data), 1000)]
    for mode in ("soft", "hard"):
        site = Site(world, Model(Reply(*parts)), mode=mode, max_body=1024)
        assert site.ask(STREAM).body == data
        assert site.use == (21, 0)
    site = Site(world, Model(Reply(b'{"data": "', b"x" * 5000, b'"}')), max_body=1024)
    site.ask(STREAM)
    assert site.use == (-(-SENT // 4) + 100, 0)


def test_a_line_of_megabytes_goes_on_and_is_not_kept(world: str) -> None:
    long = [b"data: " + b"x" * 100_000, *[b"x" * 100_000] * 20, b"\n\n"]
    for hides in (False, True):
        site = Site(world, Model(Reply(*long, *stream(used(9, 12)).parts, kind="text/event-stream")))
        body = {**STREAM, "stream_options": {"include_usage": not hides}}
        assert len(site.ask(body).body) == 2_100_008 + (0 if hides else len(stream(used(9, 12)).parts[0]))  # type: ignore[arg-type]
        assert site.use == (21, 0)


def test_an_answer_of_a_guard_further_in_costs_nothing(world: str) -> None:
    from keyguard import Request, Response

    def kept(request: Request) -> Response:
        return Response(200, [("Content-Type", "application/json")], json.dumps(OPENAI).encode())

    site = Site(world, Model(whole({})), inside=[kept])
    assert site.ask(STREAM).status == 200
    assert site.use == (0, 0)


def test_a_charge_beyond_what_was_reserved_in_hard_mode_is_told_once(
    world: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(world, Model(whole(used(900, 1200))), mode="hard")
    for _ in range(2):
        site.ask(STREAM)
    assert site.use == (4200, 0)
    assert [record.getMessage() for record in caplog.records if "has charged 2100 tokens" in record.getMessage()] != []
    assert len(caplog.records) == 1
