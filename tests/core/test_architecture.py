"""The house: which module may import which, and what importing keyguard costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import keyguard

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "keyguard"

# A room may import from earlier lines only; a package is a room with all its modules.
ARROW = [
    "aside buckets checks clock digests errors identity lazy logs record_head refusal",
    "given http learnt process rates units",
    "flow manual_clock overrides",
    "ops response",
    "audit renewals request run stores",
    "conditions decision keys problem refused steps",
    "counter_names marks metrics uncounted without_store",
    "body_fields guard observer upstream",
    "alerts gate selection usage",
    "together why",
    "chain",
    "drivers guards policies",
    "dashboard",
    "stack",
    "asgi replay testing wsgi",
    "cli",
    "django flask",
    "pytest_plugin",
]
LEVEL = {name: level for level, names in enumerate(ARROW) for name in names.split()}


def modules() -> dict[Path, str]:
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            found[path] = parts[0]
    return found


@cache
def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it: also for types alone, and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in FILES else node.module for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in FILES}


def name_of(path: Path) -> str:
    parts = ("keyguard", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in SOURCE.rglob("*.py")}


def test_every_room_has_its_place() -> None:
    assert set(modules().values()) == set(LEVEL)


def test_the_picture_of_the_rooms_is_true() -> None:
    """`docs/architecture.md` shows the floors, the highest first."""
    picture = (ROOT / "docs" / "architecture.md").read_text().split("```text\n")[1].split("```")[0]
    floors = {int(line.split()[0]): line for line in picture.splitlines()}
    for number, names in enumerate(ARROW):
        assert set(re.split(r"\s{2,}", floors.pop(number).strip())[1].split()) == set(names.split()), number
    assert floors == {}


def test_files_that_documents_name_exist() -> None:
    """Those that a reader is to make do not."""
    named = re.compile(r"`((?:[\w.-]+/)+[\w.-]*|[\w-]+\.(?:py|md|toml))`")
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
        found = named.findall(text)
        if document.parent != ROOT and document.name != "architecture.md":  # it names files of its reader, too
            found = [path for path in found if path.startswith(("src/", "tests/", "examples/", "docs/", "benchmarks/"))]
        for path in found:
            there = any((folder / path).exists() for folder in (ROOT, SOURCE))
            assert there != (f"`{path}` (new)" in text), f"{document.name}: {path}"


def test_imports_run_one_way() -> None:
    wrong = []
    for path, room in modules().items():
        for other in {name.split(".")[1] for name in imported(path) if "." in name}:
            if other != room and LEVEL[other] >= LEVEL[room]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {other}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    needs = {name: imported(path) - {name} for name, path in FILES.items()}
    while free := [name for name, others in needs.items() if not others & needs.keys()]:
        for name in free:
            del needs[name]
    assert needs == {}


STANDS_ON = {"token_budget": {"rate_limit"}}
"""The guards that are made of another one: a budget of tokens is a limit whose units are tokens."""


def test_guards_do_not_import_each_other_and_perform_no_io() -> None:
    features = {path.stem for path in (SOURCE / "guards").iterdir()} - {"__init__", "__pycache__", "preflight"}
    for path in (SOURCE / "guards").rglob("*.py"):
        feature = path.relative_to(SOURCE / "guards").parts[0].removesuffix(".py")
        if feature == "__init__":
            continue
        text = path.read_text()
        for other in features - {feature} - STANDS_ON.get(feature, set()):
            assert f"keyguard.guards.{other}" not in text, f"{path.name} imports {other}"
        for word in ("import socket", "import time", "import os", "open(", "keyguard.stores", "keyguard.drivers"):
            assert word not in text, f"{path.name}: {word}"


def test_clocks_are_read_in_one_place() -> None:
    for path in SOURCE.rglob("*.py"):
        if path.stem not in ("clock", "demo", "demo_story"):
            text = path.read_text()
            for word in ("time.time", "time.monotonic", "perf_counter", "datetime.now"):
                assert word not in text, f"{path.name} reads a clock"


STARTERS = {"Thread", "Timer", "ThreadPoolExecutor", "to_thread", "run_in_executor", "start_new_thread"}


def test_who_starts_threads_knows_that_some_processes_must_have_none() -> None:
    """One that runs when uWSGI forks its workers keeps them from beginning."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if not any(name in text for name in STARTERS):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        named = {node.id for node in nodes if isinstance(node, ast.Name)}
        named |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if named & STARTERS:
            room = path.relative_to(SOURCE).parts[0]
            assert "forks_in_c()" in text or room in ("cli", "testing"), f"{path}: see forks_in_c"


def test_importing_keyguard_is_light() -> None:
    code = (
        "import sys, keyguard, keyguard.wsgi; from keyguard import *; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"starlette", "werkzeug", "fastapi", "flask", "django", "limits", "redis", "psycopg", "asyncio", "sqlite3"}
    assert set(done.stdout.split()) & heavy == set()


def test_keyguard_itself_loads_what_is_used_of_it() -> None:
    code = "import sys, keyguard; print(*[name for name in sys.modules if name.startswith('keyguard.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


WITHOUT = (
    "alerts audit cli dashboard learnt metrics policies replay testing upstream usage why "
    "conditions.criteria guards.api_keys guards.bans guards.cache guards.concurrency guards.ip_filter guards.overload "
    "guards.token_budget guards.upstream_causes keys.registry ops.alerting ops.upstream "
    "stack.bans stack.diagnosing stack.flask_routes stack.limit_actions stack.limits stack.lint stack.markers "
    "stack.on_dashboard stack.openapi stores.postgres stores.redis stores.sqlite"
)
"""The rooms, and parts of them, that a stack with a limit does without."""


def test_a_stack_loads_what_it_needs() -> None:
    """Interpreters start quickly: each module costs a millisecond."""
    code = "import sys; from keyguard import Keyguard, RateLimit; Keyguard(RateLimit('10/second')); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    for part in WITHOUT.split():
        assert [name for name in loaded if f"{name}.".startswith(f"keyguard.{part}.")] == []
    assert "limits" not in loaded, "it takes longer to load than all the rest"


@pytest.mark.parametrize("world", ["asgi", "wsgi"])
def test_requests_load_nothing(world: str) -> None:
    """What a request needs is loaded when the stack is put around the app, or the first one would wait for it."""
    command = [sys.executable, "-m", "tests.support.first_request", world]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["200 401 403 429", ""]


def test_the_names_of_keyguard_are_those_that_type_checkers_see() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (seen,) = [node.body for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    (table,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["_PLACES"]
    ]
    told = {f"keyguard.{module}": set(names.split()) for module, names in table.items()}
    assert told == {
        node.module: {alias.name for alias in node.names} for node in seen if isinstance(node, ast.ImportFrom)
    }
    assert set().union(*told.values()) == set(keyguard.__all__)
    assert set(keyguard.__all__) <= set(dir(keyguard))
    with pytest.raises(AttributeError, match="no attribute 'Keyguards'"):
        _ = keyguard.Keyguards


def test_tests_stand_in_the_folder_of_what_they_test() -> None:
    tests = Path(__file__).parents[1]
    assert [path.name for path in tests.glob("test_*.py")] == []
    assert [str(path) for path in tests.rglob("*.py") if not (path.parent / "__init__.py").exists()] == []


def test_no_file_is_longer_than_one_sitting() -> None:
    long = {path.name: lines for path in modules() if (lines := path.read_text().count("\n")) > 350}
    assert not long
