"""JSON that can be read in one way only."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def strict_json(body: bytes) -> Any:
    """Return what a body of JSON in UTF-8 holds (RFC 8259).

    Raises `ValueError` if it is none, if a member stands there twice (readers differ in which one they take), and for
    `NaN` and `Infinity`; `RecursionError` if it is too deep.
    """
    return json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_not_json)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member stands there twice")
    return made


def _not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
