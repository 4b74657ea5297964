"""API keys: their text, their record in the store, and how they are issued, rotated and revoked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.lazy import on_demand

if TYPE_CHECKING:
    from keyguard.keys.flows import IssuedKey
    from keyguard.keys.format import Pepper, Peppers, PlainKey, new_key, parse_key
    from keyguard.keys.importing import BrokenImport, ForeignKey, Imports
    from keyguard.keys.record import KeyRecord, record_key
    from keyguard.keys.registry import KeyRegistry
else:
    __getattr__ = on_demand(
        __name__,
        {
            "flows": "IssuedKey",
            "format": "Pepper Peppers PlainKey new_key parse_key",
            "importing": "BrokenImport ForeignKey Imports",
            "record": "KeyRecord record_key",
            "registry": "KeyRegistry",
        },
    )

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
