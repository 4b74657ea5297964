"""A whole project of Django, with its admin, sessions, users, a database and REST framework. Run as a program."""

from __future__ import annotations

import secrets
from typing import Any

import django
from django.conf import settings

CONTRIB = ("admin", "auth", "contenttypes", "sessions", "messages")
settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[*(f"django.contrib.{name}" for name in CONTRIB), "rest_framework", "keyguard.django"],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
    MIDDLEWARE=[
        "keyguard.django.Middleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    KEYGUARD=f"{__name__}.guard",
    KEYGUARD_USER=f"{__name__}.user_of",
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyguard.django.rest.KeyAuthentication"],
        "DEFAULT_THROTTLE_CLASSES": ["keyguard.django.rest.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "3/min"},
    },
)
django.setup()

# isort: split
# ruff: noqa: E402 - these read settings when they are imported
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import include, path
from rest_framework.decorators import action
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIClient
from rest_framework.viewsets import ModelViewSet

from keyguard import APIKeys, Identity, Keyguard, RateLimit

guard = Keyguard(APIKeys(public=["/admin/*"]), RateLimit("100/minute", by="ip"), store="memory://")


def user_of(identity: Identity) -> Any:
    return User.objects.filter(username=identity.subject).first()


class UserSerializer(ModelSerializer):
    class Meta:
        model = User
        fields = ("username",)


class Users(ModelViewSet):
    queryset = User.objects.all()
    serializer_class = UserSerializer

    @action(detail=False)
    @guard.limit("1/minute")
    def me(self, request: Any) -> Response:
        return Response({"me": request.user.username, "key": request.auth.subject})


router = DefaultRouter()
router.register("users", Users)
urlpatterns = [path("admin/", admin.site.urls), path("api/", include(router.urls))]


def story() -> None:
    call_command("check", fail_level="WARNING")
    call_command("migrate", verbosity=0)
    User.objects.create_superuser("ada", password="of the admin")
    client = Client()
    assert client.get("/admin/").status_code == 302
    assert client.post("/admin/login/", {"username": "ada", "password": "of the admin"}).status_code == 302
    assert client.get("/admin/").status_code == 200
    assert client.get("/api/users/").status_code == 401  # a session is no key

    api = APIClient()
    api.credentials(HTTP_X_API_KEY=guard.keys.issue("ada").key.reveal())
    answer = api.get("/api/users/")
    assert (answer.status_code, answer.data) == (200, [{"username": "ada"}])
    assert answer.headers["RateLimit"].startswith('"user:3/minute";r=2')
    assert api.get("/api/users/me/").json() == {"me": "ada", "key": "ada"}
    refused = api.get("/api/users/me/")
    assert (refused.status_code, refused.json()["violated-policies"]) == (429, ["Users.me:1/minute"])
    assert [api.get("/api/users/").status_code for _ in range(2)] == [200, 429]
    api.credentials(HTTP_X_API_KEY=guard.keys.issue("stranger").key.reveal())
    assert api.get("/api/users/").status_code == 401  # nobody of Django's


if __name__ == "__main__":
    story()
