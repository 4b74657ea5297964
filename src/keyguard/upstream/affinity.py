"""Which key comes first: weighted rendezvous, so that requests with one text go to one key as long as it has room.

If a key is taken away, only its own requests move; if it has no room, they spill over to their second choice, which is
the same for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import log
from random import Random
from typing import TypeVar

T = TypeVar("T")

_BITS = 52
"""More would be rounded to 1, whose logarithm is 0."""


def preferred(things: Iterable[T], text: str, name: Callable[[T], str], weight: Callable[[T], float]) -> list[T]:
    """Return things in the order in which requests with this affinity prefer them."""
    seed = text.encode("utf-8", "surrogatepass")
    key = seed if len(seed) <= 64 else blake2b(seed, digest_size=32).digest()

    def number(thing: T) -> int:
        digest = blake2b(name(thing).encode(), key=key, digest_size=8).digest()
        return int.from_bytes(digest, "big") >> (64 - _BITS)

    return _sorted(things, number, weight)


def drawn(things: Iterable[T], random: Random, weight: Callable[[T], float]) -> list[T]:
    """Return things in an order drawn at random, for requests that prefer none."""
    return _sorted(things, lambda thing: random.getrandbits(_BITS), weight)


def _sorted(things: Iterable[T], number: Callable[[T], int], weight: Callable[[T], float]) -> list[T]:
    return sorted(things, key=lambda thing: weight(thing) / -log((number(thing) + 0.5) / 2**_BITS), reverse=True)
