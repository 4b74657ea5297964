"""A stack in the OpenAPI document of a FastAPI app: security schemes, locks, and the answers of its guards.

Rules:
- An operation is said to be as the stack treats it: the paths of its guards count, and the rules at the route.
- All that the app says itself stays: only what is missing is added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from keyguard.drivers.inspection.routes import Route, segments_of
from keyguard.drivers.inspection.starlette_routes import met_in
from keyguard.errors import ConfigurationError
from keyguard.guards import APIKeys, Ban, Concurrency, IPFilter, RateLimit
from keyguard.http.fields import DRAFTS, Draft
from keyguard.problem import JSON
from keyguard.stack.markers import KeyMarker, learned
from keyguard.stack.placed import Placed
from keyguard.stack.route_patterns import covered, met
from keyguard.stack.route_rules import RouteRule

_PROBLEM = "KeyguardProblem"
"""The name of the schema of refusals."""


def install(places: Sequence[Placed], app: Any, prefix: str) -> None:
    """Add to an app's OpenAPI document what the guards do. `prefix` is where the app is mounted."""
    if not callable(getattr(app, "openapi", None)) or met_in(app) is None:
        raise ConfigurationError(f"install_openapi() takes a FastAPI app, not {app!r:.80}")
    made: Callable[[], dict[str, Any]] = app.openapi
    if getattr(made, "keyguard", False):
        raise ConfigurationError("install_openapi() was called for this app before")
    done: list[Any] = []

    def openapi() -> dict[str, Any]:
        document = made()
        if not done or done[0] is not document:  # it is made anew if routes have come
            Document(places, prefix).describe(document, app)
            done[:] = [document]
        return document

    openapi.keyguard = True  # type: ignore[attr-defined]
    app.openapi = openapi


class Document:
    """An OpenAPI document, as the guards of a stack add to it."""

    def __init__(self, places: Sequence[Placed], prefix: str) -> None:
        self._places = [place for place in places if not place.shadow]
        self._prefix = prefix
        keys = [place.guard for place in self._places if isinstance(place.guard, APIKeys)]
        self._schemes = {name: scheme for guard in keys for name, scheme in schemes_of(guard)}

    def describe(self, document: dict[str, Any], app: Any) -> None:
        """Add to the document, in place."""
        components = document.setdefault("components", {})
        if self._schemes:
            known = components.setdefault("securitySchemes", {})
            for name, scheme in self._schemes.items():
                known.setdefault(name, scheme)
        names_scopes = str(document.get("openapi", "3.1")) >= "3.1"
        described = False
        for route in met_in(app) or ():
            rules = [rule for _, rule, _ in learned(route)]
            operations = document.get("paths", {}).get(re.sub(r":\w+\}", "}", route.path), {})
            for method in route.methods:
                operation = operations.get(method.lower())
                if operation is not None:
                    path = self._prefix + route.path
                    here = Route(path, segments_of(path), frozenset([method]), route.view)
                    self._describe(operation, here, rules, names_scopes)
                    described = True
        if described:
            components.setdefault("schemas", {}).setdefault(_PROBLEM, SCHEMA)

    def _describe(
        self, operation: dict[str, Any], route: Route, rules: Sequence[RouteRule[Any]], names_scopes: bool
    ) -> None:
        needed = [rule.marker for rule in rules if isinstance(rule.marker, KeyMarker)]
        places = [place for place in self._places if place.may_be_asked(route)]
        asked = [place.guard for place in places]
        locked = [guard for guard in asked if isinstance(guard, APIKeys) and _needs_key(guard, route)]
        surely = {id(place.guard) for place in places if place.is_surely_asked(route)}
        scopes = {scope for marker in needed for scope in marker.scopes}
        for guard in locked:
            scopes |= guard.scopes if isinstance(guard.scopes, frozenset) else set()
        if locked or needed:
            named = sorted(scopes) if names_scopes else []
            ways: list[dict[str, list[str]]] = [{name: named} for name in self._schemes]
            if not needed and all(guard.optional or id(guard) not in surely for guard in locked):
                ways.insert(0, {})
            if "security" not in operation:
                operation["security"] = ways
            self._answer(operation, 401, "No valid API key was sent.", {"WWW-Authenticate": _CHALLENGE})
        may_lack = scopes or any(callable(guard.scopes) for guard in locked)
        filters = [guard for guard in asked if isinstance(guard, IPFilter) and met(guard.paths, route)]
        if may_lack or filters:
            whose = (
                f"The API key lacks a scope: {', '.join(sorted(scopes))}." if scopes else "The caller may not do that."
            )
            self._answer(operation, 403, whose, {})
        limits = [guard for guard in asked if isinstance(guard, (RateLimit, Concurrency)) and _counts(guard, route)]
        limits += [rule.limit for rule in rules if rule.limit is not None and _counts(rule.limit, route)]
        fields = _fields(limits)
        if limits or locked or any(isinstance(guard, Ban) for guard in asked):
            self._answer(operation, 429, "A limit of the caller is used up.", {"Retry-After": _WAIT, **fields})
        if asked or rules:
            self._answer(operation, 503, "It cannot be decided, or served, at the moment.", {"Retry-After": _WAIT})
        for status, response in operation.get("responses", {}).items():
            if fields and str(status).startswith("2") and isinstance(response, dict) and "$ref" not in response:
                for name, field in fields.items():
                    response.setdefault("headers", {}).setdefault(name, field)

    def _answer(self, operation: dict[str, Any], status: int, detail: str, fields: Mapping[str, Any]) -> None:
        response: dict[str, Any] = {
            "description": detail,
            "content": {JSON: {"schema": {"$ref": f"#/components/schemas/{_PROBLEM}"}}},
        }
        if fields:
            response["headers"] = dict(fields)
        operation.setdefault("responses", {}).setdefault(str(status), response)


def schemes_of(guard: APIKeys) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the security schemes of the places in which a guard looks for keys, each with its name."""
    for source in guard.sources.names:
        kind, _, rest = source.partition(":")
        if kind in ("cookie", "query") and rest:
            yield f"{kind}-{rest}", {"type": "apiKey", "in": kind, "name": rest}
        elif source.lower() == "authorization":
            yield "bearer", {"type": "http", "scheme": "bearer", "description": "An API key as a Bearer token."}
        elif kind.lower() == "authorization" and rest:
            yield (
                f"authorization-{rest}",
                {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": f"The word {rest}, a blank, and an API key.",
                },
            )
        else:
            yield source.lower(), {"type": "apiKey", "in": "header", "name": source}


def _needs_key(guard: APIKeys, route: Route) -> bool:
    return met(guard.paths, route) and not (guard.public is not None and covered(guard.public, route))


def _counts(guard: RateLimit | Concurrency, route: Route) -> bool:
    selection = guard.selection
    return met(selection.paths, route) and route.methods.isdisjoint(selection.uncounted)


def _fields(limits: Iterable[RateLimit | Concurrency]) -> dict[str, Any]:
    profiles = {profile for limit in limits for profile in limit.profiles}
    fields: dict[str, Any] = {}
    drafts = [DRAFTS[profile] for profile in DRAFTS if profile in profiles]
    if drafts:
        fields |= {"RateLimit": _left(drafts[0]), "RateLimit-Policy": _POLICY}
    if profiles & {"x-ratelimit", "github"}:
        fields |= {f"X-RateLimit-{name}": _NUMBER for name in ("Limit", "Remaining", "Reset")}
    if "github" in profiles:
        fields |= {"X-RateLimit-Used": _NUMBER, "X-RateLimit-Resource": _text("The limit with least left.")}
    return fields


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string", **more}}


def _left(draft: Draft) -> dict[str, Any]:
    example = f'"search:5/minute";{draft.left}=4;{draft.window}=60'
    return _text("What is left of each limit, and the seconds until more comes back.", examples=[example])


_CHALLENGE = _text("The scheme by which keys are sent.")
_WAIT = {"description": "Seconds to wait before it is worth another try.", "schema": {"type": "integer", "minimum": 0}}
_POLICY = _text("The limits: units, and the seconds in which they count.", examples=['"search:5/minute";q=5;w=60'])
_NUMBER = {"description": "Of the limit with least left.", "schema": {"type": "integer"}}

SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "description": "Why the request was refused (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "cause"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, in words for people."},
        "instance": {"type": "string", "description": "The request's id."},
        "cause": {
            "type": "string",
            "enum": ["request", "address", "credentials", "permission", "usage", "upstream", "overload", "fault"],
        },
        "violated-policies": {"type": "array", "items": {"type": "string"}},
        "retry_after": {"type": "integer", "description": "Seconds to wait."},
        "recovers_at": {"type": "string", "format": "date-time"},
    },
}
