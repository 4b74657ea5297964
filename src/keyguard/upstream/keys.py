"""The keys of a pool.

Rules:
- A secret is held in a closure: it stands in no `repr`, `vars`, pickle, copy, exception, log or traceback with locals.
- In a store stands a digest alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import blake2b
from typing import NoReturn

from keyguard.checks import is_number, is_whole
from keyguard.errors import ConfigurationError

PLACEHOLDER = "sk-keyguard-placeholder"
"""The text that SDKs are given as their key. It is sent nowhere."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,63}")
_MOST_RANK = 1000
_MOST_WEIGHT = 1_000_000
_SECRET = re.compile(r"[!-~]+")


class Secret:
    """A text that shows itself to `reveal` alone."""

    __slots__ = ("_reveal",)

    def __init__(self, text: object) -> None:
        self._reveal: Callable[[], object] = lambda: text

    def reveal(self) -> str:
        """Return the text, to be sent."""
        return str(self._reveal())

    def problem(self) -> str | None:
        """Return why it cannot be a key's secret; `None` if it can."""
        if not isinstance(self._reveal(), str):
            return "it is a text"
        if not self.reveal():
            return "it is empty"
        if self.reveal() == PLACEHOLDER:
            return "it is the placeholder, which SDKs are given; the pool needs the provider's key"
        if not _SECRET.fullmatch(self.reveal()):
            return "it holds a line break, a blank, or a character that is not ASCII: no header field takes those"
        return None

    def digest(self, name: str) -> str:
        """Return what stands for it in the store of a pool of that name: 16 hexadecimal digits."""
        return blake2b(self.reveal().encode(), key=name.encode()[:64], digest_size=8).hexdigest()

    def __repr__(self) -> str:
        return "<Secret ***>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled: it would leave the process in clear")


class Key:
    """A key of a provider: its secret, and the limit group to which the provider counts it.

    Keys of one organisation, project or workspace share its limits, so they are one `group`; by default each key is a
    group of its own. Groups of a higher `rank` are used only if none of a lower one has room in time. Of one rank, a
    key of `weight` 2 gets twice as many requests as one of 1, as long as there is room.
    """

    __slots__ = ("__weakref__", "_secret", "group", "id", "rank", "weight")

    def __init__(
        self,
        id: str,
        secret: str | None = None,
        *,
        env: str | None = None,
        group: str | None = None,
        rank: int = 0,
        weight: float = 1,
    ) -> None:
        """Take the secret, or the name of the environment variable in which it stands.

        `id` and `group` are names of yours, which logs, events and the store show. Raises `ConfigurationError` for both
        or none of `secret` and `env`, a variable that is not set, and a secret that no header field can hold.
        """
        given = secret is not None
        hidden = Secret(secret)
        del secret  # a traceback with locals would show it
        self.id = checked_id("the id of a key", id)
        self.group = self.id if group is None else checked_id("a limit group", group)
        if given == (env is not None):
            raise ConfigurationError(f"the key {self.id!r} takes its secret or env=, the variable that holds it: one")
        if env is not None:
            if not isinstance(env, str) or env not in os.environ:
                raise ConfigurationError(f"the key {self.id!r} stands in the variable {env!r}, which is not set")
            hidden = Secret(os.environ[env])
        problem = hidden.problem()
        if problem is not None:
            raise ConfigurationError(f"the secret of the key {self.id!r} cannot be sent: {problem}")
        self._secret = hidden
        if not is_whole(rank) or not 0 <= rank <= _MOST_RANK:
            raise ConfigurationError(f"the rank of a key is a whole number from 0 to {_MOST_RANK}")
        if not is_number(weight) or not 0 < weight <= _MOST_WEIGHT:
            raise ConfigurationError(f"the weight of a key is a number greater than 0, and at most {_MOST_WEIGHT}")
        self.rank = rank
        self.weight = float(weight)

    def reveal(self) -> str:
        """Return the secret, to be sent. Keep it in no variable that a traceback could show."""
        return self._secret.reveal()

    def digest(self, name: str) -> str:
        """Return what stands for it in the store of a pool of that name."""
        return self._secret.digest(name)

    def __repr__(self) -> str:
        # A traceback with locals may show one that is being refused.
        told = [f"{name}={getattr(self, name)!r}" for name in ("id", "group", "rank", "weight") if hasattr(self, name)]
        return f"<Key {' '.join(told)}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is not pickled: its secret would leave the process in clear")


def checked_id(what: str, text: object) -> str:
    """Return a name that stands in keys of the store. Raises `ConfigurationError` for another text."""
    if not isinstance(text, str) or not _ID.fullmatch(text):
        raise ConfigurationError(
            f"{what} is 1 to 64 of letters, digits and . _ : @ + -, a letter or digit first; the one given is not"
        )
    return text
