"""What a guard answers, or passes on: a status, header fields, a body.

Headers are an ordered sequence of pairs, never a dict: two `Set-Cookie` lines are two lines.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from keyguard.refusal import Refusal


class AppBody(enum.Enum):
    """The type of `APP`."""

    APP = "app"


APP: Final = AppBody.APP
"""The body of a response that the app itself is still to send."""


def field_value(value: str) -> str:
    """Return `value` if it can stand in a header field (RFC 9110, section 5.5); else raise `ValueError`."""
    if value.isascii() and value.isprintable():
        return value
    if any(c in value for c in "\r\n\0"):
        raise ValueError("a header field cannot contain CR, LF or NUL")
    value.encode("latin-1")
    return value


class Headers:
    """Header fields in order. Names compare without regard to case; assignment replaces every line of a name."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs: list[tuple[str, str]] = list(pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

    def get(self, name: str) -> str | None:
        """The first line of this name, or `None`."""
        name = name.lower()
        return next((value for key, value in self if key.lower() == name), None)

    def get_all(self, name: str) -> list[str]:
        """Every line of this name, in order."""
        name = name.lower()
        return [value for key, value in self if key.lower() == name]

    def set(self, name: str, value: str) -> None:
        """Put one line of this name in the place of all there were."""
        self.remove(name)
        self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a line."""
        self._pairs.append((name, field_value(value)))

    def remove(self, name: str) -> None:
        """Drop every line of this name."""
        name = name.lower()
        self._pairs = [pair for pair in self._pairs if pair[0].lower() != name]

    def join(self, name: str, value: str) -> None:
        """Add to a field that is a list (RFC 9110, section 5.6.1): a member more, still one line."""
        present = self.get_all(name)
        if present:
            self.set(name, ", ".join([*present, value]))
        else:
            self.add(name, value)


class Response:
    """A response head, and either a body or `APP`: the body that the app is about to send."""

    __slots__ = ("body", "headers", "refusal", "status")

    def __init__(
        self,
        status: int,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes | AppBody = b"",
        *,
        refusal: Refusal | None = None,
    ) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body
        self.refusal = refusal
        """Why, where the response is a refusal by a guard."""

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
