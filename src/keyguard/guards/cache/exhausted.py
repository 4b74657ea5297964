"""Serving callers whose limit is used up from the cache, if the app wants that."""

from __future__ import annotations

from keyguard.flow import call
from keyguard.guards.cache.policy import Use, use
from keyguard.guards.cache.serving import NO_CONDITIONS, answer, set_limits
from keyguard.guards.cache.settings import When
from keyguard.guards.cache.storage import CacheStorage
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response


class Exhausted:
    """Answers from the cache if a limit further in has refused, with a fresh entry that the caller may have."""

    def __init__(self, storage: CacheStorage, when: When | None) -> None:
        self.storage = storage
        self.when = when

    def __repr__(self) -> str:
        return f"<ResponseCache {self.storage.reader.name}>.exhausted()"

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        response = await forward(request)
        refusal = request.state.refusal
        if refusal is None or refusal.cause is not Cause.USAGE or request.reached_app:
            return response
        reader = self.storage.reader
        if request.method not in ("GET", "HEAD") or reader.takes_long_way(request):
            return response
        if self.when is not None and not await call(self.when, request):
            return response
        target = reader.target_of(request)
        if target is None:
            return response
        asked = reader.read(request, target)
        entry = (await self.storage.find(request, target, asked)).whole
        now = request.clock()
        if entry is None or use(asked, entry, now, reader.settings) is not Use.FRESH:
            return response
        status = f"{reader.name}; hit; ttl={entry.ttl(now)}; detail=exhausted"
        served = answer(request, entry, NO_CONDITIONS, now, status)
        if served is None:
            return response
        set_limits(served, response)  # how the caller's limits stand is still true
        request.state.refusal = None
        self.storage.reports.counts.hits += 1
        return served
