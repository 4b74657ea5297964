"""For tests, yours too: a clock that stands still, one request through a guard, and the conformance suite of stores.

    clock = ManualClock()
    guard = Keyguard(RateLimit("1/minute"), store="memory://", clock=clock)
    answer = play(guard, "/search", interface="asgi")

A whole app is tested inside of `with guard.testing() as g:` (`UnderTest`).

A store of your own is held to the meaning of all operations:

    check_store(lambda clock: MyStore(clock=clock))
"""

from keyguard.manual_clock import ManualClock
from keyguard.stack.under_test import UnderTest
from keyguard.testing.conformance import Reference, check_store
from keyguard.testing.play import Played, aplay, play

__all__ = ["ManualClock", "Played", "Reference", "UnderTest", "aplay", "check_store", "play"]
