"""What is taken off a request before it leaves, and the one credential that is set.

The placeholder, which clients are given as their key, leaves for nowhere: neither for the provider nor, after a
redirect, for anybody else. To another origin a request goes without any key of the pool.
"""

from __future__ import annotations

from base64 import b64decode
from binascii import Error
from urllib.parse import unquote_plus

from keyguard.upstream.keys import PLACEHOLDER
from keyguard.upstream.profiles.profile import Profile


def is_taken_off(name: str, value: str, profile: Profile | None) -> bool:
    """Tell whether a header field is taken off; `profile` is `None` for a request to another origin."""
    if profile is not None and name.lower() in profile.takes_off:
        return True
    return _holds_placeholder(value)


def clean_query(query: str, profile: Profile | None) -> str:
    """Return a query without parameters that hold a credential; the others stay as they are written."""
    if not query:
        return query
    return "&".join(part for part in query.split("&") if not _is_credential(part, profile))


def clean_target(target: bytes, profile: Profile | None) -> bytes:
    """Return a path with its query cleaned."""
    return clean_url(target.decode("latin-1"), profile).encode("latin-1") if b"?" in target else target


def clean_url(url: str, profile: Profile | None) -> str:
    """Return a URL with its query cleaned."""
    start, mark, fragment = url.partition("#")
    path, question, query = start.partition("?")
    if not question:
        return url
    cleaned = clean_query(query, profile)
    return path + (question + cleaned if cleaned or not query else "") + mark + fragment


def _is_credential(part: str, profile: Profile | None) -> bool:
    name, _, value = part.partition("=")
    if profile is not None and unquote_plus(name).lower() in profile.takes_off_query:
        return True
    return PLACEHOLDER in unquote_plus(value) or PLACEHOLDER in unquote_plus(name)


def _holds_placeholder(value: str) -> bool:
    if PLACEHOLDER in value:
        return True
    scheme, _, rest = value.strip().partition(" ")
    if scheme.lower() != "basic":  # RFC 7617: user and password, in base64
        return False
    try:
        return PLACEHOLDER.encode() in b64decode(rest.strip() + "==")
    except (Error, ValueError):
        return False
