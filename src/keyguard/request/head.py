"""The part of a request head that a driver supplies in its own way."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from keyguard.http.callers import Told
from keyguard.http.fields import FieldSet

if TYPE_CHECKING:
    from keyguard.clock import Clock
    from keyguard.http.addresses import ClientAddress
    from keyguard.http.spelling import Inside
    from keyguard.response import FieldNames, Headers


class RequestSettings(Protocol):
    """The facts that all requests to one app have in common."""

    source: ClientAddress
    """Finds the caller's address."""
    clock: Clock
    inside: Inside
    """The app and all that stands in front of it, as far as it can be seen."""
    underscores: frozenset[bytes]
    """The names, in lower case, of fields that are kept though their name has an underscore."""


class RequestHead:
    """A request head as the server gives it. The drivers for ASGI and WSGI each have one."""

    __slots__ = ()

    settings: RequestSettings

    @property
    def inside(self) -> Inside:
        """The app and all that stands in front of it, as far as it can be seen."""
        return self.settings.inside

    @property
    def scheme(self) -> str:
        """`http`, `https`, `ws` or `wss`, as the server says."""
        raise NotImplementedError

    @property
    def raw_query(self) -> bytes:
        """The query, percent-encoded, without the `?`."""
        raise NotImplementedError

    @property
    def raw_path(self) -> bytes | None:
        """The path as it stood in the request line, percent-encoded, if the server tells; else `None`."""
        raise NotImplementedError

    @property
    def root(self) -> str:
        """The prefix that the app is mounted under: `root_path` (ASGI), `SCRIPT_NAME` (WSGI)."""
        raise NotImplementedError

    @property
    def peer(self) -> str | None:
        """The address that opened the connection, as the server gives it; `None` for a unix socket."""
        raise NotImplementedError

    def header(self, name: str) -> str | None:
        """The value of a header field, or `None`. `name` is lower case; several lines are joined by `,`.

        Raises `ConfigurationError` for a name with an underscore, unless `Keyguard(underscores=[...])` keeps that
        field: it would never be there.
        """
        raise NotImplementedError

    def takes_off(self, name: str) -> bool:
        """Tell whether fields of this name are taken off every request: it has an underscore, and nobody wants it."""
        return "_" in name and name.lower().encode("latin-1") not in self.settings.underscores

    def folded(self, name: str) -> str | None:
        """Return what an app reads as a field of a name that is taken off: under WSGI, the field with hyphens."""
        return None

    def sends(self, fields: FieldSet) -> bool:
        """Whether the request has any of these header fields."""
        raise NotImplementedError

    def sole(self, fields: FieldSet) -> tuple[Any, bytes] | None:
        """Return the only one of these header fields that the request has, with its name as the server gives it.

        `None` if it has none of them, or more than one; or one in several lines, which may be joined by `,` instead.
        """
        raise NotImplementedError

    def names(self) -> Collection[Any]:
        """The names of header fields as the server gives them; under WSGI those of all variables."""
        raise NotImplementedError

    def field_name(self, raw: Any) -> str | None:
        """The name, in lower case, of what `names` lists; `None` for a variable that is not a header field."""
        raise NotImplementedError

    def field_value(self, raw: Any) -> str:
        """The value of what `names` lists."""
        raise NotImplementedError

    def told(self) -> Told:
        """Return what the server, or somebody further out, says of the caller besides header fields."""
        raise NotImplementedError

    def field_names(self) -> Iterable[str]:
        """The names of all header fields, in lower case and with `-` for `_`, as some bridges hand them on."""
        raise NotImplementedError

    def address(self) -> tuple[object, ...]:
        """All that the request line, `Host` and the server say of what is asked for; queries, which may hold keys, as
        digests."""
        raise NotImplementedError

    def raw_fields(self, pairs: Iterable[tuple[str, str]]) -> list[Any]:
        """Response header fields in the form that the server takes, ready to be sent many times."""
        raise NotImplementedError

    def head_of(self, pairs: tuple[tuple[bytes, bytes], ...], names: FieldNames) -> Headers:
        """Response headers that begin with these, which are as ASGI has them, and well-formed."""
        raise NotImplementedError

    def headers_of(self, raw: list[Any]) -> Headers:
        """Response headers over what `raw_fields` made, which stays as it is."""
        raise NotImplementedError

    def _changed_scope(self, fields: Mapping[str, str | None], whole_body: bool) -> MutableMapping[str, Any]:
        raise NotImplementedError

    def _forget_fields(self) -> None:
        """Drop what was read from the scope's header fields."""
