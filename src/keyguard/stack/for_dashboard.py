"""The method of `Keyguard` that returns its dashboard, and what that is given of the stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.drivers.inspection.layers import engines_within
from keyguard.lazy import instances_of
from keyguard.logs import logger

if TYPE_CHECKING:
    from keyguard.dashboard import Auth, Dashboard

log = logger("keyguard")


class ForDashboard:
    """The part of `Keyguard` that shows itself to operators."""

    def dashboard(self, *, auth: Auth | None = None) -> Dashboard:
        """Return the dashboard of this stack: `asgi` and `wsgi` are apps that are mounted beside the guarded app.

        `auth` says who may see it, and has no default:

        - a function, plain or async, that is given the `Request` and returns the operator's name, under which changes
          stand in the audit log; `None` for anybody else, or a `Response`, such as a redirect to a page of yours.
        - `"keys"`: operators log in with a key of this stack. With the scope `keyguard:admin` they may change keys,
          with `keyguard:read` they see all and change nothing. A session lasts 8 hours, and ends with its key.

        Without `Keyguard(usage=Usage())` it says what is missing. It needs Jinja2: `pip install 'keyguard[dashboard]'`.
        Raises `ConfigurationError` for a setting that is wrong.
        """
        from keyguard.dashboard import Dashboard
        from keyguard.stack.on_dashboard import ShownStack

        return Dashboard(self, ShownStack(self), auth)


def warn_of_dashboards(stack: object, app: object) -> None:
    """Warn of a dashboard that is mounted inside of the limits of its own stack."""
    notes = [engine.note for engine in engines_within(app)]
    for note in instances_of(notes, "keyguard.dashboard.mounted", "DashboardNote"):
        if note.stack is stack:
            from keyguard.dashboard import INSIDE

            log.warning("%s", INSIDE)
            return
