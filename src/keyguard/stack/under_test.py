"""Stacks under test: what `guard.testing()` returns.

Rules:
- A test has a store of its own in memory, one for all stacks that share one, and a clock that stands still.
- Each request is noted before any guard sees it, by a context variable: the store asks whose request it works for.
- A caller that was exhausted finds each limit empty that it meets, once: whatever it counts by, and also one that is
  made later. Counters that can be known beforehand, such as those of a key, are emptied at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from keyguard.aside import Plugged
from keyguard.errors import ConfigurationError
from keyguard.gate import members_of
from keyguard.guard import AnyGuard, declared, is_plain, sources_of
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.bans import Ban
from keyguard.identity import Identity
from keyguard.manual_clock import ManualClock
from keyguard.ops import Take
from keyguard.policies import PolicySet
from keyguard.request import CarriedRequest
from keyguard.stack.exhausted import Exhausted
from keyguard.stores.memory.observed import ObservedStore
from keyguard.stores.places import place_of
from keyguard.units import Duration

Stack: TypeAlias = Any
"""A `Keyguard`, which knows of this module."""


class _Asking(NamedTuple):
    """A request that a test's stack is asked about."""

    test: UnderTest
    request: CarriedRequest
    seen: set[str]
    """The names of the limits that were asked about it."""


_asking: ContextVar[_Asking | None] = ContextVar("keyguard_test_request", default=None)
"""The last one here."""


class Broken:
    """A store that is out of order: until the end of a `with`, or until it is repaired."""

    def __init__(self, test: UnderTest) -> None:
        self._test = test

    def __enter__(self) -> Broken:
        return self

    def __exit__(self, *ended: object) -> None:
        self.repair()

    def repair(self) -> None:
        """Have it answer again."""
        self._test.repair_store()


class UnderTest:
    """Stacks under test. It is entered once."""

    def __init__(
        self, stacks: Sequence[Stack], identity: str | Identity | None = None, clock: ManualClock | None = None
    ) -> None:
        if clock is not None and not isinstance(clock, ManualClock):
            raise ConfigurationError(
                f"clock of a test is a ManualClock, which goes when it is told to, not {clock!r:.80}"
            )
        for stack in stacks:
            if not hasattr(stack, "_plug"):
                raise ConfigurationError(f"testing() is given further stacks, each a Keyguard, not {stack!r:.80}")
        self.stacks = tuple(dict.fromkeys(stacks))
        self.clock = clock or ManualClock.at_present()
        """The time of the stacks: `clock.now` tells it."""
        self._identity = _checked(identity)
        self._stores: dict[object, ObservedStore] = {}
        """The stores of the test, by the places of those that they stand for."""
        self._store_of: dict[int, ObservedStore] = {}
        """The same by the numbers of stacks."""
        self._hits: Counter[tuple[str, ...]] = Counter()
        self._exhausted: list[Exhausted] = []
        self._plugged: list[Plugged] | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"<{', '.join(map(repr, self.stacks))} under test>"

    # -- its begin and its end ---------------------------------------------------------------------------------

    def __enter__(self) -> UnderTest:
        if self._plugged is not None:
            raise RuntimeError("a test is entered once: call guard.testing() again")
        self._plugged = []
        keys: list[Any] = [guard for stack in self.stacks for guard in stack.guards if _is_keys(guard)]
        self._assumed = [(guard, guard.assumed) for guard in keys]
        self._assume()
        try:
            for stack in self.stacks:
                self._plugged.append(stack._plug(self._opened(stack), self.clock, partial(self._guards, stack)))
                _tests.setdefault(id(stack), []).append(self)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for stack in self.stacks:
            if _tests.get(id(stack), [None])[-1] is not self:
                raise RuntimeError(f"tests of {stack!r} overlap: the one that has begun last ends first")
        self._leave()

    def _leave(self) -> None:
        self._over = True
        for guard, assumed in self._assumed:
            guard.assumed = assumed
        for stack, plugged in reversed([*zip(self.stacks, self._plugged or (), strict=False)]):
            plugged.unplug()
            tests = _tests.get(id(stack), [])
            if self in tests:
                tests.remove(self)
            if not tests:
                _tests.pop(id(stack), None)

    def _opened(self, stack: Stack) -> ObservedStore:
        place = place_of(stack.store)
        if place not in self._stores:
            self._stores[place] = ObservedStore(self.clock, self._told)
        store = self._store_of[id(stack)] = self._stores[place]
        return store

    def _guards(self, stack: Stack) -> list[AnyGuard]:
        """Return the guards of a stack as they run in a test."""
        instead = {id(guard): self._or_assumed(guard) for guard in members_of(stack._stacked) if _finds_callers(guard)}

        def in_test(guard: Any) -> Any:
            return instead.get(id(guard), guard)

        found = [
            guard.with_members(in_test) if isinstance(guard, PolicySet) else in_test(guard) for guard in stack._stacked
        ]
        known = any("identity" in declared(guard).provides for guard in stack._stacked)

        def note(request: CarriedRequest) -> None:
            _asking.set(_Asking(self, request, set()))
            if self._identity is not None and not known:
                request.state.identity = request.state.identity or self._identity

        return [note, *found]

    def _or_assumed(self, guard: Any) -> AnyGuard:
        """Return a guard of the user's own that finds callers, asked about those alone that the test leaves to it.

        One that does not tell where it looks for credentials is asked about none.
        """
        sources = sources_of(guard) if declared(guard).sources else None

        def assumed(request: CarriedRequest) -> bool:
            if self._identity is None or (sources is not None and sources.read(request)):
                return False
            request.state.identity = self._identity
            return True

        if is_plain(guard):
            return lambda request: None if assumed(request) else guard(request)

        async def surrounding(request: CarriedRequest, forward: Any) -> Any:
            return await (forward(request) if assumed(request) else guard(request, forward))

        return surrounding

    # -- who asks -----------------------------------------------------------------------------------------------

    @property
    def identity(self) -> Identity | None:
        """The caller of requests without a key; `None` if they are what they are. A text that is set is a subject."""
        return self._identity

    @identity.setter
    def identity(self, identity: str | Identity | None) -> None:
        self._identity = _checked(identity)
        if self._plugged is not None and not self._over:
            self._assume()

    def _assume(self) -> None:
        for guard, _ in self._assumed:
            guard.assumed = self._identity

    # -- time -----------------------------------------------------------------------------------------------------

    def advance(self, duration: Duration) -> None:
        """Let time pass: seconds, a `timedelta` or a text such as `"1h"`."""
        self._check_begun()
        self.clock.advance(duration)

    # -- the store ------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was counted and cached, bans, and hits; repair the store. Keys stay, and time goes on."""
        self._check()
        for store in self._stores.values():
            store.forget()
        self._hits.clear()
        self._exhausted.clear()
        for plugged in self._plugged or ():
            plugged.renew()

    def break_store(self) -> Broken:
        """Have the store fail: until `repair_store()`, `reset()`, or the end of `with g.break_store():`."""
        self._check()
        for store in self._stores.values():
            store.broken = True
        return Broken(self)

    def repair_store(self) -> None:
        """Have the store answer again."""
        for store in self._stores.values():
            store.broken = False

    # -- limits ---------------------------------------------------------------------------------------------------

    def exhaust(self, who: str | Identity | None = None) -> None:
        """Empty all limits of a caller: its next request gets a 429 that says when it may come again.

        `who` is a key, the id of one, a subject, an `Identity`, or an address: all requests of that caller find empty
        limits, those by address too, and those of rules at routes. Without `who`, every caller does. Places of
        `Concurrency` are held. Time refills them; a ban is not begun.

        Raises `ValueError` for what names nobody, such as a key with a slip of the pen.
        """
        self._check()
        exhausted = Exhausted(who, self.clock())
        for stack in self.stacks:
            self._store_of[id(stack)].empty(exhausted.known_beforehand(stack), exhausted.at)
        self._exhausted.append(exhausted)

    def hits(self, limit: str) -> int:
        """Return how many requests a limit was asked about since the begin, or since `reset()`: also those it refused.

        `limit` is the name of a guard, or of one of its limits. `guard.limits.peek` tells what was spent by whom.
        Raises `ValueError` for a name that no limit has.
        """
        self._check_begun()
        every = [facts for stack in self.stacks for facts in stack._note.facts]
        meant = [facts for facts in every if limit in (facts.guard, facts.name)]
        names = {facts.name for facts in meant}
        bans = [guard for stack in self.stacks for guard in stack.guards if isinstance(guard, Ban)]
        names |= {ban.policy for ban in bans if limit in (ban.name, ban.policy)}
        if not names:
            known = dict.fromkeys([*[facts.guard for facts in every], *[ban.name for ban in bans]])
            raise ValueError(f"no limit is called {limit!r}: there is {', '.join(known) or 'none'}")
        chosen = tuple([f"{facts.guard}:" for facts in meant if facts.limit is None])  # by a function, at each request
        return sum(
            count
            for asked, count in self._hits.items()
            if any(name in names or (chosen and name.startswith(chosen)) for name in asked)
        )

    def _told(self, store: ObservedStore, take: Take) -> None:
        """Hear of what limits are asked."""
        asking = _asking.get()
        mine = asking if asking is not None and asking.test is self else None
        asked = {demand.name for demand in take.demands}
        if mine is not None:  # a ban is asked about once more after a strike, and a limit when units are reserved
            asked -= mine.seen
            mine.seen.update(asked)
            for exhausted in self._exhausted:
                exhausted.meet(mine.request, store, take.demands, self.stacks, self._identity)
        if asked:
            self._hits[tuple(sorted(asked))] += 1

    def _check(self) -> None:
        self._check_begun()
        if self._over:
            raise RuntimeError(_INSIDE)

    def _check_begun(self) -> None:
        if self._plugged is None:
            raise RuntimeError(_INSIDE)


_INSIDE = "a test is under way inside of `with guard.testing() as g:` alone"

_tests: dict[int, list[UnderTest]] = {}
"""The tests of each stack that are under way, by its number: the last one that has begun at the end."""


def _checked(identity: str | Identity | None) -> Identity | None:
    if isinstance(identity, str) and identity.strip():
        return Identity(identity)
    if identity is None or (isinstance(identity, Identity) and not identity.anonymous):
        return identity
    raise ConfigurationError(
        f"identity is a subject such as 'alice', an Identity of somebody, or None, not {identity!r:.80}"
    )


def _is_keys(guard: object) -> bool:
    return isinstance(guard, APIKeys)


def _finds_callers(guard: object) -> bool:
    return not _is_keys(guard) and "identity" in declared(guard).provides
