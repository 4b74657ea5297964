"""Names of a package that are brought when they are asked for, and classes that are not loaded to be asked about.

Importing keyguard is light: what most stacks do without is loaded where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def on_demand(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that loads the module of a name when it is asked for.

    `places` has the names of each module, with spaces between them.
    """
    modules = {name: module for module, names in places.items() for name in names.split()}

    def brought(name: str) -> Any:
        module = modules.get(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = vars(sys.modules[package])[name] = getattr(import_module(f"{package}.{module}"), name)
        return found

    return brought


def instances_of(objects: Iterable[object], module: str, name: str) -> list[Any]:
    """Return those of the objects that are instances of a class of a module, which is not loaded for this.

    As long as nobody has loaded it there are none.
    """
    kind = getattr(sys.modules.get(module), name, None)
    return [] if kind is None else [one for one in objects if isinstance(one, kind)]
