"""A guarded Falcon app: `gunicorn falcon_app:application`, or `uvicorn falcon_app:asgi_application`.

Issue a key with `keyguard keys issue --owner acme --store sqlite:///keyguard.db`.
"""

import os

import falcon
import falcon.asgi

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    RateLimit("1000/day", by="key", cost=0, name="tokens"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)


class Health:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.media = {"ok": True}


class Item:
    def on_get(self, request: falcon.Request, response: falcon.Response, item: str) -> None:
        response.media = {"item": item, "caller": guard.here().caller.subject}


class Summary:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        tokens = request.get_param_as_int("tokens") or 0
        with guard.reserve(tokens, "tokens") as hold:
            hold.settle(tokens // 2)
        response.media = {"tokens": tokens // 2}


app = falcon.App()
app.add_route("/health", Health())
app.add_route("/items/{item}", Item())
app.add_route("/summary", Summary())
application = guard.wsgi(app)


class AsyncHealth:
    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        response.media = {"ok": True}


class AsyncItem:
    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response, item: str) -> None:
        response.media = {"item": item, "caller": guard.here().caller.subject}


class AsyncSummary:
    async def on_get(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        tokens = request.get_param_as_int("tokens") or 0
        async with guard.reserve(tokens, "tokens") as hold:
            hold.settle(tokens // 2)
        response.media = {"tokens": tokens // 2}


asgi_app = falcon.asgi.App()
asgi_app.add_route("/health", AsyncHealth())
asgi_app.add_route("/items/{item}", AsyncItem())
asgi_app.add_route("/summary", AsyncSummary())
asgi_application = guard.asgi(asgi_app)
