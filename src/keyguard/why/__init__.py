"""Why a caller is refused: what keyguard knows of it, as data and in sentences. No store is read here."""

from __future__ import annotations

from keyguard.why.diagnosis import (
    Agreement,
    BanState,
    Counts,
    Diagnosis,
    KeyState,
    LimitReport,
    RefusedFor,
    Spent,
)
from keyguard.why.requests import RequestReport

__all__ = [
    "Agreement",
    "BanState",
    "Counts",
    "Diagnosis",
    "KeyState",
    "LimitReport",
    "RefusedFor",
    "RequestReport",
    "Spent",
]
