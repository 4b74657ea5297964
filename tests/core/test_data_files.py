"""What a packager may leave out: files of the package that are no Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import keyguard

HOME = Path(keyguard.__file__).parent
FILES = sorted(
    str(path.relative_to(HOME))
    for path in HOME.rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "py.typed"
)


STARTS = {
    "stores/redis": "from keyguard.stores import open_store; open_store('redis://localhost')",
    "dashboard": "from keyguard import Keyguard; Keyguard(store='memory://').dashboard(auth=lambda request: 'ada')",
}
"""What needs the files of a folder, which it loads at the start."""


def test_every_file_belongs_to_a_folder_that_is_known() -> None:
    assert [file for file in FILES if not file.startswith(tuple(STARTS))] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", STARTS)
def test_a_package_without_one_of_its_files_does_not_start(folder: str, tmp_path: Path) -> None:
    """It says which, when what needs it is made, and not at the first request."""
    files = [file for file in FILES if file.startswith(folder)]
    assert files
    copy = tmp_path / "keyguard"
    shutil.copytree(HOME, copy)  # with what is compiled
    script = f"import sys; sys.path.insert(0, sys.argv[1]); {STARTS[folder]}"
    words = [sys.executable, "-c", script, str(tmp_path)]
    whole = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert whole.returncode == 0, whole.stderr
    for name in (files[0], files[-1]):
        (copy / name).rename(copy / "left out")
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        (copy / "left out").rename(copy / name)
        assert done.returncode != 0
        last = done.stderr.strip().splitlines()[-1]
        assert "Error" in last or "NotFound" in last
        assert Path(name).name in last
