"""A project of Django REST framework for tests, with the settings that it reads when it is imported."""

from __future__ import annotations

from typing import Any

import tests.support.django_site  # noqa: F401 - it sets Django up

# isort: split
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import method_decorator
from django.views import View
from rest_framework.decorators import action, api_view, throttle_classes
from rest_framework.permissions import IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from keyguard import Keyguard, quota
from keyguard.django import rest


def decorated(guard: Keyguard) -> dict[str, Any]:
    """Return views, by their paths, each of which lets two requests a minute pass."""
    limit = guard.limit

    @limit("2/minute")
    def plain(request: HttpRequest) -> HttpResponse:
        return HttpResponse("done")

    @limit("2/minute")
    async def waiting(request: HttpRequest) -> HttpResponse:
        return HttpResponse("done")

    class Method(View):
        @limit("2/minute")
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class AsyncMethod(View):
        @limit("2/minute")
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    @method_decorator(limit("2/minute"), name="dispatch")
    class Dispatch(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    @method_decorator(limit("2/minute"), name="dispatch")
    class AsyncDispatch(View):
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class Bound(View):
        @method_decorator([limit("9/minute", name="loose"), limit("2/minute")])
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class Whole(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class AsyncWhole(View):
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class Bare(APIView):
        renderer_classes = (JSONRenderer,)
        authentication_classes: tuple[Any, ...] = ()
        permission_classes: tuple[Any, ...] = ()

    class Rest(Bare):
        @limit("2/minute")
        def get(self, request: Any) -> Response:
            return Response("done")

    @method_decorator(limit("2/minute"), name="dispatch")
    class RestDispatch(Bare):
        def get(self, request: Any) -> Response:
            return Response("done")

    class Set(ViewSet):
        renderer_classes = (JSONRenderer,)
        authentication_classes: tuple[Any, ...] = ()
        permission_classes: tuple[Any, ...] = ()

        @limit("2/minute")
        def list(self, request: Any) -> Response:
            return Response("done")

        @action(detail=False)
        @limit("2/minute")
        def above(self, request: Any) -> Response:
            return Response("done")

        @limit("2/minute")
        @action(detail=False)
        def below(self, request: Any) -> Response:
            return Response("done")

    @api_view(["GET"])
    @limit("2/minute")
    def function_below(request: Any) -> Response:
        return Response("done")

    @limit("2/minute")
    @api_view(["GET"])
    def function_above(request: Any) -> Response:
        return Response("done")

    return {
        "plain": plain,
        "async": waiting,
        "method": Method.as_view(),
        "async-method": AsyncMethod.as_view(),
        "dispatch": Dispatch.as_view(),
        "async-dispatch": AsyncDispatch.as_view(),
        "bound": Bound.as_view(),
        "whole": limit("2/minute")(Whole.as_view()),
        "async-whole": limit("2/minute")(AsyncWhole.as_view()),
        "rest": Rest.as_view(),
        "rest-dispatch": RestDispatch.as_view(),
        "viewset": Set.as_view({"get": "list"}),
        "action-above": Set.as_view({"get": "above"}),
        "action-below": Set.as_view({"get": "below"}),
        "api_view-below": function_below,
        "api_view-above": function_above,
    }


class Open(APIView):
    renderer_classes = (JSONRenderer,)
    authentication_classes = (rest.KeyAuthentication,)
    permission_classes: tuple[Any, ...] = ()

    def get(self, request: Any) -> Response:
        user = None if request.user is None else str(request.user)
        return Response({"user": user, "auth": getattr(request.auth, "subject", None)})


class Closed(Open):
    permission_classes = (IsAuthenticated,)


class ByUser(Open):
    throttle_classes = (rest.UserRateThrottle,)


class ByUserToo(ByUser):
    pass


class ByAddress(Open):
    throttle_classes = (rest.AnonRateThrottle,)


class Scoped(Open):
    throttle_classes = (rest.ScopedRateThrottle,)
    throttle_scope = "uploads"


class Unscoped(Open):
    throttle_classes = (rest.ScopedRateThrottle,)


class Monthly(rest.Throttle):
    scope = "monthly"
    rate = quota("2/month")


class ByMonth(Open):
    throttle_classes = (Monthly,)


class Two(Open):
    throttle_classes = (rest.UserRateThrottle, Monthly)


class Refusing(rest.UserRateThrottle):
    scope = "strict"
    rate = "2/min"
    if_store_fails = "refuse"


class Strict(Open):
    throttle_classes = (Refusing,)


@api_view(["GET"])
@throttle_classes([rest.UserRateThrottle])
def by_user_function(request: Any) -> Response:
    return Response("done")


REST: dict[str, Any] = {
    "open": Open.as_view(),
    "closed": Closed.as_view(),
    "by-user": ByUser.as_view(),
    "by-user-too": ByUserToo.as_view(),
    "by-address": ByAddress.as_view(),
    "scoped": Scoped.as_view(),
    "unscoped": Unscoped.as_view(),
    "by-month": ByMonth.as_view(),
    "two": Two.as_view(),
    "strict": Strict.as_view(),
    "function": by_user_function,
}
RATES = {"user": "2/min", "anon": "1/hour", "uploads": "1/day"}
