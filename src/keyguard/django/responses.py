"""Django's responses, as drivers see them: a status, pairs of fields and a body, and back again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from keyguard.drivers.inspection.routes import as_template

Pairs: TypeAlias = list[tuple[str, str]]


def fields_of(response: Any) -> Pairs:
    """Return the header fields of a response, as Django's own handlers send them."""
    cookies = [("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values()]
    return [*((name, _text(value)) for name, value in response.items()), *cookies]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def tell(response: Any, status: int, theirs: Pairs, ours: Pairs) -> None:
    """Give a response the status and the fields that guards have made of its own, which are `theirs`."""
    if status != response.status_code:
        response.status_code = status
    if ours == theirs:
        return
    before, after = _joined(theirs), _joined(ours)
    for name in before.keys() - after.keys():
        del response[name]
    for name, (spelled, value) in after.items():
        if name not in before or before[name][1] != value:
            response[spelled] = value
    cookies = _cookies(ours)
    if cookies != _cookies(theirs):
        del response["Set-Cookie"]
        response.cookies.clear()
        for cookie in cookies:
            response.cookies.load(cookie)


def made(status: int, fields: Pairs, body: Iterable[bytes], instead: Any = None) -> Any:
    """Make the response that guards answer with. That of the app in whose place it stands is closed along with it."""
    from django.http import HttpResponse

    response = HttpResponse(b"".join(body), status=status)
    del response["Content-Type"]  # Django's default
    tell(response, status, [], fields)
    if instead is not None:
        response._resource_closers.extend(instead._resource_closers)
    return response


def _joined(fields: Pairs) -> dict[str, tuple[str, str]]:
    """Return the fields by their names in lower case: Django keeps one value of each, but for cookies."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in fields:
        lower = name.lower()
        if lower != "set-cookie":
            found[lower] = (name, f"{found[lower][1]}, {value}" if lower in found else value)
    return found


def _cookies(fields: Pairs) -> list[str]:
    return [value for name, value in fields if name.lower() == "set-cookie"]


def template_of(request: Any) -> str | None:
    """Return the template of the route that Django has matched; `None` if it has not."""
    route = getattr(getattr(request, "resolver_match", None), "route", None)
    return None if route is None else as_template(f"/{route}")
