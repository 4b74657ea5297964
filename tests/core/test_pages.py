"""Every block of every page is run: of README, of CONTRIBUTING, and of all pages of the site."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import PAGES, pieces_of
from tests.support.warm import run as warm_run

IN_THE_CHECKOUT = {"README.md", "CONTRIBUTING.md", "docs/architecture.md"}
"""Their commands are for a checkout of this project: `test_guides.py` and `.ci/run` run them."""


def run(warm: str, name: str, text: str, folder: Path, real: dict[str, str]) -> dict[str, Any]:
    order = {"name": name, "text": text, "real": real, "warm": warm}
    needs = ["keyguard", "django", "fastapi", "flask", "pages", *["pytest"] * ("def test_" in text)]
    done = warm_run(
        warm,
        ["-c", "from tests.support.page_runner import main; main()"],
        given=json.dumps(order),
        cwd=folder,
        env={**os.environ, "KEYGUARD_STORE": f"sqlite:///{folder}/keyguard.db"},
        needs=needs,
        timeout=120,
    )
    killed = '{"error": "it was killed: it took too long, or ended its process"}'
    return dict(json.loads(done.stdout or killed))


@pytest.mark.parametrize("name", PAGES)
def test_all_that_a_page_shows_runs(name: str, warm: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    text = PAGES[name].read_text()
    place = re.sub(r"\W", "_", name)
    real = {}
    if name in IN_THE_CHECKOUT:
        text = re.sub(r"^```sh\n", "```text\n", text, flags=re.M)
    else:
        if "redis://localhost" in text:
            server = request.getfixturevalue("valkey")
            real[r"redis://localhost(:6379)?(/0)?\b"] = f"{server.url}?namespace={place}"
        if "postgresql://localhost/app" in text:
            database = request.getfixturevalue("postgres")
            real["postgresql://localhost/app"] = f"{database.url}?schema={place.lower()}"
    told = run(warm, name, text, tmp_path, real)
    assert "error" not in told, f"{name}: {told['error']}\n{told.get('output', '')}"
    assert sum(told["counts"].values()) == len([*pieces_of(text)])


A_PAGE = """# A page

```python
# shop/app.py
from keyguard import APIKeys, Keyguard, RateLimit

guard = Keyguard(APIKeys(public=["/health"]), RateLimit("2/hour", by="key"))


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


web = guard.asgi(answer)
```

```python
x = 1
```

<!-- continues -->
```python
def test_x(tmp_path):
    assert x == 1
```

<!-- check
assert x == 1
-->

```sh
keyguard keys issue --owner acme
uvicorn shop.app:web --lifespan off --port 8000
curl -i http://127.0.0.1:8000/items -H 'X-API-Key: kg_live_4fK2...'
```
"""


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("", "", None),
        ("x = 1", "x = 2", "assert 2 == 1"),
        ("<!-- continues -->\n", "", "name 'x' is not defined"),
        ("assert x == 1\n-->", "assert x == 7\n-->", "AssertionError"),
        ("--owner acme", "--owner acme --plam free", "ended with 2"),
        ("/items -H", "/items -Q", "what would curl do"),
        ("curl -i", "wget -i", "nothing is known of the command"),
        ("x = 1", "import socket; socket.socket().connect(('192.0.2.1', 80))", "speaks to 192.0.2.1"),
        ("x = 1", "import socket; socket.create_connection(('example.com', 80))", "for the address of example.com"),
        ("```python\nx", "```py\nx", "a block of 'py'"),
        ("```python\nx", "~~~python\nx", "look like fences"),
        ("shop.app:web", "shop.app:wep", "has ended with"),
        ("<!-- check\n", "<!-- check: \n", "a check has another form"),
    ],
    ids=[
        "right",
        "check",
        "alone",
        "test",
        "option",
        "curl",
        "command",
        "address",
        "name",
        "language",
        "fence",
        "server",
        "form",
    ],
)
def test_a_page_that_is_wrong_is_found(old: str, new: str, error: str | None, warm: str, tmp_path: Path) -> None:
    told = run(warm, "page", A_PAGE.replace(old, new, 1), tmp_path, {})
    if error is None:
        assert told["counts"] == {"python": 3, "sh": 1, "check": 1}, told
    else:
        assert error in told["error"], told
