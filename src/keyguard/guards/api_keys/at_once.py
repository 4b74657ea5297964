"""Requests that are let pass at once, with a known key or without one. Fast path of `APIKeys.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from keyguard.errors import AmbiguousPath
from keyguard.guard import LONG, Decide, Long
from keyguard.guards.api_keys.verified import FOREVER, KnownKeys, fingerprint_of
from keyguard.identity import ANONYMOUS
from keyguard.keys.credentials import Sources
from keyguard.ops import traits_of
from keyguard.request import CarriedRequest


class Settings(Protocol):
    """The part of an `APIKeys` that is needed here."""

    lookup: Callable[..., Any] | None
    optional: bool
    scopes: Any
    sources: Sources
    public: Any
    paths: Any

    def needs_no_key(self, request: CarriedRequest) -> bool: ...


def deciding(guard: Settings, keys: KnownKeys, store: Any) -> Decide | None:
    """Return a function that lets pass a request with one known key, or with none if none is needed.

    If the store is in this process, a key is known as long as its record has not been written since; else for as long
    as `verified.py` says.
    """
    scopes = guard.scopes
    if callable(scopes):
        return None
    sources = guard.sources
    read_plain, known_by, ours = sources.read_plain, keys.get, (sources,)
    open_to_all = guard.optional and scopes is None
    by_path = guard.public is not None or guard.paths is not None
    stored = traits_of(store).values if guard.lookup is None else None

    def decide(request: CarriedRequest) -> Literal[Long.LONG] | None:
        if by_path and _may_need_no_key(guard, request):
            return LONG
        text = read_plain(request)
        known = None if text is None else known_by(fingerprint_of(text))
        if known is None:
            sent = sources.read(request)
            if len(sent) == 1:
                known = known_by(fingerprint_of(sent.pop().encode("latin-1")))
            # An OPTIONS may be a preflight.
            elif not sent and open_to_all and request.method != "OPTIONS":
                state = request.state
                state.sources = state.sources + ours if state.sources else ours
                state.identity = state.identity or ANONYMOUS
                return None
            if known is None:
                return LONG
        if stored is None:
            if not known.trusted(request.clock()):
                return LONG
        else:
            version = stored.version
            if known.version is not version:  # something was written since: maybe another record
                if stored.get(known.place) is not known.record:
                    known.doubt()
                    return LONG
                known.version = version
            if known.not_after != FOREVER and request.clock() >= known.not_after:
                known.doubt()
                return LONG
        if scopes is not None and not scopes <= known.identity.scopes:
            return LONG
        if known.networks is not None and (request.client is None or request.client not in known.networks):
            return LONG
        state = request.state
        state.sources = state.sources + ours if state.sources else ours
        state.identity = known.identity
        return None

    return decide


def _may_need_no_key(guard: Settings, request: CarriedRequest) -> bool:
    try:
        return guard.needs_no_key(request)
    except AmbiguousPath:
        return True
