"""Errors of a user's look-up: which of them say that the key is wrong, and so count as a guess.

An error in a value does: text of another encoding, a name that is not there, a number that is too large; a row that
does not exist, a token that is malformed, expired or badly signed; an HTTP status that says so. If those were not
counted, a look-up that raises for each wrong key would leave guessing without a limit. A failure of the world (a
connection, a time-out, a disk) says nothing about the key, nor does an error of which it is not known: nobody is blamed
for those.
"""

from __future__ import annotations

import re

from keyguard.errors import StoreError

_OF_WORLD = re.compile(r"Connect|Timeout|TimedOut|OperationalError|InterfaceError|Unavailable|Transport")
"""Parts of the names of errors that say nothing about a key, whatever else they are (PEP 249 has two of them)."""

_OF_INPUT = re.compile(
    r"(Bad|Invalid|Expired|Malformed)(Data|Signature|TimeSignature|Token|Key|Header|Payload|Format|Value|Credentials?)"
    r"(Error)?|(Signature|Token|Key)(Expired|Invalid|NotFound)(Error)?|ExpiredSignatureError|[A-Za-z]*DoesNotExist"
    r"|NoResultFound|DataError|DecodeError|ValidationError|JWTError|JWSError|JWEError|JoseError|AuthenticationFailed"
)
"""Names of errors by which libraries say that what they were given is wrong, or that there is no such thing."""

_OF_PYTHON = {("struct", "error"), ("re", "error"), ("zlib", "error"), ("_lzma", "LZMAError")}
"""The same of Python's own, by module and name."""

_OWN_STATUS = {400, 401, 403, 404, 410, 422}
_THEIR_STATUS = _OWN_STATUS - {401, 403}  # which may be about what the look-up itself has to show


class NoIdentity(TypeError):
    """A look-up returned what it must not: a mistake in it, whatever the key."""


def is_of_input(error: Exception) -> bool:
    """Tell whether an error of a look-up is about the text of the key, so that the key is wrong."""
    if isinstance(error, (StoreError, NoIdentity)):
        return False
    status = _status(error)
    if status is not None:
        return status
    kinds = [(kind.__module__, kind.__name__) for kind in type(error).__mro__]
    if isinstance(error, OSError) or any(_OF_WORLD.search(name) for _, name in kinds):
        return False
    if isinstance(error, (ValueError, LookupError, TypeError, ArithmeticError)):
        return True
    return any(_OF_INPUT.fullmatch(kind[1]) is not None or kind in _OF_PYTHON for kind in kinds)


def _status(error: Exception) -> bool | None:
    """Tell whether the HTTP status that an error carries speaks of the key; `None` if it carries none.

    It is the look-up's own word as web frameworks raise it (`HTTPException(401)`), or that of a server it has asked.
    """
    response = getattr(error, "response", None)
    own = () if isinstance(error, OSError) or response is not None else ("status_code", "code")
    for told, names, meant in (
        (error, own, _OWN_STATUS),
        (error, _NAMES, _THEIR_STATUS),
        (response, _NAMES, _THEIR_STATUS),
    ):
        for name in names:
            status = getattr(told, name, None)
            if isinstance(status, int) and 400 <= status < 600:
                return status in meant
    return None


_NAMES = ("status_code", "status", "code")
