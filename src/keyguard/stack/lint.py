"""What is suspicious in a stack, compared with the routes of the app that it stands around."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from keyguard.conditions import OnPaths
from keyguard.drivers.inspection.routes import Route, routes_of
from keyguard.drivers.inspection.starlette_routes import Met
from keyguard.errors import ConfigurationError
from keyguard.guards.api_keys import APIKeys
from keyguard.guards.rate_limit import RateLimit
from keyguard.rates import Limit
from keyguard.rates.window import WindowLog, WindowSlices
from keyguard.selection import never
from keyguard.stack.flask_routes import FlaskApps
from keyguard.stack.markers import Markers, learned
from keyguard.stack.route_patterns import answers, covered, meets, met
from keyguard.stack.route_rules import RouteRule, parts_of_view, rules_of

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that `Keyguard.check` has found."""

    severity: Severity
    """`"error"` for what cannot be meant, `"warning"` for what may leave something open, `"note"` for what is good to
    know."""
    rule: str
    """What kind of thing it is: `"unprotected-route"`, `"matches-nothing"`, `"unreachable-limit"`, `"shared-counter"`,
    `"rule-at-route"` for limits and keys at routes that could not work, or `"unknown-routes"`."""
    subject: str
    """The guard or the route that it is about."""
    message: str
    """What is so, and what would be right."""

    def __str__(self) -> str:
        return f"{self.severity:8} {self.rule:17} {self.subject}: {self.message}"


class Findings(tuple[Finding, ...]):
    """All that `Keyguard.check` has found, the most severe first. Its text has a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing to report"


class Stack(NamedTuple):
    """A stack, as far as it is compared with an app."""

    guards: Sequence[Any]
    markers: Markers | None
    flask_apps: FlaskApps
    check_routes: Callable[[Any], None]


def check_app(stack: Stack, app: Any) -> Findings:
    """Compare a stack with the routes of an app."""
    guards = stack.guards
    routes = routes_of(app)
    found = [*_unreachable(guards), *_never(guards)]
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
        found += _matching_nothing(guards, routes)
        found += _unprotected(guards, routes, rules)
        found += _unreachable_inside(guards, rules)
        found += _shared(guards, routes)
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
    owner = getattr(view, "view_class", None) or getattr(view, "cls", None) or view
    parts = [view, *parts_of_view(owner)] if view is not None else []
    found = [rule for part in parts for rule in (markers.of(part) if callable(part) else rules_of(part))]
    return tuple(dict.fromkeys(found))


def raise_from(findings: Findings, severity: Severity | None) -> None:
    """Raise `ConfigurationError` if there is a finding of this severity, or a worse one."""
    if severity is None:
        return
    bad = [str(one) for one in findings if SEVERITIES.index(one.severity) >= SEVERITIES.index(severity)]
    if bad:
        raise ConfigurationError("the stack does not fit the app:\n" + "\n".join(bad))


def checked_severity(severity: object) -> None:
    """Raise `ConfigurationError` for what is not a severity."""
    if severity is not None and severity not in SEVERITIES:
        raise ConfigurationError(f"fail_on is 'error', 'warning', 'note' or None, not {severity!r}")


# -- rules that match nothing -----------------------------------------------------------------------------------


def _matching_nothing(guards: Iterable[Any], routes: Sequence[Route]) -> Iterator[Finding]:
    for guard in guards:
        for word, paths in _conditions(guard):
            for text in paths.texts:
                if not any(meets(text, route, ignore_case=paths.ignore_case) for route in routes):
                    # What is meant to be closed by it stands open; what is meant to be open is closed.
                    severity: Severity = "error" if word in _CLOSING else "warning"
                    yield Finding(severity, "matches-nothing", repr(guard), _no_route(word, text, routes))
        methods = _methods(guard)
        if methods is not None:
            about = [route for route in routes if met(getattr(guard, "paths", None), route)]
            if about and not any(answers(route, methods) for route in about):
                said = f"methods={sorted(methods)}: no route that it is about answers any of them"
                yield Finding("error", "matches-nothing", repr(guard), said)


_CLOSING = ("paths", "when")


def _conditions(guard: Any) -> Iterator[tuple[str, OnPaths]]:
    """Yield the conditions on paths that a guard has, with the names of the settings."""
    for word in ("paths", "when", "exempt", "public", "health"):
        condition = getattr(guard, word, None)
        if condition is None and word in ("when", "exempt"):
            condition = getattr(getattr(guard, "selection", None), word, None)
        if isinstance(condition, OnPaths):
            yield word, condition


def _methods(guard: Any) -> frozenset[str] | None:
    selection = getattr(guard, "selection", None)
    return None if selection is None else selection.methods


def _no_route(word: str, text: str, routes: Sequence[Route]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(text, [route.path for route in routes], n=1, cutoff=0.6)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"{word}={text!r} matches no route of the app{hint}"


def _never(guards: Iterable[Any]) -> Iterator[Finding]:
    for guard in guards:
        selection = getattr(guard, "selection", None)
        if selection is not None and selection.when is never:
            yield Finding("warning", "matches-nothing", repr(guard), "when=False: it applies to nothing")


# -- routes that nothing protects -------------------------------------------------------------------------------


def _unprotected(guards: Sequence[Any], routes: Sequence[Route], rules: Sequence[Rules]) -> Iterator[Finding]:
    """Find routes that need no key, and that no limit is about."""
    keys = [guard for guard in guards if isinstance(guard, APIKeys)]
    limits = [guard for guard in guards if getattr(guard, "selection", None) is not None]
    if not keys and not limits and not any(rules):
        return
    for route, own in zip(routes, rules, strict=True):
        if own:
            continue
        needs_key = any(
            not guard.optional
            and covered(guard.paths, route)
            and not (guard.public is not None and met(guard.public, route))
            for guard in keys
        )
        if needs_key or any(_limits(guard, route) for guard in limits):
            continue
        what = "needs no key, and no limit is about it" if keys else "no limit is about it"
        yield Finding("warning", "unprotected-route", route.name, what)


def _limits(guard: Any, route: Route) -> bool:
    """Tell whether a limit is about all of a route, as far as it can be seen without asking functions."""
    selection = guard.selection
    if selection.when is never or not covered(selection.paths, route) or not answers(route, selection.methods):
        return False
    if isinstance(selection.when, OnPaths) and not covered(selection.when, route):
        return False
    return not (isinstance(selection.exempt, OnPaths) and met(selection.exempt, route))


# -- limits that never refuse -----------------------------------------------------------------------------------


def _unreachable(guards: Iterable[Any]) -> Iterator[Finding]:
    """Find limits that no caller can come to, since another one that is about all the same requests refuses before."""
    limits = [guard for guard in guards if isinstance(guard, RateLimit) and guard.settling is None]
    for guard in limits:
        for limit in _windows(guard):
            for other in limits:
                if not _about_all_of(other, guard):
                    continue
                strict = next((one for one in _windows(other) if one is not limit and _stricter(one, limit)), None)
                if strict is not None:
                    beside = "" if other is guard else f" of {other!r}"
                    said = f"{limit.text} can never be reached: {strict.text}{beside} refuses before"
                    yield Finding("warning", "unreachable-limit", repr(guard), said)
                    break


def _unreachable_inside(guards: Iterable[Any], rules: Iterable[Rules]) -> Iterator[Finding]:
    """Find the same among the limits at routes: those of the stack refuse before."""
    outside = [guard for guard in guards if isinstance(guard, RateLimit) and guard.settling is None]
    inside = {rule.limit: rule for own in rules for rule in own if rule.limit is not None}
    for limit, rule in inside.items():
        if limit.settling is not None:
            continue
        for one in _windows(limit):
            strict = next((by for by in outside if _about_all_of(by, limit) and _refuses_before(by, one)), None)
            if strict is not None:
                said = f"{one.text} at {rule.place} can never be reached: {strict!r} refuses before"
                yield Finding("warning", "unreachable-limit", repr(limit), said)


def _refuses_before(guard: RateLimit, limit: Limit) -> bool:
    return any(_stricter(one, limit) for one in _windows(guard))


def _windows(guard: RateLimit) -> list[Limit]:
    plans = guard.plans is not None or guard.choose is not None
    return [] if plans else [rule.limit for rule in guard.rules if isinstance(rule.limit, (WindowLog, WindowSlices))]


def _about_all_of(other: RateLimit, guard: RateLimit) -> bool:
    """Tell whether a limit counts at least what another one counts, for the same callers."""
    if other is guard:
        return True
    same_cost = isinstance(guard.cost, int) and other.cost == guard.cost > 0
    return (
        same_cost and isinstance(guard.by, str) and other.by == guard.by and other.fixed and other.selection.everything
    )


def _stricter(one: Limit, limit: Limit) -> bool:
    """Tell whether as many units as `limit` has can never come in its period, since `one` stands beside it."""
    windows = -(-limit.period // one.period)
    most = one.quota * windows
    return most < limit.quota or (most == limit.quota and one.period > limit.period)


# -- counters that several routes share -------------------------------------------------------------------------


def _shared(guards: Iterable[Any], routes: Sequence[Route]) -> Iterator[Finding]:
    """Find limits of which several routes that are named one by one share a counter."""
    for guard in guards:
        paths = getattr(getattr(guard, "selection", None), "paths", None)
        if paths is None:
            continue
        named = [text for text in paths.texts if not text.endswith("*")]
        about = {route.path for route in routes if any(meets(text, route) for text in named)}
        if len(about) > 1:
            said = f"its paths share one counter: {_listed(sorted(about))}. Limits of their own are made one a path"
            yield Finding("note", "shared-counter", repr(guard), said)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:5]) + (f" and {len(texts) - 5} more" if len(texts) > 5 else "")


__all__ = ["Finding", "Findings", "Severity", "check_app", "checked_severity", "raise_from"]
