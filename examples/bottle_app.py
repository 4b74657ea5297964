"""A guarded Bottle app: `gunicorn bottle_app:application`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

from bottle import Bottle, request

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    RateLimit("1000/day", by="key", cost=0, name="tokens"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

app = Bottle()


@app.get("/health")  # type: ignore[untyped-decorator]
def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/items/<item>")  # type: ignore[untyped-decorator]
def item(item: str) -> dict[str, str | None]:
    return {"item": item, "caller": guard.here().caller.subject}


@app.get("/summary")  # type: ignore[untyped-decorator]
def summary() -> dict[str, int]:
    tokens = int(request.query["tokens"])
    with guard.reserve(tokens, "tokens") as hold:
        hold.settle(tokens // 2)
    return {"tokens": tokens // 2}


application = guard.wsgi(app)
