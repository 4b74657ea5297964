"""A browser for each module of tests: a real Chromium, which keeps the policy that pages are sent with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.servers import debian


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-extensions"]  # root has no sandbox
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=debian("chromium", "chromium"), args=flags)
        yield found
        found.close()
