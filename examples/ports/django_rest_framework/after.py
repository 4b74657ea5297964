"""The same service with keyguard: what it was before stands in `before.py`."""

import secrets

import django
from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "keyguard.django"],
    MIDDLEWARE=["keyguard.django.Middleware"],
    KEYGUARD=f"{__name__}.guard",
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyguard.django.rest.KeyAuthentication"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    },
)
django.setup()

# What reads settings when it is imported comes after them.
from django.urls import path  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from keyguard import APIKeys, Keyguard, RateLimit  # noqa: E402

guard = Keyguard(
    RateLimit("5/minute", by="ip", paths=["/status"], when=lambda request: "authorization" not in request.headers),
    APIKeys(public=["/health", "/status"]),
    RateLimit("10/minute", by="subject", exempt=lambda request: request.identity.anonymous),
)


def issue(owner: str, *scopes: str) -> str:
    return guard.keys.issue(owner, scopes=scopes).key.reveal()


def revoke(key: str) -> None:
    guard.keys.revoke(key.split("_")[2])


class Health(APIView):
    def get(self, request: Request) -> Response:
        return Response({"ok": True})


class Status(APIView):
    def get(self, request: Request) -> Response:
        return Response({"reports": 3})


class Reports(APIView):
    def get(self, request: Request) -> Response:
        return Response({"for": request.user.username})


class Export(APIView):
    @guard.key(scopes=["export"])
    @guard.limit("2/minute")
    def post(self, request: Request) -> Response:
        return Response({"by": request.user.username}, 201)


urlpatterns = [
    path("health", Health.as_view()),
    path("status", Status.as_view()),
    path("reports", Reports.as_view()),
    path("export", Export.as_view()),
]
