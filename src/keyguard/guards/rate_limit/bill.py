"""The bill of one request: what its limits took, and what it costs in the end."""

from __future__ import annotations

from keyguard.chain import within
from keyguard.clock import monotonic
from keyguard.flow import Flow
from keyguard.guards.rate_limit.outcomes import STAYS, Charge, book, stays
from keyguard.guards.rate_limit.rules import RuleDemands
from keyguard.guards.rate_limit.settling import Outcome, ResponseFields, Settling
from keyguard.ops import Settle, Taken
from keyguard.refusal import Cause
from keyguard.request import Forward, Request, carried
from keyguard.response import Headers, Response


class Bill(Charge):
    """The charge for a request, some limits of which say what it costs when it is over."""

    __slots__ = ("_began", "_failure", "_headers", "_request", "_status")

    def __init__(self, request: Request, taken: Taken) -> None:
        super().__init__(taken)
        self._request = request
        self._began = monotonic()
        self._status = 0
        self._headers: Headers | None = None
        self._failure: BaseException | None = None

    async def forward(self, request: Request, forward: Forward) -> Response:
        """Forward the request, and have the bill paid when it is over."""
        request.at_end(self.pay)
        try:
            return await within((self,), request, forward)
        except BaseException as error:
            self._failure = error
            raise

    def head(self, request: Request, status: int, headers: Headers) -> Flow[None] | None:
        self._status, self._headers = status, headers
        refusal = request.state.refusal
        if status >= 400 and refusal is not None:
            carried(request).not_at_end(self.pay)
            return self._settled(self._outcome(status, None, left=False), refusal.cause)
        return super().head(request, status, headers)

    def failed(self, request: Request, error: BaseException) -> Flow[None]:
        carried(request).not_at_end(self.pay)
        return super().failed(request, error)

    def pay(self) -> Flow[None] | None:
        """Settle the request: called when it is over."""
        state = self._request.state
        failure, self._failure = self._failure or state.failure, None  # or its frames and this would hold each other
        stopped = failure is not None and not isinstance(failure, Exception)
        left = stopped or type(failure).__name__ == _LEFT or (failure is None and not state.whole)
        status = self._status or (499 if left else 500)
        return self._settled(self._outcome(status, failure, left=left))

    def _outcome(self, status: int, failure: BaseException | None, *, left: bool) -> Outcome:
        return Outcome(status, failure, ResponseFields(self._headers), monotonic() - self._began, left)

    def _settled(self, outcome: Outcome, refused: Cause | None = None) -> Flow[None] | None:
        """Settle the request; `refused` is why a guard further in refused it."""
        demands = self.taken.demands
        assert isinstance(demands, RuleDemands)
        known: dict[Settling, int] = {}
        """What each function says, which is asked once for all limits of its guard."""
        costs = []
        for rule, demand in zip(demands.rules, demands, strict=True):
            settling = rule.settling
            if refused is not None and not (refused in STAYS and stays(rule, demand)):
                costs.append(0)
            elif settling is None:
                costs.append(demand.cost)
            else:
                if settling not in known:
                    known[settling] = settling.cost(rule.guard, outcome, demand.cost)
                costs.append(known[settling])
        if all(cost == demand.cost for cost, demand in zip(costs, demands, strict=True)):
            return None
        return book(Settle(self.taken, costs))


_LEFT = "ClientDisconnect"
"""By the name of this exception Starlette tells its own code that the client has left."""
