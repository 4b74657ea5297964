"""A stand-in for providers of APIs: with their keys, limits, fields, streams and refusals, and faults by script.

It makes no guess about what a model would say, and nobody pays for it. Text counts as one token for four letters.
"""

from __future__ import annotations

from keyguard.testing.provider.dialects import DialectName
from keyguard.testing.provider.provider import FakeProvider
from keyguard.testing.provider.received import Received
from keyguard.testing.provider.scripted import Answer, ErrorEvent, Reset, Stall, Step

__all__ = ["Answer", "DialectName", "ErrorEvent", "FakeProvider", "Received", "Reset", "Stall", "Step"]
