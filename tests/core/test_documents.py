"""The examples run, and README has the two commands that CI runs. `test_pages.py` runs what README shows."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from keyguard import Keyguard
from keyguard.testing import play
from tests.support.harness import Ask, aask, ask_wsgi
from tests.support.plugin import run_pytest
from tests.support.servers import free_port, wait_until
from tests.support.warm import Program, run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/keyguard.db")
    return tmp_path


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # frameworks look there
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_its_two_commands_and_ci_runs_them() -> None:
    run, test = (
        README.split(heading)[1].split("```sh\n")[1].split("```")[0] for heading in ("### Run it", "### Test it")
    )
    assert len(run.strip().splitlines()) == len(test.strip().splitlines()) == 1
    script = (ROOT / ".ci" / "run").read_text()
    assert 'readme_command "### Run it"' in script
    assert 'readme_command "### Test it"' in script


# -- examples ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:'cgi' is deprecated:DeprecationWarning")  # by which Pyramid reads forms
@pytest.mark.parametrize(
    ("name", "world"),
    [
        ("fastapi_app", "asgi"),
        ("flask_app", "wsgi"),
        ("django_app", "both"),
        ("litestar_app", "asgi"),
        ("quart_app", "asgi"),
        ("falcon_app", "both"),
        ("pyramid_app", "wsgi"),
        ("bottle_app", "wsgi"),
    ],
)
def test_the_app_examples_are_guarded(name: str, world: str, folder: Path, warm: str) -> None:
    if name == "django_app":  # settings are configured once in a process
        code = (
            "import sys, asyncio; sys.path[:0] = sys.argv[1:3]; import django_app as m; "
            "from tests.core.test_documents import guarded; guarded(m.guard, m.application, m.asgi_application)"
        )
        words = ["-c", code, str(ROOT), str(ROOT / "examples")]
        done = run(warm, words, needs=["keyguard", "django", "pages", "pytest"])
        assert done.returncode == 0, done.stderr
        return
    module = example(name)
    app = getattr(module, "application", None) or module.app
    asgi = getattr(module, "asgi_application", app)
    guarded(module.guard, None if world == "asgi" else app, None if world == "wsgi" else asgi)


def test_the_fastapi_example_with_rules_at_its_routes(folder: Path, warm: str) -> None:
    place = ROOT / "examples"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *filter(None, sys.path)])}
    words = ["keys", "issue", "--owner", "acme", "--scope", "write", "--store", os.environ["KEYGUARD_STORE"]]
    key = run(warm, ["-m", "keyguard", *words], env=environment, needs=["keyguard"]).stdout.strip()
    port = free_port()
    serve = ["-m", "uvicorn", "--port", str(port), "fastapi_routes:app"]
    with Program(warm, serve, env=environment, needs=["keyguard", "fastapi", "uvicorn"], **QUIET) as server:
        try:

            def ask(path: str, method: str = "GET", **headers: str) -> Any:
                asked = Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
                try:
                    with urlopen(asked, timeout=30) as answer:
                        return answer.status, answer.headers, answer.read()
                except HTTPError as refused:
                    return refused.code, refused.headers, refused.read()

            wait_until(lambda: ask("/docs")[0] == 200, "uvicorn to answer")
            assert [ask("/search")[0] for _ in range(6)] == [200] * 5 + [429]
            assert ask("/items/7", "POST")[0] == 401
            bearer = {"Authorization": f"Bearer {key}"}
            assert json.loads(ask("/items/7", "POST", **bearer)[2]) == {"item": "7", "by": "acme"}
            assert [ask("/items/7", "POST", **bearer)[0] for _ in range(2)] == [200, 429]
            status, headers, _ = ask("/items/7", **bearer)
            assert status == 200
            assert all(f'"{name}' in headers["RateLimit"] for name in ("/items:20/minute", "ip:100/minute"))
            document = json.loads(ask("/openapi.json")[2])
            assert document["paths"]["/items/{item}"]["post"]["security"][0] == {"bearer": ["write"]}
        finally:
            server.terminate()


@pytest.mark.parametrize("program", ["manage.py", "gunicorn", "uvicorn"])
def test_the_django_project_of_the_examples(program: str, folder: Path, warm: str) -> None:
    """Its commands, and both of its applications in real servers."""
    place = ROOT / "examples"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), *filter(None, sys.path)])}

    def manage(*words: str) -> str:
        done = run(warm, [str(place / "django_project.py"), *words], env=environment, needs=["keyguard", "django"])
        assert done.returncode == 0, done.stderr
        return done.stdout

    key = manage("keyguard", "keys", "issue", "--owner", "acme").strip()
    if program == "manage.py":
        assert "no issues" in manage("check")
        assert key.split("_")[2] in manage("keyguard", "keys", "list")
        return
    port = free_port()
    bound = ["-b", f"127.0.0.1:{port}"] if program == "gunicorn" else ["--port", str(port)]
    app = "application" if program == "gunicorn" else "asgi_application"
    command = ["-m", program, *bound, f"django_project:{app}"]
    with Program(warm, command, env=environment, needs=["keyguard", "django", "uvicorn"], **QUIET) as server:
        try:

            def ask(path: str, method: str = "GET", **headers: str) -> Any:
                asked = Request(f"http://127.0.0.1:{port}{path}", method=method, headers=headers)
                try:
                    with urlopen(asked, timeout=30) as answer:
                        return answer.status, answer.headers, answer.read()
                except HTTPError as refused:
                    return refused.code, refused.headers, refused.read()

            wait_until(lambda: ask("/health")[0] == 200, f"{program} to answer")
            assert ask("/items/7")[0] == 401
            assert json.loads(ask("/items/7", Authorization=f"Bearer {key}")[2]) == {"item": "7", "caller": "acme"}
            assert ask("/lines", Authorization=f"Bearer {key}")[2] == b"0\n1\n2\n"
            assert [ask("/search", Authorization=f"Bearer {key}")[0] for _ in range(3)] == [200, 200, 429]
            assert json.loads(ask("/report", Authorization=f"Bearer {key}")[2]) == {"for": "acme"}
            assert ask("/report", "POST", Authorization=f"Bearer {key}")[0] == 403
            assert [ask("/report", Authorization=f"Bearer {key}")[0] for _ in range(2)] == [200, 200]
            status, headers, body = ask("/report", Authorization=f"Bearer {key}")
            assert (status, int(headers["Retry-After"]) > 0, b"throttled" in body) == (429, True, True)
            assert "nosniff" in headers["X-Content-Type-Options"]
        finally:
            server.terminate()


def guarded(guard: Keyguard, wsgi: Any, asgi: Any) -> None:
    """Public without a key, closed without one, open with one, and limited."""
    key = guard.keys.issue("acme").key.reveal()
    for ask in [lambda a: ask_wsgi(wsgi, a, lint=False)] * bool(wsgi) + [
        lambda a: asyncio.run(aask(asgi, a, lint=False))
    ] * bool(asgi):
        assert ask(Ask("/health")).status == 200
        assert ask(Ask("/items/7")).status == 401
        answer = ask(Ask("/items/7", (("X-API-Key", key),)))
        assert (answer.status, b"acme" in answer.body) == (200, True)
        assert "key:10/second" in (answer.get("ratelimit") or "")
        assert ask(Ask("/items/7", (("X-API-Key", key),), client="203.0.113.1")).status == 403
        # A preflight runs no view, also where views run whatever the method.
        asked = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "GET"))
        assert ask(Ask("/items/7", asked, method="OPTIONS")).status == 401


def test_stacked_middleware(folder: Path) -> None:
    from keyguard import KeyRegistry

    module = example("stacked_middleware")
    key = KeyRegistry(module.store).issue("acme").key.reveal()
    keyed = Ask("/hello", (("X-API-Key", key),))
    for ask in (lambda a: asyncio.run(aask(module.asgi_app, a)), lambda a: ask_wsgi(module.wsgi_app, a)):
        assert ask(Ask("/hello")).status == 401
        assert ask(Ask("/hello", client="203.0.113.1")).status == 403
        assert ask(keyed).status == 200
    assert '"key:100/minute";r=97' in (ask_wsgi(module.wsgi_app, keyed).get("ratelimit") or "")


def test_custom_guard() -> None:
    module = example("custom_guard")
    assert play(module.guard, "/").header("x-in-flight") == "1"
    closed = play(module.guard, "/", method="POST")
    assert (closed.status, closed.header("retry-after")) == (503, "600")
    full = Keyguard(module.InFlight(0))
    assert b'"cause": "overload"' in play(full).body


def test_custom_policy() -> None:
    guard = example("custom_policy").guard
    key = {"X-API-Key": "s3cret-of-ada"}
    assert play(guard, "/items/1").status == 401
    assert play(guard, "/items/1", headers=key).status == 200
    assert play(guard, "/items/1", headers=key, method="POST").status == 403
    assert play(guard, "/export", headers=key).status == 429


def test_policies() -> None:
    guard = example("policies").guard
    ada, bob = {"X-API-Key": "s3cret-of-ada"}, {"X-API-Key": "s3cret-of-bob"}
    assert [play(guard, "/items", headers=ada).status for _ in range(3)] == [200, 200, 200]
    assert {stats.name: stats.refused for stats in guard.shadows} == {"stricter": 2}
    assert [play(guard, "/items", headers=bob, method="POST").status for _ in range(3)] == [200, 200, 429]
    assert play(guard, "/admin/x", headers=bob).status == 403
    assert play(guard, "/health").status == 200
    assert len(guard.describe()) == 9
    guard.overrides.set("ada", {"free": "3/hour"})
    assert play(guard, "/items", headers=ada).status == 429


def test_cached_app(folder: Path) -> None:
    module = example("cached_app")

    def ask(target: str, **more: Any) -> Any:
        return asyncio.run(aask(module.app, Ask(target, **more), lint=False))

    assert ask("/products").get("cache-status") == "keyguard; fwd=uri-miss; stored"
    again = ask("/products")
    assert (again.get("cache-status"), again.body) == ("keyguard; hit; ttl=60", b'{"tea":3,"coffee":5}')
    assert ask("/products/tea?price=4", method="PUT").status == 401
    writer = (("X-API-Key", module.guard.keys.issue("shop", scopes=["write"]).key.reveal()),)
    assert ask("/products/tea?price=4", method="PUT", headers=writer).status == 200
    assert ask("/products").body == b'{"tea":4,"coffee":5}'
    key = module.guard.keys.issue("acme").key.reveal()
    for _ in range(2):
        mine = ask("/me", headers=(("X-API-Key", key),))
        assert (mine.body, mine.get("cache-status")) == (b'{"caller":"acme"}', "keyguard; fwd=uri-miss")
    assert b"nobody" in ask("/me").body


def test_custom_store(warm: str, folder: Path) -> None:
    done = run(warm, [str(ROOT / "examples" / "custom_store.py")], needs=["keyguard"])
    assert done.returncode == 0, done.stderr
    assert "means what every store means" in done.stdout
    text = (ROOT / "examples" / "custom_store.py").read_text()
    body = text.split("class ShelveStore:")[1].split("\nguard =")[0]
    assert len([line for line in body.splitlines() if line.strip()]) < 15


def test_the_tests_of_an_example_pass(folder: Path, warm: str) -> None:
    done = run_pytest(ROOT / "examples", "test_fastapi_app.py", spare=folder, warm=warm, needs=["keyguard", "fastapi"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_every_example_has_a_test() -> None:
    stories = [ROOT / "tests" / "stories" / f"test_{name}.py" for name in ("observed_app", "llm_gateway")]
    mine = "".join([path.read_text() for path in (Path(__file__), *stories)])
    for path in (ROOT / "examples").glob("*.py"):
        assert f'"{path.stem}' in mine or f"{path.stem}()" in mine or f"test_{path.stem}" in mine, path.name
