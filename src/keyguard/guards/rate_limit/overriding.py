"""Overrides as limits find them: read again now and then, and put in the place of what would have counted."""

from __future__ import annotations

from typing import Any, Literal

from keyguard.errors import ConfigurationError, StoreError
from keyguard.guard import Answer, Ask, AsyncGuard, Decide, Long
from keyguard.guards.rate_limit.rules import Naming, Terms, known_terms_of
from keyguard.logs import logger
from keyguard.ops import Read
from keyguard.overrides import KEY
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response

log = logger("keyguard")

NO_LIMIT = Terms(())


def overridden(request: CarriedRequest, naming: Naming, terms: Terms) -> Terms:
    """Return what counts for the caller of a request: an override, if its subject has one of this guard, else `terms`.

    `request.settings.overrides.limits` is not empty then: most processes need not ask.
    """
    rows = request.settings.overrides.limits.get(naming.name)
    identity = request.state.identity
    if not rows or identity is None or identity.anonymous:
        return terms
    row = rows.get(identity.subject)
    if row is None or (row.expires is not None and request.clock() >= row.expires):
        return terms
    if row.rate is None:
        return NO_LIMIT
    try:
        return known_terms_of(naming, (row.rate,))
    except ConfigurationError as error:  # it was checked when it was set: by another version, say
        log.error("the override of %r for %r cannot be: %s", naming.name, row.subject, error)
        return terms


async def refresh(request: CarriedRequest) -> None:
    """Read the overrides again. If the store cannot say, those that were known stay."""
    state = request.state
    waited = state.waited
    try:
        (data,) = await Read(KEY)
        request.settings.overrides.load(data)
    except StoreError:
        pass
    finally:
        state.waited = waited  # what the request itself asks has all of its time


class AskOverrides(Ask):
    """Reads the overrides before a limit decides."""

    __slots__ = ("_decide", "_guard", "_waited")

    def __init__(self, guard: AsyncGuard, decide: Decide, waited: float) -> None:
        super().__init__(Read(KEY))
        self._guard = guard
        self._decide = decide
        self._waited = waited

    def answered(self, result: Any, request: CarriedRequest) -> Answer:
        request.state.waited = self._waited
        request.settings.overrides.load(result[0])
        decide: Any = self._decide
        answer: Answer = decide(request)  # the chain knows `LONG`, too
        return answer

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        request.state.waited = self._waited
        return await self._guard(request, forward)


def fresh(guard: AsyncGuard, decide: Decide) -> Decide:
    """Return what reads the overrides, if it is time to, before a guard decides whose store must be awaited."""

    def deciding(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
        if request.settings.overrides.is_due():
            return AskOverrides(guard, decide, request.state.waited)
        return decide(request)

    return deciding
