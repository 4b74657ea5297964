"""With monitoring agents around, inside and in between: apps start, and everything is decided as without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agents import APPS, WSGI

pytestmark = pytest.mark.slow  # each in a process of its own: agents patch whatever they find

ROOT = Path(__file__).parent.parent


ASGI = [name for name in APPS if name not in WSGI]
CASES = {
    ("sentry", "before"): [*APPS],
    ("sentry", "after"): ["fastapi", "starlette, one by one", "litestar", "flask", "django wsgi"],
    ("sentry-spans", "before"): [app for app in ASGI if app.startswith(("fastapi", "starlette"))],
    ("newrelic", "before"): ["fastapi", "starlette, one by one", "bare asgi", "flask", "django wsgi", "bare wsgi"],
    ("elastic", "before"): [app for app in APPS if app not in ("litestar", "bare wsgi", "django asgi")],
    ("opentelemetry", "before"): [*APPS],
}


@pytest.mark.timeout(310)
@pytest.mark.parametrize(("agent", "moment"), CASES)
def test_apps_with_an_agent_start_and_decide_as_without_one(agent: str, moment: str) -> None:
    words = [sys.executable, "-m", "tests.agents", agent, moment, *CASES[agent, moment]]
    done = subprocess.run(words, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    told: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [one.pop("app") for one in told] == CASES[agent, moment]
    for one in told:
        assert one.pop("lifespan", None) in (None, ["lifespan.startup.complete", "lifespan.shutdown.complete"])
        assert one == {"no key": 401, "who": [[200, "ada"]] * 3, "fails": 500, "limited": 429}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_first_lines_of_the_readme_start_with_sentry(moment: str, tmp_path: Path) -> None:
    blocks = (ROOT / "README.md").read_text().split("```python\n")[1:3]
    sentry = (
        "import sentry_sdk\n"
        "class Nowhere(sentry_sdk.Transport):\n"
        "    def capture_envelope(self, envelope): pass\n"
        "sentry_sdk.init(dsn='http://public@127.0.0.1:9/1', transport=Nowhere, traces_sample_rate=1.0)\n"
    )
    for block in blocks:
        code = block.partition("```")[0]
        code = sentry + code if moment == "before" else code + sentry
        code += (
            "import sys\nfrom tests.harness import Ask, ask_asgi, ask_wsgi\n"
            "wsgi = 'flask' in str(type(app))\n"
            "ask = ask_wsgi if wsgi else ask_asgi\n"
            "key = guard.keys.issue('ada').key.reveal()\n"
            "print(ask(app, Ask('/'), lint=False).status)\n"
            "print(ask(app, Ask('/', (('X-API-Key', key),)), lint=False).status)\n"
            "sys.stdout.flush()\n"
        )
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, text=True,
            capture_output=True, timeout=110, check=False,
        )  # fmt: skip
        assert done.stdout.split() == ["401", "404"], done.stderr
