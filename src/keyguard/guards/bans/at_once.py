"""Callers who are not banned, on a store in this process: fast path of `Ban.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both. Of most callers nothing is counted: then the store
is not asked at all.
"""

from __future__ import annotations

from typing import Any, Protocol

from keyguard.buckets import digest
from keyguard.guard import Decide, Mark
from keyguard.guards.bans.strikes import Judge, Watch
from keyguard.ops import Taken, traits_of
from keyguard.request import CarriedRequest
from keyguard.response import Response


class PromptBan(Judge, Protocol):
    """A guard, as far as it is decided here."""

    by: Any

    @property
    def rule(self) -> Any: ...

    def refuse(self, request: CarriedRequest, bucket: str, taken: Taken) -> Response: ...


def deciding(guard: PromptBan, store: Any) -> Decide:
    """Return a function that refuses the banned, and watches all others."""
    make = traits_of(store).pool
    pool = None if make is None else make((guard.rule,), (guard.rule,))
    knows = _always if pool is None else pool.knows
    by = guard.by
    by_address = by == "ip"
    of_address = Watch(guard, store=store)

    def decide(request: CarriedRequest) -> Response | Mark | None:
        if by_address:  # one mark serves all: whom it is about stands in the request
            client = request.client
            if client is None:
                return None
            bucket = client.bucket
            if not knows(bucket):
                return of_address
        else:
            bucket = guard.bucket(request) if isinstance(by, str) else bucket_of(by(request))
            if not bucket:
                return None
        if knows(bucket):
            taken: Taken = store.execute((guard.take(bucket),))[0]
            if taken.refused and not guard.spares(request, bucket):
                return guard.refuse(request, bucket, taken)
        return of_address if by_address else Watch(guard, bucket, store)

    return decide


def bucket_of(who: Any) -> str:
    """Return the bucket of what a function returned; empty for nobody."""
    return "" if who is None else digest(who)


def _always(bucket: str) -> bool:
    return True
