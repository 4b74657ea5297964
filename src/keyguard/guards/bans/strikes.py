"""Strikes: heard of with the head of a response, settled when it has gone, and told to the log if a ban begins."""

from __future__ import annotations

from typing import Any, Protocol

from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.flow import Flow
from keyguard.guard import Mark
from keyguard.logs import logger, word
from keyguard.ops import Degraded, Settle, Take, Taken
from keyguard.request import CarriedRequest, Request, carried
from keyguard.response import Headers
from keyguard.units import rfc3339

log = logger("keyguard")

_KEPT = 1024  # bans of which it is known that the log was told


class Judge(Protocol):
    """A guard, as far as its strikes need it."""

    name: str
    policy: str
    told: dict[str, int]
    """The ends of bans that the log was told of, by the caller."""

    def bucket(self, request: CarriedRequest) -> str: ...

    def is_strike(self, request: CarriedRequest, status: int) -> bool: ...

    def spares(self, request: CarriedRequest, bucket: str) -> bool: ...

    def take(self, bucket: str) -> Take: ...


class Watch(Mark):
    """Left on a request whose caller is not banned: counts the response if it is a strike.

    `bucket` is the caller, or empty if that is the address, which can be asked again. `store` is one that answers at
    once; without it the strike is settled at the end of the request.
    """

    __slots__ = ("bucket", "guard", "store")

    def __init__(self, guard: Judge, bucket: str = "", store: Any = None) -> None:
        self.guard = guard
        self.bucket = bucket
        self.store = store

    def head(self, request: Request, status: int, headers: Headers) -> Flow[None] | None:
        if status >= 400:
            self._judge(carried(request), status)
        return None

    def _judge(self, request: CarriedRequest, status: int) -> None:
        guard, store = self.guard, self.store
        if not guard.is_strike(request, status):
            return
        bucket = self.bucket or guard.bucket(request)
        if guard.spares(request, bucket):
            return
        if store is None:
            request.at_end(lambda: _strike(guard, bucket))
        else:
            asking = guard.take(bucket)
            _, taken = store.execute((_settlement(asking), asking))
            _tell(guard, bucket, taken)


async def _strike(guard: Judge, bucket: str) -> None:
    asking = guard.take(bucket)
    try:
        await _settlement(asking)
        taken = await asking
    except StoreError:
        await Degraded(f"{guard.name}: a strike was not counted")
    else:
        _tell(guard, bucket, taken)


def _settlement(asking: Take) -> Settle:
    """Return the charge of one strike: what was taken at admission is nothing, whenever that was."""
    return Settle(Taken(asking.demands, [(None, 0, 0, 0, 0)], 0, False), [1])


def _tell(guard: Judge, bucket: str, taken: Taken) -> None:
    """Tell the log of a ban that has begun, once: strikes that come together all find the ban that one began."""
    if not taken.refused:
        return
    told, ends = guard.told, taken.at + taken.wait
    if told.get(bucket) == ends:
        return
    if len(told) >= _KEPT:
        told.clear()
    told[bucket] = ends
    log.warning("banned: caller=%s limit=%s until=%s", word(bucket), word(guard.policy), rfc3339(-(-ends // SECOND)))
