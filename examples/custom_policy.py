"""Policies as functions: limits by plan, costs by route, keys from your own table."""

from keyguard import APIKeys, Identity, Keyguard, RateLimit, Request, smooth

PLANS = {"free": "2/second; 100/day", "pro": "50/second; 100000/day", "staff": None}
CUSTOMERS = {"s3cret-of-ada": Identity("ada", key_id="ada-1", plan="free", scopes=frozenset({"read"}))}


def lookup(key: str) -> Identity | None:
    """Find a key where yours live today: a table, a service. Under ASGI a `def` runs in a thread; it may be async."""
    return CUSTOMERS.get(key)


def plan(request: Request) -> str | None:
    """`None`: no limit applies."""
    return PLANS[request.identity.plan or "free"]


def cost(request: Request) -> int:
    return 10 if request.path.startswith("/export") else 1


def needed_scopes(request: Request) -> list[str]:
    return ["read"] if request.method in ("GET", "HEAD") else ["write"]


guard = Keyguard(
    RateLimit(smooth("20/second", burst=40), by="ip", exempt=lambda request: request.path == "/health"),
    APIKeys(lookup=lookup, public=["/health"], scopes=needed_scopes),
    RateLimit(plan, by="subject", cost=cost),
    # Writing is dear: all of /items counts together, whatever the item's id.
    RateLimit("30/minute", by="subject", methods=["POST", "PUT", "DELETE"], paths=["/items/{id}"]),
)
