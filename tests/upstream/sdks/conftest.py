"""Former versions of clients, which cannot be installed beside the present ones."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

ROOT = Path(__file__).resolve().parents[3]
OUTSIDE = dict(os.environ)
"""What is set where tests are started."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the first certificate of all that HTTP clients trust."""
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    end = "-----END CERTIFICATE-----\n"
    file.write_text(certifi.contents().partition(end)[0] + end)
    return file


@pytest.fixture(autouse=True)
def _few_certificates(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each client load one: providers here speak without TLS, and all of them take longer than the story."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))


@pytest.fixture(scope="session")
def former(pytestconfig: pytest.Config) -> Callable[..., str]:
    """Run the story in another process, with packages of former versions before all others; return what it prints.

    They are kept in pytest's cache.
    """
    cache = pytestconfig.cache
    assert cache is not None

    def run(packages: list[str], names: list[str]) -> str:
        folder = cache.mkdir("former-sdks") / "-".join(packages).translate(str.maketrans("=<>,*", "_____"))
        _install(folder, packages)
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "src"), str(ROOT)])}
        command = [sys.executable, "-m", "tests.upstream.sdks.story", *names]
        ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=250)
        assert ran.returncode == 0, ran.stderr[-3000:]
        return ran.stdout

    return run


def _install(folder: Path, packages: list[str]) -> None:
    whole = folder / ".whole"
    with open(f"{folder}.lock", "w") as lock:  # pytest may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if whole.exists():
            return
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder)]
        subprocess.run([*command, *packages], check=True, timeout=250, stdout=sys.stderr, env=OUTSIDE)
        whole.touch()
