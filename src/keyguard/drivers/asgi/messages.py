"""ASGI messages, as they come from the app and go to the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from keyguard.drivers.asgi.request import ByteHeaders, encoded_name
from keyguard.drivers.bodies import sized_body
from keyguard.drivers.interpreter import Engine
from keyguard.drivers.stripping import strip_keys
from keyguard.request import CarriedRequest
from keyguard.response import Headers, Response

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
"""An app, of any framework: each has types of its own for scopes and messages."""


def as_sent(engine: Engine, request: CarriedRequest, response: Response) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the fields and the body of a response of our own, as they are sent. Tell of a refusal."""
    if response.refusal is not None:
        engine.refused(response.refusal, response)
    if engine.strips and not request.reached_app:
        strip_keys(request, request.scope, engine.strips)
    body = sized_body(response, request.method)
    headers = response.headers
    return headers.raw if isinstance(headers, ByteHeaders) else raw_fields(headers), body


def raw_fields(headers: Headers) -> list[tuple[bytes, bytes]]:
    # ASCII is the same in UTF-8, and that is encoded in a third of the time.
    return [
        (encoded_name(name), value.encode() if value.isascii() else value.encode("latin-1")) for name, value in headers
    ]


def without_body(receive: Receive) -> Receive:
    """Make the `receive` of an app that gets a CORS preflight: whatever comes, it has no body."""
    given = False

    async def empty() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while (message := await receive())["type"] == "http.request":
            pass
        return message

    return empty


async def nothing() -> None:
    """Send nothing, once the app's response has been replaced."""
