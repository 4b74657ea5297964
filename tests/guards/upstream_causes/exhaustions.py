"""Exhaustions as libraries raise them, and what handlers make of them, for apps of every framework."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

from keyguard.testing import ManualClock
from keyguard.upstream import EXHAUSTION_FIELD, Exhaustion, UpstreamCause, tell

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_numbers = itertools.count(1)


def at_noon() -> ManualClock:
    return ManualClock(NOON)


class RateLimitError(Exception):
    """As openai and anthropic have it: the response, and its status."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("Error code: 429")
        self.response = SimpleNamespace(status_code=429, headers=headers)
        self.status_code = 429


class SDKError(Exception):
    """As mistralai has it."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("API error occurred: Status 429")
        self.raw_response = SimpleNamespace(status_code=429, headers=headers)


class ClientResponseError(Exception):
    """As aiohttp has it."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__("429, message='Too Many Requests'")
        self.headers = headers


def exhausted(
    cause: UpstreamCause = UpstreamCause.EXHAUSTED, seconds: float | None = 20, pool: str = "openai"
) -> dict[str, str]:
    """Have a pool give up, and return the fields of its answer."""
    number = next(_numbers)
    end = None if seconds is None else NOON + timedelta(seconds=seconds)
    tell(Exhaustion(pool, cause, end, 2, f"made-{number}"))
    return {EXHAUSTION_FIELD: f"made-{number}"}


class Sent(NamedTuple):
    """The answer of a handler."""

    status: int
    body: bytes = b"by the app"
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[], Sent]


def raises(cause: UpstreamCause = UpstreamCause.EXHAUSTED, seconds: float | None = 20) -> Handler:
    def handler() -> NoReturn:
        raise RateLimitError(exhausted(cause, seconds))

    return handler


def mistral() -> NoReturn:
    raise SDKError(exhausted())


def aiohttp() -> NoReturn:
    raise ClientResponseError(exhausted())


def wrapped() -> NoReturn:
    try:
        raise RateLimitError(exhausted())
    except RateLimitError as error:
        raise ValueError("no summary") from error


def in_a_group() -> NoReturn:
    raise ExceptionGroup("unhandled errors in a TaskGroup", [RateLimitError(exhausted())])


def one_of_two_calls() -> NoReturn:
    """Of two calls one is given up, and the other then goes well."""
    error = RateLimitError(exhausted())
    exhausted(UpstreamCause.BILLING, None, "another")  # which is caught, and answered from elsewhere
    raise error


def bug() -> NoReturn:
    raise KeyError("choices")


def bug_after_it() -> NoReturn:
    try:
        raise RateLimitError(exhausted())
    except RateLimitError:
        pass
    raise KeyError("choices")


def bug_beside_it() -> NoReturn:
    raise ExceptionGroup("unhandled errors in a TaskGroup", [RateLimitError(exhausted()), KeyError("choices")])


def of_another() -> NoReturn:
    raise RateLimitError({"retry-after": "7", EXHAUSTION_FIELD: "of-somebody-else"})


def fallback(status: int) -> Handler:
    def handler() -> Sent:
        try:
            raise RateLimitError(exhausted())
        except RateLimitError:
            return Sent(status)

    return handler


def passed_on() -> Sent:
    """As a proxy does it: the pool's own answer, with its fields."""
    return Sent(429, b'{"error": "of the pool"}', (*exhausted().items(), ("retry-after", "20")))


def fine() -> Sent:
    return Sent(200)


# -- apps of no framework -------------------------------------------------------------------------------------------


def asgi(handler: Handler) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent = handler()
        headers = [(name.encode(), value.encode()) for name, value in (("content-type", "text/plain"), *sent.headers)]
        await send({"type": "http.response.start", "status": sent.status, "headers": headers})
        await send({"type": "http.response.body", "body": sent.body[:3], "more_body": True})
        await send({"type": "http.response.body", "body": sent.body[3:]})

    return app


def wsgi(handler: Handler) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        sent = handler()
        start_response(f"{sent.status} Said", [("Content-Type", "text/plain"), *sent.headers])
        return [sent.body[:3], sent.body[3:]]

    return app


APPS = {"asgi": asgi, "wsgi": wsgi}
