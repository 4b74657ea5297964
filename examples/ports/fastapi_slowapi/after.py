"""The same service with keyguard: what it was before stands in `before.py`."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException

from keyguard import APIKeys, Identity, Keyguard, RateLimit

guard = Keyguard(
    APIKeys(public=["/health", "/go/*"]),
    RateLimit("100/minute", by="key", exempt=lambda request: request.path == "/health"),
    store=os.environ.get("LINKS_DB", "memory://"),
)
app = FastAPI()
app.add_middleware(guard.asgi)
links: dict[str, tuple[str, str]] = {}


def issue(owner: str, *scopes: str) -> str:
    return guard.keys.issue(owner, scopes=scopes).key.reveal()


def revoke(key: str) -> None:
    guard.keys.revoke(key.split("_")[2])


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/links")
async def mine(caller: Annotated[Identity, Depends(guard.key())]) -> dict[str, str]:
    return {name: target for name, (owner, target) in links.items() if owner == caller.subject}


@app.post("/links/{name}", status_code=201)
@guard.limit("3/minute")
async def create(
    name: str, target: str, caller: Annotated[Identity, Depends(guard.key(scopes=["write"]))]
) -> dict[str, str]:
    links[name] = (caller.subject or "", target)
    return {"link": f"/go/{name}"}


@app.get("/go/{name}")
@guard.limit("5/minute", by="ip")
async def go(name: str) -> dict[str, str]:
    if name not in links:
        raise HTTPException(404)
    return {"target": links[name][1]}
