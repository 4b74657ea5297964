"""Paths: what a rule sees is what the app routes.

Rules:
- A rule sees the decoded path, after the prefix that the app is mounted under, cut on whole segments.
- Patterns match whole segments: `"/docs/*"` is `/docs` and all below it, and never `/docsx`.
- A spelling that some server, framework, proxy or later client might read as another path is not interpreted: it is
  ambiguous. If a rule's patterns could be meant by it, the request is refused; a rule that it cannot concern,
  however it is read, does not apply to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias
from urllib.parse import unquote

from keyguard.errors import ConfigurationError

# In the decoded path: backslashes, parameters, control characters, broken UTF-8; empty segments and dot segments;
# escapes that are left, which whoever decodes once more (an app that forwards requests) reads as something else.
_ODD = r"[\\;\x00-\x1f\x7f\ufffd\ud800-\udfff]|/(?:/|\.\.?(?:/|$))|%(?:[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})"
_AMBIGUOUS = re.compile(_ODD)
_LONGEST_AT_ALL = 16384
# These, and what begins a query or a fragment.
_TO_LOOK_AT = re.compile(r"[?#]|" + _ODD)
# In the raw path: separators that decoding has made look like others.
_AMBIGUOUS_RAW = re.compile(rb"%(?:2f|5c)", re.IGNORECASE)


def ambiguous(path: str, raw_path: bytes | None) -> bool:
    """Whether the request could be read as one for another path than `path`.

    Anything but a path is ambiguous too, such as `*` or a whole URL, and what is too long to be read. The empty path
    is the prefix of a mounted app.
    """
    return (
        len(path) > _LONGEST_AT_ALL
        or len(raw_path or b"") > 3 * _LONGEST_AT_ALL
        or _AMBIGUOUS.search(path) is not None
        or path[:1] not in ("/", "")
        or (raw_path is not None and b"%" in raw_path and _AMBIGUOUS_RAW.search(raw_path) is not None)
    )


def plain(path: str, raw_path: bytes | None) -> bool:
    """Tell whether nothing about the spelling of a path needs a second look, as with nearly all of them."""
    if len(path) > _LONGEST_AT_ALL:
        return False
    return _TO_LOOK_AT.search(path) is None and path[:1] == "/" and (raw_path is None or b"%" not in raw_path)


def strip_root(path: str, root: str) -> str:
    """Return the path after the prefix `root`; the path itself if `root` is not a prefix of whole segments."""
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def misplaced(path: str, root: str) -> bool:
    """Whether the prefix `root` stands in the path, and not as its first whole segments.

    Some frameworks cut it off all the same, and route `/apiadmin` or `/x/api/admin` under `/api` as `/admin`.
    """
    return root.strip("/") != "" and root in path and not path.startswith(root + "/") and path != root


def decode_wsgi_path(path_info: str) -> str:
    """Decode a path of WSGI: PEP 3333 hands over bytes as if they were ISO 8859-1, and the path is UTF-8."""
    return path_info if path_info.isascii() else path_info.encode("latin-1").decode("utf-8", "replace")


def readings(path: str, root: str, prefixes: Iterable[str]) -> set[str]:
    """List what else a path may be for the app: with the prefix `root`, and without those that something may cut off.

    A prefix may hold variables, such as `/{tenant}/api`, and stand there in any case. If it is not a whole segment it
    is cut off all the same, for many write `path.removeprefix("/api")`. An app that is mounted further in may cut off
    `root` once more.
    """
    root = root.strip("/")
    found = {path, f"/{root}{path}"} if root else {path}
    waiting = list(found)
    cuts = [prefix_pattern(prefix) for prefix in (*prefixes, root) if prefix]
    while waiting and len(found) < _READINGS:
        whole = waiting.pop()
        for cut in cuts:
            match = cut.match(whole)
            if match is not None:
                rest = whole[match.end() :]
                rest = rest if rest[:1] in ("/", "") else "/" + rest
                if rest not in found:
                    found.add(rest)
                    waiting.append(rest)
    found.discard(path)
    return found


def rests(path: str) -> list[str]:
    """List what is left of a path without its first segments, be they one or several."""
    segments = path.split("/")
    return ["/" + "/".join(segments[place:]) for place in range(2, min(len(segments), _DEEPEST_PREFIX + 2))]


_DEEPEST_PREFIX = 16  # segments
_READINGS = 64  # each is another way to read one path: a prefix that is repeated for ever is cut off so often


@lru_cache(maxsize=256)
def prefix_pattern(prefix: str) -> re.Pattern[str]:
    """Compile what matches a prefix at the beginning of a path: `{...}` is any segment."""
    parts = ("[^/]+" if segment[:1] == "{" else re.escape(segment) for segment in prefix.strip("/").split("/"))
    return re.compile("/" + "/".join(parts), re.IGNORECASE)


_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\ufffd\ud800-\udfff]|%u[0-9A-Fa-f]{4}")
_ESCAPE = re.compile("%[0-9A-Fa-f]{2}")
_SEPARATORS = re.compile(r"[/\\;?#]+")
_LONGEST, _DEEPEST, _MOST_WORDS = 4096, 8, 256


def words_of(path: str) -> list[str] | None:
    """List the names that a path is made of, in order, however it is read; `None` if it could be read as anything.

    Every reading of it is made of some of these and of nothing else: decoding it again, taking other signs for
    separators, dropping parameters, empty segments and dot segments or a prefix only leaves some of them out.
    """
    if path[:1] not in ("/", "") or len(path) > _LONGEST:
        return None
    for _ in range(_DEEPEST):
        if _UNREADABLE.search(path) is not None:
            return None
        if _ESCAPE.search(path) is None:
            words = [word for word in _SEPARATORS.split(path) if word not in ("", ".", "..")]
            return words if len(words) <= _MOST_WORDS else None
        path = unquote(path)
    return None


def _fewest_segments(path: str, raw_path: bytes | None) -> int:
    """Count the segments that a path has at least, however it is read."""
    if path.startswith("//") or any(sign in path for sign in ("..", ";", "\\", "%", "?", "#")):
        return 0
    if raw_path is None:
        return sum(1 for segment in path.split("/") if segment)
    return sum(1 for segment in raw_path.split(b"/") if segment) if raw_path.startswith(b"/") else 0


def _fold(text: str) -> str:
    """Make a text what it is for routers that ignore case, such as those that match with `re.IGNORECASE`."""
    return text.upper().casefold().replace("i\u0307", "i")


_HERE, _BELOW, _ANY = "/", "/*", "/{}"  # keys of a node that no segment can have
_NAME = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")
_NOTHING = "\0"  # stands for the empty value of a variable; no segment of a pattern holds it
_Node: TypeAlias = "dict[str, _Node]"


class Paths:
    """A set of path patterns; asking it takes the same time for ten and for a thousand.

    `"/health"` is that path, in that case; `"/docs/*"` is `/docs`, `/docs/` and every path below; `"/items/{id}"` has
    one segment, whatever it is but empty, in the place of `{id}`; `"/*"` is every path.

    A list that lets requests pass is exact, so that it lets nothing else pass. One that stops them is built with
    `trailing_slash`: there a path with a slash at its end matches like the path without, and `/items/` like
    `/items/{id}`, since an app may route them alike. `ignore_case` is for apps that route paths in any case.
    """

    __slots__ = ("_exact", "_ignore_case", "_root", "_shapes", "_trailing_slash", "everything", "texts")

    def __init__(self, patterns: Iterable[str], *, trailing_slash: bool = False, ignore_case: bool = False) -> None:
        """Compile patterns; one text is a list of one. Raise `ConfigurationError` for a text that is not a pattern."""
        if not isinstance(patterns, Iterable):
            raise ConfigurationError(f"paths are a list of patterns, such as ['/docs/*'], not {patterns!r}")
        self.texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        if not self.texts:
            raise ConfigurationError("the list of paths is empty: it would apply to nothing")
        self._trailing_slash = trailing_slash
        self._ignore_case = ignore_case
        self._exact: set[str] = set()
        self._root: _Node = {}
        self._shapes: set[tuple[tuple[str, ...], int, bool]] = set()
        self.everything = "/*" in self.texts
        """Whether every path matches, however it is read."""
        for text in self.texts:
            segments = _segments(text)
            if ignore_case:
                segments = [segment if segment[:1] == "{" else _fold(segment) for segment in segments]
            if trailing_slash and segments[-1] == "":
                segments.pop()
            keys = [_key(segment) for segment in segments]
            names = tuple([segment for segment, key in zip(segments, keys, strict=True) if segment == key != ""])
            self._shapes.add((names, len([key for key in keys if key not in ("", _BELOW)]), keys[-1:] == [_BELOW]))
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
        if self._ignore_case:
            path = _fold(path)
        if self._trailing_slash and path.endswith("/"):
            path = path[:-1]
            if self._root and _walk(self._root, [*path.split("/")[1:], _NOTHING], 0):
                return True
        if path in self._exact:
            return True
        return bool(self._root) and _walk(self._root, path.split("/")[1:], 0)

    def concerned(self, path: str, raw_path: bytes | None = None) -> bool:
        """Tell whether an ambiguous path could be read as one that matches.

        It may say yes too often, and never says no if some reading matches.
        """
        words = words_of(path)
        if words is None or self.everything:
            return True
        if self._ignore_case:
            words = [_fold(word) for word in words]
        present = set(words)
        fewest = _fewest_segments(path, raw_path)
        for names, segments, below in self._shapes:
            if names:
                if present.issuperset(names) and _in_order(names, words):
                    return True
            elif segments <= len(words) + 1 and (below or segments >= fewest):
                return True
        return False


class PathTree:
    """Numbers by path patterns, wide: for paths in any case, with a slash at their end or without."""

    __slots__ = ("_found", "_root")

    def __init__(self) -> None:
        self._root: _Node = {}
        self._found: dict[int, set[int]] = {}
        """The numbers of each node at which a pattern ends, by what identifies the node."""

    def add(self, text: str, number: int) -> None:
        """Add a number under a pattern. Raises `ConfigurationError` for what is not one."""
        segments = [segment if segment[:1] == "{" else _fold(segment) for segment in _segments(text)]
        if segments[-1] == "":
            segments.pop()
        node = self._root
        for key in map(_key, segments):
            node = node.setdefault(key, {})
        if segments[-1:] != ["*"]:
            node = node.setdefault(_HERE, {})
        self._found.setdefault(id(node), set()).add(number)

    def find(self, path: str) -> set[int]:
        """Return the numbers of all patterns that match a path, as one that closes a door does."""
        segments = _fold(path).split("/")[1:]
        found: set[int] = set()
        if segments[-1:] == [""]:
            self._collect(self._root, [*segments[:-1], _NOTHING], 0, found)
            segments.pop()
        self._collect(self._root, segments, 0, found)
        return found

    def _collect(self, node: _Node, segments: list[str], place: int, found: set[int]) -> None:
        below = node.get(_BELOW)
        if below is not None:
            found |= self._found[id(below)]
        if place == len(segments):
            here = node.get(_HERE)
            if here is not None:
                found |= self._found[id(here)]
            return
        segment = segments[place]
        inner = node.get(segment)
        if inner is not None:
            self._collect(inner, segments, place + 1, found)
        inner = node.get(_ANY) if segment else None
        if inner is not None:
            self._collect(inner, segments, place + 1, found)


def names_of(text: str) -> list[str]:
    """List the names in a pattern, in the form of `folded_words`. Raises `ConfigurationError` for what is not one."""
    return [_fold(segment) for segment in _segments(text) if segment not in ("", "*") and segment[:1] != "{"]


def folded_words(texts: Iterable[str]) -> set[str] | None:
    """Return the names that paths are made of, however they are read, in one case; `None` if one could be anything."""
    found: set[str] = set()
    for text in texts:
        words = words_of(text)
        if words is None:
            return None
        found.update(map(_fold, words))
    return found


def _in_order(names: Sequence[str], words: Sequence[str]) -> bool:
    rest = iter(words)
    return all(name in rest for name in names)


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
    return ConfigurationError(f"{text!r} is not a path pattern: {problem}")
