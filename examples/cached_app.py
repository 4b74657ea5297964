"""A FastAPI app with a response cache: `uvicorn cached_app:app`, then ask twice for /products: see `cache-status`."""

import os

from fastapi import FastAPI, Request

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache, cache_control
from keyguard import Request as GuardRequest


def needed_scopes(request: GuardRequest) -> list[str] | None:
    return ["write"] if request.method == "PUT" else None


guard = Keyguard(
    APIKeys(optional=True, scopes=needed_scopes),
    RateLimit("100/minute", by="ip"),
    ResponseCache(),
    store=os.environ.get("KEYGUARD_STORE", "memory://"),
)

app = FastAPI()
app.add_middleware(guard.asgi)

stock = {"tea": 3, "coffee": 5}


@app.get("/products")
@cache_control(max_age=60, swr=30, public=True, tags=["products"])
async def products() -> dict[str, int]:
    return stock


@app.put("/products/{name}")
async def put_product(name: str, price: int) -> dict[str, int]:
    stock[name] = price
    await guard.cache.apurge(tag="products")  # the list shows it at once, in every process
    return {name: price}


@app.get("/me")
@cache_control(max_age=60)  # not public: a caller with a key gets it made anew each time
async def me(request: Request) -> dict[str, str]:
    return {"caller": request.scope["keyguard"].identity.subject or "nobody"}
