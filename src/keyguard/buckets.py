"""Buckets: the part of a counter's key that says whose it is, the same for every guard that counts callers.

No store sees what a function of the user's returned, which may be a secret: a digest stands for it.
"""

from __future__ import annotations

import hashlib
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
    """Return it as bytes, injectively: no two different callers give the same bytes."""
    if isinstance(who, str):
        data = b"s" + who.encode("utf-8", "surrogatepass")
    elif isinstance(who, bytes):
        data = b"b" + who
    elif isinstance(who, int):
        data = b"i%d" % who
    elif isinstance(who, tuple):
        data = b"t" + b"".join(map(_framed, who))
    elif who is None:
        data = b"n"
    else:
        raise TypeError(f"a `by` function returns text, a number, a tuple of these, or None, not {type(who).__name__}")
    return b"%d:" % len(data) + data
