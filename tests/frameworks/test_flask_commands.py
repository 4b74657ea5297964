"""`flask keyguard ...`: the commands of `keyguard`, with the app's own stack."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from click.testing import Result
from flask import Flask

import keyguard.flask
from keyguard import APIKeys, Ban, Keyguard, RateLimit, ResponseCache
from keyguard.cli import main
from keyguard.ops import Put
from keyguard.stores import open_store
from keyguard.stores.leased import Leased
from tests.support.every_store import SHARED, url_of
from tests.support.old_records import KEYS, OLD, RECORDS
from tests.support.servers import RedisServer
from tests.support.warm import run as begin

ROOT = Path(__file__).parents[2]


def shop(store: Any, *more: Any, **settings: Any) -> tuple[Keyguard, Flask]:
    guard = Keyguard(
        APIKeys(public=["/health"], prefix="shop", env="test", pepper="1:a pepper of the app alone"),
        RateLimit("5/minute", by="subject", name="calls"),
        *more,
        store=store,
        name="shop",
        **settings,
    )
    app = Flask("shop")
    guard.init_app(app)
    return guard, app


def app_with(guard: Any, store: Any) -> Flask:
    app = Flask("shop")
    Keyguard(guard, store=store).init_app(app)
    return app


def run(app: Flask, *words: str) -> Result:
    return app.test_cli_runner().invoke(keyguard.flask.command, words)


def run_json(app: Flask, *words: str) -> Any:
    done = run(app, *words, "--json")
    assert (done.exit_code, done.stderr) == (0, ""), done.output
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/of-another-app.db?timeout=5")


@pytest.mark.parametrize("kind", SHARED)
def test_the_store_is_the_apps(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    guard, app = shop(url_of(kind, request, tmp_path, timeout=1))
    done = run(app, "keys", "issue", "--owner", "acme", "--expires", "30d")
    key = done.stdout.strip()
    assert (done.exit_code, key.startswith("shop_test_")) == (0, True)
    keyed = {"X-API-Key": key}
    client = app.test_client()
    assert [client.get("/", headers=keyed).status_code for _ in range(6)] == [404] * 5 + [429]
    (record,) = run_json(app, "keys", "list")
    assert (record["owner"], key.split("_")[2]) == ("acme", record["id"])
    (use,) = run_json(app, "limits", "show", "acme")
    assert (use["limit"], use["spent"], use["remaining"]) == ("calls:5/minute", 5, 0)
    done = run(app, "limits", "grant", "acme", "2")
    assert (done.exit_code, done.stdout) == (0, "calls:5/minute of acme: 5 spent before, 3 spent and 2 left now\n")
    assert client.get("/", headers=keyed).status_code == 404
    assert run(app, "limits", "reset", record["id"]).exit_code == 0
    done = run(app, "keys", "rotate", record["id"], "--overlap", "1h")
    assert done.stdout.startswith("shop_test_")
    assert run(app, "keys", "revoke", record["id"], "--reason", "found").exit_code == 0
    told = {each["action"] for each in run_json(app, "audit", "list")}
    assert told == {"keys.issue", "limits.grant", "limits.reset", "keys.rotate", "keys.revoke"}
    close = getattr(guard.store, "close", None)
    assert close is not None
    close()


def test_bans(tmp_path: Path) -> None:
    _, app = shop(f"sqlite:///{tmp_path}/k.db", Ban(after="1/hour"))
    (tmp_path / "banned.txt").write_text("127.0.0.1\n")
    assert run(app, "bans", "import", str(tmp_path / "banned.txt")).exit_code == 0
    assert [each["caller"] for each in run_json(app, "bans", "list")] == ["127.0.0.1"]
    assert run(app, "bans", "lift", "127.0.0.1").exit_code == 0
    assert run_json(app, "bans", "list") == []


def test_the_cache_may_have_a_store_of_its_own(tmp_path: Path, valkey: RedisServer) -> None:
    from keyguard import cache_control

    cached = ResponseCache(store=f"{valkey.url}?namespace=flask-{tmp_path.name}")
    app = app_with(cached, f"sqlite:///{tmp_path}/k.db")
    app.get("/tea")(cache_control(max_age=60)(lambda: "3"))
    client = app.test_client()
    assert [client.get("/tea").headers["Cache-Status"].partition(";")[2][:4] for _ in range(2)] == [" fwd", " hit"]
    found = run_json(app, "cache", "stats")
    assert (found["entries"], found["fresh"]) == (1, 1)
    assert run_json(app, "cache", "purge", "/tea") == {"purged": "/tea"}


def test_migrating_knows_the_apps_pepper(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    name = "key|" + KEYS["peppered"].split("_")[2]
    open_store(url).execute([Put(name, RECORDS[name])])
    left = run(app_with(APIKeys(), url), "store", "migrate")
    assert (left.exit_code, "1 were left as they are: their pepper is not set" in left.stderr) == (0, True)
    sealed = run(app_with(APIKeys(pepper=OLD), url), "store", "migrate")
    assert (sealed.exit_code, sealed.stderr) == (0, "1 records of keys were sealed.\n")


def test_leases_in_front_of_a_store_hide_nothing(tmp_path: Path) -> None:
    _, app = shop(Leased(f"sqlite:///{tmp_path}/k.db", workers=2))
    assert run(app, "keys", "issue", "--owner", "acme").exit_code == 0
    assert [each["owner"] for each in run_json(app, "keys", "list")] == ["acme"]
    assert run(app, "store", "migrate").exit_code == 0
    assert run_json(app, "limits", "show", "acme")[0]["spent"] == 0


def test_another_store_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, app = shop(f"sqlite:///{tmp_path}/k.db")
    other = f"sqlite:///{tmp_path}/other.db"
    assert main(["keys", "issue", "--owner", "another", "--store", other]) == 0
    capsys.readouterr()
    assert [each["owner"] for each in run_json(app, "keys", "list", "--store", other)] == ["another"]
    assert run_json(app, "keys", "list") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("keys", "issue", "--owner", "acme"), "memory:// ends with this command"),
        (("limits", "show", "acme"), "ask it there, with guard.limits.peek(caller)"),
        (("bans", "list"), "ask it there, with guard.bans.list()"),
        (("audit", "list"), "ask it there, with guard.audit.list()"),
        (("cache", "stats"), "ask it there, with guard.cache.stats() and purge()"),
    ],
)
def test_what_another_process_holds_is_not_shown(words: tuple[str, ...], told: str) -> None:
    _, app = shop("memory://", ResponseCache())
    done = run(app, *words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("keys",), 2, "usage: flask keyguard keys"),
        (("keys", "list", "--nonsense"), 2, "flask keyguard"),
        (("keys", "show", "nothere"), 1, "keyguard: error:"),
        (("keys", "issue", "--owner", "acme", "--prefix", "kg"), 1, "leave --prefix out"),
    ],
)
def test_a_mistake_is_told_as_the_command_tells_it(
    words: tuple[str, ...], code: int, told: str, tmp_path: Path
) -> None:
    _, app = shop(f"sqlite:///{tmp_path}/k.db")
    done = run(app, *words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_an_app_without_a_guard_says_so() -> None:
    done = run(Flask("bare"), "keys", "list")
    assert done.exit_code == 1
    assert "call guard.init_app(app)" in done.stderr


def test_flask_finds_the_command_by_itself(tmp_path: Path, warm: str) -> None:
    """As it is installed: by its entry point, from a terminal."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["flask.commands"]
    told = tmp_path / "installed" / "keyguard_as_installed-0.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: keyguard-as-installed\nVersion: 0\n")
    lines = "".join(f"{name} = {place}\n" for name, place in points.items())
    (told / "entry_points.txt").write_text(f"[flask.commands]\n{lines}")
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "from keyguard import APIKeys, Keyguard\n"
        "guard = Keyguard(APIKeys(), store='sqlite:///shop.db')\n"
        "def create_app():\n"
        "    app = Flask(__name__)\n"
        "    guard.init_app(app)\n"
        "    return app\n"
    )
    path = os.pathsep.join([str(told.parent), *filter(None, [os.environ.get("PYTHONPATH")])])

    def flask(*words: str) -> CompletedProcess[str]:
        return begin(
            warm,
            ["-m", "flask", "--app", "shop:create_app", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path},
            needs=["keyguard", "flask"],
        )

    issued = flask("keyguard", "keys", "issue", "--owner", "acme")
    assert issued.returncode == 0, issued.stderr
    assert issued.stdout.startswith("kg_live_")
    assert '"owner": "acme"' in flask("keyguard", "keys", "list", "--json").stdout
    helped = flask("keyguard", "limits", "show", "--help")
    assert helped.stdout.startswith("usage: flask keyguard limits show")
