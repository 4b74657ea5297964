"""Buckets: the part of a counter's key that says whose it is, the same for every guard that counts callers.

No store sees what a function of the user's returned, which may be a secret: a digest stands for it.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from enum import Enum
from math import isnan
from typing import Any

UNKNOWN_ADDRESS = "unknown"
"""The bucket of callers whose address cannot be known."""
LONGEST_BUCKET = 64
"""Characters of a text that is a bucket as it is."""


def bucket_text(text: str) -> str:
    """Return a caller's part of a counter's key: short text as it is, anything long or odd as a digest."""
    return (
        text
        if len(text) <= LONGEST_BUCKET and text.isascii() and text.isprintable() and text[:1] not in "@#"
        else digest(text)
    )


def digest(who: Any) -> str:
    """Return a digest of what a function returned, which may hold a secret: a store sees the digest alone."""
    return "#" + hashlib.blake2b(_framed(who), digest_size=16).hexdigest()


def _framed(who: Any) -> bytes:
    """Return it as bytes, injectively: no two different callers give the same bytes.

    All that Python takes for equal is one caller, so that nobody has two by writing 1 as 1.0, and 0 as -0.0. All that
    is not a number (NaN) is one caller too, though it does not even equal itself.
    """
    if isinstance(who, str):
        data = b"s" + who.encode("utf-8", "surrogatepass")
    elif isinstance(who, bytes):
        data = b"b" + who
    elif isinstance(who, int):
        data = b"i%d" % who
    elif isinstance(who, float):
        if who.is_integer():
            return _framed(int(who))
        data = b"fnan" if isnan(who) else b"f" + struct.pack(">d", who)
    elif (uuid := sys.modules.get("uuid")) is not None and isinstance(who, uuid.UUID):  # not loaded for those without
        data = b"u" + who.bytes
    elif isinstance(who, Enum):
        kind, name = type(who), who.name
        data = b"e" + b"".join(map(_framed, (kind.__module__, kind.__qualname__, who.value if name is None else name)))
    elif isinstance(who, tuple):
        data = b"t" + b"".join(map(_framed, who))
    elif who is None:
        data = b"n"
    else:
        raise TypeError(
            "a `by` function returns text, bytes, a number, a UUID, a member of an Enum, a tuple of these, or None, "
            f"not {type(who).__name__}"
        )
    return b"%d:" % len(data) + data
