"""A guarded Quart app: `hypercorn quart_app:app`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

from quart import Quart, request

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    RateLimit("1000/day", by="key", cost=0, name="tokens"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

app = Quart(__name__)
guard.init_app(app)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/items/<item>")
async def item(item: str) -> dict[str, str | None]:
    return {"item": item, "caller": guard.here().caller.subject}


@app.get("/summary")
@guard.limit("5/minute")
async def summary() -> dict[str, int]:
    tokens = request.args.get("tokens", 0, type=int)
    async with guard.reserve(tokens, "tokens") as hold:
        hold.settle(tokens // 2)
    return {"tokens": tokens // 2}
