"""The methods of `Keyguard` for the handlers of an app, while they work for a request."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from keyguard.errors import ConfigurationError
from keyguard.guard import AnyGuard, Guard
from keyguard.guards.rate_limit.guard import RateLimit
from keyguard.ops import Store
from keyguard.request import RequestState, current_request
from keyguard.request.current import SETTING
from keyguard.stack.disabled import NoHandlers, state_here
from keyguard.stack.handlers import Handlers, Reservation
from keyguard.stack.policies import limits_in_shadow


class ForHandlers:
    """The part of `Keyguard` that is for handlers."""

    guards: tuple[AnyGuard, ...]
    store: Store
    _declared: list[Guard]
    _guarding: bool
    _notes: bool

    def here(self) -> RequestState:
        """Return what is known of the request that the calling handler works for, in any layer of keyguard.

        It works in views and handlers, in dependencies, in what makes a response's body, in background tasks, in tasks
        and in threads that are given the handler's context, as `asyncio.to_thread` does. A task that goes on after the
        end of its request finds that one. Raises `ConfigurationError` if this stack has `handlers=False`, and
        `OutsideRequest` if no request is known: outside of one, in `run_in_executor` and in threads of your own.
        """
        if not self._notes:
            raise ConfigurationError(f"here() works in stacks that note their requests for it: {SETTING}")
        return current_request().state if self._guarding else state_here()

    def charge(self, cost: int, limit: str | None = None) -> None:
        """Charge units of a limit to the caller of the request that the calling handler works for.

        `limit` is the `name` of a `RateLimit`; it need not be said if there is one alone, or one alone with `cost=0`,
        which only handlers charge. Nothing is asked or awaited, so it can be called anywhere, and nothing is refused:
        the charge is booked when the request is over, whatever is left then. On a websocket it is booked at once, and
        so is what a WSGI app charges while its body is sent. A request that is answered with a refusal costs nothing.

        Raises `ValueError` for what is not a number of units, `OutsideRequest` if no request is known, or its end is
        past, and `ConfigurationError` for a limit that is not there, or does not apply to the request.
        """
        self._for_handlers.charge(cost, limit)

    def reserve(self, estimate: int, limit: str | None = None) -> Reservation:
        """Hold units of a limit for what a handler is about to do, whose cost is known later.

            async with guard.reserve(2000, "tokens") as hold:       # or `with`, in plain functions
                answer = await model.ask(...)
                hold.settle(answer.tokens)

        If there is no room, `Refused` is raised: left alone, it is answered with a 429, and a websocket that is open is
        closed with the code 1013, try again later. The units are charged when the request is over: what `settle` said,
        else the estimate, or nothing if an exception came out, or the client left.
        If the process dies they are free again seconds later; but those of a limit of which requests take units, too,
        come back with its window.

        `limit` is the `name` of a `RateLimit`, as for `charge`. Raises as `charge` does, and `RuntimeError` if it is
        used in a way that cannot work: reserved twice by one handler, settled twice or too late, or by `with` in an
        event loop although the store has to be awaited.
        """
        return self._for_handlers.reserve(estimate, limit)

    @cached_property
    def _for_handlers(self) -> Handlers:
        made = Handlers if self._guarding else NoHandlers
        return made(self.guards, self.store, self._limits_at_routes, limits_in_shadow(self._declared))

    def _limits_at_routes(self) -> Iterable[RateLimit]:
        return ()
