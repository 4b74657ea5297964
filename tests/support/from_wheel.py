"""Is a wheel whole? An example is served from it, with its counters in a real Valkey, in an environment of its own.

`python -m tests.support.from_wheel PYTHON`: the Python of the tests starts the server, and PYTHON, in whose environment
nothing but the wheel and what it needs is installed, runs this file.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def ask(port: int, key: str | None = None) -> tuple[int, str]:
    fields = {} if key is None else {"X-API-Key": key}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/items/7", headers=fields)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers.get("ratelimit", "")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("ratelimit", "")


def inside(url: str) -> None:
    """Serve the example, with its store at `url`."""
    os.environ["KEYGUARD_STORE"] = url
    import uvicorn

    import keyguard

    assert Path(keyguard.__file__).is_relative_to(sys.prefix), f"that is not the wheel: {keyguard.__file__}"
    spec = importlib.util.spec_from_file_location("fastapi_app", EXAMPLES / "fastapi_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    key = module.guard.keys.issue("acme").key.reveal()
    server = uvicorn.Server(uvicorn.Config(module.app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server has ended"
            threading.Event().wait(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        assert ask(port) == (401, "")
        status, fields = ask(port, key)
        assert (status, '"key:5000/day";r=4999' in fields) == (200, True), (status, fields)
    finally:
        server.should_exit = True
        thread.join()


def main(python: str) -> None:
    from tests.support.servers import RedisServer

    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        subprocess.run([python, str(Path(__file__).resolve()), server.url], check=True, cwd=folder, env=environment)
        commands = server.ask("INFO", "commandstats")
    assert "evalsha" in str(commands), "no script has decided"
    print("the wheel serves an example, and its scripts decide")


if __name__ == "__main__":
    if sys.argv[1].startswith("redis://"):
        inside(sys.argv[1])
    else:
        main(sys.argv[1])
