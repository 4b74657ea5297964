"""The ASGI driver: what a guard and an app may rely on, whatever the other does."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from keyguard import ConfigurationError, Forward, Headers, IPFilter, Keyguard, NoResponse, RateLimit, Request, Response
from keyguard.drivers.asgi.request import ASGIRequest
from keyguard.request import CarriedRequest
from tests.support.asgi_lint import ASGILint
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

App = Callable[[Any, Any, Any], Awaitable[None]]


async def play(app: App, guard: Any, ask: Ask = Ask(), **options: Any) -> Any:  # noqa: B008 - Ask is frozen
    return await aask(Keyguard(guard).asgi(app), ask, **options)


def messages_app(*messages: dict[str, Any]) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


START = {"type": "http.response.start", "status": 200, "headers": []}
LAST = {"type": "http.response.body", "body": b"x"}


class Recorder:
    """A guard that notes what it sees, and what it deferred."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    async def __call__(self, request: Request, forward: Forward) -> Response:
        request.at_end(lambda: self.notes.append("end"))
        try:
            response = await forward(request)
        except BaseException as error:
            self.notes.append(type(error).__name__)
            raise
        self.notes.append(str(response.status))
        return response


def test_the_head_is_seen_before_the_body_and_the_end_after_it() -> None:
    recorder = Recorder()
    seen: list[str] = []

    async def story() -> None:
        async def send(message: Any) -> None:
            seen.append(f"{message['type'][14:]} after {recorder.notes}")

        app = messages_app(START, {**LAST, "more_body": True}, LAST)
        await Keyguard(recorder).asgi(app)(Ask().scope(), _no_receive, send)

    asyncio.run(story())
    assert seen == ["start after ['200']", "body after ['200']", "body after ['200']"]
    assert recorder.notes == ["200", "end"]


def test_the_end_does_not_wait_for_background_work() -> None:
    recorder = Recorder()
    at_background: list[list[str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asgi_app(scope, receive, send)
        at_background.append(list(recorder.notes))

    asyncio.run(play(app, recorder))
    assert at_background == [["200", "end"]]
    assert recorder.notes == ["200", "end"]


def test_deferred_work_runs_last_first_and_all_of_it_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    ran: list[int] = []

    def fail() -> None:
        ran.append(2)
        raise ValueError("deferred")

    async def guard(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: ran.append(1))
        request.at_end(fail)
        request.at_end(lambda: ran.append(3))
        return await forward(request)

    asyncio.run(play(asgi_app, guard))
    assert ran == [3, 2, 1]
    assert "deferred work failed" in caplog.text


def test_deferred_coroutines_are_finished_and_late_work_runs_at_once() -> None:
    ran: list[str] = []

    async def slowly() -> None:
        await asyncio.sleep(0)
        ran.append("coroutine")

    async def guard(request: Request, forward: Forward) -> Response:
        request.at_end(slowly)
        response = await forward(request)
        request.at_end(lambda: ran.append("first"))
        guard.request = request  # type: ignore[attr-defined]
        return response

    async def story() -> None:
        await play(asgi_app, guard)
        assert ran == ["first", "coroutine"]
        guard.request.at_end(lambda: ran.append("late"))  # type: ignore[attr-defined]

    asyncio.run(story())
    assert ran == ["first", "coroutine", "late"]


def test_an_app_that_raises_before_its_head_raises_at_forward_and_reaches_the_server() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("the app's own")

    recorder = Recorder()
    with pytest.raises(LookupError, match="the app's own"):
        asyncio.run(play(app, recorder))
    assert recorder.notes == ["LookupError", "end"]


def test_a_guard_may_answer_for_an_app_that_raised() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError

    async def guard(request: Request, forward: Forward) -> Response:
        try:
            return await forward(request)
        except LookupError:
            return Response(502, [("X-From", "guard")], b"sorry")

    answer = asyncio.run(play(app, guard))
    assert (answer.status, answer.get("x-from"), answer.body) == (502, "guard", b"sorry")


def test_a_guard_may_call_an_app_again_that_raised() -> None:
    calls: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise LookupError
        await asgi_app(scope, receive, send)

    async def guard(request: Request, forward: Forward) -> Response:
        try:
            return await forward(request)
        except LookupError:
            return await forward(request)

    assert asyncio.run(play(app, guard)).body == b"hello"
    assert len(calls) == 2


def test_an_app_that_raises_after_its_head_reaches_the_server_and_ends_the_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        raise LookupError

    recorder = Recorder()
    with pytest.raises(LookupError):
        asyncio.run(play(app, recorder))
    assert recorder.notes == ["200", "end"]


def test_an_app_that_sends_nothing_is_told_to_the_guards_and_left_to_the_server() -> None:
    recorder = Recorder()

    async def story() -> None:
        sent: list[Any] = []
        await Keyguard(recorder).asgi(messages_app())(Ask().scope(), _no_receive, _sender(sent))
        assert sent == []

    asyncio.run(story())
    assert recorder.notes == [NoResponse.__name__, "end"]


def test_the_guards_answer_replaces_the_apps_and_the_rest_of_it_is_swallowed() -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        await forward(request)
        return Response(418, [("Content-Type", "text/plain")], b"teapot")

    app = messages_app(START, {**LAST, "more_body": True}, LAST)
    answer = asyncio.run(play(app, guard))
    assert (answer.status, answer.body, answer.get("content-length")) == (418, b"teapot", "6")


def test_a_guard_that_fails_after_the_head_gives_503_and_no_error_page_can_hide_it() -> None:
    errors: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            try:
                await send(START)
            except ZeroDivisionError as error:
                errors.append(error)

    async def guard(request: Request, forward: Forward) -> Response:
        await forward(request)
        return Response(1 // 0)

    answer = asyncio.run(play(app, guard))
    assert answer.status == 503
    assert b'"cause": "fault"' in answer.body
    assert len(errors) == 2
    assert errors[0] is errors[1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_guard_that_returns_none_refuses(when: str) -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        if when == "after":
            await forward(request)
        return None  # type: ignore[return-value]

    assert asyncio.run(play(asgi_app, guard)).status == 503


def test_a_plain_guard_that_fails_refuses() -> None:
    def guard(request: Request) -> Response | None:
        raise ZeroDivisionError

    assert asyncio.run(play(asgi_app, guard)).status == 503


def test_a_response_with_the_apps_body_needs_the_app() -> None:
    from keyguard.response import APP

    async def guard(request: Request, forward: Forward) -> Response:
        return Response(200, [], APP)

    assert asyncio.run(play(asgi_app, guard)).status == 503


def test_a_guard_may_await_the_event_loop_before_and_after_the_app() -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        await asyncio.sleep(0)
        response = await forward(request)
        await asyncio.sleep(0)
        response.headers.set("X-Waited", "yes")
        return response

    answer = asyncio.run(play(asgi_app, guard))
    assert answer.get("x-waited") == "yes"
    assert answer.all("set-cookie") == ["a=1", "b=2"]


def test_an_app_may_send_from_another_task() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(asgi_app(scope, receive, send))  # type: ignore[arg-type]

    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        await asyncio.sleep(0)
        return response

    assert asyncio.run(play(app, guard)).body == b"hello"


def test_unknown_messages_and_unknown_members_pass_through() -> None:
    sent: list[Any] = []
    start = {**START, "trailers": True, "x-member": 1}
    messages = (
        {"type": "http.response.debug", "info": {}},
        start,
        LAST,
        {"type": "http.response.trailers", "headers": []},
        {"type": "http.response.push", "path": "/", "headers": []},
    )

    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.headers.set("X-Ours", "1")
        return response

    asyncio.run(Keyguard(guard).asgi(messages_app(*messages))(Ask().scope(), _no_receive, _sender(sent)))
    assert sent == [messages[0], {**start, "headers": [(b"x-ours", b"1")]}, *messages[2:]]


def test_the_apps_own_list_of_headers_is_left_alone() -> None:
    headers = [(b"x-app", b"1")]

    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        response.headers.set("X-App", "2")
        response.headers.add("X-More", "3")
        return response

    answer = asyncio.run(play(messages_app({**START, "headers": headers}, LAST), guard))
    assert headers == [(b"x-app", b"1")]
    assert answer.headers == [("x-app", "2"), ("x-more", "3")]


def test_headers_may_come_as_any_iterable_of_pairs() -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        assert response.headers.get("X-App") == "1"
        assert list(response.headers) == [("x-app", "1")]
        response.headers.add("X-More", "2")
        return response

    start = {**START, "headers": iter([[b"x-app", b"1"]])}
    answer = asyncio.run(play(messages_app(start, LAST), guard, lint=False))
    assert answer.headers == [("x-app", "1"), ("x-more", "2")]


def test_cancellation_is_told_to_the_guards_and_raised_again_whatever_they_answer() -> None:
    notes: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def guard(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: notes.append("end"))
        try:
            return await forward(request)
        except asyncio.CancelledError:
            notes.append("cancelled")
            return Response(200)

    async def story() -> None:
        task = asyncio.create_task(play(app, guard))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert notes == ["cancelled", "end"]


def test_deferred_coroutines_outlive_a_cancelled_request() -> None:
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async def later() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append("done")

    async def guard(request: Request, forward: Forward) -> Response:
        request.at_end(later)
        return await forward(request)

    async def story() -> None:
        task = asyncio.create_task(play(app, guard))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(story())
    assert done == ["done"]


@pytest.mark.parametrize("long", [True, False])
def test_the_end_comes_also_if_the_wait_for_what_comes_after_the_app_is_cancelled(long: bool) -> None:
    """A scope that is cancelled, such as one of a middleware further out, cancels each wait in it."""
    notes: list[str] = []
    kept: list[Request] = []
    serving, begun = asyncio.Event(), asyncio.Event()

    async def later() -> None:
        begun.set()
        for _ in range(3):
            await asyncio.sleep(0)
        notes.append("after")

    def put_off() -> None:
        kept[0].after_app(later)
        kept[0].at_end(lambda: notes.append("end"))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        put_off()
        serving.set()
        await asyncio.Event().wait()

    def plain(request: Request) -> None:
        kept.append(request)

    async def surrounding(request: Request, forward: Forward) -> Response:
        kept.append(request)
        return await forward(request)

    async def story() -> None:
        task = asyncio.create_task(play(app, surrounding if long else plain))
        await serving.wait()
        task.cancel()
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(story())
    assert sorted(notes) == ["after", "end"]


@pytest.mark.parametrize("driver", ["asgi", "wsgi"])
def test_what_comes_after_the_app_may_still_have_something_done_at_the_end(driver: str) -> None:
    notes: list[str] = []
    kept: list[Request] = []

    def put_off() -> None:
        kept[0].after_app(lambda: kept[0].at_end(lambda: notes.append("end")))

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        put_off()
        await asgi_app(scope, receive, send)

    def wsgi(environ: Any, start_response: Any) -> Any:
        put_off()
        return wsgi_app(environ, start_response)

    guard = Keyguard(lambda request: kept.append(request))
    if driver == "asgi":
        ask_asgi(guard.asgi(asgi), Ask())
    else:
        ask_wsgi(guard.wsgi(wsgi), Ask(), lint=False)
    assert notes == ["end"]


def test_cancelled_while_a_guard_waits_for_the_event_loop() -> None:
    notes: list[str] = []

    async def guard(request: Request, forward: Forward) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("let go")
        return await forward(request)

    async def story() -> None:
        task = asyncio.create_task(play(asgi_app, guard))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(story())
    assert notes == ["let go"]


def test_a_client_that_leaves_makes_send_raise_and_the_request_still_ends() -> None:
    recorder = Recorder()

    async def send(message: Any) -> None:
        raise OSError("the client has left")

    with pytest.raises(OSError, match="left"):
        asyncio.run(Keyguard(recorder).asgi(asgi_app)(Ask().scope(), _no_receive, send))
    assert recorder.notes == ["200", "end"]


def test_receive_is_handed_on_untouched() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.append(receive)
        await asgi_app(scope, receive, send)

    asyncio.run(Keyguard(Recorder()).asgi(app)(Ask().scope(), receive, _sender([])))
    assert got == [receive]


def test_context_variables_of_the_caller_and_of_a_guard_reach_the_app() -> None:
    outer: contextvars.ContextVar[str] = contextvars.ContextVar("outer")
    inner: contextvars.ContextVar[str] = contextvars.ContextVar("inner")
    seen: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((outer.get(), inner.get()))
        await asgi_app(scope, receive, send)

    async def guard(request: Request, forward: Forward) -> Response:
        inner.set("of the guard")
        return await forward(request)

    async def story() -> None:
        outer.set("of the caller")
        await play(app, guard)

    asyncio.run(story())
    assert seen == [("of the caller", "of the guard")]


def test_the_app_may_not_send_while_its_head_is_being_handled() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        first = asyncio.ensure_future(send(START))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="still being handled"):
            await send(LAST)
        await first
        await send(LAST)

    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        for _ in range(3):
            await asyncio.sleep(0)
        return response

    assert asyncio.run(play(app, guard)).body == b"x"


def test_a_send_that_the_app_gives_up_on_lets_the_guards_go() -> None:
    notes: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sending = asyncio.ensure_future(send(START))
        await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        try:
            await asyncio.Event().wait()
        finally:
            notes.append("let go")
        return response

    async def story() -> int:
        status: int = (await play(app, guard)).status
        notes.append("answered")
        return status

    assert asyncio.run(story()) == 503
    assert notes == ["let go", "answered"]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_without_a_body_have_none(method: str, status: int) -> None:
    def guard(request: Request) -> Response | None:
        return Response(status, Headers([("Content-Length", "99")]), b"not for you")

    answer = asyncio.run(play(asgi_app, guard, Ask(method=method)))
    assert (answer.status, answer.body) == (status, b"")
    assert answer.get("content-length") is None


def test_a_scope_of_an_unknown_type_is_refused() -> None:
    async def story() -> None:
        await Keyguard(Recorder()).asgi(asgi_app)({"type": "webtransport"}, _no_receive, _sender([]))

    with pytest.raises(RuntimeError, match="webtransport"):
        asyncio.run(story())


def test_several_event_loops_share_a_stack() -> None:
    app = Keyguard(RateLimit("3/hour")).asgi(asgi_app)
    answers = [asyncio.run(aask(app, Ask())).status for _ in range(4)]
    assert answers == [200, 200, 200, 429]


# -- lifespan and websockets ----------------------------------------------------------------------------------


def lifespan(app: App, scope: dict[str, Any] | None = None) -> list[str]:
    sent: list[Any] = []
    queue = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Any:
        return queue.pop(0)

    with suppress(ConfigurationError):  # it is told as a message too
        asyncio.run(ASGILint(app)(scope or {"type": "lifespan", "asgi": {}}, receive, _sender(sent)))  # type: ignore[arg-type]
    return [message["type"] for message in sent]


async def lifespan_app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def test_lifespan_passes_and_closes_the_store_at_the_end() -> None:
    class Closing:
        closed = 0

        def execute(self, ops: Any) -> Any:
            raise AssertionError

        def scan(self, prefix: str) -> Any:
            raise AssertionError

        def close(self) -> None:
            self.closed += 1

    store = Closing()
    assert lifespan(Keyguard(Recorder(), store=store).asgi(lifespan_app)) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert store.closed == 1


def websocket(app: App, *, denial: bool = False) -> list[Any]:
    sent: list[Any] = []
    queue = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}]
    scope = {**Ask().scope(), "type": "websocket", "scheme": "ws", "subprotocols": []}
    del scope["method"]
    if denial:
        scope["extensions"] = {"websocket.http.response": {}}

    async def receive() -> Any:
        return queue.pop(0)

    asyncio.run(ASGILint(app)(scope, receive, _sender(sent)))
    return sent


async def accepting(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"x-app", b"1")]})
    await send({"type": "websocket.send", "text": "hi"})
    await send({"type": "websocket.close"})


def test_an_accepted_handshake_is_counted_and_the_messages_flow() -> None:
    app = Keyguard(RateLimit("1/hour")).asgi(accepting)
    accepted = websocket(app)
    assert [message["type"] for message in accepted] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert [name for name, _ in accepted[0]["headers"]] == [b"x-app", b"ratelimit-policy", b"ratelimit"]
    assert websocket(app) == [{"type": "websocket.close", "code": 1013}]


def test_a_refused_handshake_gets_a_denial_response_where_the_server_offers_it() -> None:
    app = Keyguard(RateLimit("1/hour")).asgi(accepting)
    websocket(app, denial=True)
    start, body = websocket(app, denial=True)
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 429)
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert b'"cause": "usage"' in body["body"]


def test_a_guard_may_refuse_after_the_app_has_accepted() -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        assert request.websocket
        assert (await forward(request)).status == 101
        return Response(403, [], b"no")

    assert websocket(Keyguard(guard).asgi(accepting)) == [{"type": "websocket.close", "code": 1008}]


def test_a_denied_address_opens_no_websocket() -> None:
    app = Keyguard(IPFilter(deny=["198.51.100.0/24"])).asgi(accepting)
    assert websocket(app) == [{"type": "websocket.close", "code": 1008}]
    assert websocket(app, denial=True)[0]["status"] == 403


def test_the_apps_own_refusal_of_a_handshake_passes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.close", "code": 4000})

    recorder = Recorder()
    assert websocket(Keyguard(recorder).asgi(app)) == [{"type": "websocket.close", "code": 4000}]
    assert recorder.notes == ["403", "end"]


# -- what comes to the log ------------------------------------------------------------------------------------


def test_a_refusal_is_logged_once_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "keyguard")
    app = Keyguard(RateLimit("1/hour")).asgi(asgi_app)
    for _ in range(2):
        asyncio.run(aask(app, Ask()))
    (record,) = caplog.records
    assert "cause=usage reason=limit-reached status=429" in record.getMessage()
    assert "limits=ip:1/hour" in record.getMessage()


async def _no_receive() -> Any:
    raise AssertionError("nothing was to be received")


def _sender(sent: list[Any]) -> Any:
    async def send(message: Any) -> None:
        sent.append(message)

    return send


def test_a_wsgi_app_inside_by_a_bridge_takes_send_for_what_it_is() -> None:
    """asgiref warns of a `send` that is not marked as a coroutine function; here warnings are errors."""
    from asgiref.wsgi import WsgiToAsgi

    app = Keyguard(RateLimit("1/minute")).asgi(WsgiToAsgi(wsgi_app))
    assert [ask_asgi(app, Ask("/"), lint=False).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("trusted", [[], ["10.0.0.0/8", "unix"]])
def test_an_asgi_request_knows_the_client_that_any_request_would_know(trusted: list[str]) -> None:
    engine = Keyguard(trusted_proxies=trusted).asgi(asgi_app).engine
    peers = ["10.0.0.1", "203.0.113.9", "::ffff:10.0.0.1", "2001:db8::1", "testclient", "", None]
    for peer in [*peers, *peers]:  # those that are known by then, too
        for fields in ([], [(b"x-forwarded-for", b"198.51.100.7")]):
            scope = {**Ask().scope(), "client": None if peer is None else (peer, 4000), "headers": fields}
            quick, general = ASGIRequest("GET", scope, engine), ASGIRequest("GET", scope, engine)
            assert quick.client == CarriedRequest.client.fget(general), peer  # type: ignore[attr-defined]
            assert quick.state.client_known
