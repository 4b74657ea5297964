"""What is known of each provider."""

from __future__ import annotations

from keyguard.errors import ConfigurationError
from keyguard.upstream.profiles.generic import GENERIC
from keyguard.upstream.profiles.openai import OPENAI
from keyguard.upstream.profiles.profile import Profile

PROFILES = {profile.name: profile for profile in (OPENAI, GENERIC)}
"""The profiles, by name."""


def get(name: str) -> Profile:
    """Return a provider's profile. Raises `ConfigurationError` for a name that is not known."""
    profile = PROFILES.get(name) if isinstance(name, str) else None
    if profile is None:
        raise ConfigurationError(f"{name!r:.80} is not a profile: there are {', '.join(sorted(PROFILES))}")
    return profile


__all__ = ["PROFILES", "Profile", "get"]
