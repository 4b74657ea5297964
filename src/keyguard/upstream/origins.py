"""Origins, in one spelling: scheme, host and port (RFC 6454 section 4)."""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """The place where a request goes."""

    scheme: str
    host: str
    """In lower case, without brackets and without the dot that may end it."""
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine itself: `localhost`, a name below it, or an address such as 127.0.0.1."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if _PORTS.get(self.scheme) == self.port else f":{self.port}")


def origin_of(url: str) -> Origin | None:
    """Return the origin of a URL; `None` if it has none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    return made_of(parts.scheme, host or "", port)


def made_of(scheme: str, host: str, port: int | None) -> Origin | None:
    """Return the origin of these parts, `None` for a port meaning that of the scheme; `None` if one is missing."""
    scheme = scheme.lower()
    host = host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
    port = _PORTS.get(scheme) if port is None else port
    if not scheme or not host or port is None:
        return None
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return None
    return Origin(scheme, host, port)
