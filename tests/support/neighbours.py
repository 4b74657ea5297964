"""Real servers of both worlds, each in a process of its own, and bridges between the worlds."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.servers import free_port, wait_until

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def _python(*words: str) -> list[str]:
    return [sys.executable, *os.environ.get("KEYGUARD_TEST_FLAGS", "").split(), "-m", *words]


def _uwsgi(*words: str) -> list[str]:
    return [
        str(BIN / "uwsgi"), "--http-socket", "127.0.0.1:{port}", "--master", "--die-on-term", "--need-app",
        "--virtualenv", sys.prefix, "--pythonpath", ":".join(sys.path[1:]), "--module", "{app}", *words,
    ]  # fmt: skip


ASGI_SERVERS = {
    "uvicorn": _python("uvicorn", "{app}", "--host=127.0.0.1", "--port={port}", "--log-level=warning"),
    "hypercorn": _python("hypercorn", "--bind=127.0.0.1:{port}", "--log-level=warning", "{app}"),
    "hypercorn-trio": _python("hypercorn", "-k", "trio", "--bind=127.0.0.1:{port}", "--log-level=warning", "{app}"),
    "granian": _python("granian", "--interface=asgi", "--host=127.0.0.1", "--port={port}", "{app}"),
}
WSGI_SERVERS = {
    "gunicorn": _python("gunicorn", "--bind=127.0.0.1:{port}", "--threads=8", "--log-level=warning", "{app}"),
    "gunicorn-gevent": _python("gunicorn", "--bind=127.0.0.1:{port}", "-k", "gevent", "--log-level=warning", "{app}"),
    "waitress": _python("waitress", "--listen=127.0.0.1:{port}", "{app}"),
    "werkzeug": _python("tests.support.neighbours", "werkzeug", "{app}", "{port}"),
    "wsgiref": _python("tests.support.neighbours", "wsgiref", "{app}", "{port}"),
    "granian": _python("granian", "--interface=wsgi", "--host=127.0.0.1", "--port={port}", "{app}"),
    "hypercorn": _python("hypercorn", "--bind=127.0.0.1:{port}", "--log-level=warning", "wsgi:{app}"),
    "uwsgi": _uwsgi(),
}
UWSGI_WORKERS = _uwsgi("--processes", "3", "--thunder-lock")
UWSGI_THREADS = _uwsgi("--processes", "3", "--threads", "3", "--enable-threads", "--thunder-lock")


class Served:
    """A server that is up."""

    def __init__(self, port: int, log: Path, process: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        """What the server and the app have written so far."""
        return self._log.read_text(errors="replace")

    def raw(self, request: bytes) -> bytes:
        """Send bytes, and return all that comes back; the request has to close the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            parts = []
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    parts.append(part)
        return b"".join(parts)

    def get(self, path: str = "/", timeout: float = 60, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, body and header fields. Fields are given with `_` for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            fields = {name.lower(): text for name, text in answer.getheaders()}
            return answer.status, answer.read().decode(), fields
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> str:
        """End it as an operator would, and return what it has written."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(100)  # uWSGI gives its workers a minute
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.log


@contextlib.contextmanager
def served(command: list[str], app: str, folder: Path, **environment: str) -> Iterator[Served]:
    """A server with `app`, in a process of its own; ended by its pid."""
    port = free_port()
    words = [word.format(port=port, app=app) for word in command]
    log = folder / f"log-{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
        )
    server = Served(port, log, process)
    try:

        def up() -> bool:
            if process.poll() is None:
                socket.create_connection(("127.0.0.1", port), 5).close()
            return True

        wait_until(up, f"{command[:4]} to be up", 60)
        assert process.poll() is None, server.log
        yield server
    finally:
        try:
            server.stop()
        finally:
            with contextlib.suppress(ProcessLookupError):  # children that a server has left behind
                os.killpg(process.pid, signal.SIGKILL)


# -- bridges --------------------------------------------------------------------------------------------------------


def _starlette_bridge(app: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and many use it
        from starlette.middleware.wsgi import WSGIMiddleware
    return WSGIMiddleware(app)


def _a2wsgi_bridge(app: Any) -> Any:
    from a2wsgi import WSGIMiddleware

    return WSGIMiddleware(app)


def _asgiref_bridge(app: Any) -> Any:
    from asgiref.wsgi import WsgiToAsgi

    return WsgiToAsgi(app)


Bridge = Callable[[Any], Any]

BRIDGES: dict[str, Bridge] = {
    "a2wsgi": _a2wsgi_bridge,
    "asgiref": _asgiref_bridge,
    "starlette": _starlette_bridge,
}
"""From WSGI apps to ASGI apps."""


def to_wsgi(app: Any) -> Any:
    """a2wsgi's bridge from an ASGI app to a WSGI app."""
    from a2wsgi import ASGIMiddleware

    return ASGIMiddleware(app)


def _main(kind: str, app: str, port: str) -> None:
    import importlib

    module, _, name = app.partition(":")
    target = getattr(importlib.import_module(module), name)
    if kind == "werkzeug":
        from werkzeug.serving import run_simple

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        run_simple("127.0.0.1", int(port), target, threaded=True)
    else:
        from wsgiref.simple_server import make_server

        with make_server("127.0.0.1", int(port), target) as server:
            # An exception would be lost if it came in a request: wsgiref's handler catches all that are raised there.
            signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
            server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    _main(*sys.argv[1:])
