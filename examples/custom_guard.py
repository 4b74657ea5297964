"""Guards of your own: written once, they run under ASGI and WSGI.

A plain one looks at the request head. One that surrounds the app sees the response head too, and may do something
when the last byte has gone.
"""

from keyguard import Cause, Forward, Keyguard, Request, Response, refuse


def maintenance(request: Request) -> Response | None:
    """Closed for writing, for the next ten minutes."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    detail = "The service is being moved and takes no changes at the moment."
    return refuse(request, Cause.FAULT, detail, reason="maintenance", retry_after="10 minutes")


class InFlight:
    """Counts the requests that are being answered, and refuses more than so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = 0

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if self.now >= self.most:
            detail = "All places are taken. Your key and your limits are not the reason."
            return refuse(request, Cause.OVERLOAD, detail, reason="in-flight", retry_after=1)
        self.now += 1
        request.at_end(self.leave)
        response = await forward(request)
        response.headers.set("X-In-Flight", str(self.now))
        return response

    def leave(self) -> None:
        self.now -= 1


guard = Keyguard(maintenance, InFlight(100))
