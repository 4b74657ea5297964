"""What really sends: transports of the library itself, made when the first request tells of which one it is."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any, Unpack

from keyguard.errors import ConfigurationError
from keyguard.process.fork import check_process, renew_after_fork
from keyguard.upstream.origins import Origin
from keyguard.upstream.transports.options import TransportOptions
from keyguard.upstream.transports.pooled import Pooled
from keyguard.upstream.transports.proxies import proxy_for

_LIMITS = {"max_connections": 1000, "max_keepalive_connections": 100}
"""As the clients of SDKs have them: answers of a model take their time, so many are open at once."""


class Shared:
    """The common part of both transports."""

    _kind: str
    """The name of the library's own class."""

    def __init__(self, pool: Pooled, **options: Unpack[TransportOptions]) -> None:
        """Take the pool, and what really sends or how it is made. Raises `ConfigurationError` for unknown options."""
        for name in options.keys() - TransportOptions.__annotations__.keys():
            known = ", ".join(sorted(TransportOptions.__annotations__))
            raise ConfigurationError(f"a transport has no option {name!r}; it has {known}")
        self._pool = pool
        self._given = options.pop("transport", None)
        self._limits = options.pop("limits", None)
        self._proxy = options.pop("proxy", None)
        self._trust_env = options.get("trust_env", True)
        self._options = options
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Connect anew: a connection that two processes write to mixes up their requests, and their keys."""
        self._lock = threading.Lock()
        self._made: dict[tuple[str, str], Any] = {}
        self._routes: dict[tuple[str, Origin | None], Any] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool!r}>"

    def _inner(self, family: ModuleType, origin: Origin | None) -> Any:
        """Return what really sends to an origin."""
        if self._given is not None:
            return self._given
        check_process()
        route = (family.__name__, origin)
        found = self._routes.get(route)
        if found is None:
            with self._lock:
                found = self._routes[route] = self._made_for(family, self._proxy_for(origin))
        return found

    def _proxy_for(self, origin: Origin | None) -> Any:
        if self._proxy is not None or not self._trust_env or origin is None:
            return self._proxy
        return proxy_for(origin)

    def _made_for(self, family: ModuleType, proxy: Any) -> Any:
        name = (family.__name__, str(proxy or ""))
        if name not in self._made:
            limits = family.Limits(**_LIMITS) if self._limits is None else self._limits
            self._made[name] = getattr(family, self._kind)(**self._options, limits=limits, proxy=proxy)
        return self._made[name]

    def _forget(self) -> list[Any]:
        """Return all that is to be closed, and begin anew with the next request."""
        if self._given is not None:
            return [self._given]
        with self._lock:
            made = list(self._made.values())
            self._made, self._routes = {}, {}
        return made
