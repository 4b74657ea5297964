"""The ledger on each store: sums are those of the records, whatever is sent again, and whoever sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyguard import Usage, UsageReader
from keyguard.usage import ledger_store
from tests.support.every_store import SHARED, store_of
from tests.usage.records import Records, attached


@pytest.mark.parametrize("kind", SHARED)
def test_several_processes_write_one_ledger(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store = store_of(kind, request, tmp_path)
    records = Records(7)
    ledgers = [Usage() for _ in range(3)]
    sinks = [attached(usage, store) for usage in ledgers]
    for _ in range(4):
        for sink in sinks:
            for _ in range(50):
                sink(records.next())
        for usage in ledgers:
            usage.flush()
            assert usage.failure == ""
    beside: Any = ledger_store(store, make=False)
    assert beside is not store
    assert beside.timeout == 1.0
    reader = UsageReader(beside)
    assert len(reader.processes()) == 3
    records.check(reader)
    for usage in ledgers:
        usage.close()
    assert reader.processes() == ()
    assert reader.of().complete
    beside.close()
