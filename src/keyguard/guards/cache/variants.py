"""The request fields that `Vary` names, and the variants that a request chooses by them (RFC 9111, section 4.1).

- An absent field and an empty one differ. Blanks round commas do not count. In `Accept-Encoding` and `Accept-Language`
  neither order nor case counts.
- The values of most fields may be secrets, so only a digest of them is kept.
- A value that is too long to be compared at no cost chooses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from keyguard.digests import digest
from keyguard.request import CarriedRequest

Variance: TypeAlias = "tuple[tuple[str, str | None], ...]"
"""The request fields that `Vary` names, each with its normalised value; `None` if the request had none."""

# Fields whose values are not secret. Of all others only a digest is kept.
_PLAIN = frozenset({"accept", "accept-encoding", "accept-language", "origin", "user-agent", "x-requested-with"})
_WEIGHT = re.compile(r"q=(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_WEIGHTED = frozenset({"accept-encoding", "accept-language"})

MAX_VALUE = 16384
"""Characters of a field that is compared with others."""
_MAX_READ = 2048
"""Characters of a field whose members are looked at one by one."""
_MAX_PLAIN = 256
_UNREAD = "\0"
"""Stands for a value that is too long to be compared."""


def variance_of(request: CarriedRequest, names: Sequence[str]) -> Variance:
    """Return the request's values of the fields that `Vary` names."""
    return tuple([(name, _normal(name, _value(request, name))) for name in names])


def _value(request: CarriedRequest, name: str) -> str | None:
    return request.folded(name) if request.takes_off(name) else request.header(name)


class Chosen:
    """The values by which a request chooses among variants: read once for all that name the same fields."""

    __slots__ = ("_known", "_request")

    def __init__(self, request: CarriedRequest) -> None:
        self._request = request
        self._known: dict[tuple[str, ...], Variance] = {}

    def by(self, names: Iterable[str]) -> Variance:
        """Return the request's values of these fields."""
        names = tuple(names)
        found = self._known.get(names)
        if found is None:
            found = self._known[names] = variance_of(self._request, names)
        return found

    def has(self, variance: Variance) -> bool:
        """Tell whether a response that was chosen by these values is chosen now."""
        if not variance:
            return True
        values = self.by([name for name, _ in variance])
        return values == variance and readable(values)


def readable(variance: Variance) -> bool:
    """Tell whether a request can be told from others by these values."""
    return all(value != _UNREAD for _, value in variance)


def too_long(value: str | None) -> bool:
    """Tell whether a field is longer than one that is compared with others."""
    return value is not None and len(value) > MAX_VALUE


def _normal(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    if name in _WEIGHTED and len(value) <= _MAX_PLAIN:
        return _weighted(value)
    if too_long(value):
        return _UNREAD
    if len(value) <= _MAX_READ:  # of a longer one each spelling is another value
        value = ",".join([member.strip(" \t") for member in value.split(",")])
    return value if name in _PLAIN and len(value) <= _MAX_PLAIN else digest((value,))


@lru_cache(maxsize=256)
def _weighted(value: str) -> str:
    """Return languages or codings in one form: order and case mean nothing, weights do (RFC 9110, section 12.4.2).

    A member with anything else than one weight counts as it stands, since each app reads it in a way of its own.
    """
    members = []
    for member in value.lower().split(","):
        name, *parameters = [part.strip(" \t") for part in member.split(";")]
        if not parameters:
            parameters = ["q=1"]
        if len(parameters) == 1 and _WEIGHT.fullmatch(parameters[0]):
            parameters = [f"{float(parameters[0][2:]):g}"]
        if name or parameters != ["1"]:
            members.append(";".join([name, *parameters]))
    return ",".join(sorted(set(members)))
