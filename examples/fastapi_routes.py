"""Limits and keys at the routes of a FastAPI app: `uvicorn fastapi_routes:app`, and open `/docs`.

Issue a key with `keyguard keys issue --owner acme --scope write --store sqlite:///keyguard.db`.
"""

import os
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI

from keyguard import APIKeys, Identity, Keyguard, RateLimit

guard = Keyguard(
    APIKeys(optional=True),
    RateLimit("100/minute", by="ip"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)
app = FastAPI()
app.add_middleware(guard.asgi)
guard.install_openapi(app)

items = APIRouter(prefix="/items", dependencies=[Depends(guard.limit("20/minute"))])
Writer = Annotated[Identity, Depends(guard.key(scopes=["write"]))]


@app.get("/search")
@guard.limit("5/minute")
async def search(q: str = "") -> dict[str, str]:
    """Everybody may search, five times a minute."""
    return {"found": q}


@items.get("/{item}")
def item(item: str) -> dict[str, str]:
    return {"item": item}


@items.post("/{item}", dependencies=[Depends(guard.limit("2/minute"))])
async def create(item: str, writer: Writer) -> dict[str, str]:
    """Create an item: for this a key with the scope `write` is needed."""
    return {"item": item, "by": writer.subject}


app.include_router(items)
