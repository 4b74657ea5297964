"""The stack of an app, named as servers name apps: `module:guard`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import Any

from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.logs import plain
from keyguard.stack.keyguard import Keyguard


def add_app(command: argparse.ArgumentParser) -> None:
    """Add the option that names the stack."""
    command.add_argument(
        "--app",
        metavar="MODULE:NAME",
        help="the Keyguard of the app, as in `shop.web:guard`; its module is imported from here",
    )


def stack_of(options: argparse.Namespace) -> Keyguard:
    """Return the stack that a command line names, or that of the app that runs the command.

    Raises `KeyguardError`, which says what is wrong, if there is none.
    """
    own: Keyguard | None = getattr(options, "of_app", None)
    if options.app is None:
        if own is None:
            raise KeyguardError("name the stack: --app module:guard")
        return own
    return load_stack(options.app)


def load_stack(text: str) -> Keyguard:
    """Import a stack by `module:name`; the name may have dots, and may be that of a function without arguments.

    Raises `KeyguardError`, which says what is wrong: the text, the module, what it raises, or what stands there.
    """
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise KeyguardError(f"--app is a module and a name, such as shop.web:guard, not {text!r:.200}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # as servers do
    found = _found(_imported(module), module, name)
    if not isinstance(found, Keyguard) and callable(found) and not isinstance(found, type):
        found = _made(found, text)
    if isinstance(found, Keyguard):
        return found
    what = type(found).__name__ if not isinstance(found, type) else f"the class {found.__name__}"
    raise KeyguardError(f"{text} is {what}, and no Keyguard: name the variable that holds Keyguard(...)")


def _imported(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module == missing or module.startswith(f"{missing}."):
            raise KeyguardError(f"there is no module {missing!r} here ({os.getcwd()}), nor among packages") from error
        raise KeyguardError(f"{module} needs the module {missing!r}, which is not installed here") from error
    except ConfigurationError as error:
        raise KeyguardError(f"{module} does not start: {error}") from error
    except Exception as error:
        where = plain(str(error))[:300] or "no reason given"
        raise KeyguardError(f"{module} cannot be imported: {type(error).__name__}: {where}") from error


def _found(found: Any, module: str, name: str) -> Any:
    owner = module
    for part in name.split("."):
        if not hasattr(found, part):
            from difflib import get_close_matches

            stacks = [word for word, value in vars(found).items() if isinstance(value, Keyguard)]
            near = stacks or get_close_matches(part, dir(found), n=1)
            hint = f"; there is {', '.join(near)}" if near else ""
            raise KeyguardError(f"{owner} has no {part!r}{hint}")
        found, owner = getattr(found, part), f"{owner}.{part}"
    return found


def _made(function: Any, text: str) -> Any:
    import inspect

    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return function
    if not inspect.isfunction(function):  # an app is called by servers alone
        return function
    try:
        return function()
    except Exception as error:
        raise KeyguardError(f"{text}() raises {type(error).__name__}: {plain(str(error))[:300]}") from error
