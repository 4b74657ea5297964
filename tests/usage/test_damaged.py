"""Values of the ledger that nobody has written so."""

from __future__ import annotations

import pytest

from keyguard.ops.usage import UsageValue, is_later


@pytest.mark.parametrize(
    "value",
    [
        b'{"v":1,"w":{},"s":{"r":{"0":1}},"c":{}}',
        b'{"v":1,"w":{},"s":{"r":{"0":"q"}},"c":{}}',
        b'{"v":1,"w":{},"s":{"r":[]},"c":{}}',
        b'{"v":1,"w":{},"s":{},"c":{"x":{"y":"z"}}}',
        b'{"v":1,"w":{"a":7},"s":{},"c":{}}',
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_value_that_has_another_form_is_damaged(value: bytes) -> None:
    assert UsageValue.read(value) is None
    assert not is_later(value)
