"""Services that were ported to keyguard behave as before: each story is told to both, `before.py` and `after.py`.

Each runs in a process of its own: Django has one project in a process, and limiters are global.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PORTS = ROOT / "examples" / "ports"
NAMES = sorted(path.name for path in PORTS.iterdir() if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_port_behaves_as_before(name: str, side: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    environment["KEYGUARD_STORE"] = f"sqlite:///{tmp_path}/keyguard.db"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:keyguard", "-m", "tests.support.port_stories", name, side],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["told", name, side]


def lines(path: Path) -> int:
    """Count those with code, or a docstring's."""
    return len([line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")])


@pytest.mark.parametrize("name", NAMES)
def test_a_port_is_shorter_than_what_was_before(name: str) -> None:
    assert lines(PORTS / name / "after.py") < lines(PORTS / name / "before.py")


def test_there_are_three_ports() -> None:
    assert len(NAMES) == 3
