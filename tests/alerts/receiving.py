"""A server on 127.0.0.1 that receives alerts, and does to whoever sends them what it likes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Received:
    """A request as it came."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        self.body = body


OK = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def answering(data: bytes) -> Callable[[socket.socket], None]:
    """What sends these bytes."""
    return lambda connection: connection.sendall(data)


class Server:
    """Answers each request by the next function, the last one for all others."""

    def __init__(self, *answers: Callable[[socket.socket], None], tls: Any = None, read: bool = True) -> None:
        self.requests: list[Received] = []
        self.answers = [*answers]
        self.tls = tls
        self.read = read
        self.over = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/hook?token=hush"

    def serve(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self.socket.accept()
                threading.Thread(target=self.handle, args=(connection,), daemon=True).start()

    def handle(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            if self.read:
                self.requests.append(received(connection))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            answer(connection)
        connection.close()


def received(connection: socket.socket) -> Received:
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            raise ValueError("it has gone")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    found = Received(head, body)
    while len(found.body) < int(found.fields["content-length"]):
        found.body += connection.recv(65536)
    return found


@contextmanager
def served(*answers: Callable[[socket.socket], None], **settings: Any) -> Iterator[Server]:
    server = Server(*(answers or (answering(OK),)), **settings)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.socket.close()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        thread.join(5)
