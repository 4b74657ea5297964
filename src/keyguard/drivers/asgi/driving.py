"""Flows in an event loop: driven to their end, wherever they stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

from keyguard.chain import Begun
from keyguard.drivers.asgi.messages import ASGIApp, Message, Receive, Send, raw_fields
from keyguard.drivers.asgi.request import Scope
from keyguard.drivers.bodies import sized_body
from keyguard.drivers.interpreter import Engine, Foreign, Pending
from keyguard.drivers.settling import settle
from keyguard.drivers.tasks import Task, ended, hold
from keyguard.errors import GuardError
from keyguard.flow import Flow
from keyguard.guard import Ask
from keyguard.process.event_loops import in_trio, mark_coroutine_function
from keyguard.refused import TRY_AGAIN_LATER, Refused
from keyguard.request import CarriedRequest, Deferred
from keyguard.request.current import enter, leave
from keyguard.response import Response

WAITS = (Pending, Foreign)
"""Stops after which something has to be waited for."""


class Relay:
    """Hands what a guard's coroutine yielded on to the event loop."""

    __slots__ = ("yielded",)

    def __init__(self, yielded: Any) -> None:
        self.yielded = yielded

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield self.yielded)


async def awaited(stop: Pending | Foreign) -> tuple[Any, BaseException | None]:
    """Return the value to send into the flow, or the error to raise in it."""
    try:
        if isinstance(stop, Pending):
            return (await stop.results)[0], None
        return await Relay(stop.yielded), None
    except BaseException as error:
        return None, error


async def asked(engine: Engine, request: CarriedRequest, ask: Ask) -> Begun:
    """Ask the store, as often as guards want it asked. Return what they make of its answers."""
    begun: Begun | Ask = ask
    while isinstance(begun, Ask):
        try:
            value = engine.ask_store(begun.op, request)
            if value.__class__ is Pending:
                began = value.began
                try:
                    (value,) = await value.results
                finally:
                    if began:
                        engine.waited(request, began)
        except Exception as error:
            begun = engine.chain.failed(begun, error, request)
        except BaseException as error:  # the client has left, say
            request.state.failure = error
            let_go(engine, engine.chain.failed(begun, error, request))
            raise
        else:
            begun = engine.chain.go_on(begun, value, request)
    return begun


def let_go(engine: Engine, flow: Flow[Any], failure: BaseException | None = None) -> None:
    """Let a flow come to its end, of which nobody wants to hear any more; `failure` is raised in it first."""
    try:
        stop = engine.advance(flow, error=failure)
    except BaseException:
        return  # that failure, most of all
    # A wait in trio is bound to the task that began it: no other one can go on from there.
    if stop.__class__ is Pending or (stop.__class__ is Foreign and not in_trio()):
        hold(finished(engine, flow, stop))
    else:
        flow.close()


async def finished(engine: Engine, flow: Flow[Any], stop: Any) -> None:
    """Drive a flow to its end, wherever it stops."""
    while stop.__class__ in WAITS:
        value, error = await awaited(stop)
        stop = engine.advance(flow, value, error)
    flow.close()


def start_settling(engine: Engine, deferred: list[Deferred]) -> Task | None:
    flow = settle(deferred)
    stop = None if flow is None else engine.advance(flow)
    return None if flow is None or stop is None else hold(finished(engine, flow, stop))


async def settled(engine: Engine, deferred: list[Deferred]) -> None:
    """Run deferred work."""
    task = start_settling(engine, deferred)
    if task is not None:
        # A task of its own: in a cancelled scope this `await` ends at once, the work does not.
        await ended(task)


async def settled_at_end(engine: Engine, request: CarriedRequest) -> None:
    """Run what was put off until the end of a request."""
    try:
        if request.afterwards and (task := start_settling(engine, request.afterwards)) is not None:
            await ended(task)  # as above
    finally:  # also if this is cancelled while it waits
        # Some of it may be of what has just run.
        if request.deferred and (task := start_settling(engine, request.deferred)) is not None:
            await ended(task)


def decided(stop: Any) -> Response:
    """Return the response that the guards made of the app's head."""
    if not isinstance(stop, Response):
        raise GuardError("a guard called forward again, or returned no response, after the app had answered")
    return stop


async def later(send: Callable[..., Awaitable[None]], *args: Any) -> None:
    """Call a function where its result is awaited, and not at once."""
    await send(*args)


def noting(app: ASGIApp, request: CarriedRequest) -> ASGIApp:
    """Return the app, to be run while the request is noted for its handlers."""
    return partial(_noted, app, request)


async def _noted(app: ASGIApp, request: CarriedRequest, scope: Scope, receive: Receive, send: Send) -> None:
    sending = _Sending(send)
    token = enter(request)
    request.over = False
    try:
        await app(scope, receive, sending.send)
    except Refused as refused:  # no framework has made an answer of it
        if sending.last in _OPEN:  # there is no status any more
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
        elif sending.last:
            raise
        else:
            await answer_refused(refused, scope, send)
    finally:
        leave(token)
        request.over = True


_OPEN = frozenset({"websocket.accept", "websocket.send"})
"""The messages after which a websocket is open."""


class _Sending:
    """The `send` of an app whose handlers may reserve units: it notes how far the app has come with its answer."""

    __slots__ = ("last", "send_on")

    def __init__(self, send: Send) -> None:
        self.last = ""
        """The type of the last message that the app has sent."""
        self.send_on = send

    def send(self, message: Message) -> Awaitable[None]:
        self.last = message["type"]
        return self.send_on(message)


# Callers of `send` may ask whether it is a coroutine function, as asgiref does if a WSGI app stands inside.
mark_coroutine_function(_Sending.send)


async def answer_refused(refused: Refused, scope: Scope, send: Send) -> None:
    """Answer as the app would have done."""
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            return
    answer = refused.answer
    body = sized_body(answer, scope.get("method", "GET"))
    await send({"type": f"{kind}.start", "status": answer.status, "headers": raw_fields(answer.headers)})
    await send({"type": f"{kind}.body", "body": body})
