"""Keys that are known: a request with one is let pass at once. Fast path of `APIKeys.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

from keyguard.errors import AmbiguousPath
from keyguard.guard import LONG, Decide, Long
from keyguard.guards.api_keys.verified import KnownKeys, fingerprint_of
from keyguard.keys.credentials import Sources
from keyguard.ops import traits_of
from keyguard.request import Request


class Settings(Protocol):
    """What is asked of an `APIKeys`."""

    lookup: Callable[..., Any] | None
    scopes: Any
    sources: Sources
    public: Any
    paths: Any

    def needs_no_key(self, request: Request) -> bool: ...


def deciding(guard: Settings, keys: KnownKeys, store: Any) -> Decide | None:
    """Return what lets pass a request with one key that is known, if there is nothing to ask.

    If the store is in this process, a key is known as long as its record has not been written since; else for as long
    as `verified.py` says.
    """
    scopes = guard.scopes
    if callable(scopes):
        return None
    read, known_by, ours = guard.sources.read_one, keys.get, (guard.sources,)
    by_path = guard.public is not None or guard.paths is not None
    stored = traits_of(store).values if guard.lookup is None else None

    def decide(request: Request) -> Literal[Long.LONG] | None:
        if by_path and _may_need_no_key(guard, request):
            return LONG
        text = read(request)
        known = None if text is None else known_by(fingerprint_of(text))
        if known is None or known.networks is not None:
            return LONG
        if stored is None:
            if not known.trusted(request.clock()):
                return LONG
        elif stored.get(known.place) is not known.record or request.clock() >= known.not_after:
            known.doubt()
            return LONG
        if scopes is not None and not scopes <= known.identity.scopes:
            return LONG
        findings = request.findings
        findings.sources = findings.sources + ours if findings.sources else ours
        findings.identity = known.identity
        return None

    return decide


def _may_need_no_key(guard: Settings, request: Request) -> bool:
    try:
        return guard.needs_no_key(request)
    except AmbiguousPath:
        return True
