"""Parts of a request as read-only mappings: its header fields, its query, its cookies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl


class HasFields(Protocol):
    """A request, as far as its header fields are concerned."""

    def header(self, name: str) -> str | None: ...
    def names(self) -> Collection[Any]: ...
    def field_name(self, raw: Any) -> str | None: ...


class Fields(Mapping[str, str]):
    """Header fields by name, in any case; several lines of one name are joined by `,`, as HTTP has it."""

    __slots__ = ("_request",)

    def __init__(self, request: HasFields) -> None:
        self._request = request

    def __getitem__(self, name: str) -> str:
        value = self._request.header(name.lower())
        if value is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        names = [self._request.field_name(raw) for raw in self._request.names()]
        return iter(dict.fromkeys([name.lower() for name in names if name is not None]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Fields {', '.join(self)}>"  # without their values, which may be secret


class Values(Mapping[str, str]):
    """Values by name, of which a request may send several: `[name]` is the first, `get_all(name)` are all of them.

    Apps differ in which of several they take. A guard that decides by one should refuse several, or look at all.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def get_all(self, name: str) -> list[str]:
        """Return every value of this name, in order."""
        return list(self._values.get(name, ()))

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<Values {', '.join(map(repr, self))}>"  # without the values, which may be secret


def query_values(query: bytes) -> Values:
    """Read a query as forms write it: `name=value&...`, percent-encoded UTF-8, `+` for a blank."""
    return Values(parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace"))


def cookie_values(header: str | None) -> Values:
    """Read a `Cookie` field (RFC 6265, section 4.2.1). A value in quotes is what stands in them."""
    pairs = [part.partition("=") for part in (header or "").replace(",", ";").split(";")]
    return Values(
        [(name.strip(), _unquoted(value.strip())) for name, equals, value in pairs if equals and name.strip()]
    )


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
