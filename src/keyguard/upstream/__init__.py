"""A pool of the keys with which an app calls others: it goes on by itself when one runs dry.

Importing this loads no HTTP library.
"""

from __future__ import annotations

from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.told import EXHAUSTION_FIELD, Exhaustion, behind, find, tell

__all__ = ["EXHAUSTION_FIELD", "Exhaustion", "Scope", "UpstreamCause", "Verdict", "behind", "find", "tell"]
