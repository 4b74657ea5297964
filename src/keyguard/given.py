"""Texts that may be secret, and stand elsewhere than in the place that names them.

@FILE       what stands in a file
-           a line of standard input
env:NAME    the environment variable NAME
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from keyguard.errors import ConfigurationError


def given(text: str, what: str) -> str:
    """Return the text that an argument stands for. Raises a `ConfigurationError` that shows none of it."""
    lines = given_lines(text, what)
    if len(lines) != 1:
        raise ConfigurationError(f"{_place(text)} holds {len(lines)} lines, and not {what} on one")
    return lines[0]


def given_lines(text: str, what: str) -> list[str]:
    """Return the lines that an argument stands for, without those that are empty."""
    if text == "-":
        line = "" if sys.stdin is None else sys.stdin.readline()
        if not line.strip():
            raise ConfigurationError(f"{what} is expected on standard input, which has ended")
        return [line.strip()]
    if text.startswith("@"):
        try:
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ConfigurationError(f"the file {text[1:]} is not UTF-8 text") from None
        except OSError as error:
            raise ConfigurationError(f"the file {text[1:]} cannot be read: {error.strerror}") from None
        return [line.strip() for line in lines if line.strip()]
    if text.startswith("env:"):
        value = os.environ.get(text[4:], "").strip()
        if not value:
            raise ConfigurationError(f"{what} is expected in the environment variable {text[4:]}, which is not set")
        return [value]
    return [text]


def _place(text: str) -> str:
    return f"the file {text[1:]}" if text.startswith("@") else "this"
