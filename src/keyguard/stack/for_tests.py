"""The methods of `Keyguard` for tests of an app, and how a stack is given another store and another clock for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from keyguard.aside import Plugged, in_turn
from keyguard.chain import Chain
from keyguard.clock import Clock
from keyguard.drivers.interpreter import Engine
from keyguard.drivers.setup import Setup
from keyguard.guard import AnyGuard, Guard
from keyguard.identity import Identity
from keyguard.manual_clock import ManualClock
from keyguard.ops import Store
from keyguard.stack.for_routes import ForRoutes

if TYPE_CHECKING:
    from keyguard.stack.under_test import UnderTest

_EXCHANGED = ("store", "_clock", "_here", "_watched", "_overridden", "_aside", "_places", "_chain", "_guarding")
"""The attributes of a stack that depend on its store and its clock."""


class ForTests(ForRoutes):
    """The part of `Keyguard` that is for tests."""

    _declared: list[Guard]
    _drivers: WeakSet[Any]
    _clock: Clock

    def testing(
        self, *others: ForTests, identity: str | Identity | None = None, clock: ManualClock | None = None
    ) -> UnderTest:
        """Return the stack under test, for `with`: on an empty store in memory, and with time that stands still.

            with guard.testing(identity="alice") as g:
                assert client.get("/search").status_code == 200
                g.exhaust("alice")
                assert client.get("/search").status_code == 429
                g.advance("1 minute")
                assert client.get("/search").status_code == 200

        It does not matter when the app was made. The stack's own store is not touched, and afterwards all is as it was
        before: what the stack knew of keys, its cache, its count of what is in flight. A stack with `enabled=False` is
        enabled inside.

        - `identity`: the caller of all requests that have no key, a subject or an `Identity`. A request with a key is
          its caller's still; keys are issued by `guard.keys`, and kept in the test's store.
        - `clock`: by which all goes. By default one that starts at the present.
        - `others`: further stacks that the app has, which are moved along. Those that share a store share one here.

        Inside of another test of the same stack one begins anew, and the other goes on afterwards. Else tests of one
        stack do not overlap: those that run in one process at the same time need stacks of their own.
        """
        from keyguard.stack.under_test import UnderTest  # which apps that serve do not load

        return UnderTest([self, *others], identity, clock)

    # -- the plug ------------------------------------------------------------------------------------------

    if TYPE_CHECKING:  # the rest of `Keyguard` has them

        def _connect(self, store: Store, clock: Clock, values: Store | None = None) -> None: ...

        def _attach(self) -> None: ...

        def _chained(self, guards: Sequence[AnyGuard]) -> Chain: ...

        def _setup(self) -> Setup: ...

    def _plug(self, store: Store, clock: Clock, guards: Callable[[], Sequence[AnyGuard]]) -> Plugged:
        """Go on with another store, another clock and other guards, until it is unplugged."""
        put_back = in_turn(*[guard.set_aside() for guard in self._declared])
        before = {name: vars(self)[name] for name in _EXCHANGED}
        had_rules = "markers" in vars(self)

        def renew() -> None:
            for guard in self._declared:
                guard.set_aside()
            self._attach()
            self._chain = self._chained(guards())
            self._switch()

        def unplug() -> None:
            vars(self).update(before)
            if "markers" in vars(self) and not had_rules:
                self._chain.add(self._innermost)
            put_back()
            self._attach()
            self._switch()

        try:
            self._guarding = True
            self._connect(store, clock, store)
            self._chain = self._chained(guards())
            self._switch()
        except BaseException:
            unplug()
            raise
        return Plugged(renew, unplug)

    def _switch(self) -> None:
        """Have drivers, handlers and rules at routes go on with what the stack has now."""
        vars(self).pop("_for_handlers", None)
        if "markers" in vars(self):
            self._innermost.open = not self._guarding
            self.markers.use(self.store if self._watched is None else None)
        setup = self._setup()
        for driver in [*self._drivers]:
            engine = Engine(setup, driver.engine.inside, asynchronous=driver.engine.asynchronous)
            self._engines.add(engine)
            driver.take_up(engine)
