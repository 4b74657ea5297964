"""The ledger of usage that a command reads: that of the app which runs it, or the one beside the store."""

from __future__ import annotations

import argparse

from keyguard.cli.input import given
from keyguard.cli.opening import app_of, open_for_operators
from keyguard.errors import ConfigurationError
from keyguard.observer import observer_of
from keyguard.ops import Store
from keyguard.usage import Usage, UsageReader, ledger_store
from keyguard.usage.asking import Asking

NO_LEDGER = "no ledger lies beside this store: write Keyguard(usage=Usage()), or name its store by --ledger"


def add_ledger(command: argparse.ArgumentParser) -> None:
    """Add the option that names a ledger."""
    command.add_argument("--ledger", metavar="URL", help="the ledger's store, if it does not lie beside the other")


def ledger_beside(options: argparse.Namespace, store: Store) -> Asking | None:
    """Return the ledger of a store; `None` if there is none."""
    if options.ledger is not None:
        return UsageReader(open_for_operators(given(options.ledger, "the URL of a ledger"), make=False))
    app = app_of(options)
    if app is not None:
        return observer_of(app._observers, Usage)
    try:
        beside = ledger_store(store, make=False)
    except ConfigurationError:  # it keeps limits alone
        return None
    return None if beside is None else UsageReader(beside)
