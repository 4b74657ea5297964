"""An index of conditions by the paths that they need: which of many may hold for a request.

It may name too many, and never leaves one out that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.conditions.condition import Condition
from keyguard.http.paths import PathTree


class PathIndex:
    """The numbers of conditions, by path. Asking it takes the same time for ten and for a thousand."""

    __slots__ = ("_all", "_everywhere", "_tree")

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._all = list(range(len(conditions)))
        self._everywhere: list[int] = []
        """Those that may hold for any path."""
        self._tree = PathTree()
        for number, condition in enumerate(conditions):
            needed = condition.needed
            if needed is None:
                self._everywhere.append(number)
            else:
                for text in needed:
                    self._tree.add(text, number)

    def candidates(self, request: Any) -> Sequence[int]:
        """Return the numbers of the conditions that may hold, in order."""
        if len(self._everywhere) == len(self._all):
            return self._all
        plain = request.plain_path
        if plain is not None:
            found = self._tree.find(plain)
        else:
            spelling = request.spelling
            if spelling.ambiguous or "?" in spelling.path or "#" in spelling.path:
                return self._all  # each says for itself whether it could be meant
            found = set()
            for path in {spelling.path, *spelling.others, *spelling.hidden}:
                found |= self._tree.find(path)
        if not found:
            return self._everywhere
        found.update(self._everywhere)
        return sorted(found)
