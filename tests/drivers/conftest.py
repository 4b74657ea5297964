"""Bridges between ASGI and WSGI, each in its turn."""

from __future__ import annotations

import pytest

from tests.support.neighbours import BRIDGES, Bridge


@pytest.fixture(params=list(BRIDGES))
def bridge(request: pytest.FixtureRequest) -> Bridge:
    return BRIDGES[request.param]
