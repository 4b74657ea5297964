"""Authentication by API key."""

from keyguard.guards.api_keys.guard import APIKeys as APIKeys

__all__ = ["APIKeys"]
