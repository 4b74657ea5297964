"""Policies as functions: limits by plan, costs by route, keys from your own table."""

from keyguard import APIKeys, Identity, Keyguard, RateLimit, Request, path, smooth

PLANS = {"free": "2/second; 100/day", "pro": "50/second; 100000/day", "staff": None}
CUSTOMERS = {"s3cret-of-ada": Identity("ada", key_id="ada-1", plan="free", scopes=frozenset({"read"}))}


def lookup(key: str) -> Identity | None:
    """Find a key where yours live today: a table, a service. Under ASGI a `def` runs in a thread; it may be async."""
    return CUSTOMERS.get(key)


exports = path("/export/*")


def cost(request: Request) -> int:
    return 10 if exports(request) else 1


def needed_scopes(request: Request) -> list[str]:
    return ["read"] if request.method in ("GET", "HEAD") else ["write"]


guard = Keyguard(
    RateLimit(smooth("20/second", burst=40), by="ip", exempt=path("/health")),
    APIKeys(lookup=lookup, public=["/health"], scopes=needed_scopes),
    RateLimit(plans=PLANS, default="free", cost=cost),  # a key with a plan that is not listed gets the default
    # Writing is dear: all of /items counts together, whatever the item's id.
    RateLimit("30/minute", by="subject", methods=["POST", "PUT", "DELETE"], paths=["/items/{id}"]),
)
