"""A request as WSGI gives it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import Any, TypeAlias

from keyguard.drivers.field_names import taken_off, variable_of
from keyguard.http.callers import Told, told_by_environ
from keyguard.http.paths import decode_wsgi_path, plain
from keyguard.http.spelling import Spelling
from keyguard.request import SHARED_WSGI, CarriedRequest, FieldSet, veiled
from keyguard.response import FieldNames, Headers

Environ: TypeAlias = dict[str, Any]

_UNIX_SOCKETS = frozenset({None, "", "localhost"})  # the last is what waitress says


def replaced(environ: Mapping[str, Any], fields: Mapping[str, str | None]) -> Environ:
    """An environ with other header fields in their place."""
    changed = dict(environ)
    for name, value in fields.items():
        changed.pop(variable_of(name), None)
        if value is not None:
            changed[variable_of(name)] = value
    return changed


class WSGIRequest(CarriedRequest):
    """A request head from a WSGI environ."""

    __slots__ = ()

    scope: Environ

    shared = SHARED_WSGI
    tells_by_names = True

    @property
    def scheme(self) -> str:
        return str(self.scope["wsgi.url_scheme"])

    @property
    def raw_query(self) -> bytes:
        return str(self.scope.get("QUERY_STRING", "")).encode("latin-1")

    @property
    def raw_path(self) -> bytes | None:
        # Not in PEP 3333: gunicorn says RAW_URI, werkzeug and waitress REQUEST_URI.
        target = self.scope.get("RAW_URI") or self.scope.get("REQUEST_URI")
        return str(target).partition("?")[0].encode("latin-1", "replace") if target else None

    @property
    def peer(self) -> str | None:
        peer: str | None = self.scope.get("REMOTE_ADDR")
        return None if peer in _UNIX_SOCKETS else peer

    def header(self, name: str) -> str | None:
        if "_" in name and self.takes_off(name):
            raise taken_off(name)
        value: str | None = self.scope.get(variable_of(name))
        return value

    def folded(self, name: str) -> str | None:
        value: str | None = self.scope.get(variable_of(name))
        return value

    @property
    def root(self) -> str:
        return decode_wsgi_path(self.scope.get("SCRIPT_NAME", ""))

    def sends(self, fields: FieldSet) -> bool:
        return not fields.variables.isdisjoint(self.scope)

    def sole(self, fields: FieldSet) -> tuple[Any, bytes] | None:
        found, scope = None, self.scope
        for variable in fields.variables:
            value = scope.get(variable)
            if value is not None:
                if found is not None:
                    return None
                found = variable, value.encode("latin-1")
        return found

    def names(self) -> Collection[Any]:
        return self.scope.keys()

    def field_name(self, raw: Any) -> str | None:
        if raw.startswith("HTTP_"):
            return str(raw[5:]).lower().replace("_", "-")
        return "content-" + raw[8:].lower() if raw in ("CONTENT_TYPE", "CONTENT_LENGTH") else None

    def field_value(self, raw: Any) -> str:
        return str(self.scope[raw])

    def told(self) -> Told:
        return told_by_environ(self.scope)

    def field_names(self) -> Iterable[str]:
        names = [name for name in self.scope if name.startswith("HTTP_")]
        return [name[5:].lower().replace("_", "-") for name in names]

    def address(self) -> tuple[object, ...]:
        get = self.scope.get
        query = get("QUERY_STRING")
        said = (
            get("PATH_INFO"),
            query,
            get("HTTP_HOST"),
            get("RAW_URI"),
            get("REQUEST_URI"),
            get("SCRIPT_NAME"),
            get("wsgi.url_scheme"),
        )
        return (veiled(repr(said).encode("utf-8", "surrogatepass")),) if query else said

    def raw_fields(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        return list(pairs)

    def head_of(self, pairs: tuple[tuple[bytes, bytes], ...], names: FieldNames) -> Headers:
        return Headers([(names.spelled[name], value.decode("latin-1")) for name, value in pairs])

    def headers_of(self, raw: list[Any]) -> Headers:
        return Headers(raw)

    def _changed_scope(self, fields: Mapping[str, str | None], whole_body: bool) -> MutableMapping[str, Any]:
        return replaced(self.scope, fields) if fields else self.scope

    def _told_path(self) -> str:
        return str(self.scope.get("PATH_INFO", ""))  # not decoded: what is not ASCII is not told

    def matched_route(self) -> str | None:
        rule = getattr(getattr(self.scope.get("werkzeug.request"), "url_rule", None), "rule", None)  # of Flask
        return rule if isinstance(rule, str) else None

    def _find_plain(self) -> str:
        scope = self.scope
        if scope.get("SCRIPT_NAME"):
            return ""
        path = decode_wsgi_path(scope.get("PATH_INFO", ""))
        return path if plain(path, self.raw_path) and not self.inside.may_cut(path) else ""

    def _spell(self) -> Spelling:
        path = decode_wsgi_path(self.scope.get("PATH_INFO", ""))
        return Spelling(path, self.raw_path, self.root, self.inside)
