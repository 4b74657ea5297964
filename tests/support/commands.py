"""The command `keyguard`, run in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyguard.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return its exit code, and what it printed on standard output and standard error."""
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Return the JSON document that it prints; it must succeed, and say nothing else."""
    code, out, err = run(capsys, *words, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)
