"""Rules at routes: a marker of `keyguard.stack.markers` at one place, which decides about a request inside the app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Generic, TypeAlias, TypeVar, cast

from keyguard.drivers.in_place import adrive_in_place, drive_in_place, would_block_a_loop
from keyguard.flow import Flow
from keyguard.guard import LONG, Mark
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.guards.rate_limit.outcomes import AskLimits
from keyguard.guards.rate_limit.overriding import AskOverrides, refresh
from keyguard.identity import ANONYMOUS, Identity
from keyguard.request import CarriedRequest
from keyguard.response import Response
from keyguard.stack.route_place import Place

T = TypeVar("T")

Decision: TypeAlias = Response | Mark | None
"""The answer of a rule: a refusal, a mark to be told how the request ends, or nothing to say."""
RULES = "__keyguard_rules__"
"""The attribute of a view under which its rules stand. `functools.wraps` hands it on to wrappers."""


class RouteRule(Generic[T]):
    """A marker at one place."""

    limit: RateLimit | None = None
    """The limit, if it is one."""

    def __init__(self, marker: object, place: str, view: Callable[..., Any] | None) -> None:
        self.marker = marker
        self.place = place
        """The view's name in full, or where a router is included."""
        self.view = view
        """The view as it was before it was decorated; `None` for a router."""

    @property
    def name(self) -> str:
        """The public name."""
        return self.place

    def __repr__(self) -> str:
        return f"<{self.name} at {self.place}>"

    def ask(self, place: Place, scope: Any = None) -> T:
        """Decide, by a plain call. Raises `Refused`."""
        if self not in place.asked:
            answer: Any = place.taken_for(self) or self._begin(place.request)
            if answer.__class__ is CoroutineType:
                engine: Any = place.request.settings
                if would_block_a_loop(engine):
                    answer.close()
                    raise RuntimeError(
                        f"{self!r} would hold up the event loop, since the store has to be awaited: it stands on a "
                        "plain function that runs in the loop. Make it an `async def`"
                    )
                answer = drive_in_place(engine, answer)
            self._end(place, answer, scope)
        return self._found(place)

    async def aask(self, place: Place, scope: Any = None) -> T:
        """Decide, and await what has to be awaited. Raises `Refused`."""
        flow = self.begin(place, scope)
        if flow is not None:
            await flow
        return self._found(place)

    def begin(self, place: Place, scope: Any = None) -> Awaitable[None] | None:
        """Decide, if nothing has to be awaited for that; else return what decides when it is awaited.

        Raises `Refused`.
        """
        if self not in place.asked:
            answer: Any = place.taken_for(self) or self._begin(place.request)
            if answer.__class__ is CoroutineType:
                return self._go_on(place, answer, scope)
            self._end(place, answer, scope)
        return None

    async def _go_on(self, place: Place, flow: Flow[Decision], scope: Any) -> None:
        engine: Any = place.request.settings
        self._end(place, await adrive_in_place(engine, flow), scope)

    def _end(self, place: Place, answer: Decision, scope: Any) -> None:
        if answer is not None:
            if isinstance(answer, Response):
                place.refuse(self, answer, scope)
            place.marks = (answer, *place.marks)
        place.admit(self)

    def _begin(self, request: CarriedRequest) -> Decision | Flow[Decision]:
        """Decide at once, or return the flow that does."""
        raise NotImplementedError

    def _found(self, place: Place) -> T:
        raise NotImplementedError


class LimitRule(RouteRule[None]):
    """A limit at one place."""

    limit: RateLimit

    def __init__(
        self, marker: object, place: str, view: Callable[..., Any] | None, limit: RateLimit, at_once: Any
    ) -> None:
        super().__init__(marker, place, view)
        self.limit = limit
        self.use(at_once)

    def use(self, at_once: Any) -> None:
        """Decide by a store from now on: the stack's, if it answers at once and cannot fail; else `None`."""
        self._decide = self.limit.decider(at_once)

    @property
    def name(self) -> str:
        return self.limit.name

    def __repr__(self) -> str:
        return f"{self.limit!r}"

    def _begin(self, request: CarriedRequest) -> Any:
        answer = LONG if self._decide is None else self._decide(request)
        if answer is LONG:
            return self.limit.decide_inside(request)
        if answer.__class__ is AskOverrides:
            return self._refreshed(request)
        return self.limit.decide_inside(request, answer) if answer.__class__ is AskLimits else answer

    async def _refreshed(self, request: CarriedRequest) -> Any:
        """Read the overrides again, and decide by them."""
        await refresh(request)
        return await self.limit.decide_inside(request)

    def _found(self, place: Place) -> None:
        return None


class KeyRule(RouteRule[Identity]):
    """A key that is needed at one place."""

    def __init__(
        self,
        marker: object,
        place: str,
        view: Callable[..., Any] | None,
        keys: APIKeys,
        scopes: frozenset[str],
    ) -> None:
        super().__init__(marker, place, view)
        self._keys = keys
        self.scopes = scopes
        """The scopes that the key must hold."""

    def _begin(self, request: CarriedRequest) -> Decision | Flow[Decision]:
        return self._keys.judge(request, self.scopes)

    def _found(self, place: Place) -> Identity:
        return place.request.state.identity or ANONYMOUS


def rules_of(view: Any) -> tuple[RouteRule[Any], ...]:
    """Return the rules that decorators have put on a view, the outermost first."""
    return cast("tuple[RouteRule[Any], ...]", getattr(view, RULES, ()))
