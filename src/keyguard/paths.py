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
from typing import TypeAlias

from keyguard.errors import ConfigurationError

# In the decoded path: backslashes, parameters, control characters, broken UTF-8; empty segments and dot segments. All
# alternatives begin with one of few characters, which makes the search fast.
_AMBIGUOUS = re.compile(r"[\\;\x00-\x1f\x7f\ufffd\ud800-\udfff]|/(?:/|\.\.?(?:/|$))")
# In the raw path: separators that decoding has made look like others. Servers decode once, so `%252F` is plain text.
_AMBIGUOUS_RAW = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)


def ambiguous(path: str, raw_path: bytes | None) -> bool:
    """Whether the request could be read as one for another path than `path`.

    Anything but a path is ambiguous too, such as `*` or a whole URL. The empty path is the prefix of a mounted app.
    """
    return (
        _AMBIGUOUS.search(path) is not None
        or path[:1] not in ("/", "")
        or (raw_path is not None and b"%" in raw_path and _AMBIGUOUS_RAW.search(raw_path) is not None)
    )


def strip_root(path: str, root: str) -> str:
    """The path after the prefix `root`; the path itself where `root` is not a prefix of whole segments."""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def misplaced(path: str, root: str) -> bool:
    """Whether the prefix `root` stands in the path, and not as its first whole segments.

    Some frameworks cut it off all the same, and route `/apiadmin` or `/x/api/admin` under `/api` as `/admin`.
    """
    return root.strip("/") != "" and root in path and not path.startswith(root + "/") and path != root


def decode_wsgi_path(path_info: str) -> str:
    """PEP 3333 hands over bytes as if they were ISO 8859-1; the path is UTF-8."""
    return path_info if path_info.isascii() else path_info.encode("latin-1").decode("utf-8", "replace")


_HERE, _BELOW, _ANY = "/", "/*", "/{}"  # keys of a node that no segment can have
_NAME = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_Node: TypeAlias = "dict[str, _Node]"


class Paths:
    """A set of path patterns; asking it takes the same time for ten and for a thousand.

    `"/health"` is that path, in that case; `"/docs/*"` is `/docs`, `/docs/` and every path below; `"/items/{id}"` has
    one segment, whatever it is but empty, in the place of `{id}`; `"/*"` is every path.

    What opens a door is exact, so that it opens nothing else. What closes one is built with `trailing_slash`: there a
    path with a slash at its end matches like the path without, since an app may route both.
    """

    __slots__ = ("_exact", "_root", "_trailing_slash", "texts")

    def __init__(self, patterns: Iterable[str], *, trailing_slash: bool = False) -> None:
        """One text is a list of one. Raises `ConfigurationError` for a text that is no pattern."""
        if not isinstance(patterns, Iterable):
            raise ConfigurationError(f"paths are a list of patterns, such as ['/docs/*'], not {patterns!r}")
        self.texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not self.texts:
            raise ConfigurationError("the list of paths is empty: it would apply to nothing")
        self._trailing_slash = trailing_slash
        self._exact: set[str] = set()
        self._root: _Node = {}
        for text in self.texts:
            segments = _segments(text)
            if trailing_slash and segments[-1] == "":
                segments.pop()
            keys = [_key(segment) for segment in segments]
            if keys == segments:
                self._exact.add("".join("/" + segment for segment in segments))
                continue
            node = self._root
            for key in keys:
                node = node.setdefault(key, {})
            node[_HERE] = {}

    def __repr__(self) -> str:
        return f"<Paths: {', '.join(self.texts)}>"

    def match(self, path: str) -> bool:
        """Whether a pattern matches the whole path."""
        if self._trailing_slash and path.endswith("/"):
            path = path[:-1]
        if path in self._exact:
            return True
        return bool(self._root) and _walk(self._root, path.split("/")[1:], 0)


def _walk(node: _Node, segments: list[str], place: int) -> bool:
    if _BELOW in node:
        return True
    if place == len(segments):
        return _HERE in node
    segment = segments[place]
    below = node.get(segment)
    if below is not None and _walk(below, segments, place + 1):
        return True
    below = node.get(_ANY) if segment else None
    return below is not None and _walk(below, segments, place + 1)


def _key(segment: str) -> str:
    if segment == "*":
        return _BELOW
    return _ANY if segment[:1] == "{" else segment


def _segments(text: object) -> list[str]:
    if not isinstance(text, str) or not text.startswith("/"):
        raise _no_pattern(text, "a pattern is a text that begins with '/'")
    if set(text) & set("%?#"):
        raise _no_pattern(text, "a pattern is a decoded path, without percent-encoding, query or fragment")
    if ambiguous(text, None):
        raise _no_pattern(text, "write it without '//', dot segments, ';', backslashes and control characters")
    segments = text.split("/")[1:]
    for place, segment in enumerate(segments):
        if "*" in segment and (segment != "*" or place != len(segments) - 1):
            raise _no_pattern(text, "'*' stands alone, as the last segment: '/docs/*'")
        # "<id>" is how other routers write a variable; taken as plain text it would silently match nothing.
        if set(segment) & set("{}<>") and not _NAME.fullmatch(segment):
            raise _no_pattern(text, "a variable is a whole segment, a name in braces: '/items/{id}'")
    return segments


def _no_pattern(text: object, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{text!r} is no path pattern: {problem}")
