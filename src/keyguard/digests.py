"""Digests of texts that stand in keys: because they may hold secrets, or are long."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b


def digest(parts: Iterable[str | bytes]) -> str:
    """Return 32 hexadecimal digits for a sequence of texts; any other sequence has others."""
    data = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass") for part in parts]
    # In one piece: each call of the hash costs more than what it hashes.
    whole = b"".join([piece for part in data for piece in (len(part).to_bytes(4, "big"), part)])
    return blake2b(whole, digest_size=16).hexdigest()
