"""The recent costs of each caller, in this process: how much is to be reserved for the next request."""

from __future__ import annotations

from collections import OrderedDict, deque

from keyguard.process.fork import ProcessLock

CALLERS = 4096
"""Callers that are remembered; of more, those who were heard of last."""
COSTS = 64
"""Costs of each."""
ENOUGH = 20
"""Costs of which a 95th percentile can be told."""


class Recent:
    """The costs of recent requests, less what was reckoned for their input."""

    def __init__(self) -> None:
        self._lock = ProcessLock()
        self._callers: OrderedDict[str, deque[int]] = OrderedDict()

    def note(self, caller: str, cost: int) -> None:
        """Take note of a cost."""
        with self._lock:
            costs = self._callers.pop(caller, None)
            if costs is None:
                costs = deque(maxlen=COSTS)
                if len(self._callers) >= CALLERS:
                    self._callers.popitem(last=False)
            self._callers[caller] = costs
            costs.append(cost)

    def most(self, caller: str, otherwise: int) -> int:
        """Return what 95 of 100 requests of a caller cost at most.

        While that cannot be told yet: the most that any has cost, or `otherwise` if that is more.
        """
        with self._lock:
            costs = sorted(self._callers.get(caller, ()))
        if len(costs) >= ENOUGH:
            return costs[-(-len(costs) * 95 // 100) - 1]
        return max(otherwise, *costs) if costs else otherwise
