"""One POST to a URL that somebody has named, which can do no harm whatever stands there.

Rules:
- `https` only. `http` may be allowed for this machine's own addresses, for development.
- The name is resolved once. Each address found is checked, and one of those that may be asked is connected to: there is
  no second look-up, which could have another answer.
- All of it has one time limit: looking up, connecting, shaking hands, sending, and waiting for the head of the answer.
  It holds however slowly that drips.
- No redirect is followed, no proxy is asked, no cookie is kept. Of the answer `_MOST` bytes are read, and its status is
  all that is taken from it.
- What is raised names the host, and never the path, which may hold a secret.
"""

from __future__ import annotations

import queue
import re
import socket
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from keyguard.alerts.addresses import is_loopback, why_inside
from keyguard.clock import monotonic
from keyguard.errors import ConfigurationError
from keyguard.process.fork import run_aside

TIME = 5.0
"""Seconds for all of it."""

_MOST = 8192  # bytes of an answer that are read
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |$)")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")


class Failed(Exception):
    """It was not delivered; the text says why, for the log."""


class Target(NamedTuple):
    """A URL, as far as it was checked beforehand."""

    secure: bool
    host: str
    port: int
    target: str
    """The path with its query."""
    local: bool
    """Whether this machine's own addresses may be asked."""

    def __repr__(self) -> str:
        return f"<Target {self.host}>"


def checked_target(what: str, url: object, *, local: bool = False) -> Target:
    """Return what a URL means. Raise `ConfigurationError` for one that is wrong; its path is not repeated."""
    if not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
        raise ConfigurationError(f"{what} takes a URL of printable ASCII signs, such as https://example.com/alerts")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"{what}: the brackets of the URL hold no IPv6 address") from None
    try:
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{what}: the port of the URL is no number up to 65535") from None
    host = parts.netloc.rpartition("@")[2].removesuffix("" if port is None else f":{port}")
    if parts.scheme not in ("https", "http") or not _HOST.fullmatch(host):
        raise ConfigurationError(f"{what} takes a URL such as https://example.com/alerts, not one of {url[:8]!r}...")
    if "@" in parts.netloc:
        raise ConfigurationError(f"{what}: the URL has a user or a password in it; take it out, requests are signed")
    bare = host.strip("[]")
    if parts.scheme == "http" and not (local and (bare == "localhost" or is_loopback(bare))):
        raise ConfigurationError(
            f"{what} takes https, so that nobody on the way reads or changes alerts; http is for this machine alone, "
            "in development: allow_local=True"
        )
    why = "" if _is_name(bare) else why_inside(bare)
    if why and not (local and is_loopback(bare)):
        raise ConfigurationError(f"{what}: the address {bare} {why}")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme == "https", bare, port or (443 if parts.scheme == "https" else 80), target, local)


def _is_name(host: str) -> bool:
    return ":" not in host and not host.replace(".", "").isdigit()


def post(target: Target, body: bytes, fields: Mapping[str, str]) -> int:
    """Send a body, and return the status of the answer. Raises `Failed`."""
    import ssl  # for those who have something to send: it takes a while

    end = monotonic() + TIME
    addresses = [address for address in _resolved(target, end) if _may_be_asked(target, address)]
    if not addresses:
        raise Failed(f"{target.host} has no address of the public network")
    connection = _connected(target, addresses, end)
    try:
        if target.secure:
            connection.settimeout(_left(target, end))
            context = ssl.create_default_context()
            connection = context.wrap_socket(connection, server_hostname=target.host)
        host = f"[{target.host}]" if ":" in target.host else target.host
        if target.port != (443 if target.secure else 80):
            host = f"{host}:{target.port}"
        lines = [f"POST {target.target} HTTP/1.1", f"Host: {host}", "Connection: close", "User-Agent: keyguard"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        connection.settimeout(_left(target, end))
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)
        return _status(target, connection, end)
    except TimeoutError:
        raise _late(target) from None
    except ssl.SSLCertVerificationError as error:
        raise Failed(f"the certificate of {target.host} is not valid: {error.verify_message}") from None
    except OSError as error:
        raise Failed(f"{target.host} broke the connection: {error.strerror or type(error).__name__}") from None
    finally:
        connection.close()


def _left(target: Target, end: float) -> float:
    left = end - monotonic()
    if left <= 0:
        raise _late(target)
    return left


def _late(target: Target) -> Failed:
    return Failed(f"{target.host} has not answered within {TIME:g} seconds")


def _resolved(target: Target, end: float) -> Sequence[str]:
    """Look a name up, within the time: the system's own way takes as long as it likes."""
    found: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            rows = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            found.put([str(row[4][0]) for row in rows])
        except (OSError, UnicodeError) as error:
            found.put(error if isinstance(error, OSError) else OSError("it is not a name"))

    try:
        run_aside("keyguard-name", look_up)
        addresses = found.get(timeout=_left(target, end))
    except RuntimeError:
        raise Failed("there is no room for a thread") from None
    except queue.Empty:
        raise Failed(f"the name {target.host} was not found within {TIME:g} seconds") from None
    if isinstance(addresses, OSError):
        raise Failed(f"the name {target.host} cannot be resolved")
    return [*dict.fromkeys(addresses)]


def _may_be_asked(target: Target, address: str) -> bool:
    if target.local and is_loopback(address):
        return True
    return target.secure and not why_inside(address)


def _connected(target: Target, addresses: Sequence[str], end: float) -> socket.socket:
    """Connect to the first of these addresses that takes it. They are numbers: nothing is looked up."""
    for place, address in enumerate(addresses, 1):
        connection = None
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            connection = socket.socket(family, socket.SOCK_STREAM)
            left = _left(target, end)
            connection.settimeout(left if place == len(addresses) else left / 2)
            connection.connect((address, target.port))
            return connection
        except OSError:
            if connection is not None:
                connection.close()
    if end <= monotonic():
        raise _late(target)
    raise Failed(f"{target.host} takes no connection")


def _status(target: Target, connection: socket.socket, end: float) -> int:
    data = b""
    while len(data) <= _MOST:
        connection.settimeout(_left(target, end))
        more = connection.recv(_MOST)
        if not more:
            break
        data += more
        while b"\r\n" in data:
            found = _STATUS.match(data.partition(b"\r\n")[0])
            if found is None:
                raise Failed(f"{target.host} does not speak HTTP")
            if not found[1].startswith(b"1"):
                return int(found[1])
            head, done, data = data.partition(b"\r\n\r\n")  # of an answer before the answer (RFC 9110, section 15.2)
            if not done:
                data = head
                break
    raise Failed(f"{target.host} has not answered with a status")
