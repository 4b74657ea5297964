"""Bodies that go through filters on their way, in both worlds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from keyguard import Forward, Guard, Keyguard, Request, ResponseCache
from keyguard.response import APP
from keyguard.response import Response as OurResponse
from tests.support.harness import Ask, ask_asgi, ask_wsgi


class Words:
    """Lets whole words go on, in capitals, each with the sign at its end, and none that is to be left out."""

    def __init__(self, without: bytes = b"") -> None:
        self._without = without
        self._rest = b""

    def feed(self, part: bytes, *, last: bool) -> bytes:
        *words, rest = (self._rest + part).split(b";")
        whole = [word + b";" for word in words]
        self._rest = rest
        if last:
            whole.append(rest)
            self._rest = b""
        return b"".join([word.upper() for word in whole if word.rstrip(b";") != self._without])


class Filtering(Guard):
    def __init__(self, *filters: Any) -> None:
        self._filters = filters

    async def __call__(self, request: Request, forward: Forward) -> OurResponse:
        response = await forward(request)
        if response.body is APP:
            response.headers.remove("Content-Length")
            for without in self._filters:
                response.filter(Words(without))
        return response


def apps(parts: list[bytes], *, write: bool = False, **fields: str) -> dict[str, Any]:
    headers = [("content-type", "text/plain"), *[(name.replace("_", "-"), value) for name, value in fields.items()]]

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        raw = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        for place, part in enumerate(parts):
            await send({"type": "http.response.body", "body": part, "more_body": place < len(parts) - 1})

    def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
        send = start_response("200 OK", [*headers])
        if not write:
            return parts
        for part in parts:
            send(part)
        return []

    return {"asgi": asgi, "wsgi": wsgi}


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(world: str, stack: Keyguard, app: dict[str, Any]) -> Any:
    return (ask_asgi if world == "asgi" else ask_wsgi)(getattr(stack, world)(app[world]), Ask())


PARTS = [b"one;t", b"wo;thr", b"", b"ee"]


@pytest.mark.parametrize("write", [False, True])
def test_a_body_goes_through_a_filter(world: str, write: bool) -> None:
    stack = Keyguard(Filtering(b""), store="memory://")
    answer = ask(world, stack, apps(PARTS, write=write, content_length="13"))
    assert answer.body == b"ONE;TWO;THREE"
    assert answer.get("content-length") is None


def test_what_a_filter_leaves_nothing_of_is_not_sent(world: str) -> None:
    stack = Keyguard(Filtering(b"two"), store="memory://")
    answer = ask(world, stack, apps([b"two", b";", b"one;"]))
    assert answer.body == b"ONE;"
    assert len([part for part in answer.chunks if part]) == 1
    assert ask(world, stack, apps([b"two"])).body == b""


def test_filters_come_one_after_the_other_the_innermost_first(world: str) -> None:
    stack = Keyguard(Filtering(b"TWO"), Filtering(b"one"), store="memory://")
    assert ask(world, stack, apps(PARTS)).body == b"THREE"


def test_a_cache_further_out_keeps_what_the_filters_left(world: str) -> None:
    stack = Keyguard(ResponseCache(ttl=60), Filtering(b"two"), store="memory://")
    app = apps(PARTS)
    guarded = getattr(stack, world)(app[world])
    send = ask_asgi if world == "asgi" else ask_wsgi
    answers = [send(guarded, Ask(method="GET")) for _ in range(2)]
    assert [answer.body for answer in answers] == [b"ONE;THREE"] * 2
    assert "hit" in answers[1].get("cache-status")
