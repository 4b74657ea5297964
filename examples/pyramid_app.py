"""A guarded Pyramid app: `waitress-serve pyramid_app:application`, or `gunicorn pyramid_app:application`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os
from typing import Any

from pyramid.config import Configurator

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    RateLimit("1000/day", by="key", cost=0, name="tokens"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)


def health(request: Any) -> dict[str, bool]:
    return {"ok": True}


def item(request: Any) -> dict[str, str | None]:
    return {"item": request.matchdict["item"], "caller": guard.here().caller.subject}


def summary(request: Any) -> dict[str, int]:
    tokens = int(request.params["tokens"])
    with guard.reserve(tokens, "tokens") as hold:
        hold.settle(tokens // 2)
    return {"tokens": tokens // 2}


with Configurator() as config:
    for name, path, view in (
        ("health", "/health", health),
        ("item", "/items/{item}", item),
        ("summary", "/summary", summary),
    ):
        config.add_route(name, path)
        config.add_view(view, route_name=name, renderer="json")
    application = guard.wsgi(config.make_wsgi_app())
