"""Header fields, query and cookies of a request, as a guard reads them in both worlds."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import pytest

from keyguard import Cause, Forward, Keyguard, Request, Response, refuse
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


def test_what_is_public_of_a_request_is_what_its_docstring_lists() -> None:
    """All else is for drivers and keyguard's own guards, which know a request as `CarriedRequest`."""
    public = {name for name in (*dir(Request), *inspect.get_annotations(Request)) if not name.startswith("_")}
    listed = re.findall(r"`(\w+)(?:\(\w+\))?`", re.sub(r"(?m)^- ", "", inspect.getdoc(Request) or "").split("\n\n")[1])
    assert sorted(listed) == sorted([*public, "path"])  # named twice: `ambiguous` is about it


def test_every_public_name_of_a_request_has_its_docstring_or_its_type() -> None:
    typed = inspect.get_annotations(Request)
    for name in dir(Request):
        if not name.startswith("_"):
            assert name in typed or getattr(Request, name).__doc__, name


def test_a_refusal_needs_the_request_of_a_driver() -> None:
    with pytest.raises(TypeError, match="the request that the guard was called with, not Request"):
        refuse(Request(), Cause.PERMISSION, "No.", reason="no")
