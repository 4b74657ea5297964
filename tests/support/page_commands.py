"""The commands that a page shows, run as they stand there.

Commands of this project run in the page's process, and others as programs of `tests/support/warm.py`. Servers are
started, on a free port of 127.0.0.1, and end with the page; `curl` asks the one that was started last. What a page
shows is replaced by what is true here: ports, and the id and the text of the key that was issued last.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.servers import free_port
from tests.support.warm import Program, run

ROOT = Path(__file__).parents[2]
KEY_ID = "4fK2mQ9xTzLb"  # how pages write the id of a key
KEY_TEXT = re.compile(r"kg_live_4fK2\S*?(?=['\"\s]|$)")  # and its text
SERVERS = {"flask": "run", "gunicorn": "", "hypercorn": "", "uvicorn": "", "fastapi": "run"}
NEEDS = {"fastapi": ["fastapi", "uvicorn"], "pytest": ["pytest"], "uvicorn": ["uvicorn"]}
"""What the warm process has ready for them, beside the frameworks, which it has for all pages."""
ELSEWHERE = {
    "redis-cli": "asks a server of yours",
    "psql": "asks a server of yours",
    "git": "is about your repository",
    "docker": "needs a daemon",
    "nginx": "needs its configuration in /etc",
}
"""Commands that are read, not run, and why."""

FLASK = """
import sys, flask.cli, keyguard.flask
flask.cli.cli.add_command(keyguard.flask.command)
flask.cli.cli.main(sys.argv[1:], prog_name="flask")
"""


class Commands:
    """Those of one page, in order."""

    def __init__(self, warm: str) -> None:
        self.warm = warm
        self.server: Program | None = None
        self.port = 0
        self.key = ""

    def run(self, block: str) -> None:
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                for part in re.split(r"\s&&\s", line):
                    self.command(part)

    def command(self, line: str) -> None:
        line = line.removeprefix("$ ")
        fails = re.search(r"#.*\bexits with (\d)", line)
        if self.key:
            line = KEY_TEXT.sub(self.key, line).replace(KEY_ID, self.key.split("_")[2])
        if self.server is not None:
            line = re.sub(r"\b(127\.0\.0\.1|localhost):[58]000(?=[/\s'\"]|$)", f"127.0.0.1:{self.port}", line)
        words = shlex.split(line, comments=True)
        while words and (found := re.fullmatch(r"([A-Z_]+)=(.*)", words[0])):
            os.environ[found[1]] = found[2]
            words = words[1:]
        if not words:
            return
        name = Path(words[0]).name
        wanted = int(fails[1]) if fails else 0
        if name == "export":
            for word in words[1:]:
                variable, _, value = word.partition("=")
                os.environ[variable] = value
        elif name == "keyguard":
            code, told = self.keyguard(words[1:], line)
            assert code == wanted, f"{line}\nended with {code}:\n{told}"
        elif name == "curl":
            self.curl(words[1:])
        elif name in ("pip", "pip3"):
            self.pip(words[1:])
        elif words[1:3] == ["-m", "pip"]:
            self.pip(words[3:])
        elif words[1:3] == ["-m", "venv"]:
            assert len(words) == 4, line
        elif name in SERVERS and (not SERVERS[name] or SERVERS[name] in words):
            self.serve(name, words)
        elif name in ("python", "python3", "pytest", "flask", "mypy"):
            self.program(name, words[1:], line, wanted)
        else:
            assert name in ELSEWHERE, f"nothing is known of the command {name!r}: {line}"

    def keyguard(self, words: list[str], line: str) -> tuple[int, str]:
        """Run our own command. Where its output goes to a file, that is written."""
        from keyguard.cli import main

        target = ""
        if ">" in words:
            words, target = words[: words.index(">")], words[-1]
        told, problems, given = io.StringIO(), io.StringIO(), sys.stdin
        try:
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(problems):
                if "<" in words:
                    words, source = words[: words.index("<")], words[words.index("<") + 1]
                    sys.stdin = io.StringIO(Path(source).read_text())
                code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdin = given
        if target:
            Path(target).write_text(told.getvalue())
        self.note_key(told.getvalue())
        return code, told.getvalue() + problems.getvalue()

    def note_key(self, told: str) -> None:
        """Note a key that a command has issued."""
        if found := re.search(r"\b[a-z]+_[a-z]+_[0-9A-Za-z]{12}_[0-9A-Za-z]+", told):
            self.key = found[0]

    def pip(self, words: list[str]) -> None:
        """Look whether what would be installed is there."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        known = {re.split(r"[\[<>=;]", need)[0].strip() for needs in extras.values() for need in needs}
        for word in words[1:]:
            if word.startswith("-"):
                continue
            package = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:[<>=!].*)?", word)
            assert package is not None, word
            if package[1] in ("keyguard", "."):
                assert set((package[2] or "").split(",")) <= {"", *extras}, word
            else:
                assert package[1] in known, f"{word}: this project has nothing to do with it"

    def serve(self, name: str, words: list[str]) -> None:
        self.close()
        self.port = free_port()
        address = f"127.0.0.1:{self.port}"
        given = " ".join(words[1:])
        given = re.sub(r"--(?:port|bind)[ =]\S+|-b \S+|-p \d+|--host[ =]\S+|-h \S+", "", given)
        given = re.sub(r"--(?:uds|certfile|keyfile|ssl-\w+)[ =]\S+", "", given)
        option = {"gunicorn": ["--bind", address], "hypercorn": ["--bind", address]}
        end = option.get(name, ["--port", str(self.port)])
        program = ["-m", name, *shlex.split(given), *end]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
        self.server = Program(self.warm, program, env=environment, needs=NEEDS.get(name, ()))
        until = time.monotonic() + 60
        while True:
            assert self.server.poll() is None, f"{' '.join(words)} has ended with {self.server.returncode}"
            try:
                http.client.HTTPConnection("127.0.0.1", self.port, timeout=30).connect()
                return
            except OSError:
                assert time.monotonic() < until, f"{' '.join(words)} does not answer"
                time.sleep(0.02)

    def curl(self, words: list[str]) -> None:
        """Ask the server that was started last, as curl would."""
        assert self.server is not None, f"a page asks with curl, and has started no server: {words}"
        method, body, fields, url = "", None, {}, ""
        rest = iter(words)
        for word in rest:
            if word in ("-X", "--request"):
                method = next(rest)
            elif word in ("-H", "--header"):
                name, _, value = next(rest).partition(":")
                fields[name] = value.strip()
            elif word in ("-d", "--data", "--json"):
                body = next(rest)
                fields.setdefault(
                    "Content-Type", "application/json" if body[0] in "{[" else "application/x-www-form-urlencoded"
                )
            elif word in ("-o", "-w"):
                next(rest)
            elif not word.startswith("-"):
                url = word
            else:
                assert set(word) <= set("-isSv"), f"what would curl do with {word}?"
        parts = urlsplit(url if "//" in url else f"http://{url}")
        assert parts.hostname in ("127.0.0.1", "localhost"), url
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method or ("POST" if body else "GET"), target or "/", body, fields)
        answer = connection.getresponse()
        print(f"{words} -> {answer.status}\n{answer.headers}\n{answer.read().decode()}")
        connection.close()
        assert answer.status not in (404, 500), f"{url}: {answer.status}"

    def program(self, name: str, words: list[str], line: str, wanted: int) -> None:
        module = [] if name.startswith("python") else ["-m", name]
        if name == "flask":  # as if this checkout were installed, and its entry points with it
            module = ["-c", FLASK]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
        done = run(self.warm, [*module, *words], env=environment, needs=NEEDS.get(name, ()), timeout=90)
        assert done.returncode == wanted, f"{line}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        self.note_key(done.stdout)

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            try:
                self.server.wait(20)
            except subprocess.TimeoutExpired:
                self.server.kill()
                self.server.wait()
            self.server = None
