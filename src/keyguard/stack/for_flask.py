"""The methods of `Keyguard` as an extension of Flask: it is made first, and put around apps later."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from keyguard.drivers.inspection.layers import layers_within
from keyguard.errors import ConfigurationError

if TYPE_CHECKING:
    from keyguard.drivers.asgi.driver import ASGILayer
    from keyguard.drivers.wsgi.driver import WSGIApp, WSGIDriver
    from keyguard.stack.written import StackNote

NAME = "keyguard"
"""Under which an app has its stack, in `app.extensions`."""


class ExtendedApp(Protocol):
    """A Flask app or a Quart app, as far as an extension knows it."""

    extensions: dict[str, Any]


class ForFlask:
    """The part of `Keyguard` that is for apps of Flask, and of Quart, which are made alike."""

    _note: StackNote

    if TYPE_CHECKING:  # the rest of `Keyguard` has them

        @property
        def asgi(self) -> type[ASGILayer]: ...

        wsgi: Callable[[WSGIApp], WSGIDriver]

    def init_app(self, app: ExtendedApp) -> None:
        """Put the guards around a Flask app, or around a Quart app, from now on.

            guard = Keyguard(APIKeys(), RateLimit("10/second", by="key"), store="sqlite:///keyguard.db")

            def create_app():
                app = Flask(__name__)
                guard.init_app(app)
                return app

        It stands in `app.extensions["keyguard"]` then, where `flask keyguard ...` finds it. One stack can be put around
        several apps; its limits count what all of them serve.

        Raises `ConfigurationError` if the app has a stack already, or has served requests without one, and for all that
        stops `Keyguard.wsgi`. The app is left as it was then.
        """
        place = _place(app)
        if NAME in app.extensions:
            raise ConfigurationError(
                f"{app!r} has a Keyguard already: call init_app() once for an app, and put all guards into one Keyguard"
            )
        if any(layer.note is self._note for layer in layers_within(getattr(app, place))):
            raise ConfigurationError(
                f"this Keyguard stands around {app!r} already, and would count each request twice: init_app() takes "
                f"the place of `app.{place} = ...`"
            )
        if getattr(app, "_got_first_request", False):
            raise ConfigurationError(f"{app!r} has served requests without a guard: call init_app() before")
        put_around: Callable[[Any], Any] = self.asgi if place == "asgi_app" else self.wsgi
        setattr(app, place, put_around(getattr(app, place)))
        app.extensions[NAME] = self


def _place(app: Any) -> str:
    """Return the name of what an app serves requests by, and what middleware takes the place of."""
    for place in ("asgi_app", "wsgi_app"):
        if callable(getattr(app, place, None)) and isinstance(getattr(app, "extensions", None), dict):
            return place
    raise ConfigurationError(
        f"init_app() takes a Flask app or a Quart app, not {app!r:.80}: put the guards around other apps by "
        "guard.wsgi(app), or by guard.asgi"
    )
