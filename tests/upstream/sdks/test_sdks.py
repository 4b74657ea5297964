"""Providers' own clients with a pool: one request a key, no retry behind it, and the client's own exceptions."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.upstream.sdks.clients import SDKS
from tests.upstream.sdks.story import FORMS, TEXT, Row, seen

FORMER = {"openai": "1", "azure": "1", "openai responses": "1", "anthropic": "0"}
"""Clients, and the major version before that of which all changed."""


def check(row: Row) -> None:
    sdk = SDKS[row.sdk]
    module = {"google-genai": "google"}.get(sdk.package, sdk.package)
    exception = f"{module}.{sdk.exhausted}"
    assert (row.text, row.hits) == (TEXT, {"sk-A": 1, "sk-B": 1})
    assert (row.raised, row.status, row.exhausted_hits) == (exception, 429, {"sk-B": 1})
    assert (row.again, row.again_hits) == (exception, {})
    assert row.leaked == []


@pytest.mark.slow
@pytest.mark.parametrize(("way", "form"), FORMS)
@pytest.mark.parametrize("name", SDKS)
def test_a_client(name: str, way: str, form: str) -> None:
    check(seen(name, way, form))


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_former_versions(former: Callable[..., str]) -> None:
    rows = [Row(**row) for row in json.loads(former(["openai==1.*", "anthropic==0.*"], list(FORMER)))]
    assert [(row.sdk, row.version.partition(".")[0]) for row in rows[::4]] == list(FORMER.items())
    assert [(row.way, row.form) for row in rows] == FORMS * len(FORMER)
    for row in rows:
        check(row)
