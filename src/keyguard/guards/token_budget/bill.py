"""The bill of one request: what is held for it, and what it has cost when it is over.

    the app has not been reached, or has answered 300 or more, or failed before it answered     nothing
    a response cache has answered                                                               nothing
    the answer, or its stream, tells of usage                                                   that
    it tells nothing, or was cut short: in hard mode                                            what was reserved
                                        in soft mode                                            what was seen of it

What was seen are the characters that the model has written, four for a token, and the input as it was reckoned. In a
stream of text usage is not believed if it is less: it may be what the model has written.
"""

from __future__ import annotations

from typing import Protocol

from keyguard.flow import Flow
from keyguard.guards.rate_limit.costs import tell_of_costs
from keyguard.guards.rate_limit.outcomes import book
from keyguard.guards.token_budget.answer import Answer
from keyguard.guards.token_budget.usage import MOST
from keyguard.logs import logger
from keyguard.ops import Settle, Taken
from keyguard.renewals import Kept
from keyguard.request import CarriedRequest

log = logger("keyguard")


class Budget(Protocol):
    """A token budget, as far as bills need to know it."""

    hard: bool

    def learn(self, caller: str, cost: int) -> None: ...

    def overran(self, cost: int, reserved: int) -> None: ...


class Bill:
    """The units that are held for a request, until it is over."""

    def __init__(
        self, budget: Budget, request: CarriedRequest, caller: str, taken: Taken, kept: Kept | None, sent: int
    ) -> None:
        self._budget = budget
        self._request = request
        self._caller = caller
        self.taken = taken
        self._kept = kept
        self._sent = sent
        """The tokens of the input, as it was reckoned."""
        self.reserved = taken.demands[0].cost
        self.status = 0
        self.answer: Answer | None = None
        """The reader of the answer; `None` if that makes no difference."""

    def pay(self) -> Flow[None]:
        """Settle the request: called when it is over."""
        if self._kept is not None:
            self._kept.let_go()
        cost = self._cost()
        if self._request.settings.sinks:
            tell_of_costs(self._request, [(demand, cost) for demand in self.taken.demands])
        return book(Settle(self.taken, [cost] * len(self.taken.demands)))

    def _cost(self) -> int:
        answer = self.answer
        if answer is None:
            return self._unanswered()
        answer.end()
        usage = answer.usage
        seen = self._sent + answer.tokens
        final = usage.final and not answer.raw
        if final:
            cost = usage.total
        elif answer.failed and not usage.known and not answer.characters:
            return 0
        elif self._budget.hard or not answer.readable:
            cost = max(self.reserved, usage.total)
        else:
            sent = self._sent if usage.input is None else usage.input
            cost = min(MOST, max(usage.total, sent + answer.tokens))
        if final or answer.readable:
            self._budget.learn(self._caller, (cost if final else seen) - self._sent)
        if cost > self.reserved:
            self._budget.overran(cost, self.reserved)
        return cost

    def _unanswered(self) -> int:
        """Return the cost of a request without an answer that is read: of one that was left before, say."""
        failure = self._request.state.failure
        stopped = failure is not None and not isinstance(failure, Exception)
        if self.status or not self._request.reached_app or not stopped:
            return 0
        return self.reserved if self._budget.hard else self._sent
