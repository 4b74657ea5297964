"""Conditions on the path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from keyguard.conditions.condition import Condition
from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.http.paths import Paths
from keyguard.http.spelling import Spelling


class OnPaths(Condition):
    """Holds for requests whose path matches one of some patterns."""

    __slots__ = ("_exact", "_wide", "ignore_case", "texts")

    def __init__(self, patterns: Iterable[str], *, ignore_case: bool = False) -> None:
        if not isinstance(ignore_case, bool):
            raise ConfigurationError(f"ignore_case is True or False, not {ignore_case!r}")
        self._exact = Paths(patterns)
        self._wide = Paths(self._exact.texts, trailing_slash=True, ignore_case=ignore_case)
        self.texts = self._exact.texts
        self.ignore_case = ignore_case

    def __repr__(self) -> str:
        case = ", ignore_case=True" if self.ignore_case else ""
        return f"path({', '.join(map(repr, self.texts))}{case})"

    @property
    def parts(self) -> tuple[object, ...]:
        return self.texts, self.ignore_case

    @property
    def needed(self) -> tuple[str, ...] | None:
        return None if self._wide.everything else self.texts

    def holds(self, request: Any, *, wide: bool) -> bool:
        plain = request.plain_path
        if plain is not None:
            return self._wide.match(plain) if wide else self._exact.match(plain)
        spelling = request.spelling
        if spelling.ambiguous:
            return self._of_ambiguous(spelling)
        path = spelling.path
        holds = self._of(spelling, wide)
        if ("?" in path or "#" in path) and holds is not self._of(spelling, wide, cut=True):
            raise AmbiguousPath  # an app that forwards requests may take the rest for a query
        return holds

    def _of(self, spelling: Spelling, wide: bool, *, cut: bool = False) -> bool:
        paths = [spelling.path, *(spelling.others if wide else spelling.hidden)]
        if cut:
            paths = [CUT.split(path, maxsplit=1)[0] for path in paths]
        return any(map(self._wide.match, paths)) if wide else all(map(self._exact.match, paths))

    def _of_ambiguous(self, spelling: Spelling) -> bool:
        if self._wide.everything:
            return True
        raw_path = b"" if spelling.prefixed else spelling.raw_path
        if any(self._wide.concerned(text, raw_path) for text in spelling.texts):
            raise AmbiguousPath
        return False


CUT = re.compile("[?#]")
"""Where an app that forwards requests may take the rest of a path for a query."""


def path(*patterns: str, ignore_case: bool = False) -> OnPaths:
    """Return a condition that holds for requests for one of these paths: `"/products/*"`, `"/items/{id}"`, `"/prices"`.

    For `RateLimit(when=...)` and `exempt=...`, `APIKeys(public=...)`, `ResponseCache(when=...)` and wherever a list of
    `paths` is taken; and to be called in functions of your own: `path("/admin/*")(request)`.

    - In settings that open a door (`public`, `exempt`, a cache's `when`) it is exact. In those that close one (`when`,
      `paths`, functions of your own) it holds for `/items/` as for `/items` and `/items/{id}`, and for paths that the
      app may route like them behind a prefix.
    - `ignore_case`: the app routes paths in any case, and what is closed is closed in any case.
    - A path that can be read in more than one way, one of which is meant, is refused with 400.

    Raises `ConfigurationError` for a text that is not a pattern.
    """
    return OnPaths(patterns, ignore_case=ignore_case)


def on_paths(word: str, given: Iterable[str] | OnPaths | None, ignore_case: bool) -> OnPaths | None:
    """Make a condition of a setting of paths: of patterns, or of another condition; `None` if nothing was given.

    Raises `ConfigurationError` for what is neither, and for an `ignore_case` that nothing is there for.
    """
    if given is None:
        if ignore_case:
            raise ConfigurationError(f"ignore_case is about {word}, and there are none")
        return None
    if not isinstance(given, OnPaths):
        return OnPaths(given, ignore_case=ignore_case)
    return OnPaths(given.texts, ignore_case=ignore_case or given.ignore_case)
