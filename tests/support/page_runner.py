"""Runs a page, as a program of `tests/support/warm.py`: JSON on standard input says what, and on output how it went.

Its process may connect to this machine only. The programs that the page shows are begun by the same warm process, so
that they have nothing of what the page's own blocks have imported.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib
import inspect
import io
import json
import os
import re
import signal
import sys
import time
import tomllib
import traceback
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keyguard import Keyguard
from keyguard.testing import play
from tests.support import plugin
from tests.support.page_commands import Commands
from tests.support.pages import ROOT, Piece, pieces_of

HERE = ("127.0.0.1", "::1", "localhost", "", None)


def only_this_machine(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse connections to other machines."""
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in HERE:
            raise PermissionError(f"a page of documentation speaks to {address[0]}")
    elif event == "socket.getaddrinfo" and arguments[0] not in (*HERE, b"localhost", b"127.0.0.1"):
        raise PermissionError(f"a page of documentation asks for the address of {arguments[0]}")


class Page:
    """One page that runs, in a folder of its own."""

    def __init__(self, name: str, text: str, real: dict[str, str], warm: str) -> None:
        self.name = name
        for shown, url in real.items():
            text = re.sub(shown, url, text)
        self.pieces = [*pieces_of(text)]
        self.names: dict[str, Any] = {}
        self.before = ""
        self.commands = Commands(warm)
        self.store = os.environ.get("KEYGUARD_STORE", "")

    def run(self) -> dict[str, int]:
        """Run all pieces. Returns how many of each kind."""
        counts: dict[str, int] = {}
        sys.path.insert(0, str(Path.cwd()))
        for piece in reversed(self.pieces):  # of a file that the page shows twice, the first text comes first
            if piece.file:
                self.write(piece)
        if settings := [piece.file for piece in self.pieces if piece.file and piece.file.endswith("settings.py")]:
            import django

            os.environ["DJANGO_SETTINGS_MODULE"] = module_of(settings[0])
            django.setup()
        try:
            for piece in self.pieces:
                self.step(piece)
                counts[piece.kind] = counts.get(piece.kind, 0) + 1
        finally:
            self.commands.close()
        return counts

    def step(self, piece: Piece) -> None:
        kind, code = piece.kind, piece.code
        if kind in ("python", "check"):
            self.python(piece)
        elif kind == "sh":
            self.commands.run(code)
        elif kind == "console":
            commands = [line.removeprefix("$ ") for line in code.splitlines() if line.startswith("$ ")]
            assert commands, "a block of commands without a command"
            self.commands.run("\n".join(commands))
        elif kind == "json":
            json.loads(code)
        elif kind == "toml":
            if "pytest" in tomllib.loads(code).get("tool", {}):
                Path("pyproject.toml").write_text(code)  # tests further down go by it
        elif kind == "yaml":
            import yaml

            assert yaml.safe_load(code)
        elif kind == "ini":
            parser = configparser.ConfigParser(interpolation=None, strict=False)
            parser.read_string(code if code.lstrip().startswith("[") else f"[all]\n{code}")
        elif kind == "nginx":
            assert code.count("{") == code.count("}")
            lines = [line.partition("#")[0].strip() for line in code.splitlines()]
            assert all(line.endswith(("{", "}", ";")) for line in lines if line), code
        elif kind == "http":
            first = code.splitlines()[0]
            assert first.startswith("HTTP/1.1 ") or first.endswith(" HTTP/1.1") or ": " in first, first
        elif kind == "text":
            for line in code.splitlines():
                assert not line.startswith(("import ", "from keyguard")), f"that is Python: {line}"

    def write(self, piece: Piece) -> None:
        path = Path(str(piece.file))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(piece.code)

    def python(self, piece: Piece) -> None:
        alone = piece.kind == "python" and not piece.continues
        if alone:
            self.names, self.before = {}, ""
            self.choose_store(piece)
        if piece.kind == "python":
            self.before = f"{self.before}\n{piece.code}" if self.before else piece.code
        if piece.has_tests:
            return self.tests(piece)
        if piece.file and alone:
            self.write(piece)
            name = module_of(piece.file)
            importlib.invalidate_caches()
            kept = sys.modules.get(name)
            if kept is not None and Path(str(kept.__file__)).read_text() != kept.__dict__.get("__shown__"):
                sys.modules.pop(name)
            module = importlib.import_module(name)
            module.__dict__.setdefault("__shown__", piece.code)
            self.names = module.__dict__
        else:
            where = f"{self.name}, line {piece.line}"
            if "__name__" not in self.names:
                module = types.ModuleType("page")
                sys.modules["page"] = module  # for annotations, which are read in a module
                self.names = module.__dict__
            if piece.kind == "check":
                self.names["PROJECT"] = ROOT
            padded = "\n" * piece.line + piece.code
            exec(compile(padded, where, "exec", dont_inherit=True), self.names)
        if piece.kind == "python":
            for name in ("app", "application"):
                if name in self.names:
                    ask(self.names[name])
            if isinstance(guard := self.names.get("guard"), Keyguard):
                answers_well(lambda: play(guard, "/health").status)
        return None

    def choose_store(self, piece: Piece) -> None:
        """Give a block that is alone a store of its own; files of a page share one. A store that a page names stays."""
        if os.environ.get("KEYGUARD_STORE") == self.store:
            name = "keyguard" if piece.file else f"block-{piece.line}"
            self.store = os.environ["KEYGUARD_STORE"] = f"sqlite:///{Path.cwd()}/{name}.db"

    def tests(self, piece: Piece) -> None:
        import pytest

        path = Path(piece.file or "test_page.py")
        if path.name != "conftest.py" and not path.name.startswith("test_"):
            path = Path("test_page.py")
        path.write_text(self.before)
        sys.modules.pop(path.stem, None)
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            code = pytest.main(["-q", *plugin.WITHOUT, *plugin.loading(), "--rootdir", ".", str(path)])
        assert code == 0, told.getvalue()


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def ask(app: Any) -> None:
    """Start an app, and ask it for `/`. It must answer, and with no error of its own."""
    from starlette.testclient import TestClient

    from tests.support.harness import Ask, ask_asgi, ask_wsgi

    if not callable(app):
        return
    if is_asgi(app) and type(app).__module__.startswith("django."):  # which knows no lifespan
        answers_well(lambda: ask_asgi(app, Ask(), lint=False).status)
    elif is_asgi(app):
        with TestClient(app, client=("198.51.100.1", 40000)) as client:
            answers_well(lambda: client.get("/", follow_redirects=False).status_code)
    else:
        answers_well(lambda: ask_wsgi(app, Ask(), lint=False).status)


def answers_well(status: Callable[[], int]) -> None:
    """Ask until the answer is no fault: on a busy machine a store may be later than a page's time-outs allow."""
    until = time.monotonic() + 20
    while (found := status()) >= 500 and time.monotonic() < until:
        time.sleep(0.05)
    assert found < 500, found


def is_asgi(app: Any) -> bool:
    if hasattr(app, "wsgi_app"):  # Flask; Quart has `asgi_app`
        return False
    call = app if inspect.isroutine(app) else type(app).__call__
    return inspect.iscoroutinefunction(call) or hasattr(app, "asgi_app") or len(inspect.signature(app).parameters) == 3


def main() -> None:
    """Run the page that standard input tells, and end the process."""
    order = json.load(sys.stdin)
    answer: dict[str, Any] = {}
    told = os.dup(1)
    try:
        signal.alarm(100)
        sys.addaudithook(only_this_machine)
        with open("output.txt", "w", buffering=1) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=ResourceWarning)  # a page closes nothing
            warnings.filterwarnings("ignore", "'cgi' is deprecated", DeprecationWarning)  # Pyramid reads forms by it
            answer = {"counts": Page(order["name"], order["text"], order["real"], order["warm"]).run()}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    finally:
        with contextlib.suppress(OSError):
            answer["output"] = Path("output.txt").read_text()[-4000:]
        with os.fdopen(told, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
