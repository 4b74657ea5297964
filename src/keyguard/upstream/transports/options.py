"""Options of the transports of httpx and httpx2, which mean what the libraries say of them."""

from __future__ import annotations

import ssl
from typing import Any, TypedDict


class TransportOptions(TypedDict, total=False):
    """How connections are made; or what makes them."""

    transport: Any
    """The transport that really sends, instead of one that is made of the other options. It is closed with this one."""
    verify: ssl.SSLContext | str | bool
    cert: Any
    http1: bool
    http2: bool
    """Whether HTTP/2 is spoken; by default not: its library writes header fields, so keys too, to logs at DEBUG."""
    limits: Any
    """The connections that are open at once; by default 1000 and 100 that are kept, as clients of SDKs have it."""
    proxy: Any
    """The proxy; by default that of the environment."""
    retries: int
    trust_env: bool
    """Whether proxies and certificates are taken from the environment; by default they are."""
    local_address: str | None
    uds: str | None
    socket_options: Any
