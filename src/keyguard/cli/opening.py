"""Which store a command works on: that of the app that runs the command, or the one that its words name.

A framework's own command, such as `flask keyguard keys list`, knows its app, whose stack stands in `options.of_app`.
The command `keyguard` knows none.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from keyguard.cli.input import names_store, store_url
from keyguard.errors import ConfigurationError
from keyguard.ops import Store, traits_of
from keyguard.stores import open_store

if TYPE_CHECKING:
    from keyguard.stack.keyguard import Keyguard


def open_for_operators(url: str, *, make: bool = True) -> Store:
    """Open a store with a person's patience, which a request has not; with `make` also if there is no file yet."""
    scheme, query = url.partition(":")[0].lower(), url.partition("?")[2]
    if scheme == "sqlite" and not make:
        path = Path(unquote(url.partition("?")[0].partition("://")[2].partition("/")[2]).replace("\0", "?"))
        if not path.exists():
            raise ConfigurationError(f"there is no file {path}; a misspelt name would be a new, empty store")
    if scheme != "memory" and "timeout" not in dict(parse_qsl(query)):
        url += ("&" if query else "?") + "timeout=1"
    return open_store(url)


def app_of(options: argparse.Namespace) -> Keyguard | None:
    """Return the stack of the app that runs the command, unless the words of the command name another store."""
    app: Keyguard | None = options.of_app
    return None if app is None or names_store(options) else app


def store_for(options: argparse.Namespace, example: str, *, make: bool = False, instead: str) -> Store:
    """Return the store of the app that runs the command, else open the one that is named.

    With `make` a file is made if there is none yet. Raises `ConfigurationError` for a store in memory, which is not the
    one that the running app has: `instead` says what to do.
    """
    app = app_of(options)
    if app is not None:
        return lasting(app.store, instead)
    url = store_url(options, example)
    if url.lower().startswith("memory:"):
        raise ConfigurationError(f"memory:// {instead}")
    return open_for_operators(url, make=make)


def lasting(store: Any, instead: str) -> Store:
    """Return an app's store. Raises `ConfigurationError` if each process has one of its own."""
    if traits_of(traits_of(store).store or store).of_one_process:
        raise ConfigurationError(f"memory:// {instead}")
    found: Store = store
    return found
