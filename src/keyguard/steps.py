"""The steps that concern requests: running the app, and running a guard for a new request."""

from __future__ import annotations

from collections.abc import Callable

from keyguard.flow import Flow, Step
from keyguard.request import Request
from keyguard.response import Response


class CallApp(Step[Response]):
    """Run the app, up to the head of its response."""

    __slots__ = ("request",)

    def __init__(self, request: Request) -> None:
        self.request = request


class Detach(Step[bool]):
    """Run `guard(request)` as a new request, which has no client and is not waited for.

    That request has the head of `request`, its identity, and no body. Evaluates to whether it was begun: so many run
    at a time and no more.
    """

    __slots__ = ("guard", "request")

    def __init__(self, guard: Callable[[Request], Flow[Response]], request: Request) -> None:
        self.guard = guard
        self.request = request
