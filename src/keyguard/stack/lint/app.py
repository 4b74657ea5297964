"""Rules that match no route, routes that nothing protects, counters that several routes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from keyguard.conditions import Condition, Not, OnPaths
from keyguard.drivers.inspection.objects import class_of_view
from keyguard.drivers.inspection.routes import Route, routes_of, segments_of
from keyguard.drivers.inspection.starlette_routes import Met
from keyguard.errors import ConfigurationError
from keyguard.guards.api_keys import APIKeys
from keyguard.policies import PolicySet
from keyguard.selection import never
from keyguard.stack.flask_apps import FlaskApps
from keyguard.stack.lint.findings import SEVERITIES, Finding, Findings, Severity
from keyguard.stack.lint.reachability import unreachable, unreachable_at_routes, unreachable_policies
from keyguard.stack.markers import Markers, learned
from keyguard.stack.placed import Placed, placed
from keyguard.stack.route_patterns import RoutesBySegment, answers, covered, first_of, meets, met
from keyguard.stack.route_rules import RouteRule, rules_of
from keyguard.stack.views import parts_of_view


class Stack(NamedTuple):
    """A stack, as far as it is compared with an app."""

    guards: Sequence[Any]
    """Its guards, with its policies as gates."""
    markers: Markers | None
    flask_apps: FlaskApps
    check_routes: Callable[[Any], None]


def check_app(stack: Stack, app: Any) -> Findings:
    """Compare a stack with the routes of an app."""
    places = [*placed(stack.guards)]
    routes = routes_of(app)
    found = [*unreachable(places), *unreachable_policies(stack.guards), *_never(places)]
    if routes is None:
        what = type(app).__name__ if not isinstance(app, type) else app.__name__
        message = "its routes cannot be seen, so no rule was compared with them: pass the framework's own app"
        found.append(Finding("warning", "unknown-routes", what, message))
    else:
        try:
            stack.check_routes(app)
            rules = _rules_at(stack, app, routes)
        except ConfigurationError as error:
            return Findings([Finding("error", "rule-at-route", type(app).__name__, str(error)), *found])
        by_segment = RoutesBySegment(routes)
        found += _matching_nothing(places, by_segment)
        found += _policies_matching_nothing(stack.guards, by_segment)
        found += _unprotected(places, routes, rules)
        found += unreachable_at_routes(places, [rule for own in rules for rule in own])
        found += _shared(places, by_segment)
    return Findings(sorted(found, key=lambda finding: -SEVERITIES.index(finding.severity)))


Rules: TypeAlias = tuple[RouteRule[Any], ...]
"""Those that a stack has at one route."""


def _rules_at(stack: Stack, app: Any, routes: Sequence[Route]) -> list[Rules]:
    """Return the rules that the stack has at each route, by `guard.limit` and `guard.key`."""
    markers = stack.markers
    if markers is None:
        return [()] * len(routes)
    of_flask = stack.flask_apps.rules_of(app, markers)
    return [_rules_of(route, markers, of_flask) for route in routes]


def _rules_of(route: Route, markers: Markers, of_flask: Mapping[str | None, Rules]) -> Rules:
    if isinstance(route.of_framework, Met):
        return tuple([rule for marker, rule, _ in learned(route.of_framework) if marker.markers is markers])
    if route.of_framework in of_flask:
        return of_flask[route.of_framework]
    view = route.view
    parts = [view, *parts_of_view(class_of_view(view) or view)] if view is not None else []
    found = [rule for part in parts for rule in (markers.of(part) if callable(part) else rules_of(part))]
    return tuple(dict.fromkeys(found))


# -- rules that match nothing -----------------------------------------------------------------------------------


def _matching_nothing(places: Iterable[Placed], routes: RoutesBySegment) -> Iterator[Finding]:
    for guard in [place.guard for place in places]:
        for word, condition in _conditions(guard):
            for severity, text in _met_by_none(condition, routes, closes=word in _CLOSING):
                yield Finding(severity, "matches-nothing", repr(guard), _no_route(word, text, routes))
        methods = _methods(guard)
        if methods is not None:
            about = [route for route in routes.all if met(getattr(guard, "paths", None), route)]
            if about and not any(answers(route, methods) for route in about):
                said = f"methods={sorted(methods)}: no route that it is about answers any of them"
                yield Finding("error", "matches-nothing", repr(guard), said)


_CLOSING = ("paths", "when")


def _policies_matching_nothing(guards: Iterable[Any], routes: RoutesBySegment) -> Iterator[Finding]:
    for policy in [policy for gate in guards if isinstance(gate, PolicySet) for policy in gate.policies]:
        # One without guards spares requests the policies behind it, and does no more.
        for severity, text in _met_by_none(policy.condition, routes, closes=bool(policy.guards)):
            yield Finding(severity, "matches-nothing", repr(policy), _no_route("path", text, routes))


def _met_by_none(condition: Condition, routes: RoutesBySegment, *, closes: bool) -> Iterator[tuple[Severity, str]]:
    """Yield the patterns of a condition that no route meets, with how bad that is.

    What is meant to be closed by it stands open; what is meant to be open is closed.
    """
    for one, its in _on_paths(condition, closes):
        for text in one.texts:
            if not any(meets(text, route, ignore_case=one.ignore_case) for route in routes.beside(text)):
                yield "error" if its else "warning", text


def _on_paths(condition: Condition, closes: bool) -> Iterator[tuple[OnPaths, bool]]:
    """Yield the conditions on paths that one is made of, and whether each of them closes: `~` changes sides."""
    if isinstance(condition, OnPaths):
        yield condition, closes
    elif isinstance(condition, Not):
        yield from _on_paths(condition.condition, not closes)
    else:
        for one in condition.parts:
            if isinstance(one, Condition):
                yield from _on_paths(one, closes)


def _conditions(guard: Any) -> Iterator[tuple[str, Condition]]:
    """Yield the conditions that a guard has, with the names of the settings."""
    for word in ("paths", "when", "exempt", "public", "health"):
        condition = getattr(guard, word, None)
        if condition is None and word in ("when", "exempt"):
            condition = getattr(getattr(guard, "selection", None), word, None)
        if isinstance(condition, Condition):
            yield word, condition


def _methods(guard: Any) -> frozenset[str] | None:
    selection = getattr(guard, "selection", None)
    return None if selection is None else selection.methods


def _no_route(word: str, text: str, routes: RoutesBySegment) -> str:
    from difflib import get_close_matches

    near = get_close_matches(text, routes.paths, n=1, cutoff=0.6)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"{word}={text!r} matches no route of the app{hint}"


def _never(places: Iterable[Placed]) -> Iterator[Finding]:
    for guard in [place.guard for place in places]:
        selection = getattr(guard, "selection", None)
        if selection is not None and selection.when is never:
            yield Finding("warning", "matches-nothing", repr(guard), "when=False: it applies to nothing")


# -- routes that nothing protects -------------------------------------------------------------------------------


def _unprotected(places: Iterable[Placed], routes: Sequence[Route], rules: Sequence[Rules]) -> Iterator[Finding]:
    """Find routes that need no key, and that no limit is about."""
    deciding = [place for place in places if not place.shadow]
    keys = [place for place in deciding if isinstance(place.guard, APIKeys)]
    limits = [place for place in deciding if getattr(place.guard, "selection", None) is not None]
    if not keys and not limits and not any(rules):
        return
    keys_beside, limits_beside = _by_segment(keys), _by_segment(limits)
    for route, own in zip(routes, rules, strict=True):
        if own or any(place.about_all(route) and _needs_key(place.guard, route) for place in keys_beside(route)):
            continue
        if any(place.about_all(route) and _limits(place.guard, route) for place in limits_beside(route)):
            continue
        what = "needs no key, and no limit is about it" if keys else "no limit is about it"
        yield Finding("warning", "unprotected-route", route.name, what)


def _by_segment(places: Iterable[Placed]) -> Callable[[Route], Iterator[Placed]]:
    """Return what yields the places whose policies may be about all of a route: a few of many."""
    found: dict[str, list[Placed]] = {}
    for place in places:
        needed = None if place.condition is None else place.condition.needed
        for first in {first_of(segments_of(text)) for text in needed} if needed is not None else {""}:
            found.setdefault(first, []).append(place)

    def beside(route: Route) -> Iterator[Placed]:
        for first in {"", first_of(route.segments)}:
            yield from found.get(first, ())

    return beside


def _needs_key(guard: APIKeys, route: Route) -> bool:
    if guard.optional or not covered(guard.paths, route):
        return False
    return guard.public is None or not met(guard.public, route)


def _limits(guard: Any, route: Route) -> bool:
    """Tell whether a limit is about all of a route, as far as it can be seen without asking functions."""
    selection = guard.selection
    if selection.when is never or not covered(selection.paths, route) or not answers(route, selection.methods):
        return False
    if isinstance(selection.when, OnPaths) and not covered(selection.when, route):
        return False
    return not (isinstance(selection.exempt, OnPaths) and met(selection.exempt, route))


# -- counters that several routes share -------------------------------------------------------------------------


def _shared(places: Iterable[Placed], routes: RoutesBySegment) -> Iterator[Finding]:
    """Find limits of which several routes that are named one by one share a counter."""
    for guard in [place.guard for place in places]:
        paths = getattr(getattr(guard, "selection", None), "paths", None)
        if paths is None:
            continue
        about: set[str] = set()
        for text in [text for text in paths.texts if not text.endswith("*")]:
            found = [route for route in routes.beside(text) if meets(text, route)]
            named = [route for route in found if route.segments == segments_of(text)] or found
            about.update(route.path for route in named[:1])
        if len(about) > 1:
            said = f"its paths share one counter: {_listed(sorted(about))}. Limits of their own are made one a path"
            yield Finding("note", "shared-counter", repr(guard), said)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")
