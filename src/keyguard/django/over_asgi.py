"""The guards of a stack around what a Django middleware calls, if the request came by ASGI.

The driver for ASGI carries it, around an app that asks Django for its response. A driver sends, and Django asks for
the parts of a stream: so the driver's coroutine is kept where it sends one, and goes on when the next one is asked for.
There is no task and no queue. A response that does not stream is over when the middleware returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import aclosing, suppress
from copy import copy
from io import BytesIO
from types import coroutine
from typing import Any, TypeAlias

from keyguard.django.responses import Pairs, fields_of, made, tell, template_of
from keyguard.drivers.asgi.driver import ASGIDriver
from keyguard.drivers.asgi.messages import Message, Receive, Send
from keyguard.drivers.asgi.request import Scope
from keyguard.drivers.field_names import variable_of
from keyguard.drivers.tasks import hold
from keyguard.request import SHARED_ASGI, CarriedRequest, SharedState
from keyguard.request.current import enter, leave, noted
from keyguard.stack import Keyguard

RUN = "keyguard.django"
"""The key under which the app finds the `_Run` of a request."""
_CHUNK = 2**16
Fields: TypeAlias = "Sequence[tuple[bytes, bytes]]"


class OverASGI:
    """A stack around Django's `get_response`."""

    def __init__(self, stack: Keyguard, get_response: Callable[[Any], Awaitable[Any]]) -> None:
        from django.core.handlers.asgi import ASGIHandler

        # One that is not set up stands for Django, whose settings tell all that is asked of it.
        engine = stack.engine(object.__new__(ASGIHandler), asynchronous=True)
        self._driver = ASGIDriver(_app, engine)
        self._get_response = get_response

    async def __call__(self, request: Any) -> Any:
        """Return Django's response, or the guards' own."""
        run = _Run(request, self._get_response)
        scope, outer = run.scope, noted()
        scope[RUN] = run
        driving = self._driver(scope, run.receive, run.send)
        try:
            over = await _next(driving) is None
        finally:
            del scope[RUN]
            request.keyguard = scope.get(SHARED_ASGI) or SharedState()  # a page from the cache needs none
        if over:
            return run.whole()
        inner = noted()
        if inner is not outer:
            enter(outer)  # what stands further out is not the app
        return run.streaming(_Stream(driving, run, inner))


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    run: _Run = scope[RUN]
    if scope[SHARED_ASGI] is not run.scope[SHARED_ASGI]:
        await run.in_background(scope, send)
    else:
        await run.ask(scope, receive, send)


class _Run:
    """One request, on its way through the guards to Django."""

    def __init__(self, request: Any, get_response: Callable[[Any], Awaitable[Any]]) -> None:
        self.request = request
        self.made_as = type(request)
        self.get_response = get_response
        self.scope = scope = request.scope
        scope["headers"] = self.sent = list(scope["headers"])
        if isinstance(scope["query_string"], str):  # of Django's test client
            scope["query_string"] = scope["query_string"].encode()
        self.query = scope["query_string"]
        if request.path_info != scope["path"].removeprefix(request.script_name):
            self.scope = {**scope, "path": request.script_name + request.path_info}  # as middleware further out wants
            self.scope.pop("raw_path", None)
        self.response: Any = None
        self.theirs: Pairs = []
        self.status, self.fields = 500, self.theirs
        self.parts: list[bytes] = []
        self.stops = False
        """Whether the driver stops where it sends something."""
        self._body: Any = None

    # -- what the driver calls ----------------------------------------------------------------------------

    async def receive(self) -> Message:
        """Hand out the body, which Django has received."""
        request = self.request
        if self._body is None:
            self._body = BytesIO(request._body) if hasattr(request, "_body") else request._stream
            if not self._body.seekable():  # of Django's test client
                self._body = request._stream = BytesIO(self._body.read())
        elif self._body is _READ:
            await asyncio.Event().wait()  # the client stays
        part = self._body.read(_CHUNK)
        more = len(part) == _CHUNK
        if not more:
            self._body.seek(0)
            self._body = _READ
        return {"type": "http.request", "body": part, "more_body": more}

    def send(self, message: Message) -> Awaitable[None]:
        """Take what the driver sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"]]
            return _Part(b"") if self.stops else _DONE
        part = message.get("body", b"")
        if part and self.stops:
            return _Part(part)
        self.parts.append(part)
        return _DONE

    # -- the app ------------------------------------------------------------------------------------------

    async def ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask Django, in the place of the app."""
        request = self.request
        if receive != self.receive:
            await self._read(receive)
        if scope["headers"] is not self.sent:  # guards have changed some, or taken some off that Django may have folded
            _read_anew(request, self.sent, scope["headers"])
        if scope["query_string"] != self.query:
            request.META["QUERY_STRING"] = scope["query_string"].decode()
            request.__dict__.pop("GET", None)
        request.scope = scope
        request.keyguard = scope[SHARED_ASGI]
        response = self.response = await self.get_response(request)
        scope[SHARED_ASGI].route = template_of(request)
        self.theirs = fields = [(name.lower(), value) for name, value in fields_of(response)]
        self.stops = response.streaming
        await _send(copy(response), fields, send)  # a copy, since the response is given another stream

    async def _read(self, receive: Receive) -> None:
        """Read the body as a driver gives it: it wants to know of it, or keeps it from the app."""
        there, more = False, True
        while more:
            message = await receive()
            there = there or bool(message.get("body"))
            more = bool(message.get("more_body"))
        if not there and not self.request._read_started:
            self.request._stream = BytesIO()

    async def in_background(self, scope: Scope, send: Send) -> None:
        """Ask Django once more, for nobody: a cache renews what it has."""
        from asgiref.sync import sync_to_async

        request = self.made_as(scope, BytesIO())
        request.keyguard = scope[SHARED_ASGI]
        response = await self.get_response(request)
        try:
            await _send(response, [(name.lower(), value) for name, value in fields_of(response)], send)
        finally:
            await sync_to_async(response.close)()

    # -- the response -------------------------------------------------------------------------------------

    def whole(self) -> Any:
        """Return Django's response with what the guards have made of it, or the one that stands in its place."""
        body, response = b"".join(self.parts), self.response
        if response is None or response.streaming or response.content != body:
            return made(self.status, self.fields, [body], response)
        tell(response, self.status, self.theirs, self.fields)
        return response

    def streaming(self, parts: _Stream) -> Any:
        """Return Django's response with what the guards have made of it, and of its stream."""
        response, self.response = self.response, None  # which holds this from now on
        response.streaming_content = parts
        tell(response, self.status, self.theirs, self.fields)
        return response


def _read_anew(request: Any, before: Fields, after: Fields) -> None:
    """Have Django read other header fields than before. Fields that middleware further out has put there stay."""
    old, new = _variables(before), _variables(after)
    changed = [name for name in {*old, *new} if old.get(name) != new.get(name)]
    for name in changed:
        request.META.pop(name, None)
        if name in new:
            request.META[name] = new[name]
    if changed:
        request.__dict__.pop("headers", None)
        if "HTTP_COOKIE" in changed:
            request.__dict__.pop("COOKIES", None)


def _variables(headers: Fields) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(variable_of(name.decode("latin-1")), []).append(value.decode("latin-1"))
    return {name: ",".join(values) for name, values in found.items()}


async def _send(response: Any, fields: Pairs, send: Send) -> None:
    headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    if not response.streaming:
        await send({"type": "http.response.body", "body": response.content})
        return
    # Iterators that are not asynchronous are consumed as Django does, which warns of it.
    async with aclosing(aiter(response)) as parts:
        async for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


# -- a driver that is kept where it sends something -----------------------------------------------------------------


class _Part:
    """A message that a driver sends: its coroutine stops here."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __await__(self) -> Generator[Any, Any, None]:
        yield self


class _Done:
    """Nothing to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE = _Done()
_READ = object()


@coroutine
def _next(driving: Coroutine[Any, Any, None], error: BaseException | None = None) -> Generator[Any, Any, _Part | None]:
    """Let a driver go on to the next thing that it sends, or to its end."""
    value: Any = None
    while True:
        try:
            stop = driving.send(value) if error is None else driving.throw(error)
        except StopIteration:
            return None
        if stop.__class__ is _Part:
            part: _Part = stop
            return part
        value = error = None
        try:
            value = yield stop  # for the event loop
        except BaseException as raised:
            error = raised


class _Stream:
    """The parts of a stream, as a driver sends them."""

    def __init__(self, driving: Coroutine[Any, Any, None], run: _Run, inner: CarriedRequest | None) -> None:
        self._driving = driving
        self._run = run
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self._over = False

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        token = enter(self._inner)
        self._over = True  # unless it comes to another part
        try:
            part = await _next(self._driving)
        finally:
            leave(token)
        if part is None:
            raise StopAsyncIteration
        self._over = False
        return part.body

    def close(self) -> None:
        """End it, if it was left: its client has gone, or nobody wants it. Django calls this in a thread."""
        if self._over:
            return
        self._over = True
        self._run.stops = False
        try:
            self._loop.call_soon_threadsafe(lambda: hold(self._end()))
        except RuntimeError:  # the loop is closed
            self._driving.close()

    async def _end(self) -> None:
        token = enter(self._inner)
        try:
            with suppress(BaseException):  # what was raised, most of all
                await _next(self._driving, asyncio.CancelledError())
        finally:
            leave(token)

    def __del__(self) -> None:
        self.close()
