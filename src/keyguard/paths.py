"""Paths: what a rule sees is what the app routes.

Rules:
- A rule sees the decoded path, after the prefix that the app is mounted under, cut on whole segments.
- Patterns match whole segments: `"/docs/*"` is `/docs` and all below it, and never `/docsx`.
- A spelling that some server, framework or proxy might read as another path is not interpreted: it is ambiguous, and
  where a rule depends on the path the request is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from keyguard.errors import ConfigurationError

# In the decoded path: empty segments, dot segments, backslashes, parameters, control characters, broken UTF-8.
_AMBIGUOUS = re.compile(r"//|/\.\.?(?:/|$)|[\\;\x00-\x1f\x7f\ufffd]|^[^/]")
# In the raw path: separators that decoding has made look like others.
_AMBIGUOUS_RAW = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)


def ambiguous(path: str, raw_path: bytes | None) -> bool:
    """Whether the path could be read as another one than `path`."""
    return _AMBIGUOUS.search(path) is not None or (
        raw_path is not None and b"%" in raw_path and _AMBIGUOUS_RAW.search(raw_path) is not None
    )


def strip_root(path: str, root: str) -> str:
    """The path after the prefix `root`; the path itself where `root` is not a prefix of whole segments."""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def decode_wsgi_path(path_info: str) -> str:
    """PEP 3333 hands over bytes as if they were ISO 8859-1; the path is UTF-8."""
    return path_info if path_info.isascii() else path_info.encode("latin-1").decode("utf-8", "replace")


_HERE, _BELOW, _ANY = "", "/*", "{}"  # keys of a node that no segment can have
_NAME = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


class Paths:
    """A set of path patterns; asking it takes the same time for ten and for a thousand.

    `"/health"` is that path; `"/docs/*"` is `/docs` and every path below it; `"/items/{id}"` has one segment, whatever
    it is, in the place of `{id}`. With `trailing_slash` a path with a slash at its end matches like one without.
    """

    __slots__ = ("_exact", "_root", "_trailing_slash", "texts")

    def __init__(self, patterns: Iterable[str], *, trailing_slash: bool = False) -> None:
        """Raises `ConfigurationError` for a text that is no pattern."""
        self.texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not self.texts:
            raise ConfigurationError("the list of paths is empty: it would apply to nothing")
        self._trailing_slash = trailing_slash
        self._exact: set[str] = set()
        self._root: dict[str, Any] = {}
        for text in self.texts:
            segments = _segments(text)
            if "{" not in text and segments[-1] != "*":
                self._exact.add(text.rstrip("/") if trailing_slash else text)
                continue
            node = self._root
            for segment in segments[:-1]:
                node = node.setdefault(_ANY if segment[:1] == "{" else segment, {})
            if segments[-1] == "*":
                node[_BELOW] = {}
            else:
                last = segments[-1]
                node.setdefault(_ANY if last[:1] == "{" else last, {})[_HERE] = {}

    def __repr__(self) -> str:
        return f"<Paths: {', '.join(self.texts)}>"

    def match(self, path: str) -> bool:
        """Whether a pattern matches the whole path."""
        if self._trailing_slash and path.endswith("/"):
            path = path[:-1]
        if path in self._exact:
            return True
        return bool(self._root) and _walk(self._root, path.split("/")[1:], 0)


def _walk(node: dict[str, Any], segments: list[str], place: int) -> bool:
    if _BELOW in node:
        return True
    if place == len(segments):
        return _HERE in node
    segment = segments[place]
    below = node.get(segment) if segment else None
    if below is not None and _walk(below, segments, place + 1):
        return True
    below = node.get(_ANY) if segment else None
    return below is not None and _walk(below, segments, place + 1)


def _segments(text: object) -> list[str]:
    problem = None
    if not isinstance(text, str) or not text.startswith("/"):
        problem = "a pattern is a text that begins with '/'"
    elif "%" in text or "?" in text or "#" in text:
        problem = "a pattern is a decoded path, without percent-encoding, query or fragment"
    elif ambiguous(text, None):
        problem = "write it without '//', dot segments, ';' and backslashes"
    if problem is None:
        assert isinstance(text, str)
        segments = text.split("/")[1:]
        for place, segment in enumerate(segments):
            if "*" in segment and (segment != "*" or place != len(segments) - 1):
                problem = "'*' stands alone, as the last segment: '/docs/*'"
            elif set(segment) & set("{}") and not _NAME.fullmatch(segment):
                problem = "a variable is a whole segment: '/items/{id}'"
        if problem is None:
            return segments
    raise ConfigurationError(f"{text!r} is no path pattern: {problem}")
