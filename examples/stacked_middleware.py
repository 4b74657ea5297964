"""Single middleware classes, stacked one by one as each framework does it.

What finds the caller must stand outside what counts by the caller: it is added later. Given the other way round,
the app does not start.
"""

import os

from flask import Flask
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import keyguard.asgi
import keyguard.wsgi
from keyguard import open_store

# One store object for all layers; a URL given to each would open the same file three times.
store = open_store(os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"))


async def hello(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello " + request.scope["keyguard"].identity.subject)


asgi_app = Starlette(routes=[Route("/hello", hello)])
asgi_app.add_middleware(keyguard.asgi.RateLimit, "100/minute", by="key", store=store)
asgi_app.add_middleware(keyguard.asgi.APIKeys, store=store)
asgi_app.add_middleware(keyguard.asgi.IPFilter, deny=["203.0.113.0/24"], store=store)

wsgi_app = Flask(__name__)
wsgi_app.add_url_rule("/hello", view_func=lambda: "hello")
layers = keyguard.wsgi.RateLimit(wsgi_app.wsgi_app, "100/minute", by="key", store=store)
layers = keyguard.wsgi.APIKeys(layers, store=store)  # type: ignore[assignment]
layers = keyguard.wsgi.IPFilter(layers, deny=["203.0.113.0/24"], store=store)  # type: ignore[assignment]
wsgi_app.wsgi_app = layers  # type: ignore[method-assign]
