"""A Django project with keyguard in `MIDDLEWARE`, REST framework too, in one file.

python django_project.py check
python django_project.py keyguard keys issue --owner acme
gunicorn django_project:application
uvicorn django_project:asgi_application

In a project of several files the settings stand in `settings.py`, and the guard in a module that views import.
"""

import os
import sys

from django.conf import settings

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32).hex(),
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["keyguard.django"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "keyguard.django.Middleware"],
    KEYGUARD=f"{__name__}.guard",
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyguard.django.rest.KeyAuthentication"],
        "DEFAULT_THROTTLE_CLASSES": ["keyguard.django.rest.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "3/min"},
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
)

# What reads settings when it is imported comes after them.
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit  # noqa: E402

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(public=["/health"]),
    RateLimit("10/second; 5000/day", by="key"),
    store=os.environ.get("KEYGUARD_STORE", "sqlite:///keyguard.db"),
)


def health(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"ok": True})


async def item(request: HttpRequest, item: str) -> JsonResponse:
    return JsonResponse({"item": item, "caller": request.keyguard.caller.subject})


@guard.limit("2/minute")
def search(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"found": []})


def lines(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(f"{number}\n" for number in range(3))


class Report(APIView):  # type: ignore[misc]  # REST framework ships no types
    def get(self, request: Request) -> Response:
        return Response({"for": request.user.username})

    @guard.key(scopes=["write"])
    def post(self, request: Request) -> Response:
        return Response({"by": request.auth.key_id})


urlpatterns = [
    path("health", health),
    path("items/<item>", item),
    path("search", search),
    path("lines", lines),
    path("report", Report.as_view()),
]

if __name__ == "__main__":
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)
else:
    application = get_wsgi_application()
    asgi_application = get_asgi_application()
