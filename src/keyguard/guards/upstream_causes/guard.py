"""The guard that tells callers of exhausted upstream keys. It stands innermost, and waits for the app to fail.

An error of the app reaches it in one of three ways:

- It is raised through the app, as Starlette and FastAPI let it (`Watch.raised`).
- The framework answers 500 by itself, and tells of the error (`unhandled.py`).
- The app passes on a pool's own answer as it is, with its field (`Watch.head`).

Whether an error stems from an exhaustion, `keyguard.upstream.told` decides. All else is the app's own, and stays as it
is: its fallbacks, its answers to errors that it has caught, its bugs.
"""

from __future__ import annotations

from typing import Any

from keyguard.guard import Decide, Guard, Mark, Surroundings
from keyguard.guards.upstream_causes.refusals import refuse_exhausted
from keyguard.guards.upstream_causes.unhandled import error_answered_here, listen
from keyguard.refused import Refused, refusal_of
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Headers, Response
from keyguard.upstream.told import EXHAUSTION_FIELD, behind, find


class Watch(Mark):
    """Waits for the app to fail. It keeps nothing of a request, so one serves all."""

    __slots__ = ()

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Response | None:
        if status < 400 or not request.reached_app or refusal_of(request, status, headers) is not None:
            return None
        state = request.state
        found, state.exhaustion = state.exhaustion, None
        if status != 500:
            found = None  # the app has made something else of its error
        elif found is None:
            error = error_answered_here(request.scope)
            found = None if error is None else behind(error)
        if found is None:
            found = find(headers.get(EXHAUSTION_FIELD))
        return None if found is None else refuse_exhausted(request, found)

    def raised(self, request: CarriedRequest, error: Exception) -> Response | None:
        found = None if isinstance(error, Refused) else behind(error)
        return None if found is None else refuse_exhausted(request, found)


_WATCH = Watch()


class UpstreamCauses(Guard):
    """Answer with 503 and the cause `upstream` if a request fails because a pool of upstream keys is exhausted.

        Keyguard(APIKeys(), RateLimit("100/minute", by="key"), UpstreamCauses())

    The pools are `keyguard.KeyPool`s of this process. The caller is told that neither its key nor its limits are the
    reason, and when it is worth to try again, if waiting helps; it is charged nothing. A `ResponseCache` further out
    may answer with what is stale.

    An app that catches the error and answers by itself is left alone, and so is one that fails for anything else: an
    error counts only if it, or an exception behind it, carries the answer by which a pool gave up. In a group of
    exceptions all have to. Errors that Flask, Quart, Django, Starlette and Litestar answer with their own 500 count
    too. What fails after the head of a response cannot be refused any more. If it was the pool's own store that had too
    much to do, the cause is `overload`.

    It stands innermost: limits outside of it give back what they took.
    """

    keeps: frozenset[str] = frozenset()
    notes = True
    innermost = True

    def __init__(self) -> None:
        self._listens = False

    def __repr__(self) -> str:
        return "<UpstreamCauses>"

    def attach(self, stack: Surroundings) -> None:
        listen()

    def decider(self, store: Any) -> Decide | None:
        return self._decide

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        mark = self._decide(request)
        try:
            response = await forward(request)
        except Exception as error:
            answer = mark.raised(request, error) if request.reached_app else None
            if answer is None:
                raise
            return answer
        return mark.head(request, response.status, response.headers) or response

    def _decide(self, request: CarriedRequest) -> Watch:
        if not self._listens:  # the framework of the app is loaded by now
            self._listens = True
            listen()
        return _WATCH
