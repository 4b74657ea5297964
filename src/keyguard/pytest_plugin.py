"""The pytest plugin: a fixture `keyguard`, which puts an app's `Keyguard` under test for each test that asks for it.

    # pyproject.toml
    [tool.pytest.ini_options]
    keyguard = "shop.main:guard"

    # test_shop.py
    def test_search_is_limited(keyguard):
        keyguard.identity = "alice"
        client = TestClient(app)
        ...
        keyguard.advance("1 minute")

The fixture is what `guard.testing()` returns (`keyguard.testing.UnderTest`), and works with every client: those of
FastAPI, Starlette, Flask and Django, and httpx, in plain tests and in `async` ones. It finds the stack by the setting
`keyguard`, or `KEYGUARD` in Django's settings; a fixture `keyguard_guard` of your own returns another one, or several.

pytest loads this module whenever it starts: it imports no framework, and what a test needs only when one asks for it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from keyguard.stack import Keyguard
    from keyguard.testing import UnderTest

_HOW = (
    'Write where your Keyguard is, as in `keyguard = "shop.main:guard"` in [tool.pytest.ini_options], or have a '
    "fixture keyguard_guard of your own return it"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take note of the setting."""
    parser.addini(
        "keyguard",
        "the Keyguard that the fixture `keyguard` puts under test, as in shop.main:guard; several as a list",
        type="args",
        default=[],
    )


@pytest.fixture
def keyguard_guard(pytestconfig: pytest.Config) -> Keyguard | Sequence[Keyguard]:
    """Return the stack of the app, or several: as the setting `keyguard` names it, or `KEYGUARD` in Django's settings.

    Override it to have it from elsewhere, such as from a factory of your app.
    """
    names: list[str] = pytestconfig.getini("keyguard")
    if names:
        return [_named(name) for name in names]
    found = _of_django()
    if found is None:
        _fail(f"The fixture `keyguard` does not know which stack is meant. {_HOW}.")
    return found


@pytest.fixture
def keyguard(keyguard_guard: Keyguard | Sequence[Keyguard]) -> Iterator[UnderTest]:
    """Put the app's stack under test: on an empty store in memory, and with time that stands still.

    `keyguard.identity = "alice"` makes her the caller, `keyguard.advance("1h")` lets time pass, and `exhaust`,
    `break_store`, `hits` and `reset` do what they say: see `keyguard.testing.UnderTest`.
    """
    from keyguard.stack import Keyguard

    stacks: list[Any] = [*keyguard_guard] if isinstance(keyguard_guard, (list, tuple)) else [keyguard_guard]
    for stack in stacks:
        if not isinstance(stack, Keyguard):
            _fail(f"The fixture keyguard_guard returns a Keyguard, or a list of them, not {_kind(stack)}.")
    if not stacks:
        _fail("The fixture keyguard_guard returned no Keyguard.")
    with stacks[0].testing(*stacks[1:]) as under_test:
        yield under_test


def _named(name: str) -> Keyguard:
    """Return the stack that a setting names."""
    from keyguard.stack import Keyguard

    module, colon, path = name.partition(":")
    said = f"keyguard = {name!r} in the settings of pytest"
    if not (colon and module.strip() and path.strip()):
        _fail(f"{said} names a module and what is in it, with a colon between: as in shop.main:guard.")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # something that the app itself imports
        _fail(
            f'{said}: there is no module {error.name!r}. If its folder is not on the path, add `pythonpath = ["."]` '
            "to the settings of pytest, with the folder in which it is."
        )
    for word in path.split("."):
        if not hasattr(found, word):
            _fail(f"{said}: {_kind(found)} has no {word!r}.")
        found = getattr(found, word)
    if not isinstance(found, Keyguard):
        _fail(f"{said} names {_kind(found)}, and not a Keyguard. {_HOW}.")
    return found


def _of_django() -> Keyguard | None:
    """Return the stack that Django's settings name, if there are any."""
    settings: Any = getattr(sys.modules.get("django.conf"), "settings", None)
    if settings is None or not settings.configured or not hasattr(settings, "KEYGUARD"):
        return None
    from keyguard.django.configured import configured_stack
    from keyguard.errors import ConfigurationError

    try:
        return configured_stack()
    except ConfigurationError as error:
        _fail(str(error))


def _kind(thing: object) -> str:
    return f"the module {thing.__name__}" if isinstance(thing, ModuleType) else f"a {type(thing).__name__}"


def _fail(why: str) -> NoReturn:
    pytest.fail(why, pytrace=False)
