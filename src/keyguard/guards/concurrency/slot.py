"""The slot of one request: what frees it, and what tells how many are left."""

from __future__ import annotations

from typing import Any, Protocol

from keyguard.errors import StoreError
from keyguard.flow import Flow
from keyguard.guard import Ask, Mark
from keyguard.ops import Degraded, Settle, Take, Taken
from keyguard.renewals import Kept
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Headers, Response


class Slotted(Protocol):
    """A guard with slots, as far as they need to know it."""

    fields: Any
    """The header fields that tell of them; `None` for none."""
    member: bytes
    """How they are named there."""

    def take(self, bucket: str) -> Take: ...

    def answered(self, taken: Taken, request: CarriedRequest) -> Response | InUse | None: ...

    async def without_store(
        self, error: StoreError, request: CarriedRequest, bucket: str, forward: Forward
    ) -> Response: ...


class AskSlot(Ask):
    """Ask a store for a slot."""

    __slots__ = ("_bucket", "_guard")

    def __init__(self, guard: Slotted, bucket: str) -> None:
        super().__init__(guard.take(bucket))
        self._guard = guard
        self._bucket = bucket

    def answered(self, result: Taken, request: CarriedRequest) -> Response | InUse | None:
        return self._guard.answered(result, request)

    def spared(self, result: Taken, request: CarriedRequest) -> None:
        request.state.decided += (result,)

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        return await self._guard.without_store(error, request, self._bucket, forward)


class Slot:
    """A slot in a shared store, which is renewed until it is free."""

    __slots__ = ("_kept", "_taken")

    def __init__(self, taken: Taken, kept: Kept) -> None:
        self._taken = taken
        self._kept = kept

    def free(self) -> Flow[None]:
        """Free it: called when the request is over."""
        self._kept.let_go()
        return self._settle()

    async def _settle(self) -> None:
        try:
            await Settle(self._taken)
        except StoreError:
            await Degraded("a slot kept")  # until its lease has ended


class InUse(Mark):
    """Tells how many slots are left, in the fields of the response."""

    __slots__ = ("_fields", "_left", "_member")

    def __init__(self, fields: Any, member: bytes, left: int) -> None:
        self._fields = fields
        self._member = member
        self._left = left

    def head(self, request: CarriedRequest, status: int, headers: Headers) -> Flow[None] | None:
        state = request.state
        if status != 429 and (status < 400 or state.refusal is None):
            if state.caches:
                state.note_own_limits(headers)
            headers.join_ready(self._fields, self._member + b"%d" % self._left)
        return None


class PoolSlot(InUse):
    """A slot that a pool has given, which also tells how many are left."""

    __slots__ = ("_bucket", "_guard", "_number", "_pool")

    def __init__(self, guard: Slotted, pool: Any, bucket: str, answer: tuple[int, int]) -> None:
        self._guard = guard
        self._fields = guard.fields
        self._member = guard.member
        self._pool = pool
        self._bucket = bucket
        self._number, self._left = answer

    @property
    def taken(self) -> Taken:
        """Return the outcome that the operation would have had, for readers of the request's state."""
        demands = self._guard.take(self._bucket).demands
        return Taken(demands, [(None, demands[0].lease, self._left, 0, 0)], self._number, False)

    def free(self) -> None:
        """Free it: called when the request is over."""
        self._pool.free(self._bucket, self._number)
