"""A pool of the keys with which an app calls others: it goes on by itself when one runs dry.

Importing this loads no HTTP library.
"""

from __future__ import annotations

from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.told import Exhaustion, Note, listen, tell

__all__ = ["Exhaustion", "Note", "Scope", "UpstreamCause", "Verdict", "listen", "tell"]
