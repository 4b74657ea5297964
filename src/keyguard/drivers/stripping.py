"""Keys are taken off a request when it goes to the app, after all guards have seen it, or is answered in its place.

The scope or environ of the request itself is changed: what stands further out, such as the access log of a server,
does not see the key in the query any more, either. A key that is over its limit is as secret as any other.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from keyguard.drivers.field_names import variable_of
from keyguard.keys.credentials import Sources
from keyguard.request import CarriedRequest

Fields = Mapping[str, "str | None"]


def strip_keys(request: CarriedRequest, scope: MutableMapping[str, Any], sources: Sequence[Sources]) -> None:
    """Take off what stands in the places of keys, in the scope or environ that the app is given."""
    request.stripped = set()
    for each in sources:
        request.stripped |= each.read(request)
        fields, query = each.left(request)
        if fields or query is not None:
            for one in (scope,) if scope is request.scope else (scope, request.scope):
                (_strip_environ if "wsgi.input" in one else _strip_scope)(one, fields, query)
            request.forget_fields()


def _strip_scope(scope: MutableMapping[str, Any], fields: Fields, query: bytes | None) -> None:
    names = {name.encode("latin-1"): value for name, value in fields.items()}
    kept = [pair for pair in scope["headers"] if pair[0].lower() not in names]
    kept += [(name, value.encode("latin-1")) for name, value in names.items() if value is not None]
    scope["headers"] = kept
    if query is not None:
        scope["query_string"] = query
    if "sec-websocket-protocol" in fields and "subprotocols" in scope:
        offered = fields["sec-websocket-protocol"] or ""
        scope["subprotocols"] = [one.strip() for one in offered.split(",") if one.strip()]
    behind = scope.get("wsgi_environ")
    if isinstance(behind, MutableMapping):
        _strip_environ(behind, fields, query)


def _strip_environ(environ: MutableMapping[str, Any], fields: Fields, query: bytes | None) -> None:
    for name, value in fields.items():
        environ.pop(variable_of(name), None)
        if value is not None:
            environ[variable_of(name)] = value
    if query is not None:
        text = query.decode("latin-1")
        environ["QUERY_STRING"] = text
        for name in ("RAW_URI", "REQUEST_URI"):  # not in PEP 3333, but servers tell it
            target = environ.get(name)
            if isinstance(target, str):
                environ[name] = target.partition("?")[0] + (f"?{text}" if text else "")
    behind = environ.get("asgi.scope")
    if isinstance(behind, MutableMapping) and "headers" in behind:
        _strip_scope(behind, fields, query)
