"""The app for `INSTALLED_APPS`: it brings the checks and the command. The middleware works without it."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from keyguard.django.checks import check_keyguard


class KeyguardConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """The app `keyguard.django`. It has no models."""

    name = "keyguard.django"
    label = "keyguard"
    verbose_name = "keyguard"

    def ready(self) -> None:
        register(check_keyguard, "security")
