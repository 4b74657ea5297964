"""Conditions on requests, for `when=`."""

from __future__ import annotations

from keyguard.paths import Paths
from keyguard.request import Request


class OnPaths:
    """True for requests whose path matches; false where the path can be read in more than one way."""

    opens_only = True
    """Nothing may be closed by it: what cannot be read in one way is not on any of its paths."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self.paths = Paths(patterns)

    def __repr__(self) -> str:
        return f"path({', '.join(map(repr, self.paths.texts))})"

    def __call__(self, request: Request) -> bool:
        return self.paths.match(request.path) and not request.ambiguous


def path(*patterns: str) -> OnPaths:
    """Whether a request is for one of these paths: `"/products/*"`, `"/items/{id}"`, `"/prices"`.

    For `ResponseCache(when=...)`. A limit takes `paths=[...]` instead, which refuses what it cannot read. Raises
    `ConfigurationError` for what is no pattern.
    """
    return OnPaths(patterns)
