"""What the name of a request field means to a cache: who asks, for what, or that no copy answers.

Frameworks, their proxy middleware and servers let header fields change the method, the host or the path of what the app
sees. There are many such fields and no registry, so names are read by the words in them. A field too many that is taken
for one parts two requests that could have shared an answer; one that is missed lets whoever sends it poison an entry.
"""

from __future__ import annotations

import re
from functools import lru_cache

from keyguard.guards.cache.policy import names_request
from keyguard.http.callers import PERHAPS as PERHAPS
from keyguard.http.callers import SURELY as SURELY
from keyguard.http.callers import named_by
from keyguard.http.fields import LONGEST_NAME, METHOD_OVERRIDES, asks_for_another_method

KEYED = 4
"""It may change the scheme, the host or the path that the app goes by: its value is a part of the key."""
UNCACHED = 8
"""The request has nothing to do with a cache."""

_UNCACHED = frozenset(
    {
        # A body on a GET, another method or another path than the request line's: the answer may be another.
        *("transfer-encoding", "x-original-url", "x-rewrite-url", *METHOD_OVERRIDES.names),
        # These are for the resource itself, not for a copy of it (RFC 9111, section 4.3.2); this switches protocols.
        *("if-match", "if-unmodified-since", "upgrade"),
    }
)
_KEYED = re.compile(
    r"(?:^|-)(?:host|hosts|hostname|vhost|scheme|proto|protocol|port|prefix|path|pathname|uri|url|ssl|tls|https|script|"
    r"authority|domain|site|base|root|mount|server|forwarded|original|originally|orig|rewrite|rewritten|rewrote|"
    r"unrewritten|query|args|visitor|location|destination|dst)(?:-|$)"
)
_NOT_KEYED = frozenset({"host", "referer", "origin", "access-control-request-method", "upgrade-insecure-requests"})
_OF_CLIENT = re.compile(r"(?:for|by|ip|ips|addr|address|remote-port|client-port|source-port)$|sec-|content-|cf-ip")
"""Names that say where a request came from."""


def meaning(name: str) -> int:
    """Tell what a request field means by its name, in lower case: some of `PERHAPS`, `SURELY`, `KEYED`, `UNCACHED`."""
    return UNCACHED if len(name) > LONGEST_NAME else _meaning(name)  # nobody names a field so in earnest


@lru_cache(maxsize=4096)
def _meaning(name: str) -> int:
    if name in _UNCACHED or asks_for_another_method(name):
        return UNCACHED
    found = named_by(name)
    hyphens = name.replace("_", "-")
    if name == "forwarded" or (
        found != SURELY
        and _KEYED.search(hyphens)
        and hyphens not in _NOT_KEYED
        and not _OF_CLIENT.search(hyphens)
        and not names_request(hyphens)
    ):
        found |= KEYED
    return found
