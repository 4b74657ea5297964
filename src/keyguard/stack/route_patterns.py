"""Patterns of rules against the templates of routes: which paths can both be about."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.conditions import OnPaths
from keyguard.drivers.inspection.routes import REST, SOME, Route, segments_of


class RoutesBySegment:
    """Routes by their first segment, so that a pattern is compared with a few of many."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.all = routes
        self.paths = [*dict.fromkeys(route.path for route in routes)]
        self._by_first: dict[str, list[Route]] = {}
        for route in routes:
            self._by_first.setdefault(first_of(route.segments), []).append(route)

    def beside(self, pattern: str) -> Sequence[Route]:
        """Return the routes whose first segment may be that of a pattern."""
        first = first_of(segments_of(pattern))
        if first == "":
            return self.all
        return [*self._by_first.get(first, ()), *self._by_first.get("", ())]


def first_of(segments: tuple[str, ...]) -> str:
    """Return the first segment in one case; empty if it may be any."""
    return "" if segments[0] in (SOME, REST) else segments[0].casefold()


def meets(pattern: str, route: Route, *, ignore_case: bool = False) -> bool:
    """Tell whether some path that a route answers matches a pattern."""
    return _meet(segments_of(pattern), route.segments, ignore_case)


def covers(pattern: str, route: Route, *, ignore_case: bool = False) -> bool:
    """Tell whether all paths that a route answers match a pattern."""
    return _cover(segments_of(pattern), route.segments, ignore_case)


def _meet(one: tuple[str, ...], other: tuple[str, ...], fold: bool) -> bool:
    if one[:1] == (REST,) or other[:1] == (REST,):
        return True
    if not one or not other:
        return not one and not other
    alike = SOME in (one[0], other[0]) or _same(one[0], other[0], fold)
    return alike and _meet(one[1:], other[1:], fold)


def _cover(wide: tuple[str, ...], narrow: tuple[str, ...], fold: bool) -> bool:
    if wide[:1] == (REST,):
        return True
    if not wide or not narrow or narrow[0] == REST:
        return not wide and not narrow
    alike = wide[0] == SOME or _same(wide[0], narrow[0], fold)
    return alike and _cover(wide[1:], narrow[1:], fold)


def _same(one: str, other: str, fold: bool) -> bool:
    return one.casefold() == other.casefold() if fold else one == other


def covered(paths: OnPaths | None, route: Route) -> bool:
    """Tell whether a rule on some paths, or on all of them, is about all of a route."""
    return paths is None or any(covers(text, route, ignore_case=paths.ignore_case) for text in paths.texts)


def met(paths: OnPaths | None, route: Route) -> bool:
    """Tell whether a rule on some paths, or on all of them, is about some path that a route answers."""
    return paths is None or any(meets(text, route, ignore_case=paths.ignore_case) for text in paths.texts)


def answers(route: Route, methods: frozenset[str] | None) -> bool:
    """Tell whether a route answers one of some methods."""
    return methods is None or not route.methods or not methods.isdisjoint(route.methods)
