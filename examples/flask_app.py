"""A guarded Flask app: `waitress-serve flask_app:app`, or `gunicorn -w 4 flask_app:app`.

Issue a key with `flask --app flask_app keyguard keys issue --owner acme`.
"""

import os

from flask import Blueprint, Flask

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

app = Flask(__name__)
guard.init_app(app)


@app.get("/health")
def health() -> dict[str, bool]:
    return {"ok": True}


@app.get("/items/<item>")
def item(item: str) -> dict[str, str | None]:
    return {"item": item, "caller": guard.here().caller.subject}


@app.get("/search")
@guard.limit("5/minute")
def search() -> dict[str, list[str]]:
    return {"found": []}


admin = Blueprint("admin", __name__, url_prefix="/admin")
admin.before_request(guard.key(scopes=["admin"]))


@admin.get("/keys")
def keys() -> dict[str, int]:
    return {"keys": len(guard.keys.list())}


app.register_blueprint(admin)
