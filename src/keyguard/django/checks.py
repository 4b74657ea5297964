"""The system checks: what is wrong about the settings, and about the views that rules of keyguard stand on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from keyguard.django.configured import FIRST, MIDDLEWARE, Problem, configured_stack, is_listed, problems
from keyguard.django.views import classes_of_rest, markers_of, rules_at_methods, views
from keyguard.drivers.inspection.objects import class_of_view
from keyguard.errors import ConfigurationError
from keyguard.guards.api_keys import APIKeys
from keyguard.stack import Keyguard
from keyguard.stack.views import place_of_view


def check_keyguard(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """List what cannot work as errors, and what is hardly meant as warnings."""
    found = [*problems(), *_of_views()]
    return [(Error if one.error else Warning)(one.text, hint=one.hint, id=one.id) for one in found]


def _of_views() -> Iterator[Problem]:
    """List what cannot work about views that use keyguard."""
    try:
        called = [*views()]
    except Exception:
        return  # Django's own checks tell of URLs that cannot be read
    used = [(view, markers, kinds) for view in called if any((markers := markers_of(view), kinds := _kinds(view)))]
    if not used:
        return
    names = [place_of_view(view) for view, _, _ in used]
    if not is_listed():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield Problem(
            "keyguard.E002",
            f"rules of keyguard stand on {', '.join(names[:3])}{more}, and MIDDLEWARE lacks {MIDDLEWARE}",
            FIRST,
        )
        return
    try:
        stack = configured_stack()
    except ConfigurationError:
        return  # `problems` tells of it
    for name, (view, markers, kinds) in zip(names, used, strict=True):
        if any(marker.markers.stack is not stack for marker in markers):
            yield Problem(
                "keyguard.E005", f"{name} has rules of another Keyguard than KEYGUARD names", "use that one's limit()"
            )
        try:
            for _ in rules_at_methods(view):
                pass
        except ConfigurationError as error:
            yield Problem("keyguard.E007", f"rules at methods of {name} cannot work", str(error))
        for kind in kinds:
            why = _wrong(kind, view, stack)
            if why:
                yield Problem("keyguard.E006", f"{kind.__name__} of {name} cannot work", why)


def _kinds(view: Any) -> list[type]:
    """List the classes of `keyguard.django.rest` that a view uses."""
    rest: Any = sys.modules.get("keyguard.django.rest")
    ours = (rest.Throttle, rest.KeyAuthentication) if rest else ()
    return [kind for kind in classes_of_rest(view) if issubclass(kind, ours)]


def _wrong(kind: Any, view: Any, stack: Keyguard) -> str:
    rest: Any = sys.modules["keyguard.django.rest"]
    if issubclass(kind, rest.KeyAuthentication):
        return "" if any(isinstance(guard, APIKeys) for guard in stack.guards) else "the stack has no APIKeys"
    throttle = kind()
    try:
        scope = throttle.get_scope(class_of_view(view))
        if scope is not None:
            throttle.rule(stack, scope)
    except ConfigurationError as error:
        return str(error)
    return ""
