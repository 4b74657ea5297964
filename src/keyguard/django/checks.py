"""What `manage.py check` says of keyguard's settings."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from keyguard.django.configured import problems


def check_keyguard(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """List what cannot work as errors, and what is hardly meant as warnings."""
    return [
        (Error if problem.error else Warning)(problem.text, hint=problem.hint, id=problem.id) for problem in problems()
    ]
