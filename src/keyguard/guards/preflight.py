"""CORS preflights: browsers ask by them what a page may do, before the request itself and without a key.

Anybody can send what looks like one, so it must not be a way to have the app do something without a key:

- Only what browsers send is one: no body, and no field that asks for another method (see `Request.preflight`). All else
  is a request like others.
- It passes `APIKeys` without a key only if something inside answers it before any view runs, which is CORS middleware
  that can be seen, or if the app is said to route by method (`preflights=True`).
- A limit outside of `APIKeys` counts it and refuses it, like any other request of its address; one further in does not,
  for it knows nothing of the caller.
- The app gets no body with it, and only the status and the fields come back.
"""

from __future__ import annotations

from keyguard.request import CarriedRequest, Forward
from keyguard.response import Headers, Response

_OF_THE_BODY = ("content-", "transfer-encoding", "trailer", "etag", "last-modified", "set-cookie")


def may_pass(request: CarriedRequest, preflights: bool | None) -> bool:
    """Tell whether a request without a key is a preflight that needs none."""
    if request.method != "OPTIONS" or preflights is False:
        return False
    return request.preflight and (preflights is True or request.inside.answers_preflights)


async def pass_preflight(request: CarriedRequest, forward: Forward) -> Response:
    """Let a preflight through. The status and the fields come back, and no body."""
    request.state.preflight = True
    response = await forward(request)
    if request.state.refusal is not None:
        return response  # of a guard further in
    fields = [(name, value) for name, value in response.headers if not name.lower().startswith(_OF_THE_BODY)]
    return Response(response.status, Headers(fields), b"")
