"""The person at the terminal, for the audit log."""

from __future__ import annotations

import getpass
import os
from contextlib import suppress

_LONGEST = 256


def operator() -> str:
    """Return the name of the user of the operating system; behind `sudo` also that of whoever called it."""
    name = _name()
    behind = os.environ.get("SUDO_USER", "")
    text = f"{behind} as {name}" if behind and behind != name and os.name == "posix" and os.getuid() == 0 else name
    text = "".join([one if one.isprintable() else "?" for one in text])[:_LONGEST]
    return text if text.strip() else "unknown"


def _name() -> str:
    # The user that the process has, and not what an environment says of it.
    if os.name == "posix":
        import pwd

        with suppress(KeyError):
            return pwd.getpwuid(os.getuid()).pw_name
        return f"uid {os.getuid()}"
    return getpass.getuser()
