"""The facts that the flow must know of a request: out of its body, its own wishes, and the settings of the pool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from keyguard.errors import ConfigurationError
from keyguard.logs import frames
from keyguard.upstream.answers import Asked, UpstreamRequest
from keyguard.upstream.events import log
from keyguard.upstream.profiles import Profile
from keyguard.upstream.settings import Cost, callable_or_none, cost_of, wait_of
from keyguard.upstream.sizes import size_of

_OPTIONS = ("affinity", "cost", "max_wait", "model")
_LONGEST_AFFINITY = 1000


class Asking:
    """The settings of a pool that say what a request asks for."""

    def __init__(self, profile: Profile, cost: Cost | None, max_wait: float) -> None:
        callable_or_none("cost", cost)
        self._profile = profile
        self._cost = cost
        self._failed = False
        self._max_wait = wait_of(max_wait)

    def of(self, request: UpstreamRequest, options: Mapping[str, Any]) -> Asked:
        """Return what a request asks for, whose own wishes are `options`.

        Raises `ConfigurationError` for options that there are not, whatever they are: they come from the app.
        """
        if not isinstance(options, Mapping):
            right = "as in {'affinity': 'user-7', 'max_wait': 5}"
            raise ConfigurationError(
                f"the options of a request are written by name, {right}, not {type(options).__name__}"
            )
        for option in options:
            if option not in _OPTIONS:
                raise ConfigurationError(f"a request has no option {option!r:.80}; there are {', '.join(_OPTIONS)}")
        size = size_of(self._profile, urlsplit(request.url).path, request.body)
        model, cost, max_wait = options.get("model"), options.get("cost"), options.get("max_wait")
        return Asked(
            size.model if model is None else _text("model", model),
            _text("affinity", options.get("affinity", ""))[:_LONGEST_AFFINITY],
            self._estimated(request, size.cost) if cost is None else cost_of(cost),
            self._max_wait if max_wait is None else wait_of(max_wait),
            request.body is not None,
        )

    def by_hand(self, model: str, cost: Mapping[str, int] | None, affinity: str, max_wait: float | None) -> Asked:
        """Return what is asked for by a call that sends for itself."""
        return Asked(
            _text("model", model),
            _text("affinity", affinity)[:_LONGEST_AFFINITY],
            cost_of({"requests": 1} if cost is None else cost),
            self._max_wait if max_wait is None else wait_of(max_wait),
        )

    def _estimated(self, request: UpstreamRequest, estimate: Mapping[str, int]) -> Mapping[str, int]:
        if self._cost is None:
            return estimate
        try:
            return cost_of(self._cost(request))
        except Exception as error:
            if not self._failed:
                self._failed = True
                log.error("cost failed, and the estimate of the profile holds\n  %s", frames(error))
            return estimate


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} is a text, not {value!r:.80}")
    return value
