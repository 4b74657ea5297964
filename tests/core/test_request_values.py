"""Header fields, query and cookies of a request, as a guard reads them in both worlds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from keyguard import Forward, Keyguard, Request, Response
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

FIELDS = (("X-Tenant", "ada"), ("X-Tenant", "bob"), ("Accept", "text/html"), ("Cookie", 'a=1; b="two words"; a=3; c'))


@pytest.mark.parametrize("world", ["ASGI", "WSGI"])
def test_what_a_request_carries(world: str) -> None:
    seen: list[Request] = []

    async def reading(request: Request, forward: Forward) -> Response:
        seen.append(request)
        with request.changed({"x-tenant": "eve"}):
            assert request.headers["x-tenant"] == "eve"
        headers, query, cookies = request.headers, request.query, request.cookies
        assert (headers["X-Tenant"], headers["x-tenant"], headers.get("accept")) == ("ada,bob", "ada,bob", "text/html")
        assert {"x-tenant", "accept", "cookie", "host"} <= set(headers)
        assert len(headers) == len(list(headers))
        assert "x-other" not in headers
        assert (query["page"], query.get_all("page"), query["q"], query["empty"]) == ("1", ["1", "2"], "a b é", "")
        assert (dict(query), query.get_all("other")) == ({"page": "1", "q": "a b é", "empty": ""}, [])
        assert (cookies["a"], cookies.get_all("a"), cookies["b"], "c" in cookies) == (
            "1",
            ["1", "3"],
            "two words",
            False,
        )
        for values in (headers, query, cookies):
            assert isinstance(values, Mapping)
            assert not hasattr(values, "__setitem__")
            assert "two words" not in repr(values)
        assert "page" in repr(query)
        return await forward(request)

    guard = Keyguard(reading)
    ask = Ask("/?page=1&q=a+b%20%C3%A9&page=2&empty=", FIELDS)
    answer: Any = ask_asgi(guard.asgi(asgi_app), ask) if world == "ASGI" else ask_wsgi(guard.wsgi(wsgi_app), ask)
    assert answer.status == 200
    assert len(seen) == 1
