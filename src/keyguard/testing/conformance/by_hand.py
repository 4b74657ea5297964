"""Random changes of counters, as people make them by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from keyguard.clock import SECOND
from keyguard.ops import Adjust, Adjusted, Adjustment, Note, keeps_count
from keyguard.ops.adjusting import Verb
from keyguard.rates import Limit

_VERBS: tuple[Verb, ...] = ("look", "reset", "grant", "set")


def drawn_by_hand(random: random.Random, limits: Sequence[Limit], key_of: Callable[[int], str], note: str) -> Adjust:
    """Draw a look or a change, about one counter or two; now and then it is noted under a key.

    `key_of` draws the key of a counter of the limit at that place.
    """
    chosen: dict[str, Adjustment] = {}
    for _ in range(random.randint(1, 2)):
        place = random.randrange(len(limits))
        limit, key = limits[place], key_of(place)
        verb = random.choice(_VERBS) if keeps_count(limit) else "look"
        units = random.choice([1, 2, limit.max_cost // 2, limit.max_cost, 10**12])
        units = max(1, units) if verb == "grant" else min(units, limit.max_cost)
        chosen[key] = Adjustment(key, limit, verb, units)
    return Adjust([*chosen.values()], [Note(note, 20 * SECOND, _written)] * random.randint(0, 1))


def _written(adjusted: Adjusted) -> bytes:
    return repr(adjusted).encode()
