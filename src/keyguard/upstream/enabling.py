"""Having a key tried again that was left alone."""

from __future__ import annotations

from typing import Any

from keyguard.learnt import Report
from keyguard.upstream.parts import no_grant
from keyguard.upstream.snapshot import Shown


def enabling(pool: Shown, group: Any, digest: str) -> list[Report]:
    """Return the reports that have a key tried again at once, and its group in all model classes."""
    return [
        Report(pool.candidate(model_class, group, group.keys), no_grant(digest), cause="enable")
        for model_class in pool.classes
    ]
