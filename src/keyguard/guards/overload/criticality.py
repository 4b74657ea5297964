"""Classes of requests: which are refused first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, get_args

from keyguard.conditions import OnPaths
from keyguard.errors import AmbiguousPath, ConfigurationError, GuardError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.request import Request

Criticality: TypeAlias = Literal["critical_plus", "critical", "sheddable_plus", "sheddable"]
"""A class, as Google's SRE book names them. The last is refused first."""

Criticalities: TypeAlias = "Criticality | Mapping[str, Criticality] | Callable[[Request], Criticality | None]"
"""One class for all requests, classes by patterns of paths, or a function of the request."""

SHARES: dict[str, float] = {"critical_plus": 1.0, "critical": 0.9, "sheddable_plus": 0.7, "sheddable": 0.5}
"""The part of each bound up to which requests of a class are admitted. What is between them is for bursts of the more
critical ones: found by simulation."""
USUAL: Criticality = "critical"
_NAMES = ", ".join(map(repr, get_args(Criticality)))


class Classes:
    """Finds the class of a request."""

    __slots__ = ("_paths", "function", "usual")

    def __init__(self, given: Criticalities) -> None:
        """Raises `ConfigurationError` for a class that does not exist, and for what is not a pattern of paths."""
        self.function: Callable[[Request], object] | None = None
        self.usual: str = USUAL
        self._paths: list[tuple[OnPaths, str]] = []
        if isinstance(given, Mapping):
            if not given:
                raise ConfigurationError("criticality has no paths: leave it out, or name some")
            self._paths = [(OnPaths([pattern]), _checked(name)) for pattern, name in given.items()]
        elif callable(given):
            if is_async(given) or is_blocking(given):
                raise ConfigurationError("criticality is a plain function, which does not wait: it is asked at once")
            check_takes("criticality", given, "the request")
            self.function = given
        else:
            self.usual = _checked(given)

    def of(self, request: Request) -> str:
        """Return the class of a request. Raises `GuardError` if the function returns something else."""
        if self.function is not None:
            name = self.function(request)
            if name is None:
                return self.usual
            if not isinstance(name, str) or name not in SHARES:
                raise GuardError(f"criticality returned {name!r:.80}, which is not one of {_NAMES}")
            return name
        for paths, name in self._paths:
            try:
                # Of a higher class is only what surely is; of a lower one is all that the app may take for it.
                if paths.opens(request) if SHARES[name] > SHARES[self.usual] else paths.closes(request):
                    return name
            except AmbiguousPath:
                return min(name, self.usual, key=SHARES.__getitem__)
        return self.usual


def _checked(name: object) -> str:
    if not isinstance(name, str) or name not in SHARES:
        raise ConfigurationError(
            f"criticality is one of {_NAMES}, or is found by paths or a function, not {name!r:.80}"
        )
    return name
