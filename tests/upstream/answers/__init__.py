"""Recorded answers of providers: heads, bodies and events, and what they mean."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from keyguard.clock import SECOND
from keyguard.learnt import Seen, dimension_of
from keyguard.upstream.causes import Scope, UpstreamCause, Verdict
from keyguard.upstream.profiles import PROFILES

NOW = 1786795200 * SECOND
"""The time at which all answers came: 2026-08-15T12:00:00Z."""


@cache
def recorded(profile: str) -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((Path(__file__).parent / f"{profile}.toml").read_text())


def rows(kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return all answers (`answer`) or all events (`event`), by what a test of one is called."""
    return {
        f"{profile}: {row['name']}": (profile, row) for profile in PROFILES for row in recorded(profile).get(kind, [])
    }


def expected(row: dict[str, Any]) -> Verdict:
    wait = row.get("wait")
    dimension = row.get("dimension")
    return Verdict(
        UpstreamCause(row["cause"]),
        Scope(row["scope"]),
        None if wait is None else round(wait * SECOND),
        tuple(seen(text) for text in row.get("seen", [])),
        _dimension(dimension) if dimension else None,
        row.get("known", True),
    )


def seen(text: str) -> Seen:
    word, *numbers = text.split()
    limit, left, reset = [None if number == "-" else float(number) for number in numbers]
    return Seen(
        _dimension(word),
        None if limit is None else int(limit),
        None if left is None else int(left),
        None if reset is None else round(reset * SECOND),
    )


def _dimension(word: str) -> Any:
    unit, _, seconds = word.partition("/")
    return dimension_of(f"{unit[0]}pm")._replace(period=int(seconds[:-1]) * SECOND) if seconds else dimension_of(word)
