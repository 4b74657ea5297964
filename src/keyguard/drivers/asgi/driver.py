"""The ASGI driver: an ASGI app that stands around another one. A request's way is in `exchange.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from os import getpid
from sys import modules
from typing import Any, ClassVar, NoReturn, Protocol

from keyguard.drivers import bridges
from keyguard.drivers.asgi.ahead import BodyAhead
from keyguard.drivers.asgi.background import call, detach, end_detached, wait
from keyguard.drivers.asgi.driving import answer_refused, asked, noting, settled_at_end, start_settling
from keyguard.drivers.asgi.exchange import Exchange
from keyguard.drivers.asgi.handshake import Handshake
from keyguard.drivers.asgi.lasting import outlast
from keyguard.drivers.asgi.messages import ASGIApp as ASGIApp
from keyguard.drivers.asgi.messages import Message, Receive, Send, as_sent
from keyguard.drivers.asgi.recording import recorded
from keyguard.drivers.asgi.request import ASGIRequest, Scope, WebSocketRequest
from keyguard.drivers.asgi.telling import Telling
from keyguard.drivers.asgi.trio import for_trio, needs_asyncio
from keyguard.drivers.bridges import opened
from keyguard.drivers.field_names import KNOWN_NAMES, NAME_OF, clean_scope, tell_of_folding
from keyguard.drivers.inspection.layers import lacking_within
from keyguard.drivers.interpreter import Engine, is_heard_to_its_end
from keyguard.drivers.recording import RECORD
from keyguard.drivers.stripping import strip_keys
from keyguard.drivers.templates import Templates
from keyguard.errors import ConfigurationError
from keyguard.guard import Ask
from keyguard.logs import logger
from keyguard.marks import answered, give_up
from keyguard.observer import close_all
from keyguard.ops import close_in_loop, traits_of
from keyguard.process import fork
from keyguard.process.event_loops import in_thread, in_trio
from keyguard.refused import Refused
from keyguard.request import SHARED_ASGI, SHARED_WSGI, Deferred, SharedState
from keyguard.request.current import enter, leave
from keyguard.response import Response

log = logger("keyguard")


class ASGIDriver:
    """An ASGI app: guards around another ASGI app."""

    routes: Templates | None = None
    """The routes of the app. Set with the first record of a request."""

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = opened(app, SHARED_ASGI)
        self.take_up(engine)
        if engine.drivers is not None:
            engine.drivers.add(self)

    def take_up(self, engine: Engine) -> None:
        """Go on with this engine. Requests that are under way end with the one they began with."""
        engine.late = partial(_settle_late, engine)
        engine.wait = wait
        engine.detach = partial(detach, self.app, engine)
        engine.call = call
        self._in_trio: Engine | None = None
        self._unseen = True
        """Whether no request has shown yet which server this is."""
        self._unchecked = True
        """Whether the routes of the app have not been compared yet with the rules at them."""
        self.engine = engine

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # each framework has types of its own
        if getpid() != fork.known_process:
            fork.check_process()
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await self._other(scope, receive, send)
            return
        engine = self._trio() if "trio" in modules and in_trio() else self.engine
        if engine.sinks and RECORD not in scope:
            await recorded(self, scope, receive, send)
            return
        if engine.instant is not None and kind == "http" and not (bridges.crossing and bridges.passed(scope, "scheme")):
            messages = engine.instant(scope)
            if messages is not None:
                for message in messages:
                    await send(message)
                return
        if self._unseen:
            self._first_seen(scope)
        taken_off: Sequence[bytes] = ()
        if scope["headers"].__class__ is not list or not KNOWN_NAMES.issuperset(map(NAME_OF, scope["headers"])):
            taken_off = clean_scope(scope, engine)
        state = scope.get(SHARED_ASGI)
        if engine.idle and state is None and not bridges.crossing:  # nobody to ask, and nobody to tell
            scope[SHARED_ASGI] = SharedState()
            await self.app(scope, receive, send)
            return
        made = ASGIRequest if kind == "http" else WebSocketRequest
        request = made(scope.get("method", "GET"), scope, engine, state, taken_off)
        if state is None:
            if bridges.crossing:
                bridges.carry_over(request, "scheme", "wsgi_environ", SHARED_WSGI)
            scope[SHARED_ASGI] = request.state
        if engine.reads_bodies:
            request.ahead = BodyAhead(request, receive)
            receive = request.ahead.receive
        try:
            begun = engine.ask(request)
            if begun.__class__ is not tuple and begun.__class__ is not Response and isinstance(begun, Ask):
                begun = await asked(engine, request, begun)
        except Exception as failure:
            begun = engine.fault(request, failure)
        except BaseException:
            await settled_at_end(engine, request)
            request.state.failure = None  # its frames hold the request
            request.late = engine.late
            raise
        if kind != "http":
            await Handshake(self.app, engine, request, receive, send).run(begun)
            return
        if begun.__class__ is not tuple or request.deferred or request.afterwards or request.inherited:
            if isinstance(begun, Response):
                try:  # the fast path of `Exchange.run`, same answers
                    fields, body = as_sent(engine, request, begun)
                    await send({"type": "http.response.start", "status": begun.status, "headers": fields})
                    await send({"type": "http.response.body", "body": body})
                    if request.deferred:
                        request.state.whole = True
                finally:
                    if request.deferred or request.afterwards:
                        await settled_at_end(engine, request)
                    request.late = engine.late
                return
            if begun.__class__ is not tuple or is_heard_to_its_end(request):
                exchange = Exchange(self.app, engine, request, receive, send)
                await (outlast(exchange, begun) if engine.outlasts else exchange.run(begun))
                return
        telling = answer = None
        if begun:  # those that have left a mark are told of the head
            telling = Telling(engine, request, begun, send)
        request.reached_app = True
        if engine.strips:
            strip_keys(request, scope, engine.strips)
        mark = bridges.pass_on(request, scope, "scheme") if bridges.crossing else ""
        app, token = self.app, None
        if engine.handlers:
            app = noting(app, request)
        elif engine.notes:
            token = enter(request)
        try:
            await app(scope, receive, send if telling is None else telling.send)
        except Exception as error:
            if telling is None or telling.failure is None:
                if telling is None or telling.marks is None:
                    raise
                answer = answered(begun, request, error)
                if answer is not None:
                    telling.marks = None
                elif isinstance(error, Refused):
                    await answer_refused(error, scope, telling.send)
                else:
                    raise
        finally:
            if token is not None:
                leave(token)
                request.over = True
            if mark:
                bridges.returned(mark)
            if telling is not None and (telling.marks is not None or telling.failure is not None):
                give_up(begun)
            if request.deferred or request.afterwards:  # of a guard that has kept the request
                await settled_at_end(engine, request)
            request.late = engine.late
        if telling is not None and telling.failure is not None:
            answer = engine.fault(request, telling.failure)
        if answer is not None:
            await Exchange(self.app, engine, request, receive, send).run(answer)

    def _first_seen(self, scope: Scope) -> None:
        if self._unchecked:  # there was no lifespan
            state = scope.get(SHARED_ASGI)
            self._check_routes(() if state is None else state.inside)
        self._unseen = False
        self.engine.begin()
        if "wsgi_environ" in scope:
            tell_of_folding(scope["wsgi_environ"])  # a2wsgi's, of a server that may have folded names

    def _check_routes(self, around: Iterable[object]) -> None:
        """Raise `ConfigurationError` for rules at routes that would not be asked. `around` are stacks further out."""
        if self.engine.stack is not None:
            self.engine.stack.check_routes(self.app, around)
        self._unchecked = False

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a lifespan on."""
        if scope["type"] != "lifespan":
            # A scope of an unknown type cannot be guarded, so it does not reach the app.
            raise RuntimeError(f"keyguard does not know the ASGI scope type {scope['type']!r}")
        await self._lifespan(scope, receive, send)

    def _trio(self) -> Engine:
        twin = self._in_trio
        if twin is None:
            twin = self._in_trio = for_trio(self.engine)
            twin.detach, twin.late = partial(detach, self.app, twin), partial(_settle_late, twin)
        return twin

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the app's lifespan on; close the store after it. Refuse to start a stack that lacks a layer.

        An app that raises or returns before it has received anything has none: then it is answered here.
        """
        engine = self.engine
        outer: frozenset[str] = scope.get(SHARED_ASGI, frozenset())
        provided = outer | engine.provides
        missing = (engine.needs - outer) or lacking_within(self.app, provided)
        if missing:
            await refuse_start(receive, send, missing_layer(missing))
        if in_trio() and (why := needs_asyncio(engine)):
            await refuse_start(receive, send, why)
        scope[SHARED_ASGI] = provided
        around = scope.get(_STACKS, ())
        scope[_STACKS] = (*around, engine.stack)
        failed = received = sent = False
        engine.begin()

        async def ending() -> Message:
            nonlocal received
            received = True
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await end_detached()  # while the app still has what they need
            return message

        async def closing(message: Message) -> None:
            nonlocal failed, sent
            if failed:
                return  # the app tells of the error that is raised here
            if not (received or message["type"].startswith("lifespan.")):
                raise RuntimeError(f"the app answered its lifespan by {message['type']!r}")
            sent = True
            if message["type"] == "lifespan.startup.complete":  # all routes are there
                try:
                    self._check_routes(around)
                except ConfigurationError as error:
                    failed = True
                    await send({"type": "lifespan.startup.failed", "message": f"keyguard: {error}"})
                    raise
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                if engine.observers:
                    await in_thread(close_all, engine.observers)
                await close_store(engine.store)
                if engine.aside is not None and engine.aside.store is not engine.store:
                    await close_store(engine.aside.store)
            await send(message)

        try:
            await self.app(scope, ending, closing)
        except ConfigurationError:
            raise
        except Exception as error:
            if received or sent:
                raise
            log.info("the app has no lifespan (%s), so keyguard answers it", type(error).__name__)
        if not (received or sent):  # or the store would not be closed
            await ending()
            await closing({"type": "lifespan.startup.complete"})
            await ending()
            await closing({"type": "lifespan.shutdown.complete"})


_STACKS = "keyguard.stacks"
"""The key under which a lifespan's scope has the stacks further out."""


def _settle_late(engine: Engine, work: Deferred) -> None:
    start_settling(engine, [work])


class Stack(Protocol):
    """The guards of a layer, with their store."""

    def engine(self, app: Any, *, asynchronous: bool) -> Engine:
        """Return all that a driver around `app` needs."""
        ...


class ASGILayer(ASGIDriver):
    """The guards of one stack around an ASGI app. Each stack has a subclass of its own."""

    stack: ClassVar[Stack]

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, self.stack.engine(app, asynchronous=True))


async def close_store(store: Any) -> None:
    """Close a store, if it can be, with what it holds of this event loop."""
    if not in_trio():
        await close_in_loop(store)
    elif (close := traits_of(store).close) is not None:
        await in_thread(close)


async def refuse_start(receive: Receive, send: Send, why: str) -> NoReturn:
    """Tell the server that the app does not start.

    Raises `ConfigurationError`: servers stop at the message, and test clients at an error alone.
    """
    await receive()
    await send({"type": "lifespan.startup.failed", "message": why})
    raise ConfigurationError(why)


def missing_layer(missing: frozenset[str]) -> str:
    """Return what to tell a developer whose stack lacks a layer further out."""
    return (
        f"keyguard: a guard needs {', '.join(sorted(missing))}; put APIKeys outside it (added later, in add_middleware)"
    )
