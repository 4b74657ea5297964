"""A service for short links: FastAPI, keys of its own, limits by slowapi. Ported in `after.py`."""

import hashlib
import hmac
import os
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address

db = sqlite3.connect(os.environ.get("LINKS_DB", ":memory:"), check_same_thread=False)
db.execute(
    "CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, digest TEXT, owner TEXT, scopes TEXT, revoked INTEGER)"
)


@dataclass
class Caller:
    key_id: str
    owner: str
    scopes: set[str]


def issue(owner: str, *scopes: str) -> str:
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(24)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    db.execute("INSERT INTO keys VALUES (?, ?, ?, ?, 0)", (key_id, digest, owner, " ".join(scopes)))
    db.commit()
    return f"{key_id}.{secret}"


def revoke(key: str) -> None:
    db.execute("UPDATE keys SET revoked = 1 WHERE id = ?", (key.partition(".")[0],))
    db.commit()


def sent_key(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def caller(request: Request) -> Caller:
    key_id, _, secret = sent_key(request).partition(".")
    row = db.execute("SELECT digest, owner, scopes FROM keys WHERE id = ? AND revoked = 0", (key_id,)).fetchone()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    if row is None or not hmac.compare_digest(row[0], digest):
        raise HTTPException(401, "A valid API key is needed.", {"WWW-Authenticate": "Bearer"})
    return Caller(key_id, row[1], set(row[2].split()))


def writer(found: Annotated[Caller, Depends(caller)]) -> Caller:
    if "write" not in found.scopes:
        raise HTTPException(403, "The key lacks the scope 'write'.")
    return found


def by_key(request: Request) -> str:
    return sent_key(request).partition(".")[0] or get_remote_address(request)


limiter = Limiter(
    key_func=by_key,
    default_limits=["100/minute"],
    headers_enabled=True,
    key_style="endpoint",
    strategy="moving-window",
)
app = FastAPI()
app.state.limiter = limiter
app.add_middleware(SlowAPIMiddleware)
links: dict[str, tuple[str, str]] = {}


@app.exception_handler(RateLimitExceeded)
async def refused(request: Request, error: RateLimitExceeded) -> Response:
    answer = JSONResponse({"error": f"Limit reached: {error.detail}"}, 429)
    limiter._inject_headers(answer, request.state.view_rate_limit)
    return answer


@app.get("/health")
@limiter.exempt
async def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/links")
async def mine(found: Annotated[Caller, Depends(caller)]) -> dict[str, str]:
    return {name: target for name, (owner, target) in links.items() if owner == found.owner}


@app.post("/links/{name}", status_code=201)
@limiter.limit("3/minute")
async def create(
    request: Request, response: Response, name: str, target: str, found: Annotated[Caller, Depends(writer)]
) -> dict[str, str]:
    links[name] = (found.owner, target)
    return {"link": f"/go/{name}"}


@app.get("/go/{name}")
@limiter.limit("5/minute", key_func=get_remote_address)
async def go(request: Request, response: Response, name: str) -> dict[str, str]:
    if name not in links:
        raise HTTPException(404)
    return {"target": links[name][1]}
