"""What a way to a server may spoil, whatever is asked: large values, many at once, threads, and event loops."""

from __future__ import annotations

from collections.abc import Callable

from keyguard.ops import Store
from keyguard.testing import ManualClock
from keyguard.testing.conformance.comparing import twins
from keyguard.testing.conformance.drawing import LIMITS, Steps
from keyguard.testing.conformance.steps import check_async, check_random_steps, check_threads, check_traits
from keyguard.testing.conformance.values import check_plain_values


def check_transport(make_store: Callable[[ManualClock], Store], steps: int = 20) -> None:
    """Hold a store to the part of the conformance suite that hangs on the way: the rest is asked without it as well."""
    check_random_steps(make_store, steps, [Steps(1, LIMITS, together=4)])
    with twins(make_store) as compared:
        check_plain_values(compared)
    check_threads(make_store)
    check_async(make_store, back=True)
    check_traits(make_store)
