"""One trip for a route's limits and those outside: these are asked together with what the expected route's rules take.

Rules:
- The truth is still decided inside the route. A rule that is asked there, and was taken for, asks the store no more.
- If there is no room for what is expected, nothing is taken for it, and the limits outside are asked once more, alone:
  the rule itself refuses then, or another route runs.
- What was taken for a rule that was not asked is given back at the head, or at the end of a request without one.
- Expected are routes whose templates have no part of several segments, of rules that no function has a say in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from keyguard.chain import within
from keyguard.drivers.inspection.routes import REST, SOME, segments_of
from keyguard.errors import KeyguardError, StoreError
from keyguard.flow import Flow
from keyguard.guard import Ask, Decide, Mark, Told
from keyguard.guards.rate_limit.at_once import Joined
from keyguard.guards.rate_limit.outcomes import charge_for, give_back
from keyguard.guards.rate_limit.overriding import fresh
from keyguard.ops import Take, Taken
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Headers, Response
from keyguard.stack.route_place import Place, RouteGuard
from keyguard.together import parts_of


class Expected(NamedTuple):
    """A route, with its rules."""

    number: int
    """In the order in which routes are tried."""
    segments: tuple[str, ...]
    methods: frozenset[str]
    rules: tuple[Any, ...]


class Routes:
    """The routes of an app, to be found by the head of a request."""

    def __init__(self, routes: Iterable[tuple[str, frozenset[str], tuple[Any, ...]]]) -> None:
        self._exact: dict[str, list[Expected]] = {}
        self._by_size: dict[int, list[Expected]] = {}
        self._rest: list[Expected] = []
        for number, (path, methods, rules) in enumerate(routes):
            one = Expected(number, segments_of(path), methods, rules)
            if REST in one.segments:
                self._rest.append(one)
            elif SOME in one.segments:
                self._by_size.setdefault(len(one.segments), []).append(one)
            else:
                self._exact.setdefault(path, []).append(one)

    def rules_for(self, method: str, path: str) -> tuple[Any, ...]:
        """Return the rules of the route that most likely answers."""
        segments = tuple(path.strip("/").split("/"))
        tried = [*self._exact.get(path, ()), *self._by_size.get(len(segments), ()), *self._rest]
        fitting = [one for one in tried if (not one.methods or method in one.methods) and _fits(one.segments, segments)]
        return min(fitting).rules if fitting else ()


def _fits(template: Sequence[str], segments: Sequence[str]) -> bool:
    for one, segment in zip(template, segments, strict=False):
        if one == REST:
            return True
        if one not in (SOME, segment):
            return False
    return len(template) == len(segments)


class ExpectantPlace(Place):
    """A place whose rules have been asked for, as far as they are expected."""

    __slots__ = ("expected",)

    expected: dict[Any, Taken]
    """The charges of rules that have not been asked yet."""

    def taken_for(self, rule: object) -> Mark | None:
        taken = self.expected.pop(rule, None)
        return None if taken is None else charge_for(self.request, taken)

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Told:
        told = super().head(request, status, headers)
        return self._give_back_after(told) if self.expected else told

    async def _give_back_after(self, told: Told) -> Response | None:
        answer = told if told is None or isinstance(told, Response) else await told
        await self._give_back()
        return answer

    async def _give_back(self) -> None:
        while self.expected:
            await give_back(self.expected.popitem()[1])

    def failed(self, request: Any, error: BaseException) -> Flow[None] | None:
        return self._give_back() if self.expected else None

    def unanswered(self) -> None:
        super().unanswered()
        if self.expected:
            self.request.at_end(self._give_back)


class ExpectantGuard(RouteGuard):
    """The innermost guard of a stack with rules at routes, which asks a store on the network for those it expects."""

    counting = "charges"
    routes: Routes | None = None
    """The routes of the app; `None` if they are not known, or if there are several apps."""
    _app: object = None

    def expect(self, app: object, routes: Routes) -> None:
        """Expect the routes of an app from now on. Of several apps, none is expected."""
        self.routes = routes if self._app is None or self._app is app else None
        self._app = app

    def decider(self, store: Any) -> Decide | None:
        return self.note if store is not None else fresh(self, self._decide)

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:  # type: ignore[override]
        return await within((self.note(request),), request, forward)

    def _decide(self, request: CarriedRequest) -> Mark | Ask:
        path = request.plain_path
        if self.routes is None or self.open or not path or request.websocket:
            return self.note(request)
        asked = []
        for rule in self.routes.rules_for(request.method, path):
            limit = rule.limit
            if limit is not None and limit.fixed and limit.settling is None:
                try:
                    take = limit.take_at_once(request)
                except KeyguardError:  # which it tells in its turn
                    take = None
                if take is not None:
                    asked.append((rule, take))
        if not asked or (request.method == "OPTIONS" and request.state.preflight):
            return self.note(request)
        place = ExpectantPlace.__new__(ExpectantPlace)
        place.expected = {}
        return AskExpected(self.note(request, place), asked)


class AskExpected(Ask):
    """Takes what rules take that are expected to be asked inside."""

    __slots__ = ("_asked", "_beside", "_decided", "_joined", "_place")

    def __init__(self, place: Any, asked: Sequence[tuple[Any, Take]]) -> None:
        self._joined = Joined()
        super().__init__(self._joined.take([take for _, take in asked]))
        self._place: ExpectantPlace = place
        self._asked = asked
        self._decided = place.request.state.decided
        self._beside: Sequence[Ask] = ()

    def stand_beside(self, asks: Sequence[Ask | None]) -> None:
        self._beside = [ask for ask in asks if ask is not None]

    def answered(self, result: Taken, request: CarriedRequest) -> Mark | Ask:
        if not result.refused:
            takes = [take for _, take in self._asked]
            parts = parts_of(result, takes) if len(takes) > 1 else [result]
            self._place.expected = {rule: part for (rule, _), part in zip(self._asked, parts, strict=True)}
        elif self._beside:  # which have taken nothing, and could have
            request.state.decided = self._decided
            return AskAgain(self._place, self._beside)
        return self._place

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        return await within((self._place,), request, forward)


class AskAgain(Ask):
    """Asks for guards further out once more, without what was expected."""

    __slots__ = ("_asks", "_place")

    def __init__(self, place: ExpectantPlace, asks: Sequence[Ask]) -> None:
        op: Any = asks[0].op
        for ask in asks[1:]:
            op = op.joined_with(ask.op)
        super().__init__(op)
        self._place = place
        self._asks = asks

    def answered(self, result: Taken, request: CarriedRequest) -> Response | Mark:
        parts = parts_of(result, [cast("Take", ask.op) for ask in self._asks]) if len(self._asks) > 1 else [result]
        for ask, part in zip(self._asks, parts, strict=True):
            spared = result.refused and not part.refused
            answer: Any = (ask.spared if spared else ask.answered)(part, request)
            if isinstance(answer, Response):
                return answer
            if answer is not None:  # it is told of the head after the rules, as if it stood outside
                self._place.marks = (answer, *self._place.marks)
        return self._place

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        forward = partial(_within, self._place, forward)
        for ask in reversed(self._asks):
            forward = partial(_go_on_without, ask, error, forward)
        return await forward(request)


async def _within(place: ExpectantPlace, forward: Forward, request: Any) -> Response:
    return await within((place,), request, forward)


async def _go_on_without(ask: Ask, error: StoreError, forward: Forward, request: Any) -> Response:
    return await ask.failed(error, request, forward)
