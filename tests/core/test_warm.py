"""Programs that begin in a fork of a warm process are what the interpreter would make of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.servers import wait_until
from tests.support.warm import Program, run

WORDS = {
    "script": ["tell.py", "one", "two"],
    "module": ["-m", "tell", "one", "two"],
    "code": ["-c", "import tell", "one", "two"],
}
TELL = """
import os, sys
print(sys.argv[1:], os.environ["COLOUR"], "HOME" in os.environ, os.getcwd(), sys.stdin.read())
print(sys.modules["__main__"].__name__, "test_warm" in str(list(sys.modules)), file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_a_program_has_its_arguments_environment_folder_and_status(words: list[str], warm: str, tmp_path: Path) -> None:
    (tmp_path / "tell.py").write_text(TELL)
    done = run(warm, words, given="said", cwd=tmp_path, env={"COLOUR": "red"})
    assert (done.returncode, done.stdout) == (3, f"['one', 'two'] red False {tmp_path} said\n")
    assert done.stderr == "__main__ False\n"


def test_one_that_fails_tells_why(warm: str, tmp_path: Path) -> None:
    done = run(warm, ["-c", "raise ValueError('so it is')"], cwd=tmp_path)
    assert done.returncode == 1
    assert "ValueError: so it is" in done.stderr
    done = run(warm, ["-c", "import sys; sys.exit('in words')"], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "in words\n")


def test_what_is_left_to_do_at_the_end_is_done(warm: str, tmp_path: Path) -> None:
    code = """
import atexit, threading
atexit.register(print, "at the end")
threading.Timer(0.05, print, ["in a thread"]).start()
"""
    assert run(warm, ["-c", code], cwd=tmp_path).stdout == "in a thread\nat the end\n"


def test_a_signal_ends_a_program_and_one_that_nobody_waits_for_is_killed(warm: str, tmp_path: Path) -> None:
    waits = ["-c", "import time; time.sleep(600)"]
    with Program(warm, waits, cwd=tmp_path) as program:
        assert program.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            program.wait(0.01)
        program.terminate()
    assert program.returncode == -signal.SIGTERM
    asks = f"""
import os
from tests.support.warm import Program
print(Program({warm!r}, {waits!r}).pid, flush=True)
os._exit(0)
"""
    left = int(run(warm, ["-c", asks], cwd=tmp_path).stdout)
    wait_until(lambda: not is_there(left), "the program to end with whoever began it")


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_a_program_needs_is_there_and_no_app_s_modules(warm: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("seen = 1")
    code = "import sys; print('shop' in sys.modules, 'flask' in sys.modules); import shop"
    for _ in range(2):
        assert run(warm, ["-c", code], cwd=tmp_path, needs=["flask"]).stdout == "False True\n"


def test_whoever_leaves_at_once_stops_no_other(warm: str, tmp_path: Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(warm)
            line.sendall(b"\0\0\0")
        left = Program(warm, ["-c", "pass"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        left.leave()
    assert run(warm, ["-c", "print('here')"], cwd=tmp_path).stdout == "here\n"
