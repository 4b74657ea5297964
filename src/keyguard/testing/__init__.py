"""For tests, yours too: a clock that stands still, one request through a guard, and the conformance suite of stores.

    clock = ManualClock()
    answer = play(RateLimit("1/minute"), store=MemoryStore(clock=clock))

A store of your own is held to the meaning of all operations:

    check_store(lambda clock: MyStore(clock=clock))
"""

from keyguard.manual_clock import ManualClock
from keyguard.testing.conformance import Reference, check_store
from keyguard.testing.play import Played, play

__all__ = ["ManualClock", "Played", "Reference", "check_store", "play"]
