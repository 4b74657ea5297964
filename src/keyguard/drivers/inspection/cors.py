"""CORS middleware inside of guards, which is the wrong place: a browser cannot read what guards answer then.

It adds the fields for browsers inside, so a 401 or a 429 of a guard has none, and the page is told of a network
error. It is looked for as far as frameworks show it; middleware that nobody knows by name is not found.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

from keyguard.drivers.inspection.code import held_by, is_a
from keyguard.drivers.inspection.objects import django_settings, modules_of, modules_of_class
from keyguard.logs import logger

log = logger("keyguard")

_STARLETTE = "starlette.middleware.cors"


def cors_among(line: Iterable[Any]) -> str:
    """Return what is for CORS among the things that every request passes; empty if nothing is seen."""
    for app in line:
        found = _cors_of(app.__self__ if is_a(app, MethodType) else app)
        if found:
            return found
    return ""


def _cors_of(app: Any) -> str:
    homes = modules_of(app)
    if _STARLETTE in homes or (
        "starlette.applications" in homes
        and any(_STARLETTE in modules_of_class(layer.cls) for layer in app.user_middleware)
    ):
        return "CORSMiddleware"
    if "litestar.app" in homes and app.cors_config is not None:
        return "cors_config"
    settings = django_settings(app)
    if settings is not None:
        return "CorsMiddleware" if "corsheaders.middleware.CorsMiddleware" in settings.MIDDLEWARE else ""
    if homes & {"flask.app", "quart.app"}:
        functions = held_by(app).get("after_request_funcs", {}).get(None, ())
        for function in functions:
            home = str(getattr(function, "__module__", "")).partition(".")[0]
            if home in ("flask_cors", "quart_cors"):
                return home.replace("_", "-")
    if "falcon.app" in homes and getattr(app, "_cors_enable", False):
        return "cors_enable"
    return ""


def tell_of_cors(found: str) -> None:
    """Log what is wrong with that."""
    log.warning(
        "%s stands inside of keyguard: a browser cannot read the answers of guards, such as a 401 or a 429, since they "
        "have no Access-Control-Allow-Origin. Put what is for CORS outside: add it after the guard by add_middleware, "
        "or wrap it around the guarded app; docs/refusals.md shows how",
        found,
    )
