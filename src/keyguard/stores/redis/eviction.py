"""Whether a server evicts what decisions hang on, once its memory is full: read when it is first connected to.

Counters have a time to live, so a policy that spares keys without one (`volatile-*`) takes counters first; `allkeys-*`
takes API keys too. A server that does not tell causes no error.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from keyguard.logs import logger, plain

log = logger("keyguard.stores")

KEEPS = "noeviction"


class Eviction:
    """The questions about the policy of a store's servers, asked once."""

    def __init__(self) -> None:
        self.matters = False
        """Whether keys and counters are kept there, and not cached responses alone."""
        self._asked = False

    def questions(self) -> Generator[tuple[str, ...], Any, None]:
        """Yield the commands to send; each is sent its reply, or the error that came."""
        if not self.matters or self._asked:
            return
        self._asked, policy = True, None
        try:
            policy = _of_config((yield ("CONFIG", "GET", "maxmemory-policy")))
            if policy is None:  # not permitted: on a managed server it seldom is
                policy = _of_info((yield ("INFO", "memory")))
        except GeneratorExit:
            self._asked = False  # the connection broke
            raise
        if policy is not None and policy != KEEPS:
            log.warning(
                "Redis has maxmemory-policy %s: once its memory is full, it evicts %s, and nobody is told. Set "
                "maxmemory-policy noeviction, and give cached responses a server of their own "
                "(ResponseCache(store=...))",
                plain(policy),
                "counters, which are limits' only memory" if policy.startswith("volatile") else "API keys and counters",
            )


def _of_config(reply: Any) -> str | None:
    if isinstance(reply, dict):
        reply = [word for pair in reply.items() for word in pair]
    if isinstance(reply, list) and len(reply) == 2 and isinstance(reply[1], (bytes, str)):
        return _text(reply[1])
    return None


def _of_info(reply: Any) -> str | None:
    if not isinstance(reply, (bytes, str)):
        return None
    for line in _text(reply).splitlines():
        name, _, value = line.partition(":")
        if name == "maxmemory_policy":
            return value.strip() or None
    return None


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
