"""Providers' own clients with a pool: one request a key, no retry behind it, and the client's own exceptions."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from keyguard import UpstreamCause
from keyguard.testing.provider import ErrorEvent
from tests.upstream.sdks.clients import SDKS
from tests.upstream.sdks.story import FORMS, TEXT, Row, a_pool, a_provider, seen

FORMER = {"openai": "1", "azure": "1", "openai responses": "1", "anthropic": "0"}
"""Clients, and the major version before that of which all changed."""


def check(row: Row) -> None:
    sdk = SDKS[row.sdk]
    exception = f"{sdk.module}.{sdk.exhausted}"
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
@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_an_error_as_an_event(name: str) -> None:
    """Before content another key answers; behind it the client raises its own exception."""
    sdk = SDKS[name]
    provider = a_provider(sdk)
    with provider.serving() as url:
        pool = a_pool(sdk, url)
        provider.script("sk-A", [ErrorEvent(UpstreamCause.EXHAUSTED)])
        assert sdk.plain(pool, url, True) == TEXT
        assert dict(provider.hits) == {"sk-A": 1, "sk-B": 1}
        provider.script("sk-B", [ErrorEvent(UpstreamCause.EXHAUSTED, after=2)])
        with pytest.raises(Exception, match=r"(?i)limit|exhausted|quota") as caught:
            sdk.plain(pool, url, True)
        assert type(caught.value).__module__.startswith(sdk.module)
        assert dict(provider.hits) == {"sk-A": 1, "sk-B": 2}
        pool.close()


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_former_versions(former: Callable[..., str]) -> None:
    rows = [Row(**row) for row in json.loads(former(["openai==1.*", "anthropic==0.*"], list(FORMER)))]
    assert [(row.sdk, row.version.partition(".")[0]) for row in rows[::4]] == list(FORMER.items())
    assert [(row.way, row.form) for row in rows] == FORMS * len(FORMER)
    for row in rows:
        check(row)
