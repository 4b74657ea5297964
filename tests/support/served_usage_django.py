"""Apps of Django with the ledger of `served_usage.py`: guarded by its middleware, and from around as well."""

from __future__ import annotations

import secrets

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.support.served_usage import guard

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY=secrets.token_hex(),
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["keyguard.django.Middleware"],
    INSTALLED_APPS=["keyguard.django"],
    KEYGUARD="tests.support.served_usage.guard",
)


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"")


urlpatterns = [path("", view)]
django.setup()
asgi = get_asgi_application()
around = guard.asgi(asgi)
wsgi = get_wsgi_application()
