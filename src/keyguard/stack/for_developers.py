"""The methods of `Keyguard` for developers, who ask them while they build an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyguard.stack.flask_apps import FlaskApps
from keyguard.stack.for_routes import ForRoutes

if TYPE_CHECKING:
    from keyguard.stack.lint import Findings, Severity


class ForDevelopers(ForRoutes):
    """The part of `Keyguard` that is for developers."""

    _stacked: tuple[Any, ...]
    _flask_apps: FlaskApps

    def check(self, app: Any, *, fail_on: Severity | None = "error") -> Findings:
        """Compare the stack with the routes of an app, and return what is suspicious.

            print(guard.check(app, fail_on=None))

        Call it when all routes are there, at the end of the module that makes the app, or in a test. It finds rules
        that match no route (errors, if they are meant to close something), routes that need no key and that no limit
        is about, limits that no caller can come to, counters that several routes share, and limits and keys at routes
        that could not work.

        `app` is an app of Starlette, FastAPI, Litestar, Flask, Quart, Django, Falcon or Bottle, with or without
        middleware around it. `fail_on` is the least severity that raises: `"error"`, `"warning"`, `"note"`, or `None`
        for none. Raises `ConfigurationError`, which lists the findings of that severity.
        """
        from keyguard.stack.lint import Stack, check_app, checked_severity, raise_from

        checked_severity(fail_on)
        stack = Stack(self._stacked, vars(self).get("markers"), self._flask_apps, self.check_routes)
        findings = check_app(stack, app)
        raise_from(findings, fail_on)
        return findings
