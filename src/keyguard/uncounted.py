"""Requests of which cannot be said what they count: they are refused."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.errors import AmbiguousPath, KeyguardError
from keyguard.problem import refuse_ambiguous, refuse_for
from keyguard.refusal import Cause
from keyguard.request import Request
from keyguard.response import Response


class NotCounted(KeyguardError):
    """Raised while it is asked what a request counts: it is refused, whatever that would have been."""

    def __init__(
        self, cause: Cause, detail: str, reason: str, *, status: int | None = None, policies: Sequence[str] = ()
    ) -> None:
        super().__init__(detail)
        self._told = cause, detail
        self._more = reason, status, policies

    def answer(self, request: Request) -> Response:
        """Return the response that refuses a request for it."""
        reason, status, policies = self._more
        return refuse_for(request, *self._told, reason=reason, status=status, policies=policies)


UNCOUNTED = (AmbiguousPath, NotCounted)
"""Errors for which a request is refused, since it cannot be said what it counts."""


def refuse_uncounted(request: Request, error: KeyguardError) -> Response:
    """Refuse a request of which cannot be said what it counts: for `error`, an `AmbiguousPath` or a `NotCounted`."""
    return error.answer(request) if isinstance(error, NotCounted) else refuse_ambiguous(request)
