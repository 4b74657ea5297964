"""Paths, as a log may hold them: which route a request was for, and none of the secrets that stand in paths.

Rules:
- What a framework says of the route it has matched is told as it is: `/items/{id}`. Guards stand outside of that, so
  mostly nothing is known of it, and the path is told.
- Of a path only words are told; `{}` stands for every other segment: numbers, ids, tokens, mixed letters, what is
  long. So `/reset/4fK2mQ9xTzLb` is told as `/reset/{}`, and `/users/17/orders` as `/users/{}/orders`.
- No query is told, and no more than eight segments.
- A caller can still invent words: this is for a line of a log, and no label of a metric.
"""

from __future__ import annotations

import re
from functools import lru_cache

_SEGMENT = re.compile(r"(?=[^/]*[A-Za-z])[A-Za-z]?[a-z]{0,23}(?:[_.-][a-z]{1,23}){0,3}[0-9]{0,2}")
_MOST = 8
_LONGEST = 256  # characters


@lru_cache(maxsize=512)
def shown_path(path: str) -> str:
    """Return a decoded path as a log may hold it."""
    segments = path[: _LONGEST + 1].split("/", _MOST + 1)
    if len(path) > _LONGEST or len(segments) > _MOST + 1:
        segments[-1] = "..."
    return "/".join([one if not one or one == "..." or _SEGMENT.fullmatch(one) else "{}" for one in segments])
