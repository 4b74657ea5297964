"""The keyguard layers further in, as far as the middleware between shows which app it stands around."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keyguard.drivers.interpreter import Engine

_INSIDE = ("app", "wsgi_app", "wsgi_application")
"""The attributes under which middleware and bridges keep the app they stand around, and Flask its own middleware."""
_MOST = 1000


def _attribute(app: Any, name: str) -> Any:
    try:
        return getattr(app, name, None)
    except Exception:  # a property that needs a request, say
        return None


def _further_in(app: Any) -> Any:
    return next((inner for name in _INSIDE if (inner := _attribute(app, name)) is not None), None)


def layers_within(app: Any) -> Iterator[Engine]:
    """Yield the layers that stand directly one in another, over bridges too, the outermost first."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen and len(seen) < _MOST:
        seen.add(id(app))
        engine = _attribute(app, "engine")
        if isinstance(engine, Engine):
            yield engine
        app = _further_in(app)


def lacking_within(app: Any, provided: frozenset[str]) -> frozenset[str]:
    """Return the needs of a layer further in, in a mounted app too, that no layer around it provides."""
    waiting: list[tuple[Any, frozenset[str]]] = [(app, provided)]
    seen: set[tuple[int, frozenset[str]]] = set()
    while waiting and len(seen) < _MOST:
        app, provided = waiting.pop()
        if app is None or (id(app), provided) in seen:
            continue
        seen.add((id(app), provided))
        engine = _attribute(app, "engine")
        if isinstance(engine, Engine):
            if engine.needs - provided:
                return engine.needs - provided
            provided |= engine.provides
        routes = _attribute(app, "routes")
        if isinstance(routes, (list, tuple)):
            waiting += [(_attribute(route, "app"), provided) for route in routes]
        waiting.append((_further_in(app), provided))
    return frozenset()


def engines_within(app: Any) -> Iterator[Engine]:
    """Yield all layers further in, also those of apps that are mounted by a framework or a dispatcher."""
    waiting, seen = [app], set[int]()
    while waiting and len(seen) < _MOST:
        app = waiting.pop()
        if app is None or id(app) in seen:
            continue
        seen.add(id(app))
        engine = _attribute(app, "engine")
        if isinstance(engine, Engine):
            yield engine
        routes, mounts = _attribute(app, "routes"), _attribute(app, "mounts")
        if isinstance(routes, (list, tuple)):
            waiting += [_attribute(route, "app") for route in routes]
        if isinstance(mounts, dict):
            waiting += mounts.values()
        waiting.append(_further_in(app))
