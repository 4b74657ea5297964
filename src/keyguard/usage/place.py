"""Where a ledger lies: beside the store of the stack, in a store object of its own.

Nothing that the ledger does may hold up a decision, so it shares neither a connection nor a lock with them. On SQLite
it has a file of its own, since each file has one writer at a time.
"""

from __future__ import annotations

from keyguard.errors import ConfigurationError
from keyguard.manual_clock import ManualClock
from keyguard.ops import Store, tiers_of, traits_of
from keyguard.stores.memory import MemoryStore

_MEMORY = 32 * 1024 * 1024


def ledger_store(store: Store, *, manual: ManualClock | None = None, make: bool = True) -> Store | None:
    """Return the store of the ledger that lies beside a store.

    With `make=False` it is `None` if there cannot be one yet: nothing is made for whoever only reads. Raises
    `ConfigurationError` for a store that keeps limits alone.
    """
    behind = list(tiers_of(store))[-1]
    traits = traits_of(behind)
    if traits.beside is not None:
        return traits.beside(make)
    if not traits.holds_values:
        raise ConfigurationError(
            f"{store!r} keeps limits alone: tell where the ledger is to lie, as in Usage(store='sqlite:///usage.db')"
        )
    if traits.near:
        return MemoryStore(_MEMORY, clock=manual) if make else None
    return behind
