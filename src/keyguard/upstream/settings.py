"""The settings of a pool, checked before any request. No message repeats a secret."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

from keyguard.checks import is_number, is_whole
from keyguard.errors import ConfigurationError
from keyguard.learnt import Dimension, dimension_of
from keyguard.learnt.dimension import UNITS
from keyguard.manual_clock import GivenClock
from keyguard.ops import Store
from keyguard.upstream.answers import UpstreamRequest
from keyguard.upstream.events import UpstreamEvent
from keyguard.upstream.keys import Key
from keyguard.upstream.origins import Origin, origin_of
from keyguard.upstream.parts import OTHERS, Group
from keyguard.upstream.profiles import Profile

_GLOB = re.compile(r"[!-~]{1,100}")
_LONGEST_WAIT = 86400.0
_MOST_UNITS = 2**50

Cost = Callable[[UpstreamRequest], Mapping[str, int]]


class PoolSettings(TypedDict, total=False):
    """The settings of a `KeyPool` that do not depend on the provider, with their meaning there."""

    name: str
    store: str | Store
    clock: GivenClock | None
    models: Sequence[str]
    limits: Mapping[str, Mapping[str, int]] | None
    max_wait: float
    max_waiting: int
    max_attempts: int | None
    workers: int
    replay: Literal["5xx"] | None
    cost: Cost | None
    on_event: Callable[[UpstreamEvent], None] | None


class KnownSettings(PoolSettings, total=False):
    """Those of a pool of a provider whose address is known: there may be another one, of a region say."""

    origin: str | Sequence[str] | None


def groups_of(keys: Iterable[Key], limits: Mapping[str, Mapping[str, int]] | None) -> list[Group]:
    """Return the keys by their limit groups, each with its configured limits."""
    given = _keys(keys)
    members: dict[str, list[Key]] = {}
    for key in given:
        members.setdefault(key.group, []).append(key)
    known = _limits(limits, set(members))
    return [
        Group(
            name,
            min([key.rank for key in of]),
            sum([key.weight for key in of]),
            tuple(of),
            known.get(name, ()),
        )
        for name, of in members.items()
    ]


def _keys(keys: Iterable[Key]) -> list[Key]:
    if isinstance(keys, (str, bytes, Key)) or not isinstance(keys, Iterable):
        raise ConfigurationError("a pool takes a list of keys, as in KeyPool([Key('a', env='KEY_A')])")
    found = [*keys]
    if not found:
        raise ConfigurationError("a pool needs one key at least")
    if not all(isinstance(key, Key) for key in found):
        raise ConfigurationError("a pool takes keys, as in KeyPool([Key('a', env='KEY_A')]), and nothing else")
    ids: set[str] = set()
    secrets: dict[str, str] = {}
    for key in found:
        if key.id in ids:
            raise ConfigurationError(f"two keys of the pool have the id {key.id!r}")
        ids.add(key.id)
        other = secrets.setdefault(key.digest("equal"), key.id)
        if other != key.id:
            raise ConfigurationError(
                f"the keys {other!r} and {key.id!r} have the same secret: one of them gains nothing"
            )
    return found


def _limits(
    limits: Mapping[str, Mapping[str, int]] | None, groups: set[str]
) -> dict[str, tuple[tuple[Dimension, int], ...]]:
    if limits is None:
        return {}
    if not isinstance(limits, Mapping) or not all(isinstance(of, Mapping) for of in limits.values()):
        raise ConfigurationError("limits are written by group, as in {'org-a': {'rpm': 500, 'tpm': 200_000}}")
    known: dict[str, tuple[tuple[Dimension, int], ...]] = {}
    for group, of in limits.items():
        if group not in groups:
            there = ", ".join(map(repr, sorted(groups)))
            raise ConfigurationError(
                f"limits are given for {group!r:.80}, which is the group of no key: there are {there:.200}"
            )
        known[group] = tuple([(dimension_of(word), _units(group, word, limit)) for word, limit in of.items()])
    return known


def _units(group: str, word: str, limit: object) -> int:
    if not is_number(limit) or not 0 < limit <= _MOST_UNITS or limit != int(limit):
        raise ConfigurationError(
            f"the limit {word!r} of {group!r} is a whole number greater than 0, not {shown(limit)}"
        )
    return int(limit)


def models_of(models: Sequence[str]) -> tuple[str, ...]:
    """Return the globs of model classes."""
    if isinstance(models, str) or not isinstance(models, Sequence):
        raise ConfigurationError("models is a list of names or globs, as in ['gpt-5*']")
    for glob in models:
        if not isinstance(glob, str) or not _GLOB.fullmatch(glob):
            raise ConfigurationError(f"a model is named in 1 to 100 printable characters of ASCII, not {glob!r:.80}")
        if glob == OTHERS:
            raise ConfigurationError("models that are not named are a class by themselves: leave '*' out")
    if len(set(models)) < len(models):
        raise ConfigurationError("a model stands in models twice")
    return tuple(models)


def origins_of(origin: str | Sequence[str] | None, profile: Profile) -> frozenset[Origin]:
    """Return the origins that get a key: those that are given, else the profile's."""
    if origin is not None and not isinstance(origin, (str, Sequence)):
        raise ConfigurationError(f"origin is a text or a list of texts, not {type(origin).__name__}")
    given = profile.origins if origin is None else (origin,) if isinstance(origin, str) else tuple(origin)
    if not given:
        raise ConfigurationError(f"the profile {profile.name!r} needs origin=, as in 'https://api.example.com'")
    return frozenset([_origin(one) for one in given])


def _origin(text: object) -> Origin:
    found = origin_of(text) if isinstance(text, str) else None
    right = "an origin is written as in 'https://api.example.com' or 'https://api.example.com:8443'"
    if found is None or found.scheme not in ("http", "https"):
        raise ConfigurationError(right)
    assert isinstance(text, str)
    rest = text.partition("://")[2]
    if "@" in rest or re.search(r"[?#\s]", rest) or rest.partition("/")[2]:
        raise ConfigurationError(f"{right}, without user, path or query")
    if found.scheme == "http" and not found.is_loopback:
        raise ConfigurationError(f"keys would travel in clear to {found}: use https, but for this machine itself")
    return found


def shown(value: object) -> str:
    """Return what a message says of a value that is refused: Python writes no number of thousands of digits."""
    try:
        return f"{value!r:.80}"
    except ValueError:
        return "one of so many digits"


def whole(name: str, value: object, least: int, most: int) -> int:
    """Return a setting that is a whole number within bounds."""
    if not is_whole(value) or not least <= value <= most:
        raise ConfigurationError(f"{name} is a whole number from {least} to {most}, not {shown(value)}")
    return value


def wait_of(value: object) -> float:
    """Return how many seconds a request may wait."""
    if not is_number(value) or not 0 <= value <= _LONGEST_WAIT:
        raise ConfigurationError(f"max_wait is in seconds, from 0 to a day, not {shown(value)}")
    return float(value)


def attempts_of(value: int | None, groups: int) -> int:
    """Return how often one request may be sent: by default once a group and twice more, at most 8 times."""
    return min(8, groups + 2) if value is None else whole("max_attempts", value, 1, 1000)


def replays(value: object) -> bool:
    """Return whether a request is sent again after a 5xx."""
    if value not in (None, "5xx"):
        raise ConfigurationError(f"replay is '5xx' or None, not {value!r:.80}")
    return value == "5xx"


def callable_or_none(name: str, function: Any) -> None:
    """Raise `ConfigurationError` for a setting that is not a function."""
    if function is not None and not callable(function):
        raise ConfigurationError(f"{name} is a function, not {function!r:.80}")


def cost_of(cost: object) -> dict[str, int]:
    """Return what a request costs, by unit. Raises `ConfigurationError` for a unit or a number that is none."""
    if not isinstance(cost, Mapping):
        raise ConfigurationError(f"a cost is written by unit, as in {{'tokens': 900}}, not {type(cost).__name__}")
    for unit, units in cost.items():
        if unit not in UNITS.values():
            raise ConfigurationError(f"{unit!r:.80} is not a unit: there are {', '.join(UNITS.values())}")
        if not is_whole(units) or not 0 <= units <= _MOST_UNITS:
            raise ConfigurationError(f"a cost in {unit} is a whole number from 0, not {shown(units)}")
    return dict(cost)


def pool_name(text: object) -> str:
    """Return a name of a pool."""
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ConfigurationError(f"the name of a pool is 1 to 64 of letters, digits and . _ -, not {text!r:.80}")
    return text
