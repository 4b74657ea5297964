"""The hand of handlers in limits, while they work for a request: they charge units, and reserve them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from keyguard.clock import SECOND
from keyguard.drivers.in_place import adrive_in_place, drive_in_place, would_block_a_loop
from keyguard.errors import ConfigurationError, OutsideRequest
from keyguard.guards.rate_limit.counters import Counters, Hold
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.guards.rate_limit.reserving import LEASE, MAX_AGE, reserve_units
from keyguard.guards.rate_limit.settling import checked_units
from keyguard.guards.rate_limit.tab import Tab
from keyguard.ops import Store, traits_of
from keyguard.refused import Refused, refused
from keyguard.renewals import Kept, keep
from keyguard.request import CarriedRequest, current_request
from keyguard.response import Response

if TYPE_CHECKING:
    from keyguard.policies.shadow import Record


class Handlers:
    """The limits of a stack, as its handlers know them."""

    def __init__(
        self,
        guards: Iterable[Any],
        store: Store,
        at_routes: Callable[[], Iterable[RateLimit]],
        in_shadow: Mapping[int, Record],
    ) -> None:
        self._limits = [guard for guard in guards if isinstance(guard, RateLimit)]
        self._at_routes = at_routes
        """Tells the limits at routes."""
        self._in_shadow = in_shadow
        """The records of limits in shadow mode, which refuse nobody, by their numbers."""
        self._store = store
        self._near = traits_of(store).near
        self._takes_back = traits_of(store).limitations is None
        self._known: dict[str | None, RateLimit] = {}
        """The limits that were meant before."""

    def charge(self, cost: int, name: str | None) -> None:
        """Charge units to a limit."""
        units = checked_units(cost, "a charge")
        limit = self.meant("charge()", name)
        self._check_store("charge")
        tab = tab_of(self.request("charge()"))
        tab.charge(tab.counters(limit.number) or self._refuse("charge()", limit), units)

    def reserve(self, estimate: int, name: str | None) -> Reservation:
        """Reserve units of a limit."""
        units = checked_units(estimate, "an estimate")
        limit = self.meant("reserve()", name)
        self._check_store("reserve")
        return Reservation(self, limit, units)

    def meant(self, what: str, name: str | None) -> RateLimit:
        """Return the limit that is meant by a name, or by none."""
        return self._known.get(name) or self._meant(what, name)

    def _check_store(self, verb: str) -> None:
        if not self._takes_back:
            raise ConfigurationError(f"{self._store!r} settles nothing in the end: handlers can {verb} nothing there")

    def request(self, what: str) -> CarriedRequest:
        """Return the request that the calling handler works for."""
        request = current_request(what)
        if getattr(request, "over", False):
            raise OutsideRequest(
                f"{what} was called after the end of its request: its app has returned. Do it before, or in a "
                "background task of the framework's, which the request waits for"
            )
        engine: Any = request.settings
        if engine.store is not self._store:
            raise OutsideRequest(
                f"{what} was called in the handler of a request that another stack further in has noted: call it on "
                "that one, or put both into one Keyguard"
            )
        return request

    def counters(self, limit: RateLimit, tab: Tab) -> Counters:
        """Return the counters of the request's caller, for a reservation."""
        return tab.counters(limit.number) or self._refuse("reserve()", limit)

    def _refuse(self, what: str, limit: RateLimit) -> NoReturn:
        raise ConfigurationError(
            f"{what}: the limit {limit.name!r} does not apply to this request, so nothing of it can be used. It "
            "applies as its methods, paths, when, exempt and by say"
        )

    def passes(self, request: CarriedRequest, limit: RateLimit, answer: Response) -> bool:
        """Tell whether a refusal does not happen, since the limit is in shadow mode, and note it then."""
        record = self._in_shadow.get(limit.number)
        if record is not None:
            record.note(request, answer)
        return record is not None

    def hold_at_once(self, counters: Counters, units: int) -> Hold | None:
        """Return units that are held at once, if they can be and need not be renewed: fast path of `reserve_units`."""
        return counters.hold(units, self.lease) if self._near else None

    def hold(self, taken: Any) -> tuple[Hold, Kept | None]:
        """Return what is held until it is settled, and renewed in a store that outlives this process."""
        held = taken is not None and taken.demands[0].lease
        return Hold(taken), keep(self._store, taken, MAX_AGE / SECOND) if held and not self._near else None

    @property
    def lease(self) -> int:
        """For how long units are held, in microseconds, if nobody renews it."""
        return MAX_AGE if self._near else LEASE

    def _meant(self, what: str, name: str | None) -> RateLimit:
        limits = [*self._limits, *self._at_routes()]
        named = [limit for limit in limits if limit.name == name]
        if name is None:
            named = [limit for limit in limits if limit.handlers] or limits
        if len(named) == 1:
            if limits == self._limits:  # those at routes may still become more
                self._known[name] = named[0]
            return named[0]
        names = ", ".join(repr(limit.name) for limit in named or limits)
        if not limits:
            raise ConfigurationError(
                f"{what} needs a RateLimit in the stack, such as RateLimit('9000/day', cost=0, name='tokens')"
            )
        if name is None:
            raise ConfigurationError(f"{what} does not say which limit is meant: name one of {names}")
        if named:
            raise ConfigurationError(f"{what}: several limits are called {name!r}; give each a name of its own")
        raise ConfigurationError(f"{what}: no RateLimit of this stack is called {name!r}; there is {names}")


def tab_of(request: CarriedRequest) -> Tab:
    """Return the tab of a request; it is made when it is first needed."""
    tab: Tab | None = getattr(request, "tab", None)
    if tab is None:
        tab = request.tab = Tab(request)
    return tab


_open: ContextVar[frozenset[tuple[int, str]]] = ContextVar("keyguard_reservations", default=frozenset())
"""The reservations that the calling code is inside of: the number of each one's request, and its limit."""


class Reservation:
    """Units of a limit that are held for a handler: `Keyguard.reserve` returns it, for `with` or `async with`."""

    __slots__ = ("_handlers", "_hold", "_kept", "_limit", "_mark", "_settled", "_tab", "_token", "units")

    def __init__(self, handlers: Handlers, limit: RateLimit, units: int) -> None:
        self.units = units
        """The estimate."""
        self._handlers = handlers
        self._limit = limit
        self._hold: Hold | None = None
        self._kept: Kept | None = None
        self._settled: int | None = None

    def __repr__(self) -> str:
        return f"<Reservation {self.units} of {self._limit.name}>"

    def settle(self, actual: int) -> None:
        """Say what it cost in the end, more or less than was estimated. It is charged when the request is over.

        Raises `ValueError` for what is not a number of units, and `RuntimeError` if it is said twice, or too late.
        """
        hold = self._hold
        if hold is None:
            raise RuntimeError("settle() belongs inside of `with guard.reserve(...) as hold:`, which has not begun")
        if self._settled is not None:
            raise RuntimeError(f"this reservation was settled before, at {self._settled} units: it is settled once")
        if hold.over:
            raise RuntimeError(
                "this reservation is over: settle() belongs inside of `with guard.reserve(...) as hold:`"
            )
        self._settled = hold.cost = checked_units(actual, "a cost")

    # -- in place, by a plain call ------------------------------------------------------------------------

    def __enter__(self) -> Reservation:
        request, counters = self._prepare()
        engine: Any = request.settings
        if would_block_a_loop(engine):
            raise RuntimeError(
                "`with guard.reserve(...)` would hold up the event loop, since the store has to be awaited: write "
                "`async with guard.reserve(...)`"
            )
        if not self._begin_at_once(counters):
            flow = reserve_units(request, counters.pairs, self.units, self._handlers.lease)
            self._begin(request, drive_in_place(engine, flow))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(error)

    # -- by `await` ---------------------------------------------------------------------------------------

    async def __aenter__(self) -> Reservation:
        request, counters = self._prepare()
        if not self._begin_at_once(counters):
            engine: Any = request.settings
            flow = reserve_units(request, counters.pairs, self.units, self._handlers.lease)
            self._begin(request, await adrive_in_place(engine, flow))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end(error)

    # -- both -----------------------------------------------------------------------------------------------

    def _prepare(self) -> tuple[CarriedRequest, Counters]:
        if self._hold is not None:
            raise RuntimeError("a reservation is entered once: call guard.reserve(...) again")
        request = self._handlers.request("reserve()")
        self._tab = tab_of(request)
        self._mark = self._tab.number, self._limit.name
        if self._mark in _open.get():
            raise RuntimeError(
                f"reserve() inside of reserve(): units of {self._limit.name!r} are held by the same handler already. "
                "Reserve all of them at once, or one after the other"
            )
        return request, self._handlers.counters(self._limit, self._tab)

    def _begin(self, request: CarriedRequest, answer: Any) -> None:
        if isinstance(answer, Response):
            if not self._handlers.passes(request, self._limit, answer):
                request.state.refused_inside = answer
                request.settings.render(answer)
                raise refused(answer, request.scope)
            answer = None
        hold, self._kept = self._handlers.hold(answer)
        self._note(hold)

    def _begin_at_once(self, counters: Counters) -> bool:
        hold = self._handlers.hold_at_once(counters, self.units)
        if hold is not None:
            self._note(hold)
        return hold is not None

    def _note(self, hold: Hold) -> None:
        self._hold = hold
        self._tab.keep(hold)
        self._token = _open.set(_open.get() | {self._mark})

    def _end(self, error: BaseException | None) -> None:
        """End it: no more than noting it, so that nothing has to be awaited."""
        try:  # noqa: SIM105 - `suppress` takes three times as long
            _open.reset(self._token)
        except ValueError:
            pass  # a generator that was left is closed from anywhere: its context has nothing of ours
        hold = self._hold
        if hold is None or hold.over:
            return
        if self._kept is not None:
            self._kept.let_go()
        cost = self._settled
        if cost is None:
            cost = self.units if error is None else 0
        self._tab.close(hold, cost)


__all__ = ["Handlers", "Refused", "Reservation"]
