"""A guarded Litestar app: `uvicorn litestar_app:app`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

from litestar import Litestar, Request, Response, get

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit, Refused

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    RateLimit("1000/day", by="key", cost=0, name="tokens"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)


@get("/health", sync_to_thread=False)
def health() -> dict[str, bool]:
    return {"ok": True}


@get("/items/{item:str}")
async def item(request: Request) -> dict[str, str | None]:  # type: ignore[type-arg]
    return {"item": request.path_params["item"], "caller": guard.here().caller.subject}


@get("/summary")
async def summary(request: Request) -> dict[str, int]:  # type: ignore[type-arg]
    tokens = int(request.query_params["tokens"])
    async with guard.reserve(tokens, "tokens") as hold:
        hold.settle(tokens // 2)
    return {"tokens": tokens // 2}


def refused(request: Request, error: Refused) -> Response[bytes]:  # type: ignore[type-arg]
    """Answer in keyguard's form; Litestar has one of its own."""
    answer = error.answer
    return Response(bytes(answer.body), status_code=answer.status, headers=dict(answer.headers))  # type: ignore[arg-type]


app = Litestar([health, item, summary], middleware=[guard.asgi], exception_handlers={Refused: refused})
