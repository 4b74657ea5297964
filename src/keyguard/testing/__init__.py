"""For tests, yours too: a clock that stands still, one request through a guard, a fake provider of APIs, and the
conformance suite of stores.

    clock = ManualClock()
    guard = Keyguard(RateLimit("1/minute"), store="memory://", clock=clock)
    answer = play(guard, "/search", interface="asgi")

A whole app is tested inside of `with guard.testing() as g:` (`UnderTest`), a pool of keys against a `FakeProvider`.

A store of your own is held to the meaning of all operations:

    check_store(lambda clock: MyStore(clock=clock))
"""

from typing import TYPE_CHECKING, Any

from keyguard.manual_clock import ManualClock
from keyguard.stack.under_test import UnderTest
from keyguard.testing.conformance import Reference, check_store
from keyguard.testing.play import Played, aplay, play

if TYPE_CHECKING:
    from keyguard.testing.provider import FakeProvider

__all__ = ["FakeProvider", "ManualClock", "Played", "Reference", "UnderTest", "aplay", "check_store", "play"]


def __getattr__(name: str) -> Any:
    if name != "FakeProvider":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from keyguard.testing.provider import FakeProvider  # which most tests do without

    return FakeProvider
