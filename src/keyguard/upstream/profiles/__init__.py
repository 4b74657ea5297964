"""The profiles of providers."""

from __future__ import annotations

from keyguard.errors import ConfigurationError
from keyguard.upstream.profiles.anthropic import ANTHROPIC
from keyguard.upstream.profiles.azure import AZURE
from keyguard.upstream.profiles.gemini import GEMINI
from keyguard.upstream.profiles.generic import GENERIC
from keyguard.upstream.profiles.github import GITHUB
from keyguard.upstream.profiles.groq import GROQ
from keyguard.upstream.profiles.mistral import MISTRAL
from keyguard.upstream.profiles.openai import OPENAI
from keyguard.upstream.profiles.openrouter import OPENROUTER
from keyguard.upstream.profiles.profile import Profile
from keyguard.upstream.profiles.stripe import STRIPE

PROFILES = {
    profile.name: profile
    for profile in (OPENAI, AZURE, ANTHROPIC, GEMINI, MISTRAL, GROQ, OPENROUTER, GITHUB, STRIPE, GENERIC)
}
"""The profiles, by name."""


def get(name: str) -> Profile:
    """Return a provider's profile. Raises `ConfigurationError` for a name that is not known."""
    profile = PROFILES.get(name) if isinstance(name, str) else None
    if profile is None:
        raise ConfigurationError(f"{name!r:.80} is not a profile: there are {', '.join(sorted(PROFILES))}")
    return profile


__all__ = ["PROFILES", "Profile", "get"]
