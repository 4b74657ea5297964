"""The WSGI driver: what a guard, an app and a server may rely on, whatever the others do (PEP 3333)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from keyguard import ConfigurationError, Forward, IPFilter, Keyguard, NoResponse, RateLimit, Request, Response
from tests.support.harness import Answer, Ask, ask_wsgi, wsgi_app

App = Callable[[Any, Any], Iterable[bytes]]


def play(app: App, guard: Any, ask: Ask = Ask(), **options: Any) -> Answer:  # noqa: B008 - Ask is frozen
    return ask_wsgi(Keyguard(guard).wsgi(app), ask, **options)


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
        response.headers.set("X-Guard", "1")
        return response


async def looking(request: Request, forward: Forward) -> Response:
    """A guard that defers nothing."""
    response = await forward(request)
    response.headers.set("X-Guard", "1")
    return response


class Iterable_:
    """A body that notes whether it was closed, and how often."""

    def __init__(self, *items: bytes, fail: bool = False) -> None:
        self.items = items
        self.fail = fail
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield from self.items
        if self.fail:
            raise LookupError("in the middle")

    def close(self) -> None:
        self.closed += 1


def returning(body: Any, status: str = "200 OK") -> App:
    def app(environ: Any, start_response: Any) -> Any:
        start_response(status, [("X-App", "1")])
        return body

    return app


def call(app: App, ask: Ask = Ask()) -> tuple[list[Any], Any]:  # noqa: B008 - Ask is frozen
    """What a server sees: the calls of start_response, and the iterable itself."""
    heads: list[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        heads.append((status, headers, exc_info))
        return lambda data: heads.append(data)

    return heads, app(ask.environ(), start_response)


def test_an_untouched_response_returns_the_apps_own_iterable() -> None:
    body = [b"one"]
    heads, returned = call(Keyguard(looking).wsgi(returning(body)))
    assert returned is body
    assert heads == [("200 OK", [("X-App", "1"), ("X-Guard", "1")], None)]


def test_file_wrapper_still_counts_for_the_server(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    with path.open("rb") as file:
        _, returned = call(Keyguard(looking, RateLimit("10/second")).wsgi(returning(FileWrapper(file))))
        assert isinstance(returned, FileWrapper)


def test_the_length_still_counts_where_there_is_deferred_work() -> None:
    recorder = Recorder()
    _, returned = call(Keyguard(recorder).wsgi(returning([b"one"])))
    assert len(returned) == 1
    assert list(returned) == [b"one"]
    assert recorder.notes == ["200", "end"]
    returned.close()
    assert recorder.notes == ["200", "end"]


def test_a_body_that_was_never_started_still_ends_and_is_closed() -> None:
    recorder = Recorder()
    body = Iterable_(b"one")
    _, returned = call(Keyguard(recorder).wsgi(returning(body)))
    assert not hasattr(returned, "__len__")
    returned.close()
    assert (recorder.notes, body.closed) == (["200", "end"], 1)


def test_a_generator_app_calls_start_response_with_its_first_item() -> None:
    recorder = Recorder()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        assert recorder.notes == ["200"]
        yield b"two"

    answer = play(app, recorder)
    assert (answer.body, answer.get("x-guard")) == (b"onetwo", "1")
    assert recorder.notes == ["200", "end"]


def test_the_first_item_of_a_stream_is_handed_on_before_the_second_is_made() -> None:
    made: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    _, returned = call(Keyguard(looking).wsgi(app))
    iterator = iter(returned)
    assert (next(iterator), made) == (b"0", [0])
    assert (next(iterator), made) == (b"1", [0, 1])


def test_write_drives_the_guards_and_reaches_the_server() -> None:
    recorder = Recorder()

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"written ")
        assert recorder.notes == ["200"]
        write(b"twice ")
        return [b"returned"]

    answer = play(app, recorder)
    assert answer.chunks == [b"written ", b"twice ", b"returned"]
    assert answer.get("x-guard") == "1"


def test_an_app_that_raises_before_its_head_raises_at_forward_and_reaches_the_server() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError("the app's own")

    recorder = Recorder()
    with pytest.raises(LookupError, match="the app's own"):
        play(app, recorder)
    assert recorder.notes == ["LookupError", "end"]


def test_a_generator_app_that_raises_before_its_first_item_does_too() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise LookupError
        yield b""

    recorder = Recorder()
    with pytest.raises(LookupError):
        play(app, recorder)
    assert recorder.notes == ["LookupError", "end"]


def test_an_app_that_raises_in_the_middle_reaches_the_server_and_ends() -> None:
    recorder = Recorder()
    body = Iterable_(b"one", fail=True)
    with pytest.raises(LookupError):
        play(returning(body), recorder, lint=False)
    assert (recorder.notes, body.closed) == (["200", "end"], 1)


def test_a_guard_may_answer_for_an_app_that_raised_or_call_it_again() -> None:
    calls: list[int] = []

    def app(environ: Any, start_response: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise LookupError
        return wsgi_app(environ, start_response)

    async def guard(request: Request, forward: Forward) -> Response:
        for _ in range(2):
            try:
                return await forward(request)
            except LookupError:
                pass
        return Response(502, [("Content-Type", "text/plain")], b"sorry")

    wrapped = Keyguard(guard).wsgi(app)
    assert (ask_wsgi(wrapped, Ask()).body, len(calls)) == (b"sorry", 2)
    assert (ask_wsgi(wrapped, Ask()).body, len(calls)) == (b"hello", 3)


def test_an_app_that_calls_no_start_response_is_told_to_the_guards() -> None:
    recorder = Recorder()
    body = Iterable_(b"one")
    with pytest.raises(NoResponse):
        play(lambda environ, start_response: body, recorder, lint=False)
    assert (recorder.notes, body.closed) == (["NoResponse", "end"], 1)


def test_an_app_that_returns_none_is_told_so() -> None:
    with pytest.raises(TypeError, match="returned None"):
        play(returning(None), Recorder(), lint=False)


def test_the_guards_answer_replaces_the_apps_which_is_closed_once() -> None:
    body = Iterable_(b"one")

    async def guard(request: Request, forward: Forward) -> Response:
        await forward(request)
        return Response(418, [("Content-Type", "text/plain")], b"teapot")

    answer = play(returning(body), guard, lint=False)
    assert (answer.status, answer.body, answer.get("content-length"), body.closed) == (418, b"teapot", "6", 1)


def test_what_an_app_writes_after_it_was_replaced_is_dropped() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        write(b"dropped")
        return [b"dropped too"]

    async def guard(request: Request, forward: Forward) -> Response:
        await forward(request)
        return Response(418, [("Content-Type", "text/plain")], b"teapot")

    assert play(app, guard).body == b"teapot"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_guard_that_returns_none_refuses(when: str) -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        if when == "after":
            await forward(request)
        return None  # type: ignore[return-value]

    assert play(wsgi_app, guard).status == 503


def test_a_guard_that_fails_after_the_head_gives_503_even_if_the_app_goes_on() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                write(b"x")
        with pytest.raises(ZeroDivisionError):
            start_response("500 Oops", [])
        return [b"error page"]

    async def guard(request: Request, forward: Forward) -> Response:
        await forward(request)
        return Response(1 // 0)

    assert play(app, guard).status == 503


def test_exc_info_replaces_a_head_that_was_not_driven() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "1")])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [("X-Second", "1")], sys.exc_info())
        return [b"error"]

    recorder = Recorder()
    heads, returned = call(Keyguard(recorder).wsgi(app))
    list(returned)
    assert heads == [("500 Internal Server Error", [("X-Second", "1"), ("X-Guard", "1")], None)]
    assert recorder.notes == ["500", "end"]


def test_exc_info_after_the_head_reaches_the_server_with_what_the_guards_had_to_say() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("X-App", "1")])
        yield b""
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [("X-App", "2")], sys.exc_info())
        yield b"error"

    heads, returned = call(Keyguard(looking).wsgi(app))
    assert list(returned) == [b"", b"error"]
    assert heads[1][:2] == ("500 Internal Server Error", [("X-App", "2"), ("X-Guard", "1")])
    assert heads[1][2][0] is LookupError


def test_a_second_start_response_without_exc_info_is_an_error() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    with pytest.raises(AssertionError, match="second time"):
        play(app, looking, lint=False)


def test_an_exit_in_the_app_lets_the_guards_go() -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise SystemExit(3)

    recorder = Recorder()
    with pytest.raises(SystemExit):
        play(app, recorder)
    assert recorder.notes == ["SystemExit", "end"]


def test_a_guard_that_awaits_an_event_loop_is_refused_and_told_why(caplog: pytest.LogCaptureFixture) -> None:
    class Future:
        def __await__(self) -> Iterator[Any]:
            yield self

    async def guard(request: Request, forward: Forward) -> Response:
        await Future()
        return await forward(request)

    assert play(wsgi_app, guard).status == 503
    assert "needs an event loop; there is none under WSGI" in caplog.text


def test_an_async_setting_is_refused_when_the_app_is_put_together() -> None:
    async def plan(request: Request) -> str:
        return "1/second"

    with pytest.raises(ConfigurationError, match=r"plan.*no event loop under WSGI"):
        Keyguard(RateLimit(plan)).wsgi(wsgi_app)


def test_deferred_work_runs_last_first_and_all_of_it_though_one_fails() -> None:
    ran: list[int] = []

    def fail() -> None:
        ran.append(2)
        raise ValueError

    async def guard(request: Request, forward: Forward) -> Response:
        request.at_end(lambda: ran.append(1))
        request.at_end(fail)
        request.at_end(lambda: ran.append(3))
        return await forward(request)

    play(wsgi_app, guard)
    assert ran == [3, 2, 1]


def test_a_status_that_the_guard_changes_gets_its_phrase_and_others_keep_theirs() -> None:
    async def guard(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        if request.path == "/changed":
            response.status = 202
        return response

    app = Keyguard(guard).wsgi(returning([b"x"], "200 Alright"))
    assert call(app)[0][0][0] == "200 Alright"
    assert call(app, Ask("/changed"))[0][0][0] == "202 Accepted"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_responses_without_a_body_have_none(method: str, status: int) -> None:
    def guard(request: Request) -> Response | None:
        return Response(status, [("Content-Type", "text/plain")] if status == 200 else [], b"not for you")

    # werkzeug's linter wants a Content-Length of 0 in a 204; RFC 9110, section 8.6, wants none.
    answer = play(wsgi_app, guard, Ask(method=method), lint=status != 204)
    assert (answer.status, answer.body) == (status, b"")
    assert answer.get("content-length") is None


@pytest.mark.parametrize("peer", ["", "localhost"])  # gunicorn's word for a unix socket, and waitress's
def test_a_proxy_on_a_unix_socket_is_known_by_what_the_server_calls_it(peer: str) -> None:
    def status(*trusted: str) -> int:
        app = Keyguard(IPFilter(allow=["192.0.2.0/24"]), trusted_proxies=trusted).wsgi(wsgi_app)
        return ask_wsgi(app, Ask(headers=(("X-Forwarded-For", "192.0.2.7"),), client=peer)).status

    assert (status("unix"), status()) == (200, 403)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 204, 304, 429, 599])
def test_an_answer_at_once_is_that_of_the_long_way(method: str, status: int) -> None:
    def plain(request: Request) -> Response | None:
        return Response(status, [("Content-Type", "text/plain"), ("X-Guard", "1")], b"answer")

    async def surrounding(request: Request, forward: Forward) -> Response:
        response = plain(request)
        assert response is not None
        return response

    at_once, long = [call(Keyguard(guard).wsgi(wsgi_app), Ask(method=method)) for guard in (plain, surrounding)]
    assert at_once == long
    assert len(at_once[0]) == 1


def test_what_a_server_adds_to_a_head_is_not_in_the_next_one() -> None:
    response = Response(403, [("Content-Type", "text/plain")], b"no")
    app = Keyguard(lambda request: response).wsgi(wsgi_app)
    for _ in range(2):
        (_, headers, _), *_ = call(app)[0]
        assert sorted(name for name, _ in headers) == ["Content-Length", "Content-Type"]
        headers.append(("Server", "its name"))


def test_work_for_the_end_that_a_guard_without_a_mark_has_registered_comes_after_the_body() -> None:
    notes: list[str] = []

    def guard(request: Request) -> Response | None:
        request.at_end(lambda: notes.append("end"))
        request.after_app(lambda: notes.append("after"))
        return None

    body = Iterable_(b"one")
    _, returned = call(Keyguard(guard).wsgi(returning(body)))
    assert (list(returned), notes) == ([b"one"], ["end"])
    returned.close()
    assert (notes, body.closed) == (["end", "after"], 1)


def test_a_second_head_gives_no_charge_back_again() -> None:
    """What a limit took for a request that a layer further in has refused is given back once."""
    inside = Keyguard(RateLimit("1/day", by="ip", name="inner", headers=None)).wsgi(wsgi_app)

    def app(environ: Any, start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/outside":
            return wsgi_app(environ, start_response)
        body = inside(environ, start_response)
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return body

    guarded = Keyguard(RateLimit("100000/day", by="ip", name="outer")).wsgi(app)
    left = [ask_wsgi(guarded, Ask(path), lint=False).get("ratelimit") for path in ("/in", "/in", "/in", "/outside")]
    assert [value and value.partition("r=")[2].partition(";")[0] for value in left] == ["99999", None, None, "99998"]


def test_what_comes_after_the_app_comes_although_a_greenlet_is_killed_in_its_end() -> None:
    notes: list[str] = []

    class Killed(BaseException):
        """As gevent's `GreenletExit`."""

    def killed() -> None:
        raise Killed

    def guard(request: Request) -> Response | None:
        request.at_end(killed)
        request.after_app(lambda: notes.append("after"))
        return None

    _, returned = call(Keyguard(guard).wsgi(returning(Iterable_(b"one"))))
    with pytest.raises(Killed):
        returned.close()
    assert notes == ["after"]
