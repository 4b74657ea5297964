"""A request under ASGI that takes the long way: guards are resumed inside the app's own `send`, with no task, no queue
and no buffered body.

The short way of a request that all guards have let pass, or that one has answered at once, is in `driver.py`.

Each call of the app is a small state machine:

    state     on the head              on a body part           on the app's return     on the app's error
    IDLE      (the app has not run)
    WAIT      drive the guards -> ...  (pass on)                NoResponse to guards    raise it to the guards
    DRIVING   refused                  refused                  -                       -
    STREAM    (pass on)                pass on; the end settles done                    raise
    TEE       (pass on)                copy, and pass on        cut the copy short      cut the copy short; raise
    DISCARD   drop                     drop                     done                    raise
    DEAD      raise the failure        raise the failure        answer the failure      answer the failure

`WAIT` becomes `STREAM` if the guards pass the app's response on, `TEE` if they want a copy of its body as well,
`DISCARD` if they answer in its place, and `DEAD` if one fails after the head: later sends raise its error again,
so the app's own error page cannot hide it, and the client gets a 503.

Messages the driver does not know pass through. `receive` is handed on untouched; from HTTP/2 on, whether a body comes
by it is noted, and if the response may be copied, whether it tells that the client has gone.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Sequence
from typing import Any

from keyguard.chain import Begun, checked, within
from keyguard.drivers.asgi.copies import Copies
from keyguard.drivers.asgi.driving import WAITS, Relay, awaited, decided, finished, later, let_go, noting, settled
from keyguard.drivers.asgi.filtering import filtered
from keyguard.drivers.asgi.messages import ASGIApp, Message, Receive, Send, as_sent, nothing, raw_fields, without_body
from keyguard.drivers.asgi.request import ByteHeaders, Scope
from keyguard.drivers.bridges import pass_on, returned
from keyguard.drivers.interpreter import Engine, Foreign, Pending
from keyguard.drivers.stripping import strip_keys
from keyguard.errors import NoResponse
from keyguard.flow import Flow
from keyguard.process.event_loops import in_loop, mark_coroutine_function
from keyguard.request import CarriedRequest
from keyguard.response import APP, BodyFilter, Response
from keyguard.steps import CallApp

IDLE, WAIT, DRIVING, STREAM, TEE, DISCARD, DEAD = range(7)

_STOPS = (CallApp, *WAITS)
"""The stops that guards may make before the app has answered, besides a response."""


class Exchange:
    """One request through the guards and the app. The table at the top of this file is its theory."""

    copies: Copies | None = None
    failure: BaseException | None = None
    filters: Sequence[BodyFilter] | None = None
    flow: Flow[Any] | None = None
    """The coroutine of the guards that go the long way."""
    state = IDLE

    def __init__(self, app: ASGIApp, engine: Engine, request: CarriedRequest, receive: Receive, send: Send) -> None:
        self.app = noting(app, request) if engine.notes else app
        self.engine = engine
        self.request = request
        self.receive = receive
        self.send_on = send

    async def run(self, begun: Begun) -> None:
        """Go on with what the guards have made of the request, to its end."""
        request = self.request
        try:
            stop = self._first(begun)
            while stop is not None:
                if stop.__class__ is CallApp:
                    stop = await self._call_app(stop.request.scope)
                elif isinstance(stop, Response):
                    await self._answer(stop)
                    break
                else:
                    value = error = None
                    try:  # here and not in a coroutine of its own, which each request would keep while it waits
                        value = (await stop.results)[0] if stop.__class__ is Pending else await Relay(stop.yielded)
                    except Exception as failure:  # cancelled, it goes on up: `_let_go` tells the guards
                        error = failure
                    stop = self._go_on(stop, value, error)
        except BaseException as failure:
            self._let_go(failure)
            raise
        finally:
            if request.afterwards or request.deferred or self.copies is not None:
                await self.settle()
            request.state.failure = None  # its frames hold the request
            request.late = self.engine.late

    async def settle(self) -> None:
        """Run what was put off until the end."""
        try:
            if self.request.afterwards:
                await settled(self.engine, self.request.afterwards)
        finally:  # also if this is cancelled while it waits
            if self.copies is not None:
                self.copies.close("the response ended before it was whole")
            if self.request.deferred:
                await settled(self.engine, self.request.deferred)

    # -- driving the guards -----------------------------------------------------------------------------

    def _first(self, begun: Begun) -> Any:
        if isinstance(begun, Response):
            return begun
        if isinstance(begun, tuple):
            if not begun:
                return CallApp(self.request)
            begun = within(begun, self.request, CallApp)
        self.flow = begun
        try:
            return self._checked(self.engine.advance(begun, request=self.request))
        except Exception as failure:
            return self.engine.fault(self.request, failure)

    def _checked(self, stop: Any) -> Any:
        """A stop as it is, if the guards may make it before the app has answered."""
        return stop if stop.__class__ in _STOPS else checked(stop, self.flow)

    def _go_on(self, stop: Pending | Foreign, value: Any, error: BaseException | None) -> Any:
        """The stop after one that had to be waited for."""
        try:
            return self._checked(self._resume(stop, value, error))
        except Exception as failure:
            return self.engine.fault(self.request, failure)

    def _resume(self, stop: Pending | Foreign, value: Any, error: BaseException | None) -> Any:
        if isinstance(stop, Pending) and stop.began:
            self.engine.waited(self.request, stop.began)
        assert self.flow is not None
        return self.engine.advance(self.flow, value, error, self.request)

    async def _call_app(self, scope: Scope) -> Any:
        """Run the app. Returns the next stop, or `None` if the response has gone."""
        self.state, self.request.state.failure = WAIT, None
        self.request.reached_app = True
        if self.engine.strips:
            strip_keys(self.request, scope, self.engine.strips)
        mark = pass_on(self.request, scope, "scheme")
        error: Exception
        try:
            # From HTTP/2 on, a body need not be announced by a header field.
            plain = scope.get("http_version", "1.1")[:1] == "1"
            receive = self.receive if plain and not self.request.copied else self._receive
            if self.request.state.preflight and self.request.method == "OPTIONS":
                receive = without_body(receive)
            await self.app(scope, receive, self.send)
            if self.copies is not None:
                await self._returned()
            if self.state in (STREAM, TEE, DISCARD):
                return None
            error = NoResponse("the app returned without sending a response")
        except Exception as failure:
            error = failure
        finally:
            returned(mark)
        self.request.state.failure = error
        if self.state == DEAD:
            assert self.failure is not None
            self._let_go(self.failure)  # only the app's `send` may have been cancelled, and the guards still wait
            return self.engine.fault(self.request, self.failure)
        if self.state == WAIT and self.flow is not None:
            self.state = DRIVING
            try:
                return self._checked(self.engine.advance(self.flow, error=error, request=self.request))
            except Exception as failure:
                if failure is not error:
                    return self.engine.fault(self.request, failure)
        if self.state in (STREAM, TEE):
            self.request.state.broken = True
        # No guard had an answer to the app's own error. The server decides what to make of it, or of silence.
        if isinstance(error, NoResponse):
            return None
        raise error

    async def _returned(self) -> None:
        """Note that the app has returned. Its changes are settled first: some copies count as begun only then."""
        if self.request.afterwards:
            await settled(self.engine, self.request.afterwards)
        assert self.copies is not None
        await self.copies.returned(finished)

    async def _receive(self) -> Message:
        try:
            message = await self.receive()
        except Exception:
            self._leave()
            raise
        if message["type"] == "http.disconnect":
            self._leave()
        elif message.get("body"):
            self.request.read_body = True
        return message

    def _leave(self) -> None:
        """Note that the client has gone. Once it has the whole response, servers say that of one that stays, too."""
        if self.state not in (STREAM, DISCARD):
            self.request.state.broken = True
            if self.copies is not None:
                self.copies.left()

    # -- what the app sends -----------------------------------------------------------------------------

    def send(self, message: Message) -> Awaitable[None]:
        """Serve the app as its `send`. A plain function: awaiting through one more coroutine has a price."""
        state = self.state
        if self.filters is not None and state in (STREAM, TEE) and message["type"] == "http.response.body":
            left = filtered(self.filters, message)
            if left is None:
                return nothing()
            message = left
        if state == STREAM:
            if self.request.deferred is not None and self._is_last(message):
                return self._send_last(message)
            return self.send_on(message)
        if state == WAIT:
            head = self._head(message)
            if head is None:
                return self.send_on(message)
            status, headers = head
            if self.flow is None:
                self.state = STREAM
                return self.send_on(message)
            response = Response(status, headers, APP)
            # asgiref calls this in a worker thread, and awaits what it returns in the event loop: guards belong there.
            return self._drive(message, response) if in_loop() else later(self._drive, message, response)
        if state == TEE:
            if message["type"] == "http.response.body":
                assert self.copies is not None
                self.copies.note(last=self._is_last(message))
            return self._send_teed(message)
        if state == DISCARD:
            return nothing()
        if state == DEAD:
            assert self.failure is not None
            raise self.failure
        raise RuntimeError("the app sent a message while its last one was still being handled")

    def _head(self, message: Message) -> tuple[int, ByteHeaders] | None:
        if message["type"] != "http.response.start":
            return None
        return message["status"], ByteHeaders(message.get("headers") or ())

    def _is_last(self, message: Message) -> bool:
        return message["type"] == "http.response.body" and not message.get("more_body", False)

    def _drive(self, message: Message, head: Response) -> Awaitable[None]:
        assert self.flow is not None
        self.state = DRIVING
        try:
            stop = self.engine.advance(self.flow, head, request=self.request)
            if stop.__class__ not in WAITS:
                return self._release(message, decided(stop))
        except BaseException as failure:
            self.state, self.failure = DEAD, failure
            raise
        return self._drive_on(message, stop)

    async def _drive_on(self, message: Message, stop: Any) -> None:
        try:
            while stop.__class__ in WAITS:
                value, error = await awaited(stop)
                if error is not None and not isinstance(error, Exception):
                    raise error
                stop = self._resume(stop, value, error)
            sending = self._release(message, decided(stop))
        except BaseException as failure:
            self.state, self.failure = DEAD, failure
            raise
        await sending

    def _release(self, message: Message, response: Response) -> Awaitable[None]:
        """Send the head that the guards decided on, and open the way for the app's body or close it."""
        if response.body is not APP:
            self.state = DISCARD
            return self._answer(response)
        self.state, self.filters = STREAM, response.filters
        if response.tees is not None:
            self.state = TEE
            self.copies = Copies(self.engine, self.request, response.tees)
            if self.request.state.broken:
                self.copies.left()
        headers, same = response.headers, response.status == message.get("status", response.status)
        if same and isinstance(headers, ByteHeaders) and not headers.changed:
            return self.send_on(message)
        raw = headers.raw if isinstance(headers, ByteHeaders) else raw_fields(headers)
        return self.send_on(self._with_head(message, response.status, raw))

    def _with_head(self, message: Message, status: int, raw: list[tuple[bytes, bytes]]) -> Message:
        return {**message, "status": status, "headers": raw}

    async def _send_teed(self, message: Message) -> None:
        """Pass a message on, and its part of the body to the copies first."""
        assert self.copies is not None
        kind = message["type"]
        if kind == "http.response.body":
            last = self._is_last(message)
            await self.copies.feed(message.get("body", b""), finished, last=last)
            if last:
                self.state = STREAM
                if self.request.deferred is not None:
                    await self._send_last(message)
                    return
        elif kind in ("http.response.pathsend", "http.response.zerocopysend"):
            self.copies.close("the app sent a file past its body")
        try:
            await self.send_on(message)
        except BaseException:  # or the sender was cancelled: either way the client has not got it
            self._leave()
            raise

    async def _answer(self, response: Response) -> None:
        raw, body = as_sent(self.engine, self.request, response)
        await self._send_whole(response.status, raw, body)
        self.request.state.whole = True

    async def _send_whole(self, status: int, raw: list[tuple[bytes, bytes]], body: bytes) -> None:
        await self.send_on({"type": "http.response.start", "status": status, "headers": raw})
        await self.send_on({"type": "http.response.body", "body": body})

    # -- the end ----------------------------------------------------------------------------------------

    async def _send_last(self, message: Message) -> None:
        try:
            await self.send_on(message)
            self.request.state.whole = True
        finally:
            deferred = self.request.deferred
            if deferred:
                await settled(self.engine, deferred)
            self.request.late = self.engine.late

    def _let_go(self, failure: BaseException) -> None:
        """Tell guards that still wait that they wait in vain. Their answers do not count any more."""
        flow = self.flow
        self.state, self.failure, self.request.state.failure = DEAD, failure, failure
        if flow is None or inspect.getcoroutinestate(flow) != inspect.CORO_SUSPENDED:
            return
        let_go(self.engine, flow, failure)


# Callers of `send` may ask whether it is a coroutine function, as asgiref does if a WSGI app stands inside.
mark_coroutine_function(Exchange.send)
