"""With monitoring agents around, inside and in between: apps start, and everything is decided as without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents import APPS, README, WSGI

pytestmark = pytest.mark.slow  # each app in a process of its own: agents patch whatever they find

ROOT = Path(__file__).parents[2]


ASGI = [name for name in APPS if name not in WSGI]
CASES = {
    "patching what is there": [
        ("elastic", "before", [app for app in APPS if app not in ("litestar", "bare wsgi", "django asgi")]),
        # It stands around each app, however that has its layers.
        ("opentelemetry", "before", [app for app in APPS if app not in ("fastapi, one by one", "starlette")]),
        # Last: what is loaded for it stays in the process that all others are forked from.
        ("sentry", "before", [*APPS, *README]),
        ("sentry", "after", ["fastapi", "starlette, one by one", "litestar", "flask", "django wsgi", *README]),
        ("sentry-spans", "before", [app for app in ASGI if app.startswith(("fastapi", "starlette"))]),
    ],
    "patching what is imported": [
        ("newrelic", "before", ["fastapi", "starlette, one by one", "bare asgi", "flask", "django wsgi", "bare wsgi"])
    ],
}


@pytest.mark.timeout(310)
@pytest.mark.parametrize("how", CASES)
def test_apps_with_an_agent_start_and_decide_as_without_one(how: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.support.agents", json.dumps(CASES[how])]
    done = subprocess.run(
        words, cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    expected = [(agent, moment, app) for agent, moment, apps in CASES[how] for app in apps]
    assert [(one["agent"], one["moment"], one["app"]) for one in told] == expected
    for one in told:
        lifespan = one.pop("lifespan", None)
        assert lifespan in (None, ["lifespan.startup.complete", "lifespan.shutdown.complete"]), one
        name = {word: one.pop(word) for word in ("agent", "moment", "app")}
        if name["app"] in README:  # it has nothing at `/`
            assert one == {"no key": 401, "key": 404}, name
        else:
            assert one == {"no key": 401, "who": [[200, "ada"]] * 3, "fails": 500, "limited": 429}, name
