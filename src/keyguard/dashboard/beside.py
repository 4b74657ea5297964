"""A dashboard beside the app that it is of: what is below a path is the dashboard's, all the rest the app's.

The app keeps its lifespan, and what stands around it sees none of the dashboard's requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keyguard.drivers.inspection.interface import check_interface
from keyguard.errors import ConfigurationError
from keyguard.http.paths import Paths


class ASGIBeside:
    """An ASGI app of two."""

    def __init__(self, app: Any, path: str, dashboard: Any) -> None:
        self.app = app
        self.mounts = {path: dashboard}
        self._path = path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            root, path = scope.get("root_path") or "", scope["path"]
            within = path[len(root) :] if root and path.startswith(f"{root}/") else path
            if within == self._path or within.startswith(f"{self._path}/"):
                # By the convention that all of them follow, the path goes on to hold the prefix.
                inner = {**scope, "root_path": root + self._path, "path": root + within}
                await self.mounts[self._path](inner, receive, send)
                return
        await self.app(scope, receive, send)


class WSGIBeside:
    """A WSGI app of two."""

    def __init__(self, app: Any, path: str, dashboard: Any) -> None:
        self.app = app
        self.mounts = {path: dashboard}
        self._path = path

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        app, path = self.app, environ.get("PATH_INFO", "")
        if path == self._path or path.startswith(f"{self._path}/"):
            root = environ.get("SCRIPT_NAME", "")
            environ = {**environ, "SCRIPT_NAME": root + self._path, "PATH_INFO": path[len(self._path) :]}
            app = self.mounts[self._path]
        answered: Iterable[bytes] = app(environ, start_response)
        return answered


def is_asgi(app: object) -> bool:
    """Tell whether an app speaks ASGI. Raises `ConfigurationError` for what is no app."""
    try:
        check_interface(app, asynchronous=True)
    except ConfigurationError:
        check_interface(app, asynchronous=False)
        return False
    return True


def checked_path(path: object) -> str:
    """Return the path of a dashboard, without a slash at its end. Raises `ConfigurationError` for what is none."""
    if isinstance(path, str) and path.strip("/") and not set(path) & set("{}*?#%"):
        try:
            return Paths([path]).texts[0].rstrip("/")
        except ConfigurationError:
            pass
    raise ConfigurationError(f"the dashboard's path is one such as '/ops', not {path!r:.80}")
