"""Requests with one key, or with none: decided with no coroutine. Fast path of `APIKeys.__call__`, same answers.

`tests/guards/test_decide.py` plays the same requests through both.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal, Protocol

from keyguard.errors import AmbiguousPath
from keyguard.guard import LONG, Answer, Ask, Decide, Long
from keyguard.guards.api_keys.records import Records
from keyguard.guards.api_keys.verified import FOREVER, KnownKeys, fingerprint_of
from keyguard.identity import ANONYMOUS, Identity
from keyguard.keys.credentials import Sources
from keyguard.ops import traits_of
from keyguard.problem import refuse_ambiguous
from keyguard.request import CarriedRequest
from keyguard.response import Response


class Settings(Protocol):
    """The part of an `APIKeys` that is needed here."""

    lookup: Callable[..., Any] | None
    optional: bool
    scopes: Any
    sources: Sources
    public: Any
    paths: Any
    records: Records
    issued: bool
    assumed: Identity | None

    def assume(self, request: CarriedRequest) -> Response | None: ...

    def needs_no_key(self, request: CarriedRequest) -> bool: ...

    def refuse_without_key(self, request: CarriedRequest, sent: Collection[str]) -> Response: ...


def deciding(guard: Settings, keys: KnownKeys, store: Any) -> Decide | None:
    """Return a function that decides about all requests but look-ups of keys that are not known, and preflights.

    If the store is in this process, a key is known as long as its record has not been written since; else for as long
    as `verified.py` says.
    """
    scopes = guard.scopes
    if callable(scopes):
        return None
    sources, records, looks_up = guard.sources, guard.records, guard.lookup is not None
    others, issued = looks_up or records.imported is not None, guard.issued
    read_plain, known_by, ours = sources.read_plain, keys.get, (sources,)
    open_to_all = guard.optional and not scopes
    by_path = guard.public is not None or guard.paths is not None
    stored = None if looks_up else traits_of(store).values

    def decide(request: CarriedRequest) -> Answer | Literal[Long.LONG]:
        state = request.state
        if by_path:
            try:
                if guard.needs_no_key(request):
                    state.sources += ours
                    state.identity = state.identity or ANONYMOUS
                    return None
            except AmbiguousPath:
                state.sources += ours
                return refuse_ambiguous(request)
        text = read_plain(request)
        known = None
        if text is not None:
            fingerprint = fingerprint_of(text)
            known = known_by(fingerprint)
        if known is None:
            sent = sources.read(request)
            if len(sent) != 1:
                if not sent and request.method == "OPTIONS":
                    return LONG  # it may be a preflight
                state.sources += ours
                if sent:
                    return guard.refuse_without_key(request, sent)
                if guard.assumed is not None:
                    return guard.assume(request)
                state.identity = state.identity or ANONYMOUS
                return None if open_to_all else guard.refuse_without_key(request, sent)
            text = sent.pop().encode("latin-1")
            fingerprint = fingerprint_of(text)
            known = known_by(fingerprint)
        if known is None:
            trusted = False
        elif stored is None:
            trusted = known.trusted(request.clock())
        else:
            trusted = True
            version = stored.version
            if known.version is not version:  # something was written since: maybe another record
                if stored.get(known.place) is known.record:
                    known.version = version
                else:
                    trusted = False
            if known.not_after != FOREVER and request.clock() >= known.not_after:
                trusted = False
            if not trusted:
                known.doubt()
        if known is not None and trusted:
            state.sources = state.sources + ours if state.sources else ours
            if scopes is None and known.networks is None:  # fast path of `Records.admit`, same answers
                state.identity = known.identity
                return None
            return records.admit(request, known)
        assert text is not None
        spelled = text.decode("latin-1")
        if others and not (issued and (records.ours(spelled) or (known is not None and known.place))):
            return LONG
        state.sources += ours
        answer: Answer = records.ask(request, spelled, fingerprint, known)
        if store is not None:
            while isinstance(answer, Ask):
                answer = answer.answered(store.execute((answer.op,))[0], request)
        return answer

    return decide
