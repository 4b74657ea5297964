"""API keys: their text, their record in the store, and how they are issued, rotated and revoked."""

from keyguard.keys.flows import IssuedKey
from keyguard.keys.format import Pepper, Peppers, PlainKey, new_key, parse_key
from keyguard.keys.importing import BrokenImport, ForeignKey, Imports
from keyguard.keys.record import KeyRecord, record_key
from keyguard.keys.registry import KeyRegistry

__all__ = [
    "BrokenImport",
    "ForeignKey",
    "Imports",
    "IssuedKey",
    "KeyRecord",
    "KeyRegistry",
    "Pepper",
    "Peppers",
    "PlainKey",
    "new_key",
    "parse_key",
    "record_key",
]
