"""A FastAPI app whose operator sees what it does: usage by caller, alerts, a dashboard, metrics.

    pip install 'keyguard[dashboard,demo,prometheus]'
    export KEYGUARD_PEPPER=$(openssl rand -base64 32)
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

from fastapi import FastAPI
from starlette.routing import Route

from keyguard import AlertMessage, Alerts, APIKeys, IPFilter, Keyguard, RateLimit, Usage, quota

log = logging.getLogger("observed_app")


def tell(message: AlertMessage) -> None:
    """Tell people, here by the log: a `Webhook(url, secret)` or `slack(url)` stands in the same list."""
    log.warning("%s", message.title)


guard = Keyguard(
    IPFilter(allow=["127.0.0.0/8", "::1"], paths=["/metrics"]),
    APIKeys(public=["/metrics"]),
    RateLimit("20/second", quota("100/day"), by="subject", paths=["/items/*"], name="daily"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
    usage=Usage(path="/usage"),
    alerts=Alerts(at=(50, 80, 90, 100), to=[tell]),
    name="shop",
)

shop = FastAPI()
shop.routes.append(Route("/metrics", guard.metrics().asgi))


@shop.get("/items/{item}")
async def item(item: str) -> dict[str, str]:
    return {"item": item}


app = guard.dashboard(auth="keys").beside(guard.asgi(shop), "/admin")
