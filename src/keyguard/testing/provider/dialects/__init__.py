"""The dialects in which a fake provider speaks."""

from __future__ import annotations

from typing import Literal, TypeAlias

from keyguard.testing.provider.dialects.anthropic import Anthropic
from keyguard.testing.provider.dialects.dialect import Asked, Dialect, Refused, event
from keyguard.testing.provider.dialects.gemini import Gemini
from keyguard.testing.provider.dialects.like_openai import Azure, Mistral, OpenRouter
from keyguard.testing.provider.dialects.openai import Groq, OpenAI
from keyguard.testing.provider.dialects.plain import Generic, GitHub, Stripe

DialectName: TypeAlias = Literal[
    "openai", "azure", "anthropic", "gemini", "mistral", "groq", "openrouter", "github", "stripe", "generic"
]

DIALECTS: dict[str, Dialect] = {
    "openai": OpenAI(),
    "azure": Azure(),
    "anthropic": Anthropic(),
    "gemini": Gemini(),
    "mistral": Mistral(),
    "groq": Groq(),
    "openrouter": OpenRouter(),
    "github": GitHub(),
    "stripe": Stripe(),
    "generic": Generic(),
}

__all__ = ["DIALECTS", "Asked", "Dialect", "DialectName", "Refused", "event"]
