"""What is released: the wheel holds the package, and the source archive all that is needed to work on it."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import keyguard

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    words = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_holds_all_of_the_package(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"keyguard-{keyguard.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        info = {name.rpartition("dist-info/")[2] for name in wheel.namelist()} - {""}
        metadata = wheel.read(f"keyguard-{keyguard.__version__}.dist-info/METADATA").decode()
    package = ROOT / "src" / "keyguard"
    files = {f"keyguard/{path.relative_to(package)}" for path in package.rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert any(name.endswith(".lua") for name in names)
    assert {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"} <= info
    assert f"\nVersion: {keyguard.__version__}\n" in metadata
    assert "# keyguard" in metadata


def test_the_source_archive_holds_tests_documentation_and_examples(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("src", "tests", "docs", "examples", "benchmarks", ".ci", ".github"):
        files = {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".db")
        }
        assert files
        assert files <= names, sorted(files - names)[:5]
    assert {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "mkdocs.yml"} <= names
    assert not [name for name in names if name.startswith(("site/", ".cache/", ".venv/")) or name.endswith(".pyc")]


def test_the_release_is_published_by_its_tag_alone_and_with_no_secret() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action) for action in used), "pin actions by their commit"
    assert "id-token: write" in text
    assert "secrets." not in text
    assert re.search(r'tags: \["v\*"\]', text)


def test_the_changelog_tells_of_this_version_and_security_of_its_fixes() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", keyguard.__version__)
    minor = keyguard.__version__.rpartition(".")[0]
    assert f"| {minor} | yes |" in (ROOT / "SECURITY.md").read_text()
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(keyguard.__version__)}|Unreleased)\]", text, re.M)
