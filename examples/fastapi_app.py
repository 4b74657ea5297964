"""A guarded FastAPI app: `uvicorn fastapi_app:app`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

from fastapi import FastAPI, Request

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

app = FastAPI()
app.add_middleware(guard.asgi)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/items/{item}")
async def item(item: str, request: Request) -> dict[str, str]:
    return {"item": item, "caller": request.scope["keyguard"].identity.subject}
