"""A guarded Flask app: `waitress-serve flask_app:app`, or `gunicorn -w 4 flask_app:app`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

from flask import Flask, request

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

app = Flask(__name__)
app.wsgi_app = guard.wsgi(app.wsgi_app)  # type: ignore[method-assign]


@app.get("/health")
def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/items/<item>")
def item(item: str) -> dict[str, str]:
    return {"item": item, "caller": request.environ["keyguard.request"].identity.subject}
