"""Names of header fields, and what they mean to a cache: who asks, for what, that no copy answers, or which request.

Frameworks, their proxy middleware and servers let header fields change the method, the host or the path of what the app
sees. There are many such fields and no registry, so names are read by the words in them. A field that is wrongly taken
for one of these keeps two requests from sharing an answer; one that is missed lets its sender poison an entry.
"""

from __future__ import annotations

import re
from functools import lru_cache

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
"""Names of fields that are about the origin of a request."""
# Fields that name one request: a hit answers another one, whose name comes from the middleware that gives it.
_OF_ONE_REQUEST = re.compile(
    r"(?:[a-z0-9]+-)*(?:request|correlation|trace|span)-?(?:id|uuid|guid)|b3|x-b3-[a-z]+|baggage|cf-ray|sentry-trace|"
    r"(?:[a-z0-9]+-)*trace(?:parent|state|response)|x-cloud-trace-context|server-timing|"  # which may hold one too
    r"x-(?:req|unique|opaque|invocation|global-transaction|vercel|amz-cf)-id|x-amz-id-2|x-azure-ref|rndr-id",
    re.IGNORECASE,
)


def meaning(name: str) -> int:
    """Tell what a request field means by its name, in lower case: some of `PERHAPS`, `SURELY`, `KEYED`, `UNCACHED`."""
    return UNCACHED if len(name) > LONGEST_NAME else _meaning(name)  # no honest field has a name as long as that


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


def names_request(name: str) -> bool:
    """Tell whether a response field is the id of the request that was answered, or of its trace."""
    return _OF_ONE_REQUEST.fullmatch(name) is not None
