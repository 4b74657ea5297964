"""Causes of upstream failures: callers are told that the app's own keys are used up, and not blamed."""

from keyguard.guards.upstream_causes.guard import UpstreamCauses

__all__ = ["UpstreamCauses"]
