"""Which frames of a traceback are keyguard's: by where the package lies, and not by names that a checkout may have."""

from __future__ import annotations

from pathlib import Path

import keyguard

PACKAGE = Path(keyguard.__file__).parent


def of_keyguard(filename: str) -> bool:
    """Tell whether a frame's file is part of the package."""
    return Path(filename).is_relative_to(PACKAGE)
