"""`Refused`: what a handler is told by if a limit has no room for what it reserves.

Nobody has to catch it. It is an HTTP exception of the frameworks that are loaded, so that they answer with the status
and the body of the refusal: of Starlette (and FastAPI), of werkzeug (Flask, Quart), of Falcon and of Bottle. Litestar
answers it in its own form. A handler of an app's own for such exceptions answers it in the app's form. Drivers answer
for apps that let it pass, as those of Pyramid do.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from functools import cache
from typing import Any

from keyguard.errors import KeyguardError
from keyguard.flow import is_async
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.refusal import Refusal
from keyguard.request import CarriedRequest
from keyguard.response import APP, Headers, Response

TRY_AGAIN_LATER = 1013
"""The code with which a websocket is closed (IANA WebSocket Close Code Number Registry)."""


class Refused(KeyguardError):
    """A limit has no room for what a handler reserves by `Keyguard.reserve`.

    A handler that does not catch it answers with it: a 429 with problem details, or a 503 if the store could not say.
    One that catches it and serves something cheaper has refused nobody: its request is charged as any other is.
    """

    def __init__(self, answer: Response) -> None:
        refusal = answer.refusal
        assert refusal is not None
        Exception.__init__(self, refusal.detail)  # those of the frameworks' classes take other arguments
        self.refusal: Refusal = refusal
        """Why, and when it is worth to try again."""
        self.answer = answer
        """The response that says so."""
        # As the frameworks' own exceptions have it:
        self.status_code = self.code = self.status = answer.status
        self.text = answer.body.decode() if isinstance(answer.body, bytes) else ""
        self.detail = self.description = refusal.detail
        self.headers = dict(answer.headers)
        self.response = None

    def __str__(self) -> str:
        return self.refusal.detail

    def get_response(self, environ: Any = None, scope: Any = None) -> Any:
        """Return the response of werkzeug that stands for it."""
        from werkzeug.wrappers import Response as WerkzeugResponse

        return WerkzeugResponse(self.answer.body, self.answer.status, list(self.answer.headers))  # type: ignore[arg-type]


def refused(answer: Response, scope: MutableMapping[str, Any]) -> Refused:
    """Return what to raise in a handler. `scope` is its request's: the app that handles it may be told by it."""
    if "litestar_app" in scope:
        return _for_litestar(answer, websocket=scope["type"] == "websocket")
    handlers = scope.get("starlette.exception_handlers")
    if isinstance(handlers, tuple):  # else Starlette's own would leave all but the detail out of the body
        handlers[0].setdefault(Refused, _answer_in_starlette)
    error = _class_of(answer.status, *[module in sys.modules for module in _FRAMEWORKS])(answer)
    if "bottle" in sys.modules:  # it takes over what its own response is made of
        vars(error).update(vars(sys.modules["bottle"].HTTPResponse(answer.body, answer.status, error.headers)))
    return error


_FRAMEWORKS = {
    "starlette.exceptions": "HTTPException",
    "werkzeug.exceptions": "HTTPException",
    "falcon.http_status": "HTTPStatus",
    "bottle": "HTTPResponse",
}
_OWN = {"__module__": __name__, "status_code": None, "headers": None}
"""The attributes that a class has itself, since some of the frameworks' classes have properties of these names."""


@cache
def _class_of(status: int, *loaded: bool) -> type[Refused]:
    found = zip(_FRAMEWORKS.items(), loaded, strict=True)
    bases = [getattr(sys.modules[module], name) for (module, name), there in found if there]
    for number, base in enumerate(bases):
        if base.__module__ == "werkzeug.exceptions":  # Flask looks for its `errorhandler(429)` by the class
            bases[number] = sys.modules[base.__module__].default_exceptions.get(status, base)
    return type("Refused", (Refused, *bases), {**_OWN, "code": status}) if bases else Refused


def _for_litestar(answer: Response, *, websocket: bool) -> Refused:
    error = _class_for_litestar(websocket)(answer)
    if websocket:
        error.code = TRY_AGAIN_LATER
    return error


@cache
def _class_for_litestar(websocket: bool) -> type[Refused]:
    import litestar.exceptions

    base = litestar.exceptions.WebSocketException if websocket else litestar.exceptions.HTTPException
    return type("Refused", (Refused, base), {**_OWN, "extra": None})


async def _answer_in_starlette(request: Any, error: Refused) -> Any:
    if request.scope["type"] == "websocket":  # it may be open already: drivers know, and Starlette lets it pass
        raise error
    own = _handler_of_the_app(request.scope)
    if own is not None:
        from starlette.concurrency import run_in_threadpool

        return await (own(request, error) if is_async(own) else run_in_threadpool(own, request, error))
    from starlette.responses import Response as StarletteResponse

    answer = error.answer
    return StarletteResponse(answer.body, answer.status, dict(answer.headers))


def _handler_of_the_app(scope: MutableMapping[str, Any]) -> Any:
    """Return the function by which an app of Starlette or FastAPI answers all HTTP exceptions, if it is its own.

    The app tells what it was given. What runs in the end, tools that watch it may have wrapped.
    """
    given = getattr(scope.get("app"), "exception_handlers", None)
    if isinstance(given, Mapping):
        for module in ("fastapi.exceptions", "starlette.exceptions"):
            own = given.get(getattr(sys.modules.get(module), "HTTPException", None))
            if own is not None and getattr(own, "__module__", "") != "fastapi.exception_handlers":
                return own
    return None


def refusal_of(request: CarriedRequest, status: int, headers: Headers) -> Refusal | None:
    """Return why keyguard refused a request that is answered so, if it did.

    An answer that is put in the place of a refusal further in, by a guard between or by the app, is a service. So is
    one of a handler that could not reserve what it wanted, unless it answers with the status of that refusal. If a rule
    at its route refused, any error is that refusal.
    """
    state = request.state
    inside = state.refused_inside
    if state.refusal is None and inside is not None and (inside.status == status or state.unserved):
        state.refusal = inside.refusal
        assert inside.refusal is not None
        for name, value in inside.headers:
            if name.lower() in _TOLD_OF_REFUSALS and headers.get(name) is None:
                headers.add(name, value)
        request.settings.refused(inside.refusal, Response(status, headers, APP))
    return state.refusal


_TOLD_OF_REFUSALS = LIMIT_FIELDS | {"retry-after"}
