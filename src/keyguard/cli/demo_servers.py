"""The common part of the servers of both demos."""

import socket
import threading

from keyguard import ConfigurationError
from keyguard.cli.demo_story import HOST


def listen(port: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, on a free port if none is given."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port or 0))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    listener.listen(128)
    return listener


def stay_up() -> None:
    """Wait for Ctrl-C."""
    print("\nCtrl-C ends it.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
