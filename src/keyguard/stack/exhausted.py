"""A caller that a test has exhausted: which limits are its own, those that are known beforehand and those it meets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from keyguard.errors import StoreError
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.api_keys.verified import fingerprint_of
from keyguard.http.addresses import parse_address
from keyguard.identity import Identity
from keyguard.keys.format import parse_key
from keyguard.keys.record import decode, record_key
from keyguard.ops import Demand
from keyguard.request import CarriedRequest
from keyguard.run import run_flow
from keyguard.stack.callers import Caller, Kind, find_caller
from keyguard.stores.memory.observed import ObservedStore

Stack: TypeAlias = Any
"""A `Keyguard`, which knows of this module."""


class Exhausted:
    """A caller who has spent all since a moment, `at`; every caller, if `who` is `None`."""

    def __init__(self, who: str | Identity | None, at: int) -> None:
        self.at = at
        self._all = who is None
        self._named: list[tuple[str, Kind | None]] = []
        self._names: set[str] = set()
        self._fingerprint = b""
        self._address = None
        self._emptied: set[tuple[int, str]] = set()
        """The counters that were emptied, by store and key: each is once."""
        if isinstance(who, Identity):
            self._named = [(who.key_id, "key"), (who.subject, "subject")]
            self._names = {who.key_id, who.subject}
        elif isinstance(who, str):
            key = parse_key(who)
            name = who if key is None else key.id  # a key is not kept
            self._named, self._names = [(name, None)], {name}
            self._fingerprint = fingerprint_of(who.encode("utf-8", "surrogatepass"))
            self._address = parse_address(who)
        elif who is not None:
            raise ValueError(f"a caller is a key, an id, a subject, an address, or an Identity, not {who!r:.80}")

    # -- beforehand -------------------------------------------------------------------------------------------

    def known_beforehand(self, stack: Stack) -> list[Demand]:
        """Return the counters of the caller that are known before any request. Raises `ValueError` for nobody."""
        found: dict[str, Demand] = {}
        for name, by in self._named:
            facts = stack._note.facts
            caller: Caller = run_flow(stack.store, find_caller(name, by, facts, keys=True))
            for each in facts:
                bucket = caller.bucket(each.by)
                if each.limit is None or bucket is None or each.by not in ("ip", "key", "subject"):
                    continue
                if each.plans is None or (caller.plan_is_known and caller.plan in each.plans):
                    key = each.prefix + bucket
                    found.setdefault(key, Demand(each.name, key, each.limit, 1))
        counts = [demand for demand in found.values() if demand.limit.kind != "slots"]
        self._emptied |= {(id(stack.store), demand.key) for demand in counts}
        return counts

    # -- at a request ---------------------------------------------------------------------------------------------

    def meet(
        self,
        request: CarriedRequest,
        store: ObservedStore,
        demands: Sequence[Demand],
        stacks: Sequence[Stack],
        assumed: Identity | None,
    ) -> None:
        """Empty the limits that a request of the caller is about to be asked for."""
        left = [demand for demand in demands if (id(store), demand.key) not in self._emptied]
        if left and self._is_of(request, stacks, assumed):
            self._emptied |= {(id(store), demand.key) for demand in left}
            store.empty(left, self.at)

    def _is_of(self, request: CarriedRequest, stacks: Sequence[Stack], assumed: Identity | None) -> bool:
        """Tell whether a request is one of the caller's, or may be."""
        if self._all:
            return True
        client = request.client
        if self._address is not None and client is not None and client.bucket == self._address.bucket:
            return True
        if request.peer is not None and request.peer in self._names:  # a test client's, which is not an address
            return True
        identity = request.state.identity
        if identity is not None:
            return not self._names.isdisjoint((identity.key_id, identity.subject)) and not identity.anonymous
        return any(self._may_be(who) for who in _callers(request, stacks, assumed))

    def _may_be(self, who: Identity | bytes | None) -> bool:
        """Tell whether somebody is the caller, of whom only the fingerprint of a key may be known, or not even that."""
        if isinstance(who, Identity):
            return not self._names.isdisjoint((who.key_id, who.subject))
        return who is None or who == self._fingerprint


def _callers(
    request: CarriedRequest, stacks: Sequence[Stack], assumed: Identity | None
) -> Iterator[Identity | bytes | None]:
    """Yield who may call, before a guard has found that out; `None` for somebody whom only a look-up knows."""
    guards = [guard for stack in stacks for guard in stack.guards if isinstance(guard, APIKeys)]
    sent = {(guard, text) for guard in guards for text in guard.sources.read(request)}
    if not sent and assumed is not None:
        yield assumed
    for guard, text in sent:
        yield fingerprint_of(text.encode("latin-1"))
        key = parse_key(text)
        owners = [] if key is None else [*_owners(key.id, stacks)]
        yield from owners
        if not owners and (guard.lookup is not None or guard.records.imported is not None):
            yield None


def _owners(id: str, stacks: Sequence[Stack]) -> Iterator[Identity]:
    """Yield whose a key is, as the stores of a test know it."""
    for stack in stacks:
        stored = stack.store.values.get(record_key(id))
        if stored is not None:
            with suppress(StoreError):
                record = decode(stored)
                yield Identity(record.subject, record.id)
