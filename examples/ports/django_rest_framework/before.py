"""A service for reports: Django REST framework, with keys of its own and its throttles. Ported in `after.py`."""

import hashlib
import secrets
from typing import Any

import django
from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}},
    REST_FRAMEWORK={
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "DEFAULT_THROTTLE_CLASSES": [
            "rest_framework.throttling.AnonRateThrottle",
            "rest_framework.throttling.UserRateThrottle",
            "rest_framework.throttling.ScopedRateThrottle",
        ],
        "DEFAULT_THROTTLE_RATES": {"anon": "5/min", "user": "10/min", "exports": "2/min"},
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "NUM_PROXIES": 0,
    },
)
django.setup()

# What reads settings when it is imported comes after them.
from django.urls import path  # noqa: E402
from rest_framework import authentication, exceptions, permissions  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

KEYS: dict[str, dict[str, Any]] = {}  # by the digest of the key


class Holder:
    is_authenticated = True

    def __init__(self, owner: str) -> None:
        self.pk = self.username = owner


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def issue(owner: str, *scopes: str) -> str:
    key = secrets.token_urlsafe(32)
    KEYS[digest_of(key)] = {"owner": owner, "scopes": set(scopes), "revoked": False}
    return key


def revoke(key: str) -> None:
    KEYS[digest_of(key)]["revoked"] = True


class KeyAuthentication(authentication.BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[Holder, dict[str, Any]] | None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        record = KEYS.get(digest_of(key))
        if record is None or record["revoked"]:
            raise exceptions.AuthenticationFailed("The key is not valid.")
        return Holder(record["owner"]), record

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class MayExport(permissions.BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.auth is not None and "export" in request.auth["scopes"]


class Guarded(APIView):
    authentication_classes = (KeyAuthentication,)


class Health(APIView):
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    def get(self, request: Request) -> Response:
        return Response({"ok": True})


class Status(Guarded):
    permission_classes = ()

    def get(self, request: Request) -> Response:
        return Response({"reports": 3})


class Reports(Guarded):
    def get(self, request: Request) -> Response:
        return Response({"for": request.user.username})


class Export(Guarded):
    permission_classes = (MayExport,)
    throttle_scope = "exports"

    def post(self, request: Request) -> Response:
        return Response({"by": request.user.username}, 201)


urlpatterns = [
    path("health", Health.as_view()),
    path("status", Status.as_view()),
    path("reports", Reports.as_view()),
    path("export", Export.as_view()),
]
