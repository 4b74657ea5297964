"""The pytest plugin in processes that tests start: found by its entry point, as in an environment with keyguard in it.

The environment that the tests run in may have been made before there was one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from tests.support.warm import run

ROOT = Path(__file__).parents[2]
MODULE = "keyguard.pytest_plugin"
WITHOUT = [word for name in ("cacheprovider", "xdist", "hypothesispytest") for word in ("-p", f"no:{name}")]
"""Leaves out plugins that have no part in it, of which Hypothesis takes longer to load than all else."""
LOADED = ["-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"]
"""Has it mind no plugins that are loaded before it is begun, as in a fork of the warm process."""


@cache
def is_installed() -> bool:
    """Tell whether pytest finds the plugin by itself here."""
    return any(each.value == MODULE for each in entry_points(group="pytest11"))


def loading() -> list[str]:
    """Return the arguments by which pytest loads the plugin, if it does not find it."""
    return [] if is_installed() else ["-p", MODULE]


def run_pytest(
    folder: Path, *args: str, spare: Path | None = None, warm: str = "", needs: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run pytest on the tests of a folder, in a process of its own that finds the plugin by the entry point.

    What that needs is written into a `spare` folder, by default the same. It is begun by the `warm` process, if that is
    given, which has what the tests need beside pytest.
    """
    path = [str(folder), str(ROOT / "src"), str(ROOT)]
    if not is_installed():
        points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
        made = (spare or folder) / "site" / "keyguard_points-0.dist-info"
        made.mkdir(parents=True, exist_ok=True)
        (made / "METADATA").write_text("Metadata-Version: 2.1\nName: keyguard-points\nVersion: 0\n")
        (made / "entry_points.txt").write_text(
            "[pytest11]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        )
        path.append(str(made.parent))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO"))}
    words = ["-m", "pytest", "-q", *WITHOUT, "--rootdir", ".", *args]
    env = {**kept, "PYTHONPATH": os.pathsep.join(path)}
    if warm:
        return run(warm, [*words, *LOADED], cwd=folder, env=env, needs=["pytest", *needs])
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )
