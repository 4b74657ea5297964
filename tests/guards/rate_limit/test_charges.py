"""What a request is charged where a refusal further in is not what the caller gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from keyguard import APIKeys, Cause, Forward, Identity, IPFilter, Keyguard, RateLimit, Request, Response, refuse
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

KEYED = Ask("/", (("X-API-Key", "right"),))


def lookup(key: str) -> Identity | None:
    return Identity("ada") if key == "right" else None


async def friendly(request: Request, forward: Forward) -> Response:
    """Serve a page in the place of a refusal."""
    response = await forward(request)
    return Response(200, [], b"a page for guests") if response.status >= 400 else response


async def hiding(request: Request, forward: Forward) -> Response:
    """Tell nobody why."""
    response = await forward(request)
    return Response(404, [], b"") if response.status >= 400 else response


def batch_asgi(inner: Any) -> Any:
    """An app that serves several requests in one, some of which are refused."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answers: list[Any] = []

        async def keep(message: Any) -> None:
            answers.append(message)

        await inner({**scope, "path": "/one"}, receive, keep)
        await asgi_app(scope, receive, send)

    return app


def batch_wsgi(inner: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        list(inner({**environ, "PATH_INFO": "/one"}, lambda *head: None))
        return wsgi_app(environ, start_response)

    return app


@pytest.mark.parametrize("cause", list(Cause))
@pytest.mark.parametrize("by", ["ip", "key", "a function"])
def test_what_is_served_in_the_place_of_a_refusal_is_charged(cause: Cause, by: str) -> None:
    def refusing(request: Request) -> Response:
        return refuse(request, cause, "no", reason="test")

    for world, app, batch, ask in (
        ("asgi", asgi_app, batch_asgi, ask_asgi),
        ("wsgi", wsgi_app, batch_wsgi, ask_wsgi),
    ):
        limit = RateLimit("2/minute", by=by if by != "a function" else lambda request: "all")  # type: ignore[arg-type]
        one = getattr(Keyguard(APIKeys(lookup=lookup), limit, friendly, refusing), world)(app)
        assert [ask(one, KEYED).status for _ in range(4)] == [200, 200, 429, 429]
        inside = getattr(Keyguard(refusing), world)(app)
        limit = RateLimit("2/minute", by=by if by != "a function" else lambda request: "all")  # type: ignore[arg-type]
        several = getattr(Keyguard(APIKeys(lookup=lookup), limit), world)(batch(inside))
        assert [ask(several, KEYED, lint=False).status for _ in range(4)] == [200, 200, 429, 429]


def test_a_refusal_that_is_told_in_other_words_stays_one() -> None:
    for world, app, ask in (("asgi", asgi_app, ask_asgi), ("wsgi", wsgi_app, ask_wsgi)):
        stack = Keyguard(
            APIKeys(lookup=lookup), RateLimit("2/minute", by="key"), hiding, IPFilter(allow=["10.0.0.0/8"])
        )
        assert [ask(getattr(stack, world)(app), KEYED).status for _ in range(4)] == [404] * 4
