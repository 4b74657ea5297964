"""A FastAPI app whose operator sees what it does: usage by caller, alerts, a dashboard, metrics.

    pip install 'keyguard[dashboard,demo,prometheus]'
    export KEYGUARD_PEPPER=$(openssl rand -base64 32)
    keyguard store init sqlite:///keyguard.db
    keyguard keys issue --owner acme --store sqlite:///keyguard.db
    keyguard keys issue --owner operator --scope keyguard:admin --store sqlite:///keyguard.db
    uvicorn observed_app:app

- http://127.0.0.1:8000/items/7 is what callers ask for, with the first key; /usage tells them what they have used,
  also when that is all.
- http://127.0.0.1:8000/admin/ is the dashboard: log in with the second key.
- http://127.0.0.1:8000/metrics is for Prometheus, from this machine alone.
- `keyguard why acme --store sqlite:///keyguard.db` tells what bars a caller, and what helps.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

from keyguard import AlertMessage, Alerts, APIKeys, IPFilter, Keyguard, RateLimit, Usage, quota

log = logging.getLogger("observed_app")


def tell(message: AlertMessage) -> None:
    """Tell people, here by the log: a `Webhook(url, secret)` or `slack(url)` stands in the same list."""
    log.warning("%s", message.title)


store = os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db")
guard = Keyguard(
    APIKeys(),
    RateLimit("20/second", quota("100/day"), by="subject", name="daily"),
    store=store,
    usage=Usage(path="/usage"),
    alerts=Alerts(at=(50, 80, 90, 100), to=[tell]),
    name="shop",
)

# What callers ask for, behind the guard.
shop = FastAPI()
shop.add_middleware(guard.asgi)


@shop.get("/items/{item}")
async def item(item: str) -> dict[str, str]:
    return {"item": item}


# What operators see, beside it: no limit of the shop shuts them out.
nearby = Keyguard(IPFilter(allow=["127.0.0.0/8", "::1"]), store="memory://", name="metrics")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await guard.aclose()  # the usage of the last seconds is written, and what is mounted has no lifespan of its own


app = FastAPI(lifespan=lifespan)
app.mount("/admin", guard.dashboard(auth="keys").asgi)
app.routes.append(Route("/metrics", nearby.asgi(guard.metrics().asgi)))
app.mount("/", shop)
