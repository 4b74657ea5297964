"""A request and the app's header fields as ASGI gives them: bytes, decoded only where a guard looks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, TypeAlias

from keyguard.drivers.field_names import taken_off
from keyguard.http.addresses import Address
from keyguard.http.callers import Told, told_by_scope
from keyguard.http.paths import misplaced, plain, strip_root
from keyguard.http.spelling import Spelling
from keyguard.request import SHARED_ASGI, CarriedRequest, FieldSet, veiled
from keyguard.response import FieldNames, Headers, ReadyFields, field_value

Scope: TypeAlias = MutableMapping[str, Any]


@lru_cache(maxsize=256)
def encoded_name(name: str) -> bytes:
    return name.lower().encode("latin-1")


class ByteHeaders(Headers):
    """The app's own header fields: pairs of bytes, decoded only where a guard looks; copied before the first change."""

    __slots__ = ("changed", "raw")

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        self.raw: list[tuple[bytes, bytes]] = raw if raw.__class__ is list else list(raw)
        self.changed = False
        """Whether `raw` is a changed copy of what the app gave."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw])

    def __len__(self) -> int:
        return len(self.raw)

    def get(self, name: str) -> str | None:
        found = self.get_all(name)
        return found[0] if found else None

    def get_all(self, name: str) -> list[str]:
        wanted = encoded_name(name)
        size = len(wanted)
        # Names should be lower case already (ASGI specification); the length tells most of them apart.
        return [
            value.decode("latin-1")
            for key, value in self.raw
            if len(key) == size and (key == wanted or key.lower() == wanted)
        ]

    def add(self, name: str, value: str) -> None:
        pair = encoded_name(name), field_value(value).encode("latin-1")
        if self.changed:
            self.raw.append(pair)  # a list of our own by now
        else:
            self.raw = [*self.raw, pair]
            self.changed = True

    def join_ready(self, fields: ReadyFields, value: bytes) -> None:
        sizes = fields.sizes
        for name, _ in self.raw:
            if len(name) in sizes:
                self._join_each(fields, value)
                return
        self.raw = [*self.raw, fields.first_raw, (fields.second_raw, value)]
        self.changed = True

    def set_length(self, length: int) -> None:
        for name, _ in self.raw:
            if len(name) == 14:  # as long as its name
                self.remove("Content-Length")
                break
        self.raw = [*self.raw, (b"content-length", b"%d" % length)]
        self.changed = True

    def remove(self, name: str) -> None:
        wanted = encoded_name(name)
        self.raw = [pair for pair in self.raw if pair[0].lower() != wanted]
        self.changed = True


class ASGIRequest(CarriedRequest):
    """A request head from an ASGI scope (ASGI specification, "HTTP & WebSocket")."""

    __slots__ = ()

    shared = SHARED_ASGI

    @property
    def scheme(self) -> str:
        return str(self.scope.get("scheme", "http"))

    @property
    def raw_query(self) -> bytes:
        query: bytes = self.scope.get("query_string", b"")
        return query

    @property
    def raw_path(self) -> bytes | None:
        raw: bytes | None = self.scope.get("raw_path")
        return raw

    @property
    def peer(self) -> str | None:
        client = self.scope.get("client")
        return client[0] or None if client else None

    @property
    def client(self) -> Address | None:  # fast path of `CarriedRequest.client`, same answers
        state = self.state
        if not state.client_known:
            peer = self.scope.get("client")
            known = self.settings.source.direct.get(peer[0]) if peer else None
            if known is None:
                return super().client
            state.client = known
            state.client_known = True
        return state.client

    def header(self, name: str) -> str | None:
        fields = self._fields
        if fields is None:
            fields = self._collected()
        value = fields.get(encoded_name(name))
        if value is not None:
            return value.decode("latin-1")
        if "_" in name and self.takes_off(name):
            raise taken_off(name)
        return None

    @property
    def root(self) -> str:
        # FastAPI and Django may put one of their own in its place, further in.
        return self.inside.root or str(self.scope.get("root_path") or "")

    def sends(self, fields: FieldSet) -> bool:
        return not fields.raw.isdisjoint(self._fields or self._collected())

    def sole(self, fields: FieldSet) -> tuple[Any, bytes] | None:
        found, names = None, fields.raw
        for pair in self.scope["headers"]:
            if pair[0] in names:
                if found is not None:
                    return None
                found = pair
        return found

    def _collected(self) -> dict[bytes, bytes]:
        fields = self._fields
        if fields is None:
            fields = self._fields = collected(self.scope["headers"])
        return fields

    def names(self) -> Collection[Any]:
        return self._collected().keys()

    def field_name(self, raw: Any) -> str | None:
        return str(raw.decode("latin-1"))

    def field_value(self, raw: Any) -> str:
        return self._collected()[raw].decode("latin-1")

    def told(self) -> Told:
        return told_by_scope(self.scope)

    def field_names(self) -> Iterable[str]:
        # Those that were taken off are included: a client that sends one means something by it.
        names = (*self.taken_off, *(name for name, _ in self.scope["headers"]))
        return {name.decode("latin-1").lower().replace("_", "-") for name in names}

    def address(self) -> tuple[object, ...]:
        scope, host = self.scope, (self._fields or self._collected()).get(b"host")
        query = scope["query_string"]
        get = scope.get
        # `keyguard.guards.cache.hits` builds the same for itself, since it makes no request.
        return scope["path"], query and veiled(query), host, get("raw_path"), get("root_path"), get("scheme")

    def raw_fields(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        return [(encoded_name(name), field_value(value).encode("latin-1")) for name, value in pairs]

    def head_of(self, pairs: tuple[tuple[bytes, bytes], ...], names: FieldNames) -> Headers:
        return ByteHeaders(pairs)

    def headers_of(self, raw: list[Any]) -> Headers:
        return ByteHeaders(raw.copy())

    def _changed_scope(self, fields: Mapping[str, str | None], whole_body: bool) -> Scope:
        scope = self.scope
        extensions = scope.get("extensions")
        if whole_body and extensions and not _PAST_SEND.isdisjoint(extensions):
            kept = {name: value for name, value in extensions.items() if name not in _PAST_SEND}
            scope = {**scope, "extensions": kept}
        if fields:
            scope = {**scope, "headers": replaced(scope["headers"], fields)}
        return scope

    def forget_fields(self) -> None:
        self._fields = None

    def _told_path(self) -> str:
        path: str = self.scope["path"]
        return self.spelling.path if self.scope.get("root_path") else path

    def matched_route(self) -> str | None:
        route = self.scope.get("route")
        context = (self.scope.get("fastapi") or {}).get("effective_route_context")
        if context is not None and context.original_route is route:
            route = context  # with the prefix under which a router is included
        path = getattr(route, "path", None)
        return path if isinstance(path, str) else None

    def _find_plain(self) -> str:
        scope = self.scope
        path: str = scope["path"]
        if scope.get("root_path") or not plain(path, scope.get("raw_path")) or self.inside.may_cut(path):
            return ""
        return path

    def _spell(self) -> Spelling:
        whole, root = self.scope["path"], self.root
        if self.inside.before:
            whole = self.inside.before + whole.removesuffix("/")  # Litestar adds that, whatever was asked for
        tail = whole.partition(root)[2] if misplaced(whole, root) else None
        return Spelling(strip_root(whole, root), self.raw_path, root, self.inside, tail)


_PAST_SEND = frozenset(
    {"http.response.pathsend", "http.response.zerocopysend", "http.response.trailers", "http.response.push"}
)
"""Extensions by which a response goes past `http.response.body`, or is more than one response."""


def replaced(headers: Iterable[tuple[bytes, bytes]], fields: Mapping[str, str | None]) -> list[tuple[bytes, bytes]]:
    """Header fields with others in their place."""
    changes = {encoded_name(name): value for name, value in fields.items()}
    kept = [pair for pair in headers if pair[0].lower() not in changes]
    return kept + [(name, value.encode("latin-1")) for name, value in changes.items() if value is not None]


class WebSocketRequest(ASGIRequest):
    """The handshake of a websocket."""

    __slots__ = ()

    websocket = True


def collected(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the values of fields by their names; several lines of one name are one value."""
    pairs = headers if isinstance(headers, list) else list(headers)
    fields = dict(pairs)
    if len(fields) != len(pairs):  # some field came in several lines
        lines: dict[bytes, list[bytes]] = {}
        for name, value in pairs:
            lines.setdefault(name, []).append(value)
        fields = {name: b",".join(values) for name, values in lines.items()}
    return fields
