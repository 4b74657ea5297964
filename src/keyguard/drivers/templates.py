"""The template of the route that a request was for: what the framework has matched, else what its table says, else
the pattern of a rule.

A path is never a template: callers can invent as many as they like. A path that matches nothing has an empty one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from keyguard.drivers.inspection.app import frameworks_within
from keyguard.drivers.inspection.routes import REST, SOME, Route, routes_of, segments_of
from keyguard.drivers.inspection.starlette_routes import Met, key_in
from keyguard.logs import logger
from keyguard.request import SHARED_ASGI, CarriedRequest

log = logger("keyguard")

_KEPT = 1024
"""Paths whose template is kept."""
_LONGEST = 256  # characters of such a path
_MOST = 8  # times that the table is read again, since a route was met that is not in it

Found = tuple[int, str]
"""The place of a route among all, and its template."""


class Templates:
    """The templates of an app's routes, and the patterns of the rules about it."""

    def __init__(self, app: Any, patterns: Sequence[str] = ()) -> None:
        self._app = app
        self._patterns = patterns
        self._readings = 0
        self._read()

    def _read(self) -> None:
        self._readings += 1
        by_key: dict[int, list[Met]] = {}
        table, rules = _Node(), _Node()
        for place, text in enumerate(self._patterns):
            rules.add(place, Route(text, segments_of(text), frozenset(), None))
        try:
            routes = routes_of(self._app)
            if routes is None and len(found := frameworks_within(self._app)) == 1:  # behind middleware of several parts
                routes = routes_of(found[0])
            for place, route in enumerate(routes or ()):
                table.add(place, route)
                if isinstance(route.of_framework, Met):
                    by_key.setdefault(id(route.of_framework.key), []).append(route.of_framework)
        except Exception:
            log.warning("the routes of %s cannot be listed", type(self._app).__name__, exc_info=True)
            routes = None
        self._seen = routes is not None
        """Whether the routes can be seen."""
        self._by_key, self._table, self._rules = by_key, table, rules
        self._kept: dict[tuple[str, str], tuple[str, bool]] = {}

    def template_of(self, request: CarriedRequest, path: str) -> str:
        """Return the template for a request. `path` is its path as it came, without what stands before the app."""
        if request.reached_app and request.shared is SHARED_ASGI:
            key = key_in(request.scope)
            if key is not None and (template := self._of_key(key, path)):
                return template
        template, matched = self._matching(request.method, path)
        # A path that a framework has not matched is not a route, whatever rules are about it.
        return template if matched or not (self._seen and request.reached_app) else ""

    def _of_key(self, key: Any, path: str) -> str:
        """Return the template of the route that Starlette names by an object."""
        found = self._by_key.get(id(key))
        if found is None and self._readings < _MOST:  # it was added later
            self._read()
            found = self._by_key.get(id(key))
        if not found:
            return ""
        if len(found) > 1:  # of an app that is mounted in several places
            segments = path.strip("/").split("/")
            for place, met in enumerate(found):
                one = _Node()
                one.add(place, Route(met.path, segments_of(met.path), frozenset(), None))
                if one.find(segments, None) is not None:
                    return met.path
        return found[0].path

    def _matching(self, method: str, path: str) -> tuple[str, bool]:
        """Return a template, or the pattern of a rule, and whether it is a template."""
        kept = self._kept.get((method, path))
        if kept is not None:
            return kept
        segments = path.strip("/").split("/")
        found = self._table.find(segments, method) or self._table.find(segments, None)  # the last: a 405
        matched = found is not None
        if found is None:
            found = self._rules.find(segments, None)
        answer = "" if found is None else found[1], matched
        if len(path) <= _LONGEST and len(method) <= _LONGEST:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            self._kept[method, path] = answer
        return answer


class _Node:
    """A segment of templates, with all that may follow."""

    __slots__ = ("ends", "rests", "some", "texts")

    def __init__(self) -> None:
        self.texts: dict[str, _Node] = {}
        self.some: dict[str, _Node] = {}
        """The nodes behind a variable, by its kind."""
        self.ends: list[tuple[int, Route]] = []
        self.rests: list[tuple[int, Route]] = []
        """The routes that answer whatever follows."""

    def add(self, place: int, route: Route) -> None:
        """Add a route."""
        at, words = self, route.path.strip("/").split("/")
        for segment, word in zip(route.segments, words, strict=False):
            if segment == REST:
                at.rests.append((place, route))
                return
            if segment == SOME:
                kind = _KIND.fullmatch(word)
                at = at.some.setdefault("" if kind is None else kind[1] or kind[2], _Node())
            else:
                at = at.texts.setdefault(segment, _Node())
        at.ends.append((place, route))

    def find(self, segments: Sequence[str], method: str | None, at: int = 0) -> Found | None:
        """Return the first route for these segments, from the one at `at` on; with `None`, of any method."""
        found = _first(self.rests, method)
        if at == len(segments):
            return _earlier(found, _first(self.ends, method))
        segment = segments[at]
        further = self.texts.get(segment)
        if further is not None:
            found = _earlier(found, further.find(segments, method, at + 1))
        for kind, further in self.some.items():
            if segment and _FITS.get(kind, bool)(segment):
                found = _earlier(found, further.find(segments, method, at + 1))
        return found


def _first(routes: Iterable[tuple[int, Route]], method: str | None) -> Found | None:
    for place, route in routes:
        if method is None or not route.methods or method in route.methods:
            return place, route.path
    return None


def _earlier(one: Found | None, other: Found | None) -> Found | None:
    return min(one, other) if one is not None and other is not None else one or other


_KIND = re.compile(r"\{\w+:(\w+)\}|<(\w+):\w+>")
"""A variable of a kind: `{id:int}` or `<int:id>`."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_FITS: dict[str, Callable[[str], Any]] = {"int": str.isdecimal, "uuid": _UUID.fullmatch}
"""The texts that variables of some kinds stand for; of all others any text."""
