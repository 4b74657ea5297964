"""The part that both ways of a request under WSGI share: PEP 3333 in types and words, and flows driven to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Any, TypeAlias

from keyguard.chain import Begun
from keyguard.drivers.bodies import sized_body
from keyguard.drivers.interpreter import Engine, Foreign
from keyguard.drivers.settling import settle
from keyguard.drivers.stripping import strip_keys
from keyguard.drivers.wsgi.request import Environ
from keyguard.errors import GuardError
from keyguard.flow import Flow
from keyguard.guard import Ask
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.request import CarriedRequest, Deferred
from keyguard.response import Response

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Pairs: TypeAlias = list[tuple[str, str]]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

NO_BODY = "the WSGI app returned None, not an iterable of bytes"
NO_HEAD = "the app returned without calling start_response"
TWICE = "start_response was called a second time, without exc_info"


def asked(engine: Engine, request: CarriedRequest, ask: Ask) -> Begun:
    """Ask the store, as often as guards want it asked. Return what they make of its answers."""
    begun: Begun | Ask = ask
    while isinstance(begun, Ask):
        try:
            result = engine.ask_store(begun.op, request)
        except Exception as error:
            begun = engine.chain.failed(begun, error, request)
        except BaseException as error:  # a greenlet is told to end, say
            request.state.failure = error
            with suppress(BaseException):  # that error, most of all
                drive(engine, engine.chain.failed(begun, error, request), None)
            raise
        else:
            begun = engine.chain.go_on(begun, result, request)
    return begun


def settle_all(engine: Engine, deferred: list[Deferred]) -> None:
    """Run deferred work to its end."""
    while deferred:
        flow = settle(deferred)
        if flow is not None:
            drive(engine, flow, None)


def drive(engine: Engine, flow: Flow[Any], request: CarriedRequest | None) -> Any:
    """Drive a flow to its end, and return what it evaluates to."""
    stop = engine.advance(flow, request=request)
    while isinstance(stop, Foreign):
        stop = engine.advance(flow, error=GuardError("deferred work awaited an event loop under WSGI"))
    return stop


def status_line(status: int) -> str:
    return _STATUS_LINES.get(status) or f"{status} Unknown"


def status_of(line: str) -> int:
    return _STATUSES.get(line) or int(line[:3])


_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
_STATUSES = {line: status for status, line in _STATUS_LINES.items()}


def with_ours(fields: Pairs, head: Pairs, theirs: Pairs) -> Pairs:
    """Return the fields of a second head with what guards had to say in the first, of which `theirs` was the app's.

    What is left of limits stays as the second one tells it, if it does: it is a refusal that came with the first part.
    """
    told = LIMIT_FIELDS.intersection([name.lower() for name, _ in fields])
    return fields + [pair for pair in head if pair not in theirs and pair[0].lower() not in told]


def answer(
    engine: Engine, request: CarriedRequest, response: Response, start_response: StartResponse
) -> Iterable[bytes]:
    """Answer in the place of the app. Returns the body."""
    if response.refusal is not None:
        engine.refused(response.refusal, response)
    if engine.strips and not request.reached_app:
        strip_keys(request, request.scope, engine.strips)
    body = sized_body(response, request.method)
    start_response(status_line(response.status), [*response.headers.pairs])  # a copy: servers add to it
    return [body] if body else []
