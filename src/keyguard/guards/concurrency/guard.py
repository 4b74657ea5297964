"""Slots: how many requests of a caller may be under way at the same time, whichever process serves them.

A slot is held in the store by a lease (`keyguard.ops.holds`), and free when the request is over: at the last byte, when
it failed, or when its client has left. While it goes on, a thread of the process renews the lease
(`keyguard.renewals`). If the process is killed, its slots are free when their leases have ended. A store in this
process's memory dies with it, so nothing is renewed there.

    Concurrency(10, by="key")
    Concurrency(2, by="ip", paths=["/reports/*"])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from keyguard.aside import putting_back
from keyguard.chain import within
from keyguard.checks import is_whole
from keyguard.clock import SECOND
from keyguard.conditions import OnPaths
from keyguard.counter_names import Counters, LimitFacts, counter_name, facts_by, public_name
from keyguard.errors import AmbiguousPath, ConfigurationError, StoreBusy, StoreError
from keyguard.flow import is_async
from keyguard.guard import LONG, Answer, Decide, Guard, Long, Surroundings
from keyguard.guards.concurrency.slot import AskSlot, InUse, PoolSlot, Slot
from keyguard.http.fields import DRAFTS, quoted
from keyguard.ops import (
    HELD_WAIT,
    MAX_HOLDS,
    Degraded,
    Demand,
    Settle,
    SettleHere,
    Store,
    Take,
    TakeHere,
    Taken,
    tiers_of,
    traits_of,
)
from keyguard.problem import refuse_ambiguous, refuse_busy, refuse_for
from keyguard.rates import Slots
from keyguard.refusal import Cause
from keyguard.renewals import keep
from keyguard.request import CarriedRequest, Forward
from keyguard.response import ReadyFields, Response, field_value
from keyguard.selection import Asking, By, Selection, Setting, asked, asked_at_once, at_hand, checked_name
from keyguard.units import Duration, microseconds
from keyguard.without_store import DONE, FailureMode, checked_failure_mode, refuse_unchecked

_READY = 4096
"""Operations that are kept for the next request of the same caller."""


class Concurrency(Guard):
    """Refuse a request of a caller who has as many under way as are allowed at the same time.

    It is refused with a 429 that says how many are in use, and `Retry-After: 1`: a slot may be free at any moment. A
    slot is held until the last byte of the response has left, or the request has failed, or its client has left; that
    of a websocket for as long as the connection lives.

    - `limit`: how many may be under way, 1 to 1000.
    - `by`: who shares the slots. `"ip"` the client's address (IPv6 by /64), `"key"` the API key, `"subject"` whoever
      owns the key; callers without a key count by address. Or a function of the request that returns text, a number, a
      tuple of these, or `None` if the limit does not apply: `by=lambda request: "all"` counts all together.
    - `when`, `exempt`, `methods`, `paths`, `ignore_case`: which requests need a slot, as in `RateLimit`.
    - `name`: stands in the key of what is held and in the public name. By default it says by whom the slots are
      counted and for which requests.
    - `headers`: `"draft-11"` tells in `RateLimit` and `RateLimit-Policy` how many slots are left, with the quota unit
      `concurrent-requests` of draft-ietf-httpapi-ratelimit-headers-11, `"draft-next"` by the names that its authors
      have for the next one; `None` tells nothing.
    - `if_store_fails`: `"local"` gives each process `limit / workers` slots of its own while the store is out of order,
      `"allow"` lets everybody through, `"refuse"` nobody, with a 503.
    - `lease`: after so long the slots of a process that was killed are free, 1 second to 1 hour; those of a process
      that is well are renewed.
    - `max_age`: after so long, and a lease, a slot is free although its request still goes on: servers do not always
      tell that a client has gone.

    Several that stand next to each other, or to a `RateLimit`, ask a shared store in one operation, which takes from
    all of them or from none. Raises `ConfigurationError` for a setting that is wrong.
    """

    keeps = frozenset({"decisions", "holds"})
    counting = "charges"

    def __init__(
        self,
        limit: int,
        *,
        by: By = "ip",
        when: Setting[bool] | None = None,
        exempt: Setting[bool] | None = None,
        methods: Iterable[str] | None = None,
        paths: Iterable[str] | OnPaths | None = None,
        ignore_case: bool = False,
        name: str | None = None,
        headers: Literal["draft-11", "draft-next"] | None = "draft-11",
        if_store_fails: FailureMode = "local",
        lease: Duration = "10 seconds",
        max_age: Duration = "1 hour",
    ) -> None:
        if not is_whole(limit) or not 1 <= limit <= MAX_HOLDS:
            raise ConfigurationError(f"limit is how many requests may be under way, 1 to {MAX_HOLDS}, not {limit!r}")
        self.selection = selection = Selection(by, when, exempt, methods, paths, ignore_case)
        if headers not in (*DRAFTS, None):
            raise ConfigurationError(f"headers are {' or '.join(map(repr, DRAFTS))}, or None, not {headers!r}")
        self.profiles = () if headers is None else (headers,)
        self.if_store_fails = checked_failure_mode(if_store_fails)
        self._lease = microseconds("lease", lease, min=1, max="1 hour")
        self._max_age = microseconds("max_age", max_age, min=self._lease / SECOND, max="366 days")
        self.limit = Slots(limit)
        chosen, texts = selection.methods or (), () if selection.paths is None else selection.paths.texts
        functions = {"when": selection.when, "exempt": selection.exempt}
        self.name = public_name(by, chosen, texts) if name is None else checked_name(name)
        counter = counter_name(by, chosen, texts, functions, 1, False) if name is None else self.name
        self.policy = f"{self.name}:{self.limit.text}"
        """The public name: in the header, the refusal, the log."""
        self._prefix = f"rl:{counter}:{self.limit.code}|"
        told = quoted(self.policy)
        self.fields: Any = headers and ReadyFields(
            "RateLimit-Policy", field_value(f'{told};q={limit};qu="concurrent-requests"'), "RateLimit"
        )
        left, window = DRAFTS[headers or "draft-11"]
        self.member = f"{told};{left}=".encode("latin-1")
        self._no_member = f"{told};{left}=0;{window}={HELD_WAIT // SECOND}".encode("latin-1")
        self.needs = frozenset({"identity"}) if by in ("key", "subject") else frozenset()
        self._prompt = at_hand(selection.functions.values())
        """Whether all functions that have a say can be called in place, as far as is known."""
        meaning = limit, by, selection.when, selection.exempt, selection.methods, selection.paths
        self.counters = (
            Counters(
                counter,
                meaning,
                limits=[self.limit],
                rules=[self.policy],
                keys=[self._prefix],
                named=name is not None,
                functions=selection.functions.values(),
                facts=[
                    LimitFacts(
                        self.name,
                        self.policy,
                        self._prefix,
                        self.limit,
                        facts_by(by),
                        methods=tuple(sorted(chosen)),
                        paths=tuple(texts),
                        if_store_fails=self.if_store_fails,
                    )
                ],
            ),
        )
        self._store: Store | None = None
        self._renewed = True
        """Whether what is held must be renewed; else it is held for `max_age` at once."""
        self._ready: dict[str, Take] = {}

    def __repr__(self) -> str:
        return f"<Concurrency {self.policy}>"

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Return the settings that are functions of the request."""
        return self.selection.functions

    def asynchronous(self) -> Mapping[str, object]:
        """Return the settings that only an event loop can run."""
        return {word: function for word, function in self.selection.functions.items() if is_async(function)}

    def attach(self, stack: Surroundings) -> None:
        *_, store = tiers_of(stack.store)  # what is held is held there, whatever stands in front of it
        if self._store is not None and self._store is not store:
            raise ConfigurationError(f"{self!r} stands in two stacks with different stores: make one for each")
        self._store, self._renewed = store, not traits_of(store).near
        self._ready = {}

    def set_aside(self) -> Callable[[], None]:
        put_back = putting_back(self, "_store", "_renewed")
        self._store = None
        return put_back

    def warn_of_workers(self, workers: int) -> str:
        return f"each of them admits {self.limit.text}, so {workers} times as many together"

    # -- what a request takes -----------------------------------------------------------------------------

    def take(self, bucket: str) -> Take:
        """Return the operation that takes a slot. It is kept for the next request of the same caller."""
        take = self._ready.get(bucket)
        if take is None:
            if len(self._ready) >= _READY:
                self._ready.clear()
            lease = self._lease if self._renewed else self._max_age
            take = self._ready[bucket] = Take([Demand(self.policy, self._prefix + bucket, self.limit, 1, lease)])
        return take

    def _asking(self, request: CarriedRequest) -> Asking[str | None]:
        """Ask under whose name a request needs a slot; `None` if it needs none."""
        if not (yield from self.selection.asking_whether(request)):
            return None
        return (yield from self.selection.asking_whose(request, self))

    def _bucket(self, request: CarriedRequest) -> str | Literal[Long.LONG] | None:
        """Return the same, if that can be said at once; else `LONG`."""
        selection = self.selection
        if selection.fixed:
            return selection.bucket(request, self) if selection.everything or selection.covers(request) else None
        if not self._prompt:
            return LONG
        bucket = asked_at_once(self._asking(request), request)
        if bucket is LONG:
            self._prompt = False  # it was not known that something has to be awaited, and is from now on
        return bucket

    # -- deciding -----------------------------------------------------------------------------------------

    def decider(self, store: Any) -> Decide:
        make = None if store is None else traits_of(store).slots
        pool = None if make is None else make(self._prefix, self.limit, self._max_age)

        def decide(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
            """Decide without a coroutine: fast path of `Concurrency.__call__`, same answers."""
            if request.method == "OPTIONS" and request.state.preflight:
                return None  # nothing is known of its caller
            try:
                bucket = self._bucket(request)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if bucket is None or bucket is LONG:
                return bucket
            if pool is not None:
                answer = pool.take(bucket)
                if answer is not None:
                    slot = PoolSlot(self, pool, bucket, answer)
                    request.state.decided += (slot,)
                    request.at_end(slot.free)
                    return None if self.fields is None else slot
            if store is None:
                return AskSlot(self, bucket)
            return self.answered(store.execute((self.take(bucket),))[0], request)

        return decide

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if request.method == "OPTIONS" and request.state.preflight:
            return await forward(request)
        try:
            found = self._bucket(request)
            bucket: str | None = await asked(self._asking(request), request) if found is LONG else found
        except AmbiguousPath:
            return refuse_ambiguous(request)
        if bucket is None:
            return await forward(request)
        try:
            answer = self.answered(await self.take(bucket), request)
        except StoreError as error:
            return await self.without_store(error, request, bucket, forward)
        if isinstance(answer, Response):
            return answer
        return await forward(request) if answer is None else await within((answer,), request, forward)

    def answered(self, taken: Taken, request: CarriedRequest) -> Response | InUse | None:
        """Decide by what came of the operation."""
        request.state.decided += (taken,)
        if taken.refused:
            return self._refuse(request, taken)
        self._hold(request, taken)
        return None if self.fields is None else InUse(self.fields, self.member, taken.takings[0][2])

    def _hold(self, request: CarriedRequest, taken: Taken) -> None:
        """Keep the slot until the request is over."""
        if self._renewed and self._store is not None:
            request.at_end(Slot(taken, keep(self._store, taken, self._max_age / SECOND)).free)
        else:
            request.at_end(Settle(taken))

    def _refuse(self, request: CarriedRequest, taken: Taken) -> Response:
        many = taken.held[0]
        requests, over = ("1 request is", "it") if many == 1 else (f"{many} requests are", "one of them")
        detail = f"{requests} under way, and '{self.policy}' allows no more. It works again as soon as {over} is over."
        response = refuse_for(
            request,
            Cause.USAGE,
            detail,
            reason="slots-in-use",
            wait=HELD_WAIT,
            at=taken.at,
            policies=(self.policy,),
        )
        if self.fields is not None:
            response.headers.join_ready(self.fields, self._no_member)
        return response

    async def without_store(
        self, error: StoreError, request: CarriedRequest, bucket: str, forward: Forward
    ) -> Response:
        """Decide while the store is out of order. Slots that were taken before are not counted then."""
        if isinstance(error, StoreBusy):
            return refuse_busy(request)
        await Degraded(f"{self.name} {DONE[self.if_store_fails]}")
        if self.if_store_fails == "refuse":
            return refuse_unchecked(request)
        if self.if_store_fails == "local":
            here = Demand(self.policy, self._prefix + bucket, self.limit, 1, self._max_age)
            taken = await TakeHere([here])
            if taken.refused:
                await Degraded("slots refused locally")
                return refuse_unchecked(request)
            request.at_end(SettleHere(taken))
        return await forward(request)
