"""The transports of httpx and httpx2: what leaves, what comes back, and how requests are given up."""

from __future__ import annotations

import gzip
import io
import json
import traceback
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from keyguard import UpstreamCause
from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.transports.httpx import PoolTransport
from tests.upstream.transports.worlds import ASKED, ORIGIN, URL, WORLDS, Reply, Seen, World, a_pool, by_key, dry, ok

OTHER = "https://other.example"


class Once(io.RawIOBase):
    """A file that is read once, such as a pipe."""

    def __init__(self, text: bytes) -> None:
        self._left = [text]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._left.pop() if self._left else b""


every_world = pytest.mark.parametrize("world", WORLDS, ids=str)


@every_world
def test_a_key_runs_dry_and_the_next_one_answers(world: World) -> None:
    site = world.site(by_key(A=dry(), B=ok()))
    response = world.ask(a_pool(), site, headers={"authorization": f"Bearer {PLACEHOLDER}", "x-api-key": PLACEHOLDER})
    assert (response.status_code, response.json()) == (200, {"ok": True})
    assert site.keys == ["sk-A", "sk-B"]
    assert [seen.body for seen in site.seen] == [json.dumps(ASKED, separators=(",", ":")).encode()] * 2
    assert site.replies[0].closed
    outcome = response.extensions["keyguard"]
    assert (outcome.key, outcome.attempts, outcome.cause) == ("b", 2, UpstreamCause.OK)


@every_world
def test_the_request_that_was_given_is_not_changed(world: World) -> None:
    """Clients build redirects from it, and exceptions and logs show it."""
    response = world.ask(a_pool(), world.site(by_key(A=ok())), headers={"authorization": f"Bearer {PLACEHOLDER}"})
    assert response.request.headers["authorization"] == f"Bearer {PLACEHOLDER}"
    assert "sk-A" not in str(response.request.headers.multi_items())


@every_world
def test_one_credential_leaves(world: World) -> None:
    site = world.site(by_key(A=ok()))
    mine = {"x-api-key": "sk-mine", "api-key": "sk-mine", "Authorization": "Bearer sk-mine", "x-more": PLACEHOLDER}
    world.ask(a_pool(), site, url=f"{URL}?a=1&k={PLACEHOLDER}&b=%20", headers=mine)
    (seen,) = site.seen
    assert not seen.holds("sk-mine")
    assert not seen.holds(PLACEHOLDER)
    assert seen.url == f"{URL}?a=1&b=%20"
    assert [value for name, value in seen.fields if name == "authorization"] == ["Bearer sk-A"]


@every_world
@pytest.mark.parametrize(
    "url", ["https://API.OPENAI.com/v1/x", "https://api.openai.com:443/v1/x", "https://api.openai.com./v1/x"]
)
def test_other_spellings_of_the_origin_get_a_key(world: World, url: str) -> None:
    site = world.site(by_key(A=ok()))
    world.ask(a_pool(), site, url=url)
    assert site.keys == ["sk-A"]


@every_world
@pytest.mark.parametrize(
    "url",
    [
        "http://api.openai.com/v1/x",
        "https://api.openai.com:8443/v1/x",
        "https://api.openai.com.evil.example/v1/x",
        f"{OTHER}/api.openai.com",
        f"https://{PLACEHOLDER}@other.example/x?key={PLACEHOLDER}",
    ],
)
def test_other_origins_get_neither_key_nor_placeholder(world: World, url: str) -> None:
    site = world.site(lambda seen: ok())
    response = world.ask(
        a_pool(),
        site,
        url=url,
        headers={"authorization": f"Bearer {PLACEHOLDER}", "x-api-key": PLACEHOLDER, "x-a": "1"},
    )
    assert response.status_code == 200
    (seen,) = site.seen
    assert not seen.holds("sk-")
    assert seen.holds("x-a")


@every_world
def test_to_other_origins_go_credentials_of_their_own(world: World) -> None:
    site = world.site(lambda seen: ok())
    world.ask(a_pool(), site, url=f"{OTHER}/x", headers={"x-api-key": "theirs", "authorization": "Bearer theirs"})
    assert [value for name, value in site.seen[0].fields if name in ("x-api-key", "authorization")] == [
        "theirs",
        "Bearer theirs",
    ]


@every_world
@pytest.mark.parametrize("field", [("Authorization", f"Bearer {PLACEHOLDER}"), ("x-api-key", PLACEHOLDER)])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_origin_takes_no_key_along(world: World, field: tuple[str, str], status: int) -> None:
    def answers(seen: Seen) -> Reply:
        if seen.url.startswith(OTHER):
            return Reply(307, [], {"location": f"{ORIGIN}/back?key={PLACEHOLDER}"})
        return ok() if "/back" in seen.url else Reply(status, [], {"location": f"{OTHER}/there?key={PLACEHOLDER}"})

    site = world.site(answers)
    response = world.ask(a_pool(), site, headers=dict([field]), follow=True)
    assert response.status_code == 200
    there, back = site.seen[1:]
    assert there.url == f"{OTHER}/there"
    assert not there.holds("sk-")
    assert (back.url, back.key) == (f"{ORIGIN}/back", "sk-A")


@every_world
def test_a_pool_that_is_dry_gives_up_with_the_providers_own_refusal_and_then_asks_no_more(world: World) -> None:
    pool, site = a_pool(), world.site(by_key(A=dry(200), B=dry(300)))
    last = world.ask(pool, site)
    assert (last.status_code, last.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert last.headers["x-should-retry"] == "false"
    assert 190 <= int(last.headers["retry-after"]) <= 201  # of the key that works first
    own = world.ask(pool, site)
    assert site.keys == ["sk-A", "sk-B"]
    assert own.status_code == 429
    assert own.headers["x-should-retry"] == "false"
    assert 190 <= int(own.headers["retry-after"]) <= 201
    assert own.json()["error"]["message"]
    assert own.headers["x-keyguard-exhaustion"] != last.headers["x-keyguard-exhaustion"]
    outcome = own.extensions["keyguard"]
    assert (outcome.key, outcome.attempts, outcome.cause) == (None, 0, UpstreamCause.EXHAUSTED)


@every_world
def test_what_waiting_does_not_help_tells_of_no_wait(world: World) -> None:
    body = json.dumps({"error": {"message": "m", "code": "insufficient_quota", "type": "insufficient_quota"}}).encode()
    broke = Reply(429, [body], {"content-type": "application/json"})
    pool, site = a_pool(), world.site(lambda seen: broke)
    for _ in range(2):
        response = world.ask(pool, site)
        assert response.status_code == 429
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
    assert len(site.keys) == 2


@every_world
def test_a_request_that_is_wrong_is_answered_untouched(world: World) -> None:
    site = world.site(by_key(A=Reply(400, [b"no"], {"x-one": "1"})))
    response = world.ask(a_pool(), site)
    assert (response.status_code, response.content, response.headers) == (400, b"no", {"x-one": "1"})
    assert site.keys == ["sk-A"]


GZIPPED = gzip.compress(b"".join(dry().chunks))
LONG = json.dumps({"error": {"code": "rate_limit_exceeded", "type": "requests"}, "more": "x" * 200_000}).encode()
BODIES = [
    ([b"".join(dry().chunks)], {}),
    ([b"", b"{", b"}"], {}),
    ([GZIPPED[:9], GZIPPED[9:]], {"content-encoding": "gzip"}),
    ([LONG[start : start + 1000] for start in range(0, len(LONG), 1000)], {}),
    ([b"\xff\x00 no json"], {}),
    ([b"[" * 100_000], {}),
    ([], {}),
]
BODY_IDS = ["plain", "empty chunk", "gzip", "long", "no json", "deep", "none"]


@every_world
@pytest.mark.parametrize(("chunks", "headers"), BODIES, ids=BODY_IDS)
@pytest.mark.parametrize("read", [True, False])
def test_the_body_of_an_error_can_be_read_after_the_pool_did(
    world: World, chunks: list[bytes], headers: dict[str, str], read: bool
) -> None:
    reply = Reply(429, chunks, {"retry-after": "300", **headers})
    site, raw = world.site(by_key(A=reply, B=reply)), []
    response = world.streamed(a_pool(), site, "POST", URL, raw.append, read=read, json=ASKED)
    assert response.status_code == 429
    if read:
        assert response.content == (gzip.decompress(GZIPPED) if headers else b"".join(chunks))
    else:
        assert raw == [chunk for chunk in chunks if chunk]


@every_world
def test_a_body_that_is_not_what_it_claims_to_be(world: World) -> None:
    reply = Reply(429, [b"not gzip"], {"content-encoding": "gzip", "retry-after": "300"})
    pool, raw = a_pool(), []
    with pytest.raises(world.family.DecodingError):
        world.ask(pool, world.site(lambda seen: reply))
    world.streamed(a_pool(), world.site(lambda seen: reply), "POST", URL, raw.append, json=ASKED)
    assert raw == [b"not gzip"]


@every_world
def test_the_body_of_an_error_that_breaks_off(world: World) -> None:
    """What came decides, and who reads it gets the exception of the library."""
    broken = world.family.ReadError("reset")
    reply = Reply(429, [b'{"error":{"code":"rate_limit_exceeded"', broken], {"retry-after": "300"})
    site, raw = world.site(lambda seen: reply), []
    with pytest.raises(world.family.ReadError, match="reset"):
        world.streamed(a_pool(), site, "POST", URL, raw.append, json=ASKED)
    assert raw == reply.chunks[:1]
    assert site.keys == ["sk-A", "sk-B"]


@every_world
def test_a_stream_passes_chunk_for_chunk_as_it_comes(world: World) -> None:
    chunks = [b": hello\n\n", b"data: 1\n", b"\ndata: 2\n\nda", b"ta: 3\n\n", b"data: [DONE]\n\n"]
    reply = Reply(200, chunks, {"content-type": "text/event-stream"})
    came: list[tuple[bytes, int]] = []
    world.streamed(
        a_pool(), world.site(by_key(A=reply)), "POST", URL, lambda chunk: came.append((chunk, reply.given)), json=ASKED
    )
    assert [chunk for chunk, _ in came] == chunks
    assert [given for _, given in came] == [3, 3, 3, 4, 5]  # nothing is read ahead but the first event
    assert reply.closed


@every_world
@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream", "text/event-stream"])
def test_what_is_no_stream_of_events_is_not_read_ahead(world: World, content_type: str) -> None:
    coded = {"content-encoding": "gzip"} if content_type == "text/event-stream" else {}
    reply = Reply(200, [b"1", b"2", b"3"], {"content-type": content_type, **coded})
    came: list[int] = []
    world.streamed(
        a_pool(), world.site(by_key(A=reply)), "POST", URL, lambda chunk: came.append(reply.given), json=ASKED
    )
    assert came == [1, 2, 3]


EVENTS = {"content-type": "text/event-stream"}
OVERLOADED = b'event: error\ndata: {"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}\n\n'


@every_world
def test_an_error_as_the_first_event_is_a_refusal(world: World) -> None:
    refused = Reply(200, [b": wait\n\n", OVERLOADED[:20], OVERLOADED[20:]], EVENTS)
    site = world.site(by_key(A=refused, B=Reply(200, [b"data: 1\n\n"], EVENTS)))
    response = world.ask(a_pool(), site)
    assert (response.status_code, response.content) == (200, b"data: 1\n\n")
    assert response.extensions["keyguard"].attempts == 2
    assert refused.closed


@every_world
def test_if_no_key_is_left_the_stream_is_returned_as_it_came(world: World) -> None:
    refused = Reply(200, [b": wait\n\n", OVERLOADED, b"data: more\n\n"], EVENTS)
    response = world.ask(a_pool(), world.site(lambda seen: refused))
    assert (response.status_code, response.content) == (200, b"".join(refused.chunks))
    assert response.headers["x-should-retry"] == "false"


@every_world
def test_an_error_behind_content_is_learnt_from_and_passed_on(world: World) -> None:
    chunks = [b'data: {"choices":[]}\n\n', OVERLOADED]
    pool = a_pool()
    site = world.site(by_key(A=Reply(200, chunks, EVENTS), B=ok()))
    response = world.ask(pool, site)
    assert response.content == b"".join(chunks)
    assert site.keys == ["sk-A"]
    world.ask(pool, site)
    assert site.keys == ["sk-A", "sk-B"]


@every_world
def test_a_stream_that_breaks_off_before_its_first_event_is_not_sent_again(world: World) -> None:
    site = world.site(by_key(A=Reply(200, [b": wait\n\n", world.family.ReadError("reset")], EVENTS)))
    raw: list[bytes] = []
    with pytest.raises(world.family.ReadError, match="reset"):
        world.streamed(a_pool(), site, "POST", URL, raw.append, json=ASKED)
    assert (raw, site.keys) == ([b": wait\n\n"], ["sk-A"])


@every_world
@pytest.mark.parametrize("name", ["ReadError", "ReadTimeout", "RemoteProtocolError", "WriteError"])
def test_what_may_have_run_is_not_sent_again(world: World, name: str) -> None:
    site = world.site(lambda seen: getattr(world.family, name)("gone"))
    with pytest.raises(getattr(world.family, name), match="gone"):
        world.ask(a_pool(), site)
    assert site.keys == ["sk-A"]


@every_world
def test_a_connection_that_was_not_made_is_tried_again(world: World) -> None:
    replies: Iterator[Any] = iter([world.family.ConnectError("refused"), ok()])
    site = world.site(lambda seen: next(replies))
    assert world.ask(a_pool(max_wait=5), site).status_code == 200
    assert len(site.keys) == 2


@every_world
def test_a_traceback_shows_no_key(world: World) -> None:
    """Frames of a library hold header fields, and reports of errors show what frames hold."""

    def fail(seen: Seen) -> Reply:
        fields = seen.fields
        assert any("sk-A" in value for _, value in fields)
        raise world.family.ReadError("gone") from ValueError("behind it")

    with pytest.raises(world.family.ReadError) as caught:
        world.ask(a_pool(), world.site(fail))
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "behind it" in told
    assert "sk-A" not in told


@every_world
def test_nor_does_that_of_an_interrupt(world: World) -> None:
    """Such as a time limit of gevent, or a server that stops its worker."""

    class Interrupted(BaseException):
        pass

    def interrupt(seen: Seen) -> Reply:
        fields = seen.fields
        assert any("sk-A" in value for _, value in fields)
        raise Interrupted("interrupted")

    with pytest.raises(Interrupted) as caught:
        world.ask(a_pool(), world.site(interrupt))
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "sk-A" not in told


@every_world
def test_a_body_that_is_made_while_it_is_sent_is_sent_once(world: World) -> None:
    def made() -> Iterator[bytes]:
        yield b"once"

    async def amade() -> AsyncIterator[bytes]:
        yield b"once"

    site = world.site(by_key(A=dry(), B=ok()))
    response = world.ask(a_pool(), site, content=amade() if world.awaited else made())
    assert response.status_code == 429
    assert [(seen.key, seen.body) for seen in site.seen] == [("sk-A", b"once")]


@every_world
@pytest.mark.parametrize(("kind", "sent"), [(bytes, 2), (io.BytesIO, 2), (Once, 1)])
def test_a_form_is_sent_again_if_its_files_can_be_read_again(world: World, kind: Any, sent: int) -> None:
    site = world.site(by_key(A=dry(), B=ok()))
    response = world.ask(a_pool(), site, json=None, data={"model": "m"}, files={"file": ("a.wav", kind(b"sound"))})
    assert response.status_code == (200 if sent == 2 else 429)
    assert len(site.seen) == sent
    assert len({seen.body for seen in site.seen}) == 1
    assert b"sound" in site.seen[0].body


@every_world
def test_wishes_of_a_request_and_its_time_limits(world: World) -> None:
    site = world.site(by_key(A=dry(30), B=dry(30)))
    response = world.ask(
        a_pool(max_wait=60), site, timeout=7, extensions={"keyguard": {"max_wait": 0.5, "cost": {"requests": 1}}}
    )
    assert response.status_code == 429
    assert [seen.extensions for seen in site.seen] == [
        {"timeout": {"connect": 7, "read": 7, "write": 7, "pool": 7}},
        {"timeout": {"connect": 7, "read": 7, "write": 7, "pool": 7}},
    ]


@every_world
def test_usage_is_settled_when_the_body_has_ended(world: World) -> None:
    pool = a_pool()
    world.ask(pool, world.site(by_key(A=ok(usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}))))
    reports = [waiting.report for waiting in pool.parts.outbox.take()]
    assert [(report.cause, report.spent) for report in reports] == [("ok", None), ("settled", {"tokens": 7})]


def test_one_transport_serves_clients_of_both_libraries() -> None:
    pool = a_pool()
    transport = PoolTransport(pool)
    for world in WORLDS:
        if not world.awaited:
            with pytest.raises(world.family.ConnectError), world.family.Client(transport=transport) as client:
                client.get("http://127.0.0.1:9/", extensions={"keyguard": {"max_wait": 0}})


def test_what_is_no_request_of_theirs() -> None:
    with pytest.raises(TypeError, match="httpx or httpx2"):
        PoolTransport(a_pool()).handle_request(object())


def test_a_transport_that_was_given_is_closed_with_it() -> None:
    world = WORLDS[0]
    site = world.site(by_key(A=ok()))
    world.ask(a_pool(), site)
    assert site.closed == 1
