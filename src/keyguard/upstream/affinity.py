"""Which key comes first: weighted rendezvous, so that requests with one text go to one key as long as it has room.

If a key is taken away, only its own requests move; if it has no room, they spill over to their second choice, which is
the same for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import log
from typing import TypeVar

T = TypeVar("T")

_ONE = 2.0**52
"""More bits would be rounded to 1, whose logarithm is 0."""


def preferred(things: Iterable[T], text: str, name: Callable[[T], str], weight: Callable[[T], float]) -> list[T]:
    """Return things in the order in which requests with this affinity prefer them."""
    seed = text.encode("utf-8", "surrogatepass")

    def score(thing: T) -> float:
        drawn = int.from_bytes(blake2b(name(thing).encode(), key=_key(seed), digest_size=8).digest(), "big")
        return weight(thing) / -log(((drawn >> 12) + 0.5) / _ONE)

    return sorted(things, key=score, reverse=True)


def _key(seed: bytes) -> bytes:
    return seed if len(seed) <= 64 else blake2b(seed, digest_size=32).digest()
