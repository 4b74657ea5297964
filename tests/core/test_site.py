"""The site is whole: its links lead somewhere, nothing on it comes from elsewhere, and all settings stand on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import settings_page
from tests.support.pages import PAGES, ROOT

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)")


def prose(path: Path) -> str:
    return re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "", path.read_text(), flags=re.S | re.M)


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", prose(path), re.M)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head.lower()).strip()) for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in LINK.findall(prose(PAGES[name])):
        if re.match(r"https?://", link):
            continue
        target, _, anchor = link.partition("#")
        path = (PAGES[name].parent / target).resolve() if target else PAGES[name]
        assert path.is_file(), f"{name}: {link}"
        assert not anchor or anchor in anchors(path), f"{name}: {link}"
        assert not name.startswith("docs/") or path.is_relative_to(ROOT / "docs"), f"{name}: {link} is not on the site"


def test_pictures_are_our_own_text() -> None:
    """But for two photographs, as it were, of the dashboard."""
    files = {path for path in (ROOT / "docs").rglob("*") if path.is_file()} - {*PAGES.values()}
    assert {path.name for path in files if path.suffix != ".svg"} == {"dashboard-key.png", "dashboard-overview.png"}
    for path in files:
        if path.suffix == ".png":
            assert path.stat().st_size < 150_000, path
        else:
            text = path.read_text()
            assert "<title" in text, f"{path} says nothing to those who do not see it"
            assert not re.search(r"(?:href|src)=|<script|url\((?!#)", text), path
        shown = rf"!\[[^\]]{{20,}}\]\([^)]*{path.name}\)" if path.suffix == ".png" else path.name
        assert any(re.search(shown, page.read_text()) for page in PAGES.values()), path


def test_all_settings_stand_on_the_site_with_their_units() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    seen = 0
    for cls in settings_page.classes():
        section = text.split(f"\n## {cls.__name__}\n")[1].split("\n## ")[0]
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `")]
        found: dict[str, tuple[str, str]] = {}
        for names, unit, _, meaning in rows:
            for name in re.findall(r"`(\w+)`", names):
                found[name] = (unit.strip(), meaning.strip())
        assert found.keys() == settings_page.settings_of(cls).keys(), cls.__name__
        assert all(unit and meaning for unit, meaning in found.values()), cls.__name__
        seen += len(found)
    assert {"RateLimit", "APIKeys", "Keyguard"} <= {cls.__name__ for cls in settings_page.classes()}
    assert seen > 90


def test_the_page_of_settings_is_that_of_the_docstrings() -> None:
    how = "write it anew: python -m tests.support.settings_page"
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page.page(), how


def test_every_page_stands_in_the_navigation_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = re.findall(r"^ +- (?:[^:\n]+: )?([\w/.-]+\.md)$", text, re.M)
    pages = [name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")]
    assert sorted(named) == sorted(pages)
