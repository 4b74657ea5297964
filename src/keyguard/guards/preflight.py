"""CORS preflights: who may do what is asked for by browsers before the request itself, without a key.

They are neither authenticated nor counted, and anybody can send what looks like one. So they are let through for the
fields of their answer alone: an app that runs a view whatever the method, as Django's function views do, shows nobody
the body that way.
"""

from __future__ import annotations

from keyguard.request import Forward, Request
from keyguard.response import Headers, Response

_OF_THE_BODY = ("content-", "transfer-encoding", "trailer", "etag", "last-modified", "set-cookie")


def is_preflight(request: Request) -> bool:
    """Whether a request is a CORS preflight, of which nothing is known of its caller: browsers send no key with it."""
    if request.method != "OPTIONS" or not request.preflight:
        return False
    identity = request.findings.identity
    return identity is None or identity.anonymous


async def pass_preflight(request: Request, forward: Forward) -> Response:
    """Let a preflight through. What comes back is the status and the fields, and no body."""
    response = await forward(request)
    if request.findings.refusal is not None:
        return response  # of a guard further in
    fields = [(name, value) for name, value in response.headers if not name.lower().startswith(_OF_THE_BODY)]
    return Response(response.status, Headers(fields), b"")
