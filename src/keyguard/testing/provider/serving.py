"""A server in a thread: uvicorn on 127.0.0.1, with connections that can be reset."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keyguard.clock import pause
from keyguard.errors import ConfigurationError
from keyguard.testing.provider.carrying import RESET

_AT_ONCE = struct.pack("ii", 1, 0)
"""The option by which closing a connection resets it."""


@contextmanager
def serve(app: Any, port: int = 0) -> Iterator[str]:
    """Serve an app until the context ends: then its connections are closed, and the thread with them."""
    try:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError as error:
        raise ConfigurationError(f"a server needs {error.name}: pip install 'keyguard[demo]'") from error

    transports: dict[Any, Any] = {}

    class Resettable(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transports[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            transports.pop(self.client, None)
            super().connection_lost(exc)

    async def with_resets(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "extensions": {RESET: lambda: _reset(transports.get(scope["client"]))}}, receive, send)

    listening = socket.create_server(("127.0.0.1", port), backlog=256)
    config = uvicorn.Config(
        with_resets,
        http=Resettable,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            pause(0.002)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()


def _reset(transport: Any) -> None:
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        transport.abort()
