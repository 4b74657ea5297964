"""A stack that is not enabled: what its handlers ask for does nothing, and what is wrong in that stays an error."""

from __future__ import annotations

from contextlib import suppress

from keyguard.errors import OutsideRequest
from keyguard.guards.rate_limit.settling import checked_units
from keyguard.identity import ANONYMOUS
from keyguard.request import CarriedRequest, RequestState, current_request
from keyguard.request.state import SharedState
from keyguard.stack.handlers import Handlers, Reservation

NOT_ENABLED = (
    "%r is not enabled: it guards nothing, and every request goes to the app. For production take enabled=False away"
)


def anonymous(request: CarriedRequest) -> None:
    """Let every request pass, whoever its caller is. It stands for the guards that find that out."""
    request.state.identity = request.state.identity or ANONYMOUS


def state_here() -> RequestState:
    """Return what is known of the request: of none, that its caller is anonymous."""
    with suppress(OutsideRequest):
        return current_request().state
    state = SharedState()
    state.identity = ANONYMOUS
    return state


class NoHandlers(Handlers):
    """The limits of such a stack: nothing is charged to them."""

    def charge(self, cost: int, name: str | None) -> None:
        checked_units(cost, "a charge")
        self.meant("charge()", name)

    def reserve(self, estimate: int, name: str | None) -> Reservation:
        units = checked_units(estimate, "an estimate")
        return NoReservation(self, self.meant("reserve()", name), units)


class NoReservation(Reservation):
    """A reservation that holds nothing."""

    __slots__ = ("_state",)

    def settle(self, actual: int) -> None:
        if getattr(self, "_state", "") != "open":
            raise RuntimeError("settle() belongs inside of `with guard.reserve(...) as hold:`, and is said once")
        checked_units(actual, "a cost")
        self._state = "settled"

    def __enter__(self) -> Reservation:
        if hasattr(self, "_state"):
            raise RuntimeError("a reservation is entered once: call guard.reserve(...) again")
        self._state = "open"
        return self

    def __exit__(self, *ended: object) -> None:
        self._state = "over"

    async def __aenter__(self) -> Reservation:
        return self.__enter__()

    async def __aexit__(self, *ended: object) -> None:
        self._state = "over"
