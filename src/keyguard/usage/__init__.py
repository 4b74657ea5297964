"""The ledger of usage: what callers ask for and spend, written down by many processes, each request once."""

from __future__ import annotations

from keyguard.usage.asking import UsageReader
from keyguard.usage.place import ledger_store
from keyguard.usage.report import (
    ClientUse,
    KeyUse,
    ProcessInfo,
    RouteUse,
    RuleUse,
    SubjectUse,
    UsageBucket,
    UsageReport,
)
from keyguard.usage.this_process import host_name
from keyguard.usage.usage import Usage

__all__ = [
    "ClientUse",
    "KeyUse",
    "ProcessInfo",
    "RouteUse",
    "RuleUse",
    "SubjectUse",
    "Usage",
    "UsageBucket",
    "UsageReader",
    "UsageReport",
    "host_name",
    "ledger_store",
]
