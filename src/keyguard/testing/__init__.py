"""For tests, yours too: a clock that stands still, one request through a guard, and the conformance suite of stores.

clock = ManualClock()
answer = play(RateLimit("1/minute"), store=MemoryStore(clock=clock))
clock.advance("1 minute")

check_store(lambda clock: MyStore(clock=clock))
"""

from keyguard.manual_clock import ManualClock as ManualClock
from keyguard.testing.conformance import Reference as Reference
from keyguard.testing.conformance import check_store as check_store
from keyguard.testing.play import Played as Played
from keyguard.testing.play import play as play

__all__ = ["ManualClock", "Played", "Reference", "check_store", "play"]
