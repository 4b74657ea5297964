"""The house: which module may import which, and what importing keyguard costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "keyguard"

# A module may import from earlier lines only. A package stands for all its modules.
ARROW = [
    "callers errors clock fields fork heads identity logs loops workers",
    "flow given response",
    "address paths rates",
    "spelling",
    "request",
    "refusal ops",
    "guard scripts conditions",
    "keys",
    "guards stores",
    "conformance counters deployment drivers needs",
    "stack",
    "single testing",
    "asgi wsgi",
    "demo",
    "cli_input",
    "cli_output",
    "cli_store",
    "cli_cache",
    "cli",
]
LEVEL = {name: level for level, names in enumerate(ARROW) for name in names.split()}


def modules() -> dict[Path, str]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            found[path] = parts[0]
    return found


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, outside of `if TYPE_CHECKING` blocks."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "keyguard" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("keyguard.")}
    return rooms


def test_every_room_has_its_place() -> None:
    assert set(modules().values()) == set(LEVEL)


def test_imports_run_one_way() -> None:
    wrong = []
    for path, room in modules().items():
        for other in imported(path) & LEVEL.keys():
            if other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


def test_guards_do_not_import_each_other_and_perform_no_io() -> None:
    features = {"api_keys", "ip_filter", "rate_limit", "cache"}
    for path in (SOURCE / "guards").rglob("*.py"):
        feature = path.relative_to(SOURCE / "guards").parts[0].removesuffix(".py")
        if feature == "__init__":
            continue
        text = path.read_text()
        for other in features - {feature}:
            assert f"keyguard.guards.{other}" not in text, f"{path.name} imports {other}"
        for word in ("import socket", "import time", "import os", "open(", "keyguard.stores", "keyguard.drivers"):
            assert word not in text, f"{path.name}: {word}"


def test_clocks_are_read_in_one_place() -> None:
    for path in SOURCE.rglob("*.py"):
        if path.stem not in ("clock", "demo"):
            text = path.read_text()
            for word in ("time.time", "time.monotonic", "perf_counter", "datetime.now"):
                assert word not in text, f"{path.name} reads a clock"


def test_importing_keyguard_is_light() -> None:
    code = "import sys, keyguard, keyguard.wsgi; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"starlette", "werkzeug", "fastapi", "flask", "django", "limits", "redis", "psycopg", "asyncio", "sqlite3"}
    assert set(done.stdout.split()) & heavy == set()
