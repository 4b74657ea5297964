"""Shadow mode: a guard decides and records, and refuses nobody.

Rules:
- A refusal that did not happen is a line in the log, a call of `on_refusal`, an entry of `RequestState.shadows` and one
  more in `Keyguard.shadows`: a `Refusal` with `shadow=True` each.
- It counts as it would: a limit takes units and gives them back, a ban counts strikes, slots are held. Of a policy in
  shadow mode the guards further in are not asked about a request that one of them would have refused, and those further
  out hear of that refusal, as if it had been one.
- Nobody is refused by it, also if the store or the guard itself fails. Its waiting for the store is not on the
  request's account. It tells no header fields to the client, and further in nothing is known of what it decided.
- It asks the store by itself, in one more trip: in an operation with others it would refuse for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from keyguard.chain import decide_of
from keyguard.errors import ConfigurationError, StoreError
from keyguard.flow import Flow
from keyguard.gate import Gate
from keyguard.guard import LONG, Answer, Ask, Decide, Guard, Long, Mark, Surroundings, Told, declared, is_plain
from keyguard.keys import KeyRegistry
from keyguard.keys.credentials import Sources
from keyguard.logs import logger
from keyguard.ops import Store
from keyguard.process.fork import ProcessLock
from keyguard.refusal import Cause, Refusal
from keyguard.refused import refusal_of
from keyguard.request import CarriedRequest, Forward, Request
from keyguard.request.limits import Shadowed
from keyguard.response import Headers, Response
from keyguard.uncounted import UNCOUNTED, refuse_uncounted

log = logger("keyguard")


def shadow(guard: Any, *, name: str | None = None) -> Shadow:
    """Return a guard in shadow mode: it decides as it would, records what it would refuse, and refuses nobody.

    `name` is what the log calls it; by default the guard's own. For several guards at once there is
    `Policy(..., shadow=True)`. Raises `ConfigurationError` for what is not a guard, and for one that cannot be tried
    out so: a cache refuses nobody, and `Overload` knows a limit by what it holds back.
    """
    if isinstance(guard, Gate):
        raise ConfigurationError(f"{guard!r} is not one guard: say shadow=True of its policies")
    return Shadow(guard, Record(_name_of(guard) if name is None else name, alone=True))


@dataclass(frozen=True, slots=True)
class ShadowStats:
    """The refusals that did not happen, in this process since it began."""

    name: str
    """The name of the policy or of the guard."""
    refused: int
    """How many requests it would have refused."""
    causes: Mapping[Cause, int]
    """How many for each cause."""
    failed: int
    """How often it could not decide, since its store or itself failed."""


class Record:
    """The record of one policy, or one guard, in shadow mode."""

    def __init__(self, name: str, *, alone: bool = False) -> None:
        self.name = name
        self.alone = alone
        """Whether it is about one guard that belongs to no policy in shadow mode."""
        self._lock = ProcessLock()
        self._causes: dict[Cause, int] = {}
        self._failed = 0

    @property
    def stats(self) -> ShadowStats:
        """Return what has been recorded."""
        with self._lock:
            return ShadowStats(self.name, sum(self._causes.values()), dict(self._causes), self._failed)

    def refusal(self, request: CarriedRequest) -> Refusal | None:
        """Return the refusal of a request that would have ended it before: of a policy, the first one stands."""
        if self.alone:
            return None
        return next((refusal for refusal in request.state.shadows if refusal.guard == self.name), None)

    def note(self, request: CarriedRequest, response: Response) -> None:
        """Note the refusal of a request, which goes on."""
        state = request.state
        refusal = (response.refusal or _refusal_by(request, response))._replace(shadow=True, guard=self.name)
        state.shadows += (refusal,)
        with self._lock:
            self._causes[refusal.cause] = self._causes.get(refusal.cause, 0) + 1
        request.settings.refused(refusal, response)

    def broke(self, error: BaseException | None = None) -> None:
        """Note that it could not decide."""
        with self._lock:
            self._failed += 1
            first = self._failed == 1
        if first and not isinstance(error, StoreError):  # of the store its own watch tells
            log.error("%s failed in shadow mode, which refuses nobody: told of once", self.name, exc_info=True)


def _refusal_by(request: CarriedRequest, response: Response) -> Refusal:
    """Return what is told of a refusal that a guard of the user's has made by itself."""
    identity, client = request.caller, request.client
    return Refusal(
        _CAUSES.get(response.status, Cause.FAULT if response.status >= 500 else Cause.PERMISSION),
        response.status,
        "",
        "guard",
        request.id,
        key_id=identity.key_id,
        subject=identity.subject,
        client="" if client is None else client.text,
    )


_CAUSES = {400: Cause.REQUEST, 401: Cause.CREDENTIALS, 429: Cause.USAGE}
"""The causes that the statuses of other refusals tell."""


class Shadow(Guard):
    """A guard in shadow mode: `shadow(guard)` makes it, and `Policy(..., shadow=True)` of all its guards."""

    provides: frozenset[str] = frozenset()  # it lets everybody pass, so nothing can be relied on

    def __init__(self, guard: Any, record: Record) -> None:
        if isinstance(guard, Shadow):
            raise ConfigurationError(f"{guard!r} is in shadow mode already")
        is_plain(guard)
        self.guard = guard
        """The guard that decides."""
        self.record = record
        self._told = told = declared(guard)
        if told.unshadowed:
            raise ConfigurationError(f"{guard!r} cannot be in shadow mode: {told.unshadowed}")
        self.needs, self.keeps, self.store = told.needs, told.keeps, told.store
        self.wants_keys, self.lets_anonymous_pass = told.wants_keys, told.lets_anonymous_pass
        self.filters_addresses, self.judges_credentials = told.filters_addresses, told.judges_credentials
        self.sources, self.handlers, self.outlasts = told.sources, told.handlers, told.outlasts
        self.counters, self.facts, self.reads_bodies = told.counters, told.facts, told.reads_bodies

    def __repr__(self) -> str:
        return f"<shadow of {self.guard!r}>"

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Return the guard's settings that are functions of the request."""
        return self._told.functions()

    def asynchronous(self) -> Mapping[str, object]:
        """Return the guard's settings that only an event loop can run."""
        return self._told.asynchronous()

    def attach(self, stack: Surroundings) -> None:
        """Tell the guard of its stack."""
        self._told.attach(stack)

    def add_sources(self, sources: Sequence[Sources]) -> None:
        """Tell the guard where layers further in look for credentials."""
        self._told.add_sources(sources)

    def after_fork(self) -> None:
        """Have the guard make anew what belongs to one process."""
        self._told.after_fork()

    def set_aside(self) -> Callable[[], None]:
        """Have the guard begin anew, for a test."""
        return self._told.set_aside()

    def registry(self, store: Store) -> KeyRegistry:
        """Return the guard's registry of keys."""
        return self._told.registry(store)

    def warn_of_workers(self, workers: int) -> str:
        return self._told.warn_of_workers(workers)

    # -- a request ------------------------------------------------------------------------------------------

    def decider(self, store: Any) -> Decide:
        inner = decide_of(self.guard, store)

        def decide(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
            if self.record.refusal(request) is not None:
                return None
            return self.asked(request, inner)

        return decide

    def asked(self, request: CarriedRequest, decide: Callable[[CarriedRequest], Any]) -> Answer | Literal[Long.LONG]:
        """Ask the guard, and return what is left of its answer in shadow mode."""
        before = Before(request)
        try:
            answer = decide(request)
        except UNCOUNTED as error:
            answer = refuse_uncounted(request, error)
        except Exception as error:
            self.record.broke(error)
            answer = None
        if isinstance(answer, Response):
            self.record.note(request, answer)
            answer = None
        before.restore(request)
        if isinstance(answer, Mark):
            return ShadowMark(self.record, answer)
        if isinstance(answer, Ask):
            return ShadowAsk(self, answer, before.waited)
        return LONG if answer is LONG else None

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if self.record.refusal(request) is not None:
            return await forward(request)
        if is_plain(self.guard):
            self.asked(request, self.guard)
            return await forward(request)
        before = Before(request)
        answered: list[Response] = []
        inside: list[BaseException] = []

        async def onward(asked: Any) -> Response:
            before.restore(request)
            try:
                response = await forward(asked)
            except BaseException as error:
                inside.append(error)
                raise
            answered.append(response)
            state = request.state
            refused = self.record.refusal(request)
            if refused is not None:  # another guard of the policy, further in
                state.refusal = refused
                return Response(refused.status, [*response.headers], response.body, refusal=refused)
            return Response(response.status, [*response.headers], response.body, refusal=response.refusal)

        try:
            answer = await self.guard(request, onward)
        except Exception as error:
            if inside:
                raise
            if isinstance(error, UNCOUNTED):
                self.record.note(request, refuse_uncounted(request, error))
            else:
                self.record.broke(error)
            answer = None
        if not answered:
            if isinstance(answer, Response):
                self.record.note(request, answer)
            before.restore(request)
            if inside:  # the guard had an answer to the app's error, which goes on its way
                raise inside[0]
            return await forward(request)
        request.state.refusal = answered[0].refusal
        return answered[0]


class Before:
    """The state of a request before a guard in shadow mode was asked."""

    __slots__ = ("decided", "preflight", "refusal", "waited")

    def __init__(self, request: CarriedRequest) -> None:
        state = request.state
        self.refusal, self.decided = state.refusal, state.decided
        self.preflight, self.waited = state.preflight, state.waited

    def restore(self, request: CarriedRequest) -> None:
        """Have the request go on as if the guard had not been there, but for what is marked as its decision."""
        state = request.state
        state.refusal, state.preflight, state.waited = self.refusal, self.preflight, self.waited
        if state.decided is not self.decided:
            more = state.decided[len(self.decided) :]
            state.decided = self.decided + tuple([one if isinstance(one, Shadowed) else Shadowed(one) for one in more])


class ShadowAsk(Ask):
    """The operation of a guard in shadow mode."""

    __slots__ = ("_ask", "_shadow", "_waited")

    def __init__(self, shadow: Shadow, ask: Ask, waited: float) -> None:
        super().__init__(ask.op)
        self._shadow = shadow
        self._ask = ask
        self._waited = waited

    def answered(self, result: Any, request: CarriedRequest) -> Answer:
        request.state.waited = self._waited
        answer: Any = self._shadow.asked(request, lambda asked: self._ask.answered(result, asked))
        return answer  # type: ignore[no-any-return]  # the chain knows `LONG`, too

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        request.state.waited = self._waited
        self._shadow.record.broke(error)
        return await forward(request)


class ShadowMark(Mark):
    """The mark of a guard in shadow mode on a request: it hears how that ends, and tells nothing."""

    __slots__ = ("_mark", "_record")

    def __init__(self, record: Record, mark: Mark) -> None:
        self._record = record
        self._mark = mark

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Told:
        if status >= 400:
            refusal_of(request, status, headers)  # which tells the client of what a handler could not reserve
        state = request.state
        before, refused = state.refusal, self._record.refusal(request)
        if refused is not None:  # by a guard further in of the same policy
            status = refused.status
            state.refusal = refused
        told: Told = None
        try:
            told = self._mark.head(request, status, Headers(headers))
            if isinstance(told, Response):
                self._record.note(request, told)
        except Exception as error:
            self._record.broke(error)
        finally:
            state.refusal = before
        return None if told is None or isinstance(told, Response) else self._quietly(told)

    def failed(self, request: Request, error: BaseException) -> Flow[None] | None:
        flow = self._mark.failed(request, error)
        return None if flow is None else self._quietly(flow)

    def raised(self, request: CarriedRequest, error: Exception) -> None:
        before = Before(request)
        answer = self._mark.raised(request, error)
        if answer is not None:
            self._record.note(request, answer)
        before.restore(request)

    def unanswered(self) -> None:
        self._mark.unanswered()

    async def _quietly(self, flow: Flow[Any]) -> None:
        try:
            await flow
        except Exception as error:
            self._record.broke(error)


def _name_of(guard: object) -> str:
    return str(getattr(guard, "name", None) or getattr(guard, "__name__", None) or type(guard).__name__)
