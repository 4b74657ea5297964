"""The middleware: a stack of guards within Django's own chain, for both of its handlers and for its test clients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

from keyguard.django.configured import check_settings, configured_stack
from keyguard.drivers.inspection.code import cells_of
from keyguard.refused import Refused
from keyguard.request import SHARED_ASGI, SHARED_WSGI


class RefusedMiddleware:
    """Answer with a 429 and its problem details if a view lets `keyguard.Refused` pass.

    For projects whose `wsgi.py` and `asgi.py` put `guard.wsgi` and `guard.asgi` around Django. `Middleware` does too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction

        self.get_response = get_response
        self.asynchronous = iscoroutinefunction(get_response)
        if self.asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """Return the response, or `None` for other exceptions. Django calls it."""
        if not isinstance(exception, Refused):
            return None
        from django.http import HttpResponse

        answer = exception.answer
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


class Middleware(RefusedMiddleware):
    """Put the guards of `settings.KEYGUARD` around all that stands further down in `MIDDLEWARE`, and around the views.

        MIDDLEWARE = ["keyguard.django.Middleware", ...]

    First in the list, it refuses before anything else is done; what must answer before it, or add something to refusals
    as well, stands further up: `SecurityMiddleware`, and CORS middleware. `request.keyguard` is the `RequestState`, for
    views and for all that stands further down.

    It runs wherever Django does: under WSGI and ASGI, with views of both kinds, and for `Client` and `AsyncClient`.

    Raises `ConfigurationError` when Django begins, if `KEYGUARD` does not name a `Keyguard`, or if the list is in an
    order that cannot work.
    """

    decides = True
    """Whether it runs the guards: checks know its subclasses by that."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        super().__init__(get_response)
        self.stack = configured_stack()
        check_settings(self.stack)
        self.stack.expect_rules()  # Django imports views when the first request comes
        # Made now, since it tells of what is wrong with the stack.
        _ = self._over_asgi if _comes_by_asgi(get_response, self.asynchronous) else self._over_wsgi

    def __call__(self, request: Any) -> Any:
        from asgiref.sync import async_to_sync, sync_to_async

        state = request.scope.get(SHARED_ASGI) if hasattr(request, "scope") else request.META.get(SHARED_WSGI)
        if state is not None and self.stack in state.inside:  # it stands around the application as well
            request.keyguard = state
            return self.get_response(request)
        if hasattr(request, "scope"):
            over_asgi = self._over_asgi
            return over_asgi(request) if self.asynchronous else async_to_sync(over_asgi)(request)
        over_wsgi = self._over_wsgi
        return sync_to_async(over_wsgi)(request) if self.asynchronous else over_wsgi(request)

    @cached_property
    def _over_wsgi(self) -> Callable[[Any], Any]:
        from asgiref.sync import async_to_sync

        from keyguard.django.over_wsgi import OverWSGI

        inner = self.get_response
        return OverWSGI(self.stack, async_to_sync(inner) if self.asynchronous else inner)

    @cached_property
    def _over_asgi(self) -> Any:
        from asgiref.sync import sync_to_async

        from keyguard.django.over_asgi import OverASGI

        inner = self.get_response
        return OverASGI(self.stack, inner if self.asynchronous else sync_to_async(inner))


def _comes_by_asgi(get_response: Any, asynchronous: bool) -> bool:
    """Tell how requests will come. Django has middleware in between that may be of the other kind than its handler."""
    from django.core.handlers.asgi import ASGIHandler
    from django.core.handlers.base import BaseHandler
    from django.test.client import AsyncClientHandler

    at = get_response
    for _ in range(1000):
        if isinstance(at, BaseHandler):
            return isinstance(at, (ASGIHandler, AsyncClientHandler))
        within = getattr(at, "__dict__", {})
        held = [within.get(name) for name in ("__wrapped__", "get_response", "func", "awaitable")]
        held += [value for value in cells_of(at) if callable(value)]
        at = next((one for one in [*held, getattr(at, "__self__", None)] if one is not None), None)
        if at is None:
            break
    return asynchronous
