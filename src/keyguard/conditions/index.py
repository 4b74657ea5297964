"""An index of conditions by the paths that they need: which of many may hold for a request.

It may name too many, and never leaves one out that holds, or that depends on how the path is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.conditions.condition import Condition
from keyguard.conditions.paths import CUT
from keyguard.http.paths import PathTree, folded_words, names_of


class PathIndex:
    """The numbers of conditions, by path. Asking it takes the same time for ten and for a thousand."""

    __slots__ = ("_all", "_by_name", "_everywhere", "_nameless", "_tree")

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._all = list(range(len(conditions)))
        self._everywhere: list[int] = []
        """Those that may hold for any path."""
        self._tree = PathTree()
        self._by_name: dict[str, set[int]] = {}
        """By the first name of each pattern: a path that could be read as one that matches has it, however it is
        spelled."""
        self._nameless: set[int] = set()
        """Those of patterns that name nothing."""
        for number, condition in enumerate(conditions):
            needed = condition.needed
            if needed is None:
                self._everywhere.append(number)
                continue
            for text in needed:
                self._tree.add(text, number)
                names = names_of(text)
                (self._by_name.setdefault(names[0], set()) if names else self._nameless).add(number)

    def candidates(self, request: Any) -> Sequence[int]:
        """Return the numbers of the conditions that may hold, in order."""
        if len(self._everywhere) == len(self._all):
            return self._all
        plain = request.plain_path
        if plain is not None:
            found = self._tree.find(plain)
        elif request.spelling.ambiguous:
            words = folded_words(request.spelling.texts)
            if words is None:
                return self._all  # it could be read as anything
            found = self._nameless.union(*[self._by_name.get(word, ()) for word in words])
        else:
            spelling = request.spelling
            paths = {spelling.path, *spelling.others, *spelling.hidden}
            paths |= {CUT.split(path, maxsplit=1)[0] for path in paths}
            found = set[int]().union(*map(self._tree.find, paths))
        if not found:
            return self._everywhere
        found.update(self._everywhere)
        return sorted(found)
