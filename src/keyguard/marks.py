"""Marks: what guards leave on a request that they let pass, and how they hear of its end, or answer in its place."""

from __future__ import annotations

from typing import Any, TypeAlias

from keyguard.flow import Flow
from keyguard.request import CarriedRequest, Request
from keyguard.response import Headers, Response

Told: TypeAlias = Flow[None] | Flow[Response | None] | Response | None
"""The outcome of telling marks of a head: `None` if that may leave, a response that takes its place, or what has to be
awaited first, which evaluates to one of these."""


class Mark:
    """Left behind by a guard on a request that it let pass, to be told how that ends.

    One of the first two is called, unless the app fails before its head or sends none: then `unanswered` is, and before
    that `raised` if there is an error. `head` and `failed` return what has to be awaited then, or `None`, as nearly
    always.
    """

    __slots__ = ()

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Told:
        """Hear of the head of the response, of the app or of a guard further in. The fields may be changed.

        It may also return a response that takes the place of that one; guards further out hear of its head then. What
        is awaited evaluates to such a response, or to `None`.
        """

    def failed(self, request: Request, error: BaseException) -> Flow[None] | None:
        """Hear that the request has not reached the app: a guard further in failed, or the client left."""

    def raised(self, request: CarriedRequest, error: Exception) -> Response | None:
        """Answer in the place of an app that has raised an error before its head; `None` for no answer.

        The innermost mark that has one answers. Those further out hear of the head of that.
        """

    def unanswered(self) -> None:
        """Hear that no head will come: the app failed, sent none, or was stopped. Nothing can be awaited then.

        It may come after one of the others, if that or another mark's has failed.
        """


Marks: TypeAlias = tuple[Mark, ...]
"""The marks of one request, the innermost first."""


def give_up(marks: Marks) -> None:
    """Tell marks that they will not hear of a head."""
    for mark in marks:
        mark.unanswered()


def tell(marks: Marks, request: CarriedRequest, status: int, headers: Headers) -> Told:
    """Tell marks of a head, the innermost first, or of that of a response by which one of them takes its place."""
    for place, mark in enumerate(marks):
        told = mark.head(request, status, headers)
        if told is not None:
            rest = marks[place + 1 :]
            if isinstance(told, Response):
                return replaced(tell(rest, request, told.status, told.headers), told)
            return _tell_after(told, rest, request, status, headers)
    return None


async def _tell_after(
    flow: Flow[Any], marks: Marks, request: CarriedRequest, status: int, headers: Headers
) -> Response | None:
    done = False
    try:
        answer: Response | None = await flow
        if answer is not None:
            status, headers = answer.status, answer.headers
        told = tell(marks, request, status, headers)
        if told is not None and not isinstance(told, Response):
            told = await told
        done = True
        return told or answer
    finally:
        if not done:
            give_up(marks)


def replaced(told: Told, response: Response) -> Response | Flow[Response]:
    """Return a response, or the one that takes its place, after marks were told of its head."""
    if told is None or isinstance(told, Response):
        return told or response
    return _after(told, response)


async def _after(flow: Flow[Any], response: Response) -> Response:
    return await flow or response


def answered(marks: Marks, request: CarriedRequest, error: BaseException) -> Response | Flow[Response] | None:
    """Return the answer that a mark has in the place of an app that failed before its head, if one of them has.

    Marks further out are told of the head of that.
    """
    if not isinstance(error, Exception):  # the process is told to end, say
        return None
    for place, mark in enumerate(marks):
        answer = mark.raised(request, error)
        if answer is not None:
            give_up(marks[:place])
            return replaced(tell(marks[place + 1 :], request, answer.status, answer.headers), answer)
    return None
