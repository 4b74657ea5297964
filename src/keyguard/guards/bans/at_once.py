"""Whether a caller is banned, asked without a coroutine: fast path of `Ban.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both. A store in this process is asked at once, and not at
all about callers of whom nothing is counted, as of most; any other store is asked by the driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from keyguard.buckets import digest
from keyguard.clock import SECOND
from keyguard.errors import StoreBusy, StoreError
from keyguard.guard import Answer, Ask, Decide
from keyguard.guards.bans.strikes import Judge, Watch
from keyguard.ops import Degraded, Taken, traits_of
from keyguard.problem import refuse_busy, refuse_for
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response


class PromptBan(Judge, Protocol):
    """A guard, as far as it is decided here."""

    by: Any
    if_store_fails: str

    @property
    def rule(self) -> Any: ...

    def refuse(self, request: CarriedRequest, bucket: str, taken: Taken) -> Response: ...


class AskBan(Ask):
    """Ask whether a caller is banned."""

    __slots__ = ("bucket", "guard")

    def __init__(self, guard: PromptBan, bucket: str) -> None:
        super().__init__(guard.take(bucket))
        self.guard = guard
        self.bucket = bucket

    def answered(self, result: Taken, request: CarriedRequest) -> Response | Watch:
        guard, bucket = self.guard, self.bucket
        return guard.refuse(request, bucket, result) if result.refused else Watch(guard, bucket)

    def spared(self, result: Taken, request: CarriedRequest) -> Watch:
        return Watch(self.guard, self.bucket)  # that refusal may be a strike

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        if isinstance(error, StoreBusy):
            return refuse_busy(request)
        guard = self.guard
        await Degraded(f"{guard.name} {_DONE[guard.if_store_fails]}")
        return _refuse_without_store(request) if guard.if_store_fails == "refuse" else await forward(request)


_DONE = {"refuse": "refused", "allow": "allowed"}


def _refuse_without_store(request: CarriedRequest) -> Response:
    return refuse_for(
        request,
        Cause.FAULT,
        "The service cannot check at the moment whether a caller is banned. Nothing that you sent is the reason.",
        reason="store-failed",
        wait=SECOND,
    )


def deciding(guard: PromptBan, store: Any) -> Decide:
    """Return a function that refuses the banned, and watches all others. Its `by` can be called in place."""
    return _by_driver(guard) if store is None else _at_once(guard, store)


def _by_driver(guard: PromptBan) -> Decide:
    by = guard.by

    def decide(request: CarriedRequest) -> Answer:
        bucket = guard.bucket(request) if isinstance(by, str) else bucket_of(request, by)
        return AskBan(guard, bucket) if bucket and not guard.spares(request, bucket) else None

    return decide


def _at_once(guard: PromptBan, store: Any) -> Decide:
    make = traits_of(store).pool
    pool = None if make is None else make((guard.rule,), (guard.rule,))
    knows = _always if pool is None else pool.knows
    by = guard.by
    by_address = by == "ip"
    of_address = Watch(guard, store=store)

    def decide(request: CarriedRequest) -> Answer:
        if by_address:  # one mark serves all: whom it is about stands in the request
            client = request.client
            if client is None:
                return None
            bucket = client.bucket
        else:
            bucket = guard.bucket(request) if isinstance(by, str) else bucket_of(request, by)
            if not bucket:
                return None
        if knows(bucket):
            taken: Taken = store.execute((guard.take(bucket),))[0]
            if taken.refused and not guard.spares(request, bucket):
                return guard.refuse(request, bucket, taken)
        return of_address if by_address else Watch(guard, bucket, store)

    return decide


def bucket_of(request: CarriedRequest, by: Callable[[Any], Any]) -> str:
    """Return who is to be banned, as a function says that can be called in place; empty for nobody."""
    return "" if request.state.preflight else named(by(request))


def named(who: object) -> str:
    """Return the bucket of what a function returned; empty for nobody."""
    return "" if who is None else digest(who)


def _always(bucket: str) -> bool:
    return True
