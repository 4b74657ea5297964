"""Small questions that many settings are asked, each with one home."""

from __future__ import annotations

import re
from typing import TypeGuard

TCHAR = r"[!#$%&'*+.^_`|~0-9A-Za-z-]"
"""Signs of a token, such as the name of a field, a method or a scheme (RFC 9110, section 5.6.2)."""

_TOKEN = re.compile(f"{TCHAR}+")


def is_token(text: str) -> bool:
    """Tell whether a text is a token, such as the name of a field."""
    return _TOKEN.fullmatch(text) is not None


def is_whole(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number. `True` is not one, though Python counts it as 1."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number, perhaps an endless one. `True` is not one, though Python counts it as 1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_name(value: object, longest: int) -> TypeGuard[str]:
    """Tell whether a value is a printable text of at most so many characters that is not blank."""
    return isinstance(value, str) and value.strip() != "" and len(value) <= longest and value.isprintable()
