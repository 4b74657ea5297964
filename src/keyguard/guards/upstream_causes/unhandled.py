"""Errors that nothing in the app has handled, and that its framework answers with 500 by itself.

Flask, Quart and Django tell of them by a signal. Starlette, if the guards stand around the whole app, and Litestar
answer while they handle the error: then it is the current exception. None of them is loaded for this.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from keyguard.request.current import noted
from keyguard.upstream.told import behind

# -- frameworks that tell -----------------------------------------------------------------------------------------


def listen() -> None:
    """Listen to the frameworks that are loaded by now. Called again, it listens to those that have come since."""
    for module, connect in _TELLING.items():
        if module in sys.modules and module not in _heard:
            _heard.add(module)
            connect(sys.modules[module].got_request_exception)


_heard: set[str] = set()


def _note(error: BaseException | None) -> None:
    """Note on the request whose error that is what stands behind it. The error itself would hold the request."""
    request = noted()
    if request is not None and error is not None:
        request.state.exhaustion = behind(error)


def _in_flask(sender: Any, *, exception: BaseException, **more: Any) -> None:
    _note(exception)


async def _in_quart(sender: Any, *, exception: BaseException, **more: Any) -> None:
    _note(exception)


def _in_django(sender: Any, **more: Any) -> None:
    _note(sys.exception())


_TELLING: Mapping[str, Callable[[Any], Any]] = {
    "flask.signals": lambda signal: signal.connect(_in_flask),
    "quart.signals": lambda signal: signal.connect(_in_quart),
    "django.core.signals": lambda signal: signal.connect(_in_django, dispatch_uid=__name__),
}

# -- frameworks that answer while they handle the error -----------------------------------------------------------


def error_answered_here(scope: Mapping[str, Any]) -> BaseException | None:
    """Return the error that the framework answers with the head that is being sent, if no handler of the app's does.

    The outermost frame of its traceback is the one that handles it.
    """
    error = sys.exception()
    if error is None or error.__traceback__ is None:
        return None
    module = error.__traceback__.tb_frame.f_globals.get("__name__")
    if module == "starlette.middleware.errors":
        return error
    if module == _LITESTAR and not _handled_in_litestar(error, scope):
        return error
    return None


_LITESTAR = "litestar.middleware._internal.exceptions.middleware"


def _handled_in_litestar(error: BaseException, scope: Mapping[str, Any]) -> bool:
    """Tell whether an app of Litestar has a handler for an error. One for all errors does not count: it knows none."""
    route: Any = scope.get("route_handler")
    handlers = {} if route is None else route.resolve_exception_handlers()
    return any(kind in handlers for kind in type(error).__mro__ if kind not in (Exception, BaseException))
