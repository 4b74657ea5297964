"""The two apps of the dashboard. Both are drivers around an app that is never called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from keyguard.chain import Chain
from keyguard.dashboard.beside import ASGIBeside, WSGIBeside, checked_path, is_asgi
from keyguard.dashboard.service import Service
from keyguard.drivers.interpreter import Engine
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes
from keyguard.guard import Guard
from keyguard.request import Request
from keyguard.response import Response

if TYPE_CHECKING:
    from keyguard.drivers.asgi.driver import ASGIDriver
    from keyguard.drivers.wsgi.driver import WSGIDriver

Auth: TypeAlias = "Literal['keys'] | Callable[[Request], str | Response | Awaitable[str | Response | None] | None]"
"""The ways in which operators are known: by keys, or by a function of the app's own."""


class DashboardNote:
    """Stands in the engines of a dashboard, by which its stack knows them again."""

    def __init__(self, stack: object) -> None:
        self.stack = stack

    def begin(self) -> None:
        """Write nothing down: the limits are those of the stack."""


class Dashboard:
    """The dashboard of a stack: `asgi` and `wsgi` are apps, to be mounted under any path, beside the guarded app."""

    def __init__(self, stack: object, service: Service, auth: Auth | None) -> None:
        if auth is None:
            raise ConfigurationError(
                "who may see the dashboard? auth='keys' asks for a key with the scope keyguard:admin or keyguard:read; "
                "auth=function is given the request, and returns the operator's name, or None for anybody else"
            )
        if auth != "keys":
            if not callable(auth):
                raise ConfigurationError(
                    f"auth is 'keys', or a function of the request that returns the operator's name or None, not "
                    f"{auth!r:.80}"
                )
            check_takes("auth", auth, "the request")
        if find_spec("jinja2") is None:
            raise ConfigurationError("the dashboard needs Jinja2: pip install 'keyguard[dashboard]'")
        from keyguard.dashboard.guard import DashboardGuard  # with Jinja2, which apps without a dashboard do not load

        self._note = DashboardNote(stack)
        self._service = service
        self._guard: Guard = DashboardGuard(service, None if auth == "keys" else auth)

    def __repr__(self) -> str:
        return "<Dashboard>"

    @cached_property
    def asgi(self) -> ASGIDriver:
        """Return an ASGI app."""
        from keyguard.drivers.asgi.driver import ASGIDriver

        return ASGIDriver(_no_asgi_app, self._engine(asynchronous=True))

    @cached_property
    def wsgi(self) -> WSGIDriver:
        """Return a WSGI app. Raises `ConfigurationError` if the function that knows operators is async."""
        for word, function in self._guard.asynchronous().items():
            raise ConfigurationError(
                f"{word}={getattr(function, '__name__', function)!r} is async, and there is no event loop under WSGI: "
                "use a plain function"
            )
        from keyguard.drivers.wsgi.driver import WSGIDriver

        return WSGIDriver(_no_wsgi_app, self._engine(asynchronous=False))

    def beside(self, app: Any, path: str = "/ops") -> ASGIBeside | WSGIBeside:
        """Return an app that has the dashboard below `path`, and is `app` everywhere else, ASGI or WSGI as that is.

            app = guard.dashboard(auth="keys").beside(guard.asgi(app), "/ops")

        `app` is the guarded app, so that its limits do not count what operators look at. Raises `ConfigurationError`
        for what is no app, and for a path that is none.
        """
        place = checked_path(path)
        return ASGIBeside(app, place, self.asgi) if is_asgi(app) else WSGIBeside(app, place, self.wsgi)

    def _engine(self, *, asynchronous: bool) -> Engine:
        """Return an engine of the stack's store and clock that has no guard but the dashboard, and tells nobody."""
        setup = self._service.setup()._replace(
            chain=Chain([self._guard]),
            provides=frozenset(),
            needs=frozenset(),
            sources=(),
            filters_addresses=False,
            notify=None,
            instant=None,
            note=self._note,
            overrides=None,
            notes=False,
            stack=None,
            rendering=None,
            reads_bodies=True,
            strips=(),
            drivers=None,
            handlers=False,
            sinks=(),
            observers=(),
            patterns=(),
        )
        return Engine(setup, asynchronous=asynchronous)


async def _no_asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Stand for the app, which is never called with a request. A lifespan it leaves to the driver."""
    raise RuntimeError("the dashboard has no app")


def _no_wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    raise RuntimeError("the dashboard has no app")
