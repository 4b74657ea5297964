"""How guards nest: asked one after the other without a coroutine, as long as they can decide so.

`Chain.begin` asks each guard's `decide`. If one answers with an `Ask`, the driver asks the store, and `Chain.go_on`
asks the guards from there on. The first that answers `LONG` is run as a coroutine, with the marks of those outside of
it wrapped round it, and its `forward` goes on in the same way behind it.

Neighbours that only count are asked in one operation, if the store must be awaited (`keyguard.together`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from keyguard.errors import GuardError, StoreError
from keyguard.flow import Flow
from keyguard.gate import Branch, Choice, Gate
from keyguard.guard import LONG, AnyGuard, Ask, Decide, Long, Mark, declared, is_plain, may_decide
from keyguard.marks import Marks, answered, give_up, replaced, tell
from keyguard.ops import Store, Take, traits_of
from keyguard.request import CarriedRequest, Forward
from keyguard.response import APP, Response
from keyguard.steps import CallApp
from keyguard.together import Together, ask_together, neighbours

Begun: TypeAlias = "Marks | Response | Flow[Response]"
"""The outcome of asking guards: all have let it pass, and left these marks; or one has answered; or this
coroutine is to be run."""

_KEPT = 512
"""Branches that are kept of one chain, at all its gates: callers have a say in which are needed."""


class Chain(Branch):
    """A nest of guards, ready to run. Raises `ConfigurationError` for what is not a guard.

    At a gate it goes on in another chain, which has the guards that are chosen there in the place of the gate. Such a
    chain is made once for each choice, and shares with this one what guards have made for their stack.
    """

    __slots__ = ("_awaited", "_beside", "_branches", "_decides", "_forwards", "_guards", "_known", "_spread", "_store")

    def __init__(
        self,
        guards: Sequence[AnyGuard],
        store: Any = None,
        awaited: Store | None = None,
        known: dict[int, Decide] | None = None,
        branches: dict[tuple[Chain, int, Choice], Chain] | None = None,
    ) -> None:
        """Nest `guards`, the first one outermost.

        `store` is theirs if it answers at once and cannot fail; else it is `awaited`, and drivers ask it. `known` are
        the `decide` of guards, by the number of the object, of a chain that this one is a branch of, and `branches` all
        branches of that.
        """
        self._store, self._awaited = store, awaited
        self._known = {} if known is None else known
        self._branches = {} if branches is None else branches
        self._decides = tuple([self._decide_of(place, guard) for place, guard in enumerate(guards)])
        if known is None:
            self._known.update(
                (id(guard), decide)
                for guard, decide in zip(guards, self._decides, strict=True)
                if not isinstance(guard, Gate)
            )
        self._beside = neighbours(guards, self._decides, awaited)
        """For each guard, those further in that may be asked in the same operation; mostly none."""
        self._spread = awaited is not None and traits_of(awaited).spread
        self._guards: tuple[Any, ...] = tuple(guards)
        self._forwards: tuple[Forward, ...] = tuple([self._forward(place + 1) for place in range(len(guards))])
        """The `forward` of each guard."""

    def add(self, guard: AnyGuard) -> None:
        """Put a guard innermost, of a stack that exists already; but for one that stands inside of all."""
        guards = [*self._guards, guard]
        guards.sort(key=lambda one: declared(one).innermost)  # which keeps the order of the others
        self.__init__(guards, self._store, self._awaited)  # type: ignore[misc]

    @property
    def empty(self) -> bool:
        """Whether it has no guards."""
        return not self._guards

    def begin(
        self, request: CarriedRequest, place: int = 0, marks: Marks = (), decides: Iterable[Decide] | None = None
    ) -> Begun | Ask:
        """Ask the guards in turn, from the one at `place` on. An `Ask` is to be answered by `go_on`, or by `failed`.

        `marks` are those of guards further out. `decides` are asked instead of the guards' own. Raises what a guard
        raises, if there are no marks.
        """
        first = place
        branch: Chain | None = None
        try:
            for decide in decides or (self._decides[first:] if first else self._decides):
                answer = decide(request)
                if answer is not None:
                    if answer is LONG:
                        return self._long(request, place, marks, awaited=first > 0)
                    if isinstance(answer, Mark):
                        marks = (answer, *marks) if marks else (answer,)
                    elif answer.__class__ is not Response and isinstance(answer, Ask):
                        if self._beside[place] and answer.op.__class__ is Take:
                            answer = ask_together(answer, place, self._beside[place], self._spread, request)
                            answer.chain = answer.branch or self
                        else:
                            answer.chain = self
                        answer.place, answer.marks = place, marks
                        return answer
                    elif isinstance(answer, Chain):
                        branch = answer
                        break
                    else:
                        response = checked(answer, self._guards[place])
                        if not marks:
                            return response
                        told = tell(marks, request, response.status, response.headers)
                        return response if told is None else replaced(told, response)
                place += 1
        except Exception as error:
            if not marks:
                raise
            return within(marks, request, partial(_fail, [error]))
        except BaseException:  # the process is told to end, or a greenlet is: nothing more is done for the request
            give_up(marks)
            raise
        return marks if branch is None else branch.begin(request, place, marks)

    def go_on(self, ask: Ask, result: Any, request: CarriedRequest) -> Begun | Ask:
        """Ask the guards from there on where the store had to be asked, which returned `result`."""
        chain: Chain = ask.chain
        if isinstance(ask, Together):
            known = ask.decided(result)
            return chain.begin(request, ask.place, ask.marks, (*known, *chain._decides[ask.place + len(known) :]))
        rest = chain._decides[ask.place + 1 :]
        return chain.begin(request, ask.place, ask.marks, (partial(ask.answered, result), *rest))

    def failed(self, ask: Ask, error: BaseException, request: CarriedRequest) -> Flow[Response]:
        """Go on though the store could not answer. An error that is not the store's ends the request."""
        if not isinstance(error, StoreError):
            return within(ask.marks, request, partial(_fail, [error]))
        chain: Chain = ask.chain
        if not isinstance(ask, Together):
            return within(ask.marks, request, partial(ask.failed, error), chain._forwards[ask.place])
        place = ask.place + len(ask.asks)
        forward = chain._forwards[place - 1]
        if ask.then is not None:
            forward = chain._forward(place, (ask.then, *chain._decides[place + 1 :]))
        first = partial(ask.asks[0].failed, error)
        return within(ask.marks, request, first, ask.without_store(error, forward))

    # -- gates --------------------------------------------------------------------------------------------

    def beside(self, place: int) -> Sequence[Decide]:
        return self._beside[place]

    def _decide_of(self, place: int, guard: Any) -> Decide:
        if isinstance(guard, Gate):
            return self._gate(place, guard)
        known = self._known.get(id(guard))
        return decide_of(guard, self._store) if known is None else known

    def _gate(self, place: int, gate: Gate) -> Decide:
        """Return what answers with the chain in which a request goes on."""
        for member in gate.members:
            if id(member) not in self._known:
                self._known[id(member)] = decide_of(member, self._store)
        branches = self._branches

        def decide(request: CarriedRequest) -> Any:
            choice = gate.choose(request)
            if not choice or isinstance(choice, Response):
                return choice or None
            branch = branches.get((self, place, choice))
            if branch is None:
                if len(branches) >= _KEPT:
                    branches.clear()
                guards = (*self._guards[:place], *gate.chosen(choice), *self._guards[place + 1 :])
                branch = Chain(guards, self._store, self._awaited, self._known, branches)
                branches[self, place, choice] = branch
            return branch

        return decide

    def _long(self, request: CarriedRequest, place: int, marks: Marks, *, awaited: bool) -> Flow[Response]:
        """Run the guard at `place` as a coroutine, and those further in as it forwards the request.

        `awaited` says that another guard waits for its response, and must not get anything else. Else a driver does.
        """
        guard, forward = self._guards[place], self._forwards[place]
        if marks or awaited:
            return within(marks, request, guard, forward)
        flow: Flow[Response] = guard(request, forward)
        return flow

    def _forward(self, place: int, decides: Iterable[Decide] | None = None) -> Forward:
        def forward(request: Any) -> Awaitable[Response]:
            return self._goes_on(self.begin(request, place, (), decides), request)

        return forward if place < len(self._guards) else CallApp

    def _goes_on(self, begun: Begun | Ask, request: CarriedRequest) -> Awaitable[Response]:
        """Return the response to a request, to be awaited, however guards have begun with it."""
        if isinstance(begun, tuple):
            return within(begun, request, CallApp) if begun else CallApp(request)
        if isinstance(begun, Ask):
            marks, begun.marks = begun.marks, ()
            return within(marks, request, self._follow, begun)
        return _Answer(begun) if isinstance(begun, Response) else begun

    async def _follow(self, request: CarriedRequest, ask: Ask) -> Response:
        """Ask the store from within a coroutine, and go on as the guards decide then."""
        try:
            result = await ask.op
        except StoreError as error:
            return await self.failed(ask, error, request)
        return await self._goes_on(self.go_on(ask, result, request), request)


async def follow(ask: Ask, request: CarriedRequest, forward: Forward) -> Response:
    """Ask the store from within a coroutine, and go on as the guard decides then."""
    try:
        result = await ask.op
    except StoreError as error:
        return await ask.failed(error, request, forward)
    answer = ask.answered(result, request)
    if isinstance(answer, Response):
        return answer
    if isinstance(answer, Ask):
        return await follow(answer, request, forward)
    return await (forward(request) if answer is None else within((answer,), request, forward))


async def within(
    marks: Marks, request: CarriedRequest, forward: Callable[..., Awaitable[Response]], *more: Any
) -> Response:
    """Forward a request, and tell the marks around it how that ended."""
    told = False
    answer: Response | Flow[Response] | None
    try:
        try:
            response = await forward(request, *more)
            if response.__class__ is not Response and not isinstance(response, Response):
                raise GuardError(_no_response(forward, response))
        except GeneratorExit:
            raise  # the coroutine is being closed: it cannot ask the store any more
        except BaseException as error:
            if not request.reached_app:
                for mark in marks:
                    flow = mark.failed(request, error)
                    if flow is not None:
                        await flow
                raise
            answer = answered(marks, request, error)
            if answer is None:
                raise
        else:
            answer = replaced(tell(marks, request, response.status, response.headers), response)
        if not isinstance(answer, Response):
            answer = await answer
        told = True
        return answer
    finally:
        if not told:
            give_up(marks)


async def _fail(errors: list[BaseException], request: CarriedRequest, forward: Forward | None = None) -> Response:
    raise errors.pop()  # nothing here holds it then: it holds these frames


class _Answer:
    """An awaitable that is already done."""

    __slots__ = ("response",)

    def __init__(self, response: Response) -> None:
        self.response = response

    def __await__(self) -> Generator[Any, Any, Response]:
        return self.response
        yield


def checked(answer: object, guard: object) -> Response:
    """Return the answer of guards that ran without the app. Raise `GuardError` if it is not one.

    `guard` is the guard that answered, or the coroutine of the outermost one.
    """
    if not isinstance(answer, Response):
        raise GuardError(_no_response(guard, answer))
    if answer.body is APP:
        raise GuardError(f"{_name_of(guard)} returned a response with the app's body, but the app did not run")
    return answer


def _no_response(guard: object, answer: object) -> str:
    return f"{_name_of(guard)} returned {type(answer).__name__}, not a Response"


def _name_of(guard: object) -> str:
    name = getattr(guard, "__qualname__", None)
    return f"the guard {repr(guard) if name is None else str(name).removesuffix('.__call__')}"


def decide_of(guard: Any, store: Any) -> Decide:
    """Return the function by which a guard is asked first. Raises `ConfigurationError` for what is not a guard."""
    if is_plain(guard):
        decide: Decide = guard
        return decide
    made: Decide | None = guard.decider(store) if may_decide(guard) else None
    return _go_the_long_way if made is None else made


def _go_the_long_way(request: CarriedRequest) -> Literal[Long.LONG]:
    return LONG
