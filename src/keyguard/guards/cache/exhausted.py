"""Serving callers whose limit is used up from the cache, where the app wants that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from keyguard.flow import call
from keyguard.guards.cache.policy import Use, use
from keyguard.guards.cache.serving import NO_CONDITIONS, answer
from keyguard.guards.cache.storage import Holding
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.refusal import Cause
from keyguard.request import Forward, Request
from keyguard.response import Response


class Exhausted:
    """Answers from the cache where a limit further in refused: only what is fresh, and only the caller's to have."""

    def __init__(self, cache: Holding, when: Callable[[Request], bool | Awaitable[bool]] | None) -> None:
        self.cache = cache
        self.when = when

    def __repr__(self) -> str:
        return f"{self.cache!r}.exhausted()"

    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await forward(request)
        refusal = request.findings.refusal
        if refusal is None or refusal.cause is not Cause.USAGE or request.reached_app:
            return response
        cache = self.cache
        if request.method not in ("GET", "HEAD") or cache.takes_long_way(request):
            return response
        if self.when is not None and not await call(self.when, request):
            return response
        target = cache.target_of(request)
        if target is None:
            return response
        asked = cache.asked_of(request, target)
        entry = (await cache.find(request, target, asked)).whole
        now = request.now()
        if entry is None or use(asked, entry, now, cache.settings) is not Use.FRESH:
            return response
        status = f"{cache.name}; hit; ttl={entry.ttl(now)}; detail=exhausted"
        served = answer(request, entry, NO_CONDITIONS, now, status)
        if served is None:
            return response
        told = [pair for pair in response.headers if pair[0].lower() in LIMIT_FIELDS]
        for name in {name for name, _ in told}:
            served.headers.remove(name)  # what the app said to somebody else
        for name, value in told:  # how the caller's limits stand is still true
            served.headers.add(name, value)
        request.findings.refusal = None
        cache.reports.counts.hits += 1
        return served
