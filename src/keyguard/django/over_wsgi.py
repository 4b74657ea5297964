"""The guards of a stack around what a Django middleware calls, if the request came by WSGI.

The driver for WSGI carries it, around an app that asks Django for its response. A response that no guard wants to see
to its end goes back as it is, with its file or its iterator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from io import BytesIO
from typing import Any

from keyguard.django.responses import Pairs, fields_of, made, tell, template_of
from keyguard.drivers.wsgi.body import Peeked, close
from keyguard.drivers.wsgi.driver import WSGIDriver
from keyguard.drivers.wsgi.driving import ExcInfo, StartResponse, Write
from keyguard.request import SHARED_WSGI, SharedState
from keyguard.stack import Keyguard

RUN = "keyguard.django"
"""The key under which the app finds the `_Run` of a request."""


class OverWSGI:
    """A stack around Django's `get_response`."""

    def __init__(self, stack: Keyguard, get_response: Callable[[Any], Any]) -> None:
        from django.core.handlers.wsgi import WSGIHandler

        # One that is not set up stands for Django, whose settings tell all that is asked of it.
        engine = stack.engine(object.__new__(WSGIHandler), asynchronous=False)
        self._driver = WSGIDriver(_app, engine)
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Return Django's response, or the guards' own."""
        run = _Run(request, self._get_response)
        environ = run.environ
        environ[RUN] = run
        try:
            return run.response_of(self._driver(environ, run.start_response))
        finally:
            del environ[RUN]
            run.let_go()
            request.keyguard = environ.get(SHARED_WSGI) or SharedState()


def _app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    run: _Run = environ[RUN]
    if environ[SHARED_WSGI] is not run.environ[SHARED_WSGI]:
        return run.in_background(environ, start_response)
    return run.ask(environ, start_response)


class _Run:
    """One request, on its way through the guards to Django."""

    def __init__(self, request: Any, get_response: Callable[[Any], Any]) -> None:
        self.request = request
        self.made_as = type(request)
        self.get_response = get_response
        self.environ = environ = request.environ
        if hasattr(request, "_body"):  # middleware further out has read it: guards read it again
            environ["wsgi.input"] = BytesIO(request._body)
        self.sent = environ.get("QUERY_STRING"), environ.get("HTTP_COOKIE"), environ["wsgi.input"]
        if request.path_info != environ["PATH_INFO"]:  # middleware further out has given it another path
            self.environ = {**environ, "PATH_INFO": request.path_info}
            for name in ("RAW_URI", "REQUEST_URI"):
                self.environ.pop(name, None)
        if not (request.path_info.isascii() and environ["SCRIPT_NAME"].isascii()):
            # Django has put texts there; PEP 3333 wants their bytes, one in each character.
            paths = {name: _as_bytes(self.environ[name]) for name in _PATHS}
            self.environ = {**self.environ, **paths}
        self.response: Any = None
        self.body: Iterable[bytes] | None = None
        self.theirs: Pairs = []
        self.status, self.fields = 500, self.theirs
        self.answered = False
        self.refused = False

    def start_response(self, status: str, fields: Pairs, exc_info: ExcInfo | None = None) -> Write:
        """Serve the driver as a server does."""
        try:
            if exc_info and exc_info[1] is not None:
                if self.answered:  # Django has the head by now
                    raise exc_info[1]
                self.refused = True
            self.status, self.fields = int(status[:3]), fields
            return _write
        finally:
            exc_info = None

    def ask(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Ask Django, in the place of the app."""
        request = self.request
        if environ is not request.environ:
            environ = {**environ, **{name: request.environ[name] for name in _PATHS}}
            del environ[RUN]
        self._adopt(environ)
        request.keyguard = environ[SHARED_WSGI]
        response = self.response = self.get_response(request)
        environ[SHARED_WSGI].route = template_of(request)
        self.theirs = fields_of(response)
        start_response(f"{response.status_code} {response.reason_phrase}", [*self.theirs])
        self.body = _body_of(response)
        return self.body

    def _adopt(self, environ: dict[str, Any]) -> None:
        """Give the request the head that guards have left it, which may be another than it was made of."""
        from django.core.handlers.wsgi import LimitedStream

        request = self.request
        request.environ = request.META = environ
        request.__dict__.pop("headers", None)
        query, cookie, body = self.sent
        if environ.get("QUERY_STRING") != query:
            request.__dict__.pop("GET", None)
        if environ.get("HTTP_COOKIE") != cookie:
            request.__dict__.pop("COOKIES", None)
        if environ["wsgi.input"] is not body and not request._read_started:
            length = environ.get("CONTENT_LENGTH") or "0"
            request._stream = LimitedStream(environ["wsgi.input"], int(length) if length.isdecimal() else 0)

    def in_background(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Ask Django once more, for nobody: a cache renews what it has."""
        request = self.made_as(environ)
        request.keyguard = environ[SHARED_WSGI]
        response = self.get_response(request)
        response._resource_closers.append(request.close)
        start_response(f"{response.status_code} {response.reason_phrase}", fields_of(response))
        return response  # type: ignore[no-any-return]  # which its driver closes

    def let_go(self) -> None:
        """Forget what is Django's again: a stream that guards hear to its end holds this, and must not hold itself."""
        self.request = self.response = self.body = None

    def response_of(self, body: Iterable[bytes]) -> Any:
        """Return Django's response with what the guards have made of it, or the one that stands in its place."""
        response = self.response
        if body is not self.body or response is None:
            if response is not None and response.streaming and not hasattr(body, "__len__"):
                # Handlers may be refused what they ask for when they make the first part: nothing has left before it.
                body = _begun(body)
            if response is None or self.refused or not isinstance(body, Peeked):
                try:
                    whole = b"".join(body)
                finally:
                    close(body)
                if response is None or response.streaming or whole != response.content:
                    return made(self.status, self.fields, [whole], response)
            else:
                response.streaming_content = body
        self.answered = True
        tell(response, self.status, self.theirs, self.fields)
        return response


_PATHS = ("PATH_INFO", "SCRIPT_NAME")


def _as_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _body_of(response: Any) -> Iterable[bytes]:
    """Return the body in a form that leaves the response open: Django closes it when it was sent."""
    if not response.streaming:
        return [response.content]
    original = copy(response)  # the response is given another stream, which holds this one, and must not hold itself
    if response.is_async:
        return _consumed(original)
    parts: Iterable[bytes] = original.streaming_content
    return _File(parts) if getattr(response, "file_to_stream", None) is not None else parts


def _consumed(response: Any) -> Iterator[bytes]:
    """Make parts of an asynchronous iterator, when they are asked for, as Django does: it warns of it."""
    yield from response


def _begun(body: Iterable[bytes]) -> Peeked:
    try:
        return Peeked(body)
    except BaseException:
        close(body)
        raise


class _File:
    """The parts of a file, which no code of the app's makes."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self.filelike = self.parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.parts)


def _write(data: bytes) -> None:
    raise RuntimeError("Django's responses are returned, and not written")
