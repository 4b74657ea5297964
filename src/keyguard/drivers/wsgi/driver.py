"""The WSGI driver: a WSGI app around another one. The short way of a request is in `telling.py`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from os import getpid

from keyguard.drivers import bridges
from keyguard.drivers.bridges import opened
from keyguard.drivers.field_names import clean_environ, tell_of_folding
from keyguard.drivers.interpreter import Engine, is_heard_to_its_end
from keyguard.drivers.recording import RECORD
from keyguard.drivers.templates import Templates
from keyguard.drivers.wsgi.ahead import InputAhead
from keyguard.drivers.wsgi.background import detach
from keyguard.drivers.wsgi.body import close_left, left
from keyguard.drivers.wsgi.driving import StartResponse, answer, asked, settle_all
from keyguard.drivers.wsgi.driving import WSGIApp as WSGIApp
from keyguard.drivers.wsgi.exchange import Exchange
from keyguard.drivers.wsgi.recording import recorded
from keyguard.drivers.wsgi.request import Environ, WSGIRequest
from keyguard.drivers.wsgi.telling import Telling
from keyguard.guard import Ask
from keyguard.process import fork
from keyguard.request import SHARED_ASGI, SHARED_WSGI, Deferred
from keyguard.response import Response

_new = object.__new__


def _settle_late(engine: Engine, work: Deferred) -> None:
    settle_all(engine, [work])


class WSGIDriver:
    """A WSGI app: guards around another WSGI app."""

    routes: Templates | None = None
    """The routes of the app. Set with the first record of a request."""

    def __init__(self, app: WSGIApp, engine: Engine) -> None:
        self.app = opened(app, SHARED_WSGI)
        tell_of_folding()
        self.take_up(engine)
        if engine.drivers is not None:
            engine.drivers.add(self)

    def take_up(self, engine: Engine) -> None:
        """Go on with this engine. Requests that are under way end with the one they began with."""
        engine.late = partial(_settle_late, engine)
        engine.detach = partial(detach, self.app, engine)
        self._unseen = True
        """Whether no request has shown yet which server this is."""
        self.engine = engine

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if getpid() != fork.known_process:
            fork.check_process()
        if self.engine.sinks and RECORD not in environ:
            return recorded(self, environ, start_response)
        if self._unseen:
            self._unseen = False
            tell_of_folding(environ)
            self.engine.begin()
        if left:
            close_left()
        engine = self.engine
        if "asgi.scope" in environ:
            clean_environ(environ, engine.underscores)
        state = environ.get(SHARED_WSGI)
        request = WSGIRequest(environ["REQUEST_METHOD"], environ, engine, state)
        if state is None:
            if bridges.crossing:
                bridges.carry_over(request, "wsgi.url_scheme", "asgi.scope", SHARED_ASGI)
            environ[SHARED_WSGI] = request.state
        if engine.reads_bodies:
            request.ahead = environ["wsgi.input"] = InputAhead(environ)
        try:
            begun = engine.ask(request)
            if begun.__class__ is not tuple and begun.__class__ is not Response and isinstance(begun, Ask):
                begun = asked(engine, request, begun)
        except Exception as failure:
            begun = engine.fault(request, failure)
        except BaseException:
            Exchange(self.app, engine, request, start_response).end()
            raise
        if begun.__class__ is tuple and not (request.inherited and is_heard_to_its_end(request)):
            telling: Telling = _new(Telling)
            return telling.run(self.app, engine, request, begun, start_response)
        if isinstance(begun, Response) and not (request.deferred or request.afterwards or request.state.caches):
            request.late = engine.late
            return answer(engine, request, begun, start_response)  # fast path of `Exchange.run`, same answers
        return Exchange(self.app, engine, request, start_response).run(begun)
