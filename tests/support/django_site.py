"""A Django project for tests: its guard is whatever a test puts there, and its views do what handlers may do."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.http import FileResponse, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.test.utils import override_settings
from django.urls import path

import keyguard
from keyguard import Keyguard
from keyguard.django import Middleware
from tests.support import frameworks

frameworks._django()

guard: Any = None
"""The stack that `KEYGUARD` names."""
seen: list[Any] = []
told: list[Any] = []
"""What views call that go on for long: a test knows then that they have begun."""


def known(request: Any) -> dict[str, Any]:
    state = keyguard.here()
    assert request.keyguard is state
    return {"caller": state.caller.subject, "limits": [limit.name for limit in state.limits]}


def view(request: HttpRequest) -> HttpResponse:
    return JsonResponse(known(request))


async def loop(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    return JsonResponse(known(request))


def echo(request: Any) -> HttpResponse:
    told_of = {"body": request.body.decode(), "headers": dict(request.headers), "query": request.GET.dict()}
    scope = repr(getattr(request, "scope", {})) + repr(getattr(request, "environ", {})) + repr(request.META)
    return JsonResponse({**told_of, "cookies": request.COOKIES, "all": scope})


def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for _ in range(2):
            yield keyguard.here().caller.subject + ","

    return StreamingHttpResponse(parts())


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        try:
            for _ in range(2):
                yield keyguard.here().caller.subject + ","
                await asyncio.sleep(0)
        finally:
            seen.append("ended")

    return StreamingHttpResponse(parts())


async def endless(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        try:
            told.pop()()
            while True:
                yield "part"
                await asyncio.sleep(0)
        finally:
            seen.append("ended")

    return StreamingHttpResponse(parts())


async def slow(request: HttpRequest) -> HttpResponse:
    try:
        told.pop()()
        await asyncio.sleep(3600)
    finally:
        seen.append("ended")
    return HttpResponse("late")


streams: list[Any] = []
"""Of each stream of these, whether it is still there."""


def kept_stream(request: HttpRequest) -> StreamingHttpResponse:
    streams.append(weakref.ref(response := stream(request)))
    return response


async def kept_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    streams.append(weakref.ref(response := await async_stream(request)))
    return response


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))


def page(request: HttpRequest) -> HttpResponse:
    seen.append(request.path)
    response = HttpResponse(f"page {len(seen)}", headers={"Cache-Control": "max-age=60", "ETag": '"one"'})
    if "cookie" in request.GET:
        response.set_cookie("session", "1")
    return response


def stale(request: HttpRequest) -> HttpResponse:
    seen.append(request.path)
    return HttpResponse(f"page {len(seen)}", headers={"Cache-Control": "max-age=60, stale-while-revalidate=600"})


def reserving(request: HttpRequest) -> HttpResponse:
    with guard.reserve(int(request.GET["units"]), "tokens") as hold:
        hold.settle(2)
    guard.charge(1, "tokens")
    return HttpResponse("done")


async def reserving_loop(request: HttpRequest) -> HttpResponse:
    async with guard.reserve(int(request.GET["units"]), "tokens") as hold:
        hold.settle(2)
    guard.charge(1, "tokens")
    return HttpResponse("done")


def reserving_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        with guard.reserve(int(request.GET["units"]), "tokens") as hold:
            yield "part"
            hold.settle(3)

    return StreamingHttpResponse(parts())


async def reserving_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        async with guard.reserve(int(request.GET["units"]), "tokens") as hold:
            yield "part"
            hold.settle(3)

    return StreamingHttpResponse(parts())


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("of the view")


VIEWS = {
    "view": view,
    "loop": loop,
    "echo": echo,
    "form": form,
    "écho": echo,
    "stream": stream,
    "async-stream": async_stream,
    "endless": endless,
    "slow": slow,
    "kept-stream": kept_stream,
    "kept-async-stream": kept_async_stream,
    "file": file,
    "page": page,
    "stale": stale,
    "reserving": reserving,
    "reserving-loop": reserving_loop,
    "reserving-stream": reserving_stream,
    "reserving-async-stream": reserving_async_stream,
    "broken": broken,
    "grüße": view,
}
urlpatterns = [path(name, called) for name, called in VIEWS.items()]

OURS = "keyguard.django.Middleware"


@contextmanager
def site(stack: Keyguard, *inside: str, outside: tuple[str, ...] = (), **settings: Any) -> Iterator[None]:
    """Have Django serve this project, guarded by a stack."""
    global guard
    with ExitStack() as settled:
        before, guard = guard, stack
        seen.clear()
        given = {
            "ROOT_URLCONF": __name__,
            "KEYGUARD": f"{__name__}.guard",
            "MIDDLEWARE": [*outside, OURS, *inside],
            **settings,
        }
        settled.enter_context(override_settings(**given))
        try:
            yield
        finally:
            guard = before


class SyncOnly:
    """Middleware of the old kind: under ASGI Django runs all that stands around it in threads."""

    sync_capable, async_capable = True, False

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)


class AsyncOnly:
    """Middleware that has to be awaited, under WSGI as well."""

    sync_capable, async_capable = False, True

    def __init__(self, get_response: Any) -> None:
        from asgiref.sync import markcoroutinefunction

        self.get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        return await self.get_response(request)


class Extended(Middleware):
    """A subclass of the middleware, as a project may have one."""


class Reading:
    """Middleware that looks at all of a request."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        assert (request.headers, request.GET, request.COOKIES) is not None
        return self.get_response(request)


class ReadingBody(Reading):
    """Middleware that reads the body."""

    def __call__(self, request: Any) -> Any:
        assert request.body is not None
        return self.get_response(request)


class OtherPath:
    """Middleware that gives requests another path."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        request.path_info = request.path_info.removeprefix("/en")
        return self.get_response(request)


class Answer:
    """What a test client got, with its body."""

    def __init__(self, response: Any, body: bytes) -> None:
        self.status: int = response.status_code
        self.headers = response.headers
        self.cookies = response.cookies
        self.body = body
        self.response = response


def kind_of(headers: dict[str, str]) -> list[str]:
    """Take the type of the body out of the fields: Django's clients want it apart."""
    return [headers.pop(name) for name in ["content-type"] if name in headers]


def ask(kind: str, target: str, method: str = "GET", body: bytes = b"", **headers: str) -> Answer:
    """Ask by one of Django's test clients: `Client` or `AsyncClient`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if kind == "Client":
        response = Client(raise_request_exception=False).generic(method, target, body, *kind_of(named), headers=named)
        return Answer(response, response.getvalue())

    async def asked() -> Answer:
        response: Any = await AsyncClient(raise_request_exception=False).generic(
            method, target, body, *kind_of(named), headers=named
        )
        parts = [part async for part in response] if response.streaming else [response.content]
        return Answer(response, b"".join(parts))

    return asyncio.run(asked())


CLIENTS = ["Client", "AsyncClient"]
