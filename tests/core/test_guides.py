"""The commands that `CONTRIBUTING.md` and the map show work in a checkout. `test_pages.py` runs all other blocks.

What the changelog names is there too.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import tests.support.django_site  # noqa: F401 - it sets Django up, for what the changelog names of REST framework
from tests.support import settings_page
from tests.support.plugin import LOADED
from tests.support.warm import run

ROOT = Path(__file__).parents[2]
TEXTS = [(ROOT / name).read_text() for name in ("CONTRIBUTING.md", "docs/architecture.md")]
COMMANDS = [
    line for text in TEXTS for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_work(line: str, warm: str) -> None:
    """Those that run tests find some; all others are what README and CI run."""
    if " -m pytest " in line:
        program, *words = shlex.split(line)
        assert program == ".venv/bin/python"
        done = run(warm, [*words, "--collect-only", *LOADED], cwd=ROOT, needs=["keyguard", "pytest", "hypothesis"])
        assert done.returncode == 0, done.stdout + done.stderr
    elif line.endswith(" -m tests.support.settings_page"):  # `test_site.py` holds the page to it
        assert settings_page.page() == settings_page.PAGE.read_text()
    else:
        known = (ROOT / "README.md").read_text() + (ROOT / ".ci" / "run").read_text()
        assert line in known


def test_the_changelog_names_what_is_there() -> None:
    """Of what is not released: full names, and the settings that are named with them."""
    text = (ROOT / "CHANGELOG.md").read_text().split("## [Unreleased]")[1].split("\n## ")[0]
    seen = 0
    for span in re.findall(r"`([^`]*)`", text):
        found = re.match(r"keyguard(?:\.\w+)+", span)
        if found is None:
            continue
        seen += 1
        thing: Any = importlib.import_module("keyguard")
        for name in found[0].split(".")[1:]:
            if not hasattr(thing, name):
                importlib.import_module(f"{thing.__name__}.{name}")
            thing = getattr(thing, name)
        for setting in re.findall(r"[(,] ?(\w+)=", span[found.end() :]):
            assert setting in inspect.signature(thing).parameters or setting == "buy", span
    assert seen > 50
