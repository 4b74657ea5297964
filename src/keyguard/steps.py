"""The steps that concern requests: running the app, running a guard for a new request, and reading a body."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

from keyguard.flow import Flow, Step
from keyguard.request import CarriedRequest, Request
from keyguard.response import Response


class CallApp(Step[Response]):
    """Run the app, up to the head of its response."""

    __slots__ = ("request",)

    request: CarriedRequest

    def __init__(self, request: Any) -> None:
        """`request` is the `CarriedRequest` that the driver made: guards know it as a `Request`, and forward it."""
        self.request = request


class Detach(Step[bool]):
    """Run `guard(request)` as a new request, which has no client and is not waited for.

    That request has the head of `request`, its identity, and no body. Evaluates to whether it was begun: so many run
    at a time and no more.
    """

    __slots__ = ("guard", "request")

    def __init__(self, guard: Callable[[CarriedRequest], Flow[Response]], request: CarriedRequest) -> None:
        self.guard = guard
        self.request = request


class Unread(enum.Enum):
    """Why a body could not be read."""

    TOO_LONG = "body-too-long"
    INCOMPLETE = "body-incomplete"
    """The client left, or the server cannot say where it ends."""


class ReadBody(Step[tuple[bytes, Unread | None]]):
    """Read the body of a request before the app does, if it has no more than `most` bytes; the app gets all of it.

    Evaluates to the body, and to why it could not be read; then the body is empty.
    """

    __slots__ = ("most", "request")

    def __init__(self, request: CarriedRequest, most: int) -> None:
        self.request = request
        self.most = most


PASSED: Final = Response(200)
"""The response that `let_pass` returns."""


async def let_pass(request: Request) -> Response:
    """Stand for all that is further in, for a guard that decides inside the app: it only matters that it forwards."""
    return PASSED
