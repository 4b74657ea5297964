"""The hand of a stack inside its app: what rules at routes decide there, and how they hear of the response.

Rules:
- A stack with rules at routes has one more guard, innermost. It lets every request pass and leaves a mark, its `Place`.
  A rule finds that mark when the app asks it, so it knows the request as the guards outside know it.
- That mark tells the rules' own marks of the head: first of all marks, as if its guard stood innermost.
- A rule that refuses raises `Refused`. No view has run then, so whatever error the app answers with is that refusal,
  and the limits further out give back what they took.
- A rule that has let a request pass is not asked again for it, however often it is met. One that has refused it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from keyguard.errors import ConfigurationError, OutsideRequest
from keyguard.guard import Guard, Mark, Told
from keyguard.marks import give_up, tell
from keyguard.refused import refusal_of, refused
from keyguard.request import SHARED_ASGI, CarriedRequest, SharedState, current_request
from keyguard.request.current import noted
from keyguard.response import Headers, Response

_new = object.__new__


class Place(Mark):
    """The place of one request in its app, where rules at routes find it."""

    __slots__ = ("asked", "marks", "refused_by", "request")

    request: CarriedRequest
    asked: tuple[object, ...]
    """The rules that have let it pass."""
    marks: tuple[Mark, ...]
    """Those of these rules, the innermost first."""
    refused_by: object
    """The rule that has refused it, if one has."""

    def taken_for(self, rule: object) -> Mark | None:
        """Return the charge of a rule that was taken for outside, since it was expected; `None` if it was not."""
        return None

    def admit(self, rule: object) -> None:
        """Take note that a rule has let the request pass; it may have refused it before, and been asked again."""
        self.asked += (rule,)
        if self.refused_by is rule:
            self.refused_by = None
            state = self.request.state
            state.refused_inside, state.unserved = None, False

    def refuse(self, rule: object, answer: Response, scope: Any = None) -> NoReturn:
        """Refuse the request from inside. `scope` is that of the app that is told, if it may be a copy."""
        self.refused_by = rule
        state = self.request.state
        state.refusal = None  # until it is answered with that: then it is told of
        state.refused_inside, state.unserved = answer, True
        self.request.settings.render(answer)
        raise refused(answer, self.request.scope if scope is None else scope)

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Told:
        if status >= 400:
            refusal_of(request, status, headers)
        marks = self.marks
        if len(marks) == 1:
            return marks[0].head(request, status, headers)
        return tell(marks, request, status, headers) if marks else None

    def unanswered(self) -> None:
        give_up(self.marks)


class RouteGuard(Guard):
    """The innermost guard of a stack with rules at routes: it notes each request for them."""

    keeps: frozenset[str] = frozenset()

    def __init__(self, stack: object) -> None:
        self._stack = stack
        self.open = False
        """Whether no rule is asked, since the stack is not enabled."""
        self.heard = False
        """Whether some rules want to know how requests end."""

    def __repr__(self) -> str:
        return "<rules at routes>"

    def __call__(self, request: CarriedRequest) -> Any:
        return self.note(request)

    def note(self, request: CarriedRequest, place: Place | None = None) -> Place:
        """Note a request for rules, in a place of its own."""
        if place is None:
            place = _new(Place)  # with an `__init__` it takes half as long again
        place.request = request
        place.asked = ALL if self.open else ()
        place.marks = ()
        place.refused_by = None
        state = request.state
        inside = state.inside
        state.inside = {**inside, self._stack: place} if inside else {self._stack: place}
        if self.heard:
            request.at_end(_nothing)
        return place


class _All(tuple[object, ...]):
    """All rules there are."""

    __slots__ = ()

    def __contains__(self, rule: object) -> bool:
        return True


ALL = _All()


def _nothing() -> None:
    """Stand at a request's end, so that its driver hears of the end."""


def place_here(stack: object) -> Place:
    """Return the place of the request that the calling code works for.

    Raises `ConfigurationError` if the stack does not stand around the app, and `OutsideRequest` if no request is known
    here or its end is past.
    """
    if noted() is None:
        raise OutsideRequest(
            f"a rule at a route of {stack!r} knows of no request. Either that does not stand around the app: "
            f"{_AROUND}. Or its view was called outside of a request, or in a thread that was not given the context of "
            "one: contextvars.copy_context().run(function). The view without its rules is its __wrapped__"
        )
    request = current_request("a rule at a route")
    if getattr(request, "over", False):
        raise OutsideRequest("a rule at a route was asked after the end of its request: its app has returned")
    return _found(stack, request.state)


def place_in(stack: object, scope: Mapping[str, Any]) -> Place:
    """Return the place of the request of an ASGI scope. Raises `ConfigurationError` as `place_here` does."""
    return _found(stack, scope.get(SHARED_ASGI))


def _found(stack: object, state: SharedState | None) -> Place:
    place: Place | None = None if state is None else state.inside.get(stack)
    if place is None:
        raise ConfigurationError(
            f"a rule at a route belongs to {stack!r}, which does not stand around this app: {_AROUND}"
        )
    return place


_AROUND = "app.add_middleware(guard.asgi), guard.init_app(app) for Flask, or guard.wsgi(app)"
