"""The store of one machine: an SQLite file that its processes share."""

from keyguard.stores.sqlite.store import SQLiteStore as SQLiteStore

__all__ = ["SQLiteStore"]
