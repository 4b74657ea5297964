"""The dashboard: pages that show operators who is refused, and why, and change keys. Mounted in ASGI and WSGI apps."""

from keyguard.dashboard.mounted import Auth as Auth
from keyguard.dashboard.mounted import Dashboard as Dashboard
from keyguard.dashboard.mounted import DashboardNote as DashboardNote
from keyguard.dashboard.service import INSIDE as INSIDE
from keyguard.dashboard.service import Rules as Rules

__all__ = ["INSIDE", "Auth", "Dashboard", "DashboardNote", "Rules"]
