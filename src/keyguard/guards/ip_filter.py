"""Address rules: who may call at all."""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.conditions import OnPaths, on_paths
from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.guard import Guard
from keyguard.http.addresses import Networks
from keyguard.problem import refuse_ambiguous, refuse_for
from keyguard.refusal import Cause
from keyguard.request import Request
from keyguard.response import Response


class IPFilter(Guard):
    """Refuse requests by the client's address, IPv4 and IPv6.

    - `allow`: only these networks; `None` allows everybody, an empty list nobody.
    - `deny`: none of these; wins over `allow`.
    - `paths`: patterns that the filter applies to, or `path(...)`; all paths if it is not given.
    - `ignore_case`: the app routes paths in any case, so the filter applies to them in any case.
    - `name`: what it is called in the log.

    An address that cannot be known is on no list: it passes a deny list, but not an allow list.

    Raises `ConfigurationError` for a text that is not a network, and for a filter that would filter nothing.
    """

    filters_addresses = True
    keeps: frozenset[str] = frozenset()

    def __init__(
        self,
        allow: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        *,
        paths: Iterable[str] | OnPaths | None = None,
        ignore_case: bool = False,
        name: str = "ip",
    ) -> None:
        self.name = name
        self.paths = on_paths("paths", paths, ignore_case)
        self._lists = _networks(allow, deny)
        allowed, denied, _ = self._lists
        if allowed is None and not denied:
            raise ConfigurationError("neither allow nor deny is given: it would filter nothing")

    def __repr__(self) -> str:
        return f"<IPFilter {self.name}>"

    def replace(self, allow: Iterable[str] | None = None, deny: Iterable[str] = ()) -> None:
        """Put other lists in the place of both, while requests run. A bad list raises, and changes nothing.

        A list that is not given is gone; a deny list may end up empty, once its last entry is lifted.
        """
        self._lists = _networks(allow, deny)  # one assignment: a request sees the old lists or the new ones

    def __call__(self, request: Request) -> Response | None:
        if self.paths is not None:
            try:
                if not self.paths.closes(request):
                    return None
            except AmbiguousPath:
                return refuse_ambiguous(request)
        allow, deny, passed = self._lists
        client = request.client
        if client is None:
            return None if allow is None else _refuse(request, "unknown-address")
        text = client.text
        if text in passed:
            return None
        if client in deny:
            return _refuse(request, "denied-address")
        if allow is not None and client not in allow:
            return _refuse(request, "address-not-allowed")
        if len(passed) >= _KEPT:
            passed.clear()
        passed.add(text)
        return None


_KEPT = 32768
"""Addresses that are known to pass: to look one up in the networks takes as long as all the rest."""


def _networks(allow: Iterable[str] | None, deny: Iterable[str]) -> tuple[Networks | None, Networks, set[str]]:
    return None if allow is None else Networks(allow), Networks(deny), set()


def _refuse(request: Request, reason: str) -> Response:
    return refuse_for(request, Cause.ADDRESS, "Requests from this address are refused.", reason=reason)
