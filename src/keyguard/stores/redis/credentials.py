"""Names and passwords from a function, asked each time a connection is opened: tokens that expire, such as IAM's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from keyguard.errors import ConfigurationError
from keyguard.flow import is_async
from keyguard.process.event_loops import in_thread

Credentials: TypeAlias = Callable[[], str | tuple[str, str]]
"""A plain function without arguments: a password, or a user name and a password. It may take seconds."""


class Asked(CredentialProvider):
    """Asks the function, on behalf of redis-py."""

    def __init__(self, function: Credentials) -> None:
        self._function = function

    def __repr__(self) -> str:
        return "<credentials from a function>"

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Ask in this thread, which opens connections and does nothing else."""
        try:
            found = self._function()
        except Exception as error:  # its text may show what it knows
            raise AuthenticationError(f"the function for credentials failed ({type(error).__name__})") from None
        if isinstance(found, str):
            return (found,)
        if isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, str) for part in found):
            return found
        raise AuthenticationError("the function for credentials returns a password, or a name and a password")

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Ask in a thread: an event loop has other things to do."""
        return await in_thread(self.get_credentials)


def check_credentials(function: object) -> None:
    """Raise `ConfigurationError` for what is not a plain function."""
    if not callable(function) or is_async(function):
        raise ConfigurationError(f"credentials is a plain function without arguments, not {type(function).__name__}")
