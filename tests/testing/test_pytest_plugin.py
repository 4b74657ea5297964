"""The pytest plugin: found by its entry point, with every client of the frameworks, in plain and `async` tests."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from keyguard.pytest_plugin import _named as stack_named
from tests.support.plugin import run_pytest

STRICT = """
[pytest]
keyguard = {named}
addopts = --strict-markers --strict-config
filterwarnings = error
"""

SHOP = """
from fastapi import FastAPI
from flask import Flask
from keyguard import APIKeys, Keyguard, RateLimit

guard = Keyguard(APIKeys(), RateLimit("2/minute", by="key", name="search"), store="redis://127.0.0.1:1")
app = FastAPI()
app.add_middleware(guard.asgi)


@app.get("/")
async def home() -> str:
    return guard.here().caller.subject


@app.get("/plain")
def plain() -> str:
    return guard.here().caller.subject


site = Flask("shop")
guard.init_app(site)
site.get("/")(lambda: guard.here().caller.subject)
"""

CLIENTS = """
import httpx2
import pytest
from shop import app, guard, site
from starlette.testclient import TestClient


def check(get, keyguard):
    assert get("/").status_code == 401
    keyguard.identity = "alice"
    assert [get("/").status_code for _ in range(3)] == [200, 200, 429]
    assert "alice" in get_text(get, keyguard)
    assert keyguard.hits("search") == 4
    keyguard.exhaust("alice")
    refused = get("/")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")


def get_text(get, keyguard):
    keyguard.advance("1 minute")
    return get("/").text


def test_starlette_and_fastapi(keyguard):
    with TestClient(app) as client:
        check(client.get, keyguard)


def test_one_that_was_made_for_all_tests(keyguard, client):
    check(client.get, keyguard)


@pytest.fixture(scope="module")
def client():
    with TestClient(app) as client:
        assert client.get("/plain").status_code == 401  # its first request comes before the fixture
        yield client


def test_httpx_over_wsgi(keyguard):
    with httpx2.Client(transport=httpx2.WSGITransport(app=site), base_url="http://shop") as client:
        check(client.get, keyguard)


def test_flask(keyguard):
    check(site.test_client().get, keyguard)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.mark.anyio
async def test_httpx_over_asgi(keyguard):
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://shop") as client:
        assert (await client.get("/")).status_code == 401
        keyguard.identity = "alice"
        assert [(await client.get("/plain")).status_code for _ in range(3)] == [200, 200, 429]
        keyguard.advance("1 minute")
        assert (await client.get("/")).json() == "alice"


def test_each_test_begins_anew(keyguard):
    keyguard.identity = "alice"
    assert keyguard.hits("search") == 0
    assert [site.test_client().get("/").status_code for _ in range(3)] == [200, 200, 429]
    with guard.testing(identity="alice") as inner:
        assert site.test_client().get("/").status_code == 200
    assert site.test_client().get("/").status_code == 429
"""


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))


def outcomes(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def test_it_works_with_the_clients_of_all_frameworks(tmp_path: Path, warm: str) -> None:
    """The app's own store cannot be reached at all."""
    write(tmp_path, {"pytest.ini": STRICT.format(named="shop:guard"), "shop.py": SHOP, "test_shop.py": CLIENTS})
    done = run_pytest(tmp_path, warm=warm, needs=["keyguard", "fastapi", "flask"])
    assert done.returncode == 0, outcomes(done)
    assert "7 passed" in done.stdout


DJANGO = {
    "shop/__init__.py": "",
    "shop/settings.py": """
        SECRET_KEY = "x"
        ALLOWED_HOSTS = ["*"]
        ROOT_URLCONF = "shop.urls"
        MIDDLEWARE = ["keyguard.django.Middleware"]
        KEYGUARD = "shop.guards.guard"
        """,
    "shop/guards.py": """
        from keyguard import APIKeys, Keyguard, RateLimit

        guard = Keyguard(APIKeys(), RateLimit("2/minute", by="key"), store="redis://127.0.0.1:1")
        """,
    "shop/urls.py": """
        from django.http import HttpResponse
        from django.urls import path

        def home(request):
            return HttpResponse(request.keyguard.caller.subject)

        async def later(request):
            return HttpResponse(request.keyguard.caller.subject)

        urlpatterns = [path("", home), path("later", later)]
        """,
    "conftest.py": """
        import os

        import django

        os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
        django.setup()
        """,
    "test_shop.py": """
        import pytest
        from django.test import AsyncClient, Client


        @pytest.mark.parametrize("path", ["/", "/later"])
        def test_plain(keyguard, path):
            client = Client()
            assert client.get(path).status_code == 401
            keyguard.identity = "alice"
            assert [client.get(path).status_code for _ in range(3)] == [200, 200, 429]
            keyguard.advance("1 minute")
            assert client.get(path).content == b"alice"


        @pytest.mark.anyio
        @pytest.mark.parametrize("path", ["/", "/later"])
        async def test_async(keyguard, path):
            client = AsyncClient()
            keyguard.identity = "alice"
            assert [(await client.get(path)).status_code for _ in range(3)] == [200, 200, 429]
            keyguard.exhaust("alice")
            assert (await client.get(path)).headers["Retry-After"] == "60"


        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """,
}


def test_it_works_with_djangos_clients_and_settings(tmp_path: Path, warm: str) -> None:
    """There `KEYGUARD` names the stack already."""
    write(tmp_path, {"pytest.ini": "[pytest]\nfilterwarnings = error\n", **DJANGO})
    done = run_pytest(tmp_path, warm=warm, needs=["keyguard", "django"])
    assert done.returncode == 0, outcomes(done)
    assert "4 passed" in done.stdout


WRONG = {
    "shop.guard": r"names a module and what is in it, with a colon between: as in shop.main:guard\.",
    "shop_in_test:": "names a module and what is in it",
    "shopp:guard": r"there is no module 'shopp'. If its folder is not on the path, add `pythonpath = \[\".\"\]`",
    "shop_in_test.main:guard": "there is no module 'shop_in_test.main'",
    "shop_in_test:gard": "the module shop_in_test has no 'gard'",
    "shop_in_test:app": "names a FastAPI, and not a Keyguard. Write where your Keyguard is",
    "shop_in_test:app.guard": "a FastAPI has no 'guard'",
}


@pytest.mark.parametrize("named", WRONG)
def test_a_wrong_name_fails_with_what_would_be_right(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"shop_in_test.py": SHOP})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(pytest.fail.Exception, match=WRONG[named]):
        stack_named(named)
    sys.modules.pop("shop_in_test", None)


def test_what_the_app_itself_fails_to_import_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"shop_that_fails.py": "import a_library_that_is_not_there"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        stack_named("shop_that_fails:guard")


STACK = """
from keyguard import APIKeys, Keyguard

guard = Keyguard(APIKeys(), store="redis://127.0.0.1:1")
"""

OTHERS = """
import pytest
from shop import guard
from keyguard import APIKeys, Keyguard

other = Keyguard(APIKeys(), store=guard.store, name="other")


def test_without_a_setting(keyguard):
    pass


class TestOwn:
    @pytest.fixture
    def keyguard_guard(self):
        return guard

    def test_one(self, keyguard):
        assert keyguard.stacks == (guard,)


class TestSeveral:
    @pytest.fixture
    def keyguard_guard(self):
        return [guard, other]

    def test_both(self, keyguard):
        assert keyguard.stacks == (guard, other)
        assert guard.store is other.store


class TestWrong:
    @pytest.fixture
    def keyguard_guard(self):
        return "shop:guard"

    def test_it(self, keyguard):
        pass
"""


def test_a_fixture_of_ones_own_says_which_stack_is_meant(tmp_path: Path, warm: str) -> None:
    write(tmp_path, {"pytest.ini": "[pytest]\nfilterwarnings = error\n", "shop.py": STACK, "test_shop.py": OTHERS})
    done = run_pytest(tmp_path, warm=warm, needs=["keyguard"])
    told = " ".join(done.stdout.split())
    assert "2 passed, 2 errors" in told, outcomes(done)
    assert "The fixture `keyguard` does not know which stack is meant. Write where your Keyguard is, as in" in told
    assert "The fixture keyguard_guard returns a Keyguard, or a list of them, not a str." in told
    assert "Traceback" not in told


def test_a_setting_may_name_several(tmp_path: Path, warm: str) -> None:
    settings = """
    [tool.pytest.ini_options]
    keyguard = ["shop:guard", "shop:other"]
    """
    shop = STACK + '\nother = Keyguard(APIKeys(), store=guard.store, name="other")\n'
    test = "import shop\ndef test_both(keyguard): assert keyguard.stacks == (shop.guard, shop.other)"
    write(tmp_path, {"pyproject.toml": settings, "shop.py": shop, "test_shop.py": test})
    done = run_pytest(tmp_path, warm=warm, needs=["keyguard"])
    assert "1 passed" in done.stdout, outcomes(done)


def test_pytest_starts_without_frameworks_and_lists_the_fixture(tmp_path: Path) -> None:
    """It is loaded wherever it is installed, also for projects that have nothing to do with it."""
    heavy = "starlette werkzeug fastapi flask django limits redis psycopg sqlite3 keyguard.testing keyguard.django"
    test = f"""
        import sys

        loaded = set(sys.modules)

        def test_it():
            assert "keyguard.pytest_plugin" in loaded
            assert not loaded & set({heavy.split()!r})
        """
    write(tmp_path, {"pytest.ini": "[pytest]\nfilterwarnings = error\n", "test_it.py": test})
    done = run_pytest(tmp_path)
    assert "1 passed" in done.stdout, outcomes(done)
    shown = run_pytest(tmp_path / ".", "--fixtures", "test_it.py").stdout
    assert "keyguard -- " in shown
    assert "Put the app's stack under test" in shown
    assert "keyguard_guard -- " in shown
