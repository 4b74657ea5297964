"""Programs of Python that begin at once: forks of a process that has imported already what most of them import.

An interpreter that imports a framework takes half a second or two, and tests start hundreds. What `python -m`, a script
and `-c` are given here is run as the interpreter would run it: as `__main__`, with arguments, environment, folder and
path of its own, to a status of its own. Only the modules of `LIBRARIES` that were asked for are there beforehand, and
none of an app or a test. What a test says of starting itself, or of what is imported, needs an interpreter of its own.

One process, `Warm`, serves whoever knows the path of its socket: each connection is a program. It gets its standard
input, output and errors along with its order, and is killed if the connection ends before it does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "keyguard": [
        *("keyguard.asgi", "keyguard.wsgi", "keyguard.stores.sqlite", "keyguard.stack.route_checks", "keyguard.usage"),
        *("keyguard.cli", "keyguard.cli.keys", "keyguard.cli.key_import", "encodings.idna"),
    ],
    "django": [
        *("django.http", "django.core.management", "django.core.wsgi", "django.core.asgi", "django.urls"),
        *("django.test", "django.views.debug", "django.core.servers.basehttp", "django.db.backends.sqlite3.base"),
        *("django.forms", "django.contrib.staticfiles", "django.template.defaulttags", "django.template.loader_tags"),
    ],
    "fastapi": ["fastapi.testclient", "pydantic.v1"],
    "flask": ["flask.cli"],
    "hypothesis": ["hypothesis"],
    "pages": ["tests.support.page_runner", "tests.support.harness"],
    "pytest": ["_pytest.config"],
    "uvicorn": ["uvicorn.main", "uvicorn.protocols.http.auto", "uvicorn.lifespan.on"],
}
"""What programs may need, and the modules that are imported then. Gunicorn is not among them: it notes the folder in
which it is imported, and goes there."""
_LENGTH = 8


class Program:
    """One program that runs, with what `subprocess.Popen` has for it."""

    def __init__(
        self,
        server: str,
        words: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        needs: Sequence[str] = (),
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.returncode: int | None = None
        order = {
            "words": [*words],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "needs": [*needs],
        }
        text = json.dumps(order).encode()
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(server)
        with contextlib.ExitStack() as opened:
            null = os.open(os.devnull, os.O_RDWR)
            opened.callback(os.close, null)
            wanted = [stdin, 1 if stdout is None else stdout, 2 if stderr is None else stderr]
            files = [null if each == subprocess.DEVNULL else each for each in wanted]
            socket.send_fds(self._line, [len(text).to_bytes(_LENGTH, "big")], files)
            self._line.sendall(text)
        self._said = self._line.makefile("r")
        self.pid = int(self._said.readline())

    def poll(self) -> int | None:
        """Return the status if it has ended: minus the number of the signal that ended it."""
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(self._said.readline() or -signal.SIGKILL)
            self.leave()
        return self.returncode

    def leave(self) -> None:
        """Wait for it no longer: if it has not ended, it is killed."""
        self._said.close()
        self._line.close()

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.wait()


def run(
    server: str, words: Sequence[str], *, given: str = "", timeout: float = 100, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with what it is `given` on standard input. Returns what it printed."""
    with (
        tempfile.TemporaryFile("w+") as stdin,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        stdin.write(given)
        stdin.seek(0)
        files = {"stdin": stdin.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        program = Program(server, words, **files, **options)
        try:
            status = program.wait(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            program.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([*words], status, out.read(), err.read())


@contextlib.contextmanager
def warm() -> Iterator[str]:
    """Start the process that serves, and return the path of its socket."""
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{folder}/s")
        door.listen(100)
        life, ours = os.pipe()  # it ends when this one does, however that is
        words = [sys.executable, "-m", "tests.support.warm", str(door.fileno()), str(life)]
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            pass_fds=(door.fileno(), life),
            env={**os.environ, "PYTHONPATH": path},
        ):
            os.close(life)
            try:
                yield f"{folder}/s"
            finally:
                os.close(ours)


class Warm:
    """The process that serves."""

    def __init__(self, door: socket.socket, life: int) -> None:
        self.door, self.life = door, life
        self.imported: set[str] = set()
        self.programs: dict[int, socket.socket] = {}
        self.path = [*sys.path]
        self.ended, noted = socket.socketpair()
        self.noted = noted
        noted.setblocking(False)
        signal.set_wakeup_fd(noted.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def serve(self) -> None:
        with selectors.DefaultSelector() as waiting:
            for each in (self.door, self.ended, self.life):
                waiting.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    if key.fileobj is self.door:
                        self.begin(waiting)
                    elif key.fileobj is self.ended:
                        self.ended.recv(4096)
                        self.reap(waiting)
                    elif key.fileobj == self.life:
                        return self.close()
                    else:  # whoever has ordered a program is there no more
                        with contextlib.suppress(KeyError, ValueError):  # its program has ended at the same moment
                            waiting.unregister(key.fileobj)
                        for pid, line in self.programs.items():
                            if line is key.fileobj:
                                end(pid)

    def begin(self, waiting: selectors.BaseSelector) -> None:
        line, _ = self.door.accept()
        head, files, _, _ = socket.recv_fds(line, _LENGTH, 3)
        length = int.from_bytes(head, "big")
        text = b""
        while len(text) < length and (part := line.recv(length - len(text))):
            text += part
        if len(text) < max(1, length):  # who ordered it is gone already
            line.close()
            for file in files:
                os.close(file)
            return
        order = json.loads(text)
        if missing := [library for library in order["needs"] if library not in self.imported]:
            gc.unfreeze()  # libraries may ask who refers to what
            for library in missing:
                have(library)
            self.imported.update(missing)
            gc.collect()
            gc.freeze()  # what is here is searched for garbage in no fork
        pid = os.fork()
        if pid == 0:
            waiting.close()
            for mine in (self.door, self.ended, self.noted, line, *self.programs.values()):
                mine.close()
            os.close(self.life)
            become(order, files, self.path)
        for file in files:
            os.close(file)
        self.programs[pid] = line
        waiting.register(line, selectors.EVENT_READ)
        with contextlib.suppress(OSError):  # whoever is gone by now is noticed as the others are
            line.sendall(b"%d\n" % pid)

    def reap(self, waiting: selectors.BaseSelector) -> None:
        while self.programs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            line = self.programs.pop(pid)
            with contextlib.suppress(KeyError):
                waiting.unregister(line)
            with line, contextlib.suppress(OSError):
                line.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def close(self) -> None:
        for pid in self.programs:
            end(pid)
            os.waitpid(pid, 0)


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def have(library: str) -> None:
    for name in LIBRARIES[library]:
        importlib.import_module(name)
    if library == "pytest":
        for name in sys.modules["_pytest.config"].default_plugins:
            importlib.import_module(f"_pytest.{name}")
        for plugin in entry_points(group="pytest11"):
            plugin.load()


def become(order: dict[str, Any], files: Sequence[int], path: list[str]) -> NoReturn:
    """Run the program in this process, a fork, and end it."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
        sys.path[:] = dict.fromkeys([*map(os.path.abspath, given), *path])
        importlib.invalidate_caches()
        open_streams()
        code = as_main(order["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # as at the end of an interpreter: it waits for threads
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code & 0xFF)


def open_streams() -> None:
    """Open standard input and output as an interpreter of this environment does."""
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))

    def writes(file: int, errors: str, lines: bool) -> Any:
        binary = open(file, "wb", 0 if at_once else -1, closefd=False)  # noqa: SIM115 - for all of the process
        return io.TextIOWrapper(binary, encoding or None, errors, line_buffering=lines, write_through=at_once)

    sys.stdin = sys.__stdin__ = open(0, encoding=encoding or None, errors=errors or None, closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = writes(1, errors or "strict", os.isatty(1))  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = writes(2, "backslashreplace", True)  # type: ignore[misc]


def as_main(words: list[str]) -> int:
    """Run what follows `python` in a command. Returns the status that it ends with."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        elif words[0] == "-c":
            sys.argv = ["-c", *words[2:]]
            sys.path.insert(0, "")
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            exec(compile(words[1], "<string>", "exec", dont_inherit=True), main.__dict__)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def main() -> None:
    door, life = map(int, sys.argv[1:])
    with socket.socket(fileno=door) as listening:
        Warm(listening, life).serve()


if __name__ == "__main__":
    main()
