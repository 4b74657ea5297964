"""A guarded Django project in one file: `gunicorn django_app:application`, or `uvicorn django_app:asgi_application`.

In a project of several files the last lines belong into its `wsgi.py` and `asgi.py`.
"""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=os.urandom(32).hex(), ALLOWED_HOSTS=["*"])


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"ok": True})


def item(request: HttpRequest, item: str) -> JsonResponse:
    # Under WSGI request.META is the environ; under ASGI the scope stands on the request.
    found = request.META.get("keyguard.request") or request.scope["keyguard"]
    return JsonResponse({"item": item, "caller": found.identity.subject})


urlpatterns = [path("health", health), path("items/<item>", item)]

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)

application = guard.wsgi(get_wsgi_application())
asgi_application = guard.asgi(get_asgi_application())
