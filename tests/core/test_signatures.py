"""Signatures as types: a layer takes what its guard and a stack take, and mypy knows."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import keyguard
import keyguard.asgi
import keyguard.testing
import keyguard.wsgi
from keyguard import Keyguard, guards
from keyguard.stack import options

ROOT = Path(__file__).parent.parent.parent
GUARDS = [getattr(guards, name) for name in guards.__all__]
BY_NAME = inspect.Parameter.KEYWORD_ONLY


def types_of(function: Any) -> dict[str, str]:
    found = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.annotation for parameter in found if parameter.kind is BY_NAME}


def types_in(options: Any) -> dict[str, str]:
    return {name: kind.__forward_arg__ for name, kind in vars(options)["__annotations__"].items()}


@pytest.mark.parametrize("guard", GUARDS)
def test_options_of_a_layer_are_those_of_its_guard_and_of_a_stack(guard: Any) -> None:
    stack = types_of(Keyguard)
    del stack["name"]  # a layer is called as its guard
    assert types_in(options.StackOptions) == stack
    assert types_in(getattr(options, f"{guard.__name__}Options")) == {**types_of(guard), **stack}


@pytest.mark.parametrize("world", [keyguard.asgi, keyguard.wsgi])
@pytest.mark.parametrize("guard", GUARDS)
def test_what_stands_without_a_name_is_the_same(guard: Any, world: Any) -> None:
    layer = inspect.signature(getattr(world, guard.__name__)).parameters.values()
    unnamed = [(each.name, each.kind, each.annotation, each.default) for each in layer]
    of_guard = inspect.signature(guard).parameters.values()
    expected = [(each.name, each.kind, each.annotation, each.default) for each in of_guard if each.kind is not BY_NAME]
    assert unnamed[1:-1] == expected
    assert unnamed[-1][2] == f"Unpack[{guard.__name__}Options]"


def test_nothing_public_takes_whatever_it_is_given() -> None:
    faces = [keyguard, keyguard.asgi, keyguard.wsgi, keyguard.testing]
    seen = 0
    for face in faces:
        for name in face.__all__:
            thing = getattr(face, name)
            members = vars(thing).items() if inspect.isclass(thing) else ()
            for member in [thing, *(member for key, member in members if not key.startswith("_") or key == "__init__")]:
                if inspect.isfunction(member):
                    seen += 1
                    for parameter in inspect.signature(member).parameters.values():
                        if parameter.kind is parameter.VAR_KEYWORD:
                            assert "Unpack[" in str(parameter.annotation), f"{member.__qualname__}: {parameter}"
    assert seen > 50


FACES = [
    "keyguard",
    "keyguard.asgi",
    "keyguard.wsgi",
    "keyguard.guards",
    "keyguard.guards.api_keys",
    "keyguard.guards.bans",
    "keyguard.guards.cache",
    "keyguard.guards.rate_limit",
    "keyguard.keys",
    "keyguard.ops",
    "keyguard.rates",
    "keyguard.stack",
    "keyguard.stores",
    "keyguard.stores.leased",
    "keyguard.stores.memory",
    "keyguard.stores.postgres",
    "keyguard.stores.redis",
    "keyguard.stores.sqlite",
    "keyguard.testing",
]


@pytest.mark.parametrize("face", FACES)
def test_a_face_lists_its_names_and_no_module_is_one(face: str) -> None:
    module = importlib.import_module(face)
    brought: dict[str, Any] = {}
    exec(f"from {face} import *", brought)
    del brought["__builtins__"]
    assert set(brought) == set(module.__all__)
    assert [name for name, thing in brought.items() if inspect.ismodule(thing)] == []


SNIPPETS = """
from datetime import timedelta
from typing import Any

from starlette.applications import Starlette

import keyguard
import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, Forward, Guard, Identity, Keyguard, RateLimit, Request, Response
from keyguard.testing import play


async def app(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> list[bytes]: return []
def robots(request: Request) -> Response | None: return None
async def timed(request: Request, forward: Forward) -> Response: return await forward(request)
class Own(Guard):
    def __call__(self, request: Request) -> Response | None: return None
def by_address(request: Request) -> str | None: return request.state.caller.key_id or request.peer
def looking_inside(request: Request) -> Any: return request.deferred  # wrong
def of_the_state(request: Request) -> Any: return request.state.sources  # wrong
def pressed() -> tuple[float, str, int]:
    return keyguard.here().pressure, Keyguard().here().caller.subject, keyguard.here().limits[0].remaining

Identity("ann", scopes={"read"}), Identity("ann", scopes=["read"]), Identity("ann", scopes=()).scopes.union({"read"})
Identity("ann", scopes=7)  # wrong
keyguard.Identitty("ann")  # wrong
keyguard.asgi.RateLimit(app, "1/minute", by="ip")
keyguard.asgi.RateLimit(app, "1/minute", "5/hour", cost=lambda request: 2, store="memory://", workers=2)
keyguard.asgi.RateLimit(app, "1/minute", buy="ip")  # wrong
keyguard.asgi.RateLimit(app, "1/minute", by="ip address")  # wrong
keyguard.asgi.RateLimit(app, 7)  # wrong
keyguard.asgi.RateLimit(app, "1/minute", settle=lambda outcome: outcome.status, name="units")
keyguard.asgi.RateLimit(app, "1/minute", refund_on=(TimeoutError, 502, "4xx"))
keyguard.asgi.RateLimit(app, "1/minute", count="successes")  # wrong
keyguard.asgi.RateLimit(app, "1/minute", settle=lambda outcome: outcome.state)  # wrong
keyguard.wsgi.RateLimit(wsgi, plans={"free": "1/second"}, default="free", root_path=False)
keyguard.wsgi.RateLimit(wsgi, "1/minute", trusted_proxies=7)  # wrong
keyguard.asgi.IPFilter(app, ["10.0.0.0/8"], deny=["10.1.0.0/16"])
keyguard.asgi.IPFilter(app, refuse=["10.1.0.0/16"])  # wrong
keyguard.wsgi.APIKeys(wsgi, optional=True, stale_if_error="5 minutes")
keyguard.wsgi.APIKeys(wsgi, True)  # wrong
keyguard.asgi.ResponseCache(app, ttl=timedelta(minutes=1), store="redis://localhost")
keyguard.asgi.ResponseCache(app, ttl=[1])  # wrong
Starlette().add_middleware(keyguard.asgi.RateLimit, "1/minute", by="ip")
Starlette().add_middleware(keyguard.asgi.RateLimit, "1/minute", buy="ip")  # wrong
Keyguard(robots, timed, Own(), APIKeys(), RateLimit("1/minute"))
Keyguard(robots, stored="memory://")  # wrong
Keyguard("robots")  # wrong
play(robots, headers={"X-A": "1"}, workers=1)
play(robots, header={"X-A": "1"})  # wrong
"""


@pytest.mark.slow
def test_mypy_knows_right_from_wrong(tmp_path: Path) -> None:
    file = tmp_path / "snippets.py"
    file.write_text(SNIPPETS)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir=/dev/null"]
    done = subprocess.run([*command, str(file)], cwd=ROOT / "src", capture_output=True, text=True, timeout=300)
    lines = SNIPPETS.splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]
    found = {int(number) for number in re.findall(r"^[^:]*snippets\.py:([0-9]+): error", done.stdout, re.M)}
    assert sorted(found) == wrong, done.stdout + done.stderr
