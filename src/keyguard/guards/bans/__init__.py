"""Bans: whoever is refused, or fails, too often is kept out for a while."""

from keyguard.guards.bans.guard import Ban as Ban

__all__ = ["Ban"]
