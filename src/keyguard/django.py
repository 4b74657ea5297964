"""For Django: a middleware that answers what a view was refused.

    MIDDLEWARE = [..., "keyguard.django.RefusedMiddleware"]

Other frameworks need none. Django makes a 500 of any exception that it does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keyguard.refused import Refused

__all__ = ["RefusedMiddleware"]


class RefusedMiddleware:
    """Answer with a 429 and its problem details if a view lets `keyguard.Refused` pass."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from asgiref.sync import iscoroutinefunction, markcoroutinefunction

        self.get_response = get_response
        if iscoroutinefunction(get_response):
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
