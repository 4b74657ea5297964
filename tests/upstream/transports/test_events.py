"""Reading events of a stream, and what a body tells while it passes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping

import pytest

from keyguard.upstream import Verdict, profiles
from keyguard.upstream.judge import judge_event
from keyguard.upstream.transports.events import Event, events
from keyguard.upstream.transports.watch import Watch, is_stream, refusal

OPENAI = profiles.get("openai")


def judge(event: Event) -> Verdict:
    return judge_event(OPENAI, event.name, event.data, 0)


STREAM = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("text", "found", "rest"),
    [
        (b"data: 1\n\ndata: 2\n\nda", [Event("", b"1"), Event("", b"2")], b"da"),
        (b"event: error\r\ndata: {}\r\n\r\n", [Event("error", b"{}")], b""),
        (b"data: a\rdata:b\r\r", [Event("", b"a\nb")], b""),
        (b": waiting\n\n: still\n\n", [], b""),
        (b": waiting\n\ndata: x\n\n", [Event("", b"x")], b""),
        (b"event: ping\n\ndata: x\n\n", [Event("", b"x")], b""),
        (b"\xef\xbb\xbfdata: x\n\n", [Event("", b"x")], b""),
        (b"data\n\n", [Event("", b"")], b""),
        (b"data: not whole\n", [], b"data: not whole\n"),
        (b"", [], b""),
    ],
)
def test_events(text: bytes, found: list[Event], rest: bytes) -> None:
    assert events(text) == (found, rest)


def test_the_end_of_a_stream_ends_its_last_event() -> None:
    assert events(b"data: 1\n\ndata: 2", ended=True) == ([Event("", b"1"), Event("", b"2")], b"")


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"o"}}\n\n', "overload"),
        (b'data: {"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}\n\n', "exhausted"),
        (b'data: {"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}\n\n', "billing"),
        (b'data: {"error":{"message":"m","code":"invalid_api_key"}}\n\n', "invalid"),
        (b'data: {"choices":[{"delta":{"content":"{\\"error\\": {\\"code\\": 429}}"}}]}\n\n', None),
        (b'data: {"choices":[],"error":null}\n\n', None),
        (b'data: {"x":1}\n\nevent: error\ndata: {"type":"error"}\n\n', None),
        (b"data: [DONE]\n\n", None),
        (b'data: {"error"', None),
        (b"data: " + b"[" * 20_000 + b"\n\n", None),
    ],
)
def test_a_stream_that_begins_with_an_error_is_a_refusal(text: bytes, cause: str | None) -> None:
    found = refusal(judge, text)
    assert (found and judge(found).cause) == cause


@pytest.mark.parametrize(
    ("headers", "stream"),
    [
        (STREAM, True),
        ({"content-type": "Text/Event-Stream"}, True),
        ({**STREAM, "content-encoding": "identity"}, True),
        ({**STREAM, "content-encoding": "gzip"}, False),
        (JSON, False),
        ({}, False),
    ],
)
def test_what_can_be_read_as_it_comes(headers: Mapping[str, str], stream: bool) -> None:
    assert is_stream(headers) is stream


def told_by(headers: Mapping[str, str], chunks: list[bytes]) -> list[tuple[Mapping[str, int] | None, Verdict | None]]:
    """Return what a watch tells of a body that came in these chunks."""
    told: list[tuple[Mapping[str, int] | None, Verdict | None]] = []

    def decode(body: bytes, encoding: str, most: int) -> bytes:
        return zlib.decompressobj(47).decompress(body, most)

    watch = Watch(OPENAI, headers, decode=decode, judge=judge, settle=lambda *all: told.append(all))
    for chunk in chunks:
        watch.feed(chunk)
    watch.end()
    watch.end()
    return told


USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}
USED = json.dumps(USAGE).encode()


@pytest.mark.parametrize(
    ("headers", "chunks"),
    [
        (JSON, [USED[:5], USED[5:]]),
        ({"content-type": "application/problem+json"}, [USED]),
        ({**JSON, "content-encoding": "gzip"}, [gzip.compress(USED)]),
        (STREAM, [b"data: {}\n\n", b"data: " + USED + b"\n\ndata: [DONE]\n\n"]),
        (STREAM, [b"data: {}\n\n", b"data: " + USED]),
        (STREAM, [*([b"data: " + b"x" * 5000 + b"\n\n"] * 100), b"data: " + USED[:9], USED[9:] + b"\n\n"]),
    ],
    ids=["document", "its kind", "gzip", "stream", "stream without an end", "long stream"],
)
def test_usage(headers: Mapping[str, str], chunks: list[bytes]) -> None:
    assert told_by(headers, chunks) == [({"tokens": 7}, None)]


@pytest.mark.parametrize(
    ("headers", "chunks"),
    [
        ({"content-type": "text/plain"}, [USED]),
        ({}, [USED]),
        (JSON, [b'{"usage": null}']),
        (JSON, [b'{"usage": ']),
        (JSON, [b'{"usage": "' + b"x" * 1024 * 1024, b'"}']),
        (JSON, [b'{"usage": ' + b"[" * 100_000]),
        (STREAM, [b"data: hello\n\n"]),
        ({**STREAM, "content-encoding": "br"}, [b"data: " + USED + b"\n\n"]),
    ],
    ids=["no json", "no type", "none", "cut off", "too long", "deep", "no usage", "coded stream"],
)
def test_nothing_is_told(headers: Mapping[str, str], chunks: list[bytes]) -> None:
    assert told_by(headers, chunks) == []


def test_of_a_long_stream_the_middle_is_forgotten() -> None:
    much = [b"data: " + b"x" * 5000 + b"\n\n"] * 40
    assert told_by(STREAM, [*much, b"data: " + USED + b"\n\n", *much]) == []


def test_an_error_behind_content() -> None:
    error = b'{"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}'
    (told,) = told_by(STREAM, [b'data: {"choices":[]}\n\n', b"data: " + error + b"\n\n"])
    assert told[0] is None
    assert told[1] is not None
    assert told[1].cause == "exhausted"
