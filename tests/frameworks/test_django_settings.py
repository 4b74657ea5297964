"""What `manage.py check` says, and `manage.py keyguard`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import Warning
from django.core.management import CommandError, call_command
from django.test.utils import override_settings

from keyguard import APIKeys, Keyguard, RateLimit, ResponseCache
from tests.support import django_site
from tests.support.django_site import OURS, site

CORS = "corsheaders.middleware.CorsMiddleware"
SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
LIMITED = Keyguard(RateLimit("2/minute", by="ip"), store="memory://")
CACHED = Keyguard(ResponseCache(), store="memory://")

CHECKS: dict[str, tuple[Keyguard, dict[str, Any], list[str]]] = {
    "all is well": (LIMITED, {}, []),
    "no middleware": (LIMITED, {"MIDDLEWARE": []}, ["keyguard.W003"]),
    "no guard": (LIMITED, {"KEYGUARD": None}, ["keyguard.E001"]),
    "a wrong path": (LIMITED, {"KEYGUARD": "no.such"}, ["keyguard.E001"]),
    "a wrong path, and no middleware": (LIMITED, {"KEYGUARD": "no.such", "MIDDLEWARE": []}, ["keyguard.E001"]),
    "neither": (LIMITED, {"KEYGUARD": None, "MIDDLEWARE": []}, []),
    "twice": (LIMITED, {"MIDDLEWARE": [OURS, OURS]}, ["keyguard.E003"]),
    "a cache inside of sessions": (CACHED, {"MIDDLEWARE": [SESSIONS, OURS]}, ["keyguard.E004"]),
    "sessions inside": (CACHED, {"MIDDLEWARE": [OURS, SESSIONS]}, []),
    "sessions, and no cache": (LIMITED, {"MIDDLEWARE": [SESSIONS, OURS]}, []),
    "a subclass": (LIMITED, {"MIDDLEWARE": ["tests.support.django_site.Extended"]}, []),
    "and the class": (LIMITED, {"MIDDLEWARE": [OURS, "tests.support.django_site.Extended"]}, ["keyguard.E003"]),
    "one that is not there": (LIMITED, {"MIDDLEWARE": [OURS, "no.such.Middleware"]}, []),
    "CORS inside": (LIMITED, {"MIDDLEWARE": [OURS, CORS]}, ["keyguard.W002"]),
    "CORS outside": (LIMITED, {"MIDDLEWARE": [CORS, OURS]}, []),
    "two that answer": (LIMITED, {"MIDDLEWARE": [OURS, "keyguard.django.RefusedMiddleware"]}, ["keyguard.W001"]),
}


@pytest.mark.parametrize("name", CHECKS)
def test_checks(name: str) -> None:
    from keyguard.django.checks import check_keyguard

    stack, settings, ids = CHECKS[name]
    with site(stack), override_settings(**settings):
        told = check_keyguard()
    assert [one.id for one in told] == ids
    for one in told:
        assert one.hint
        assert isinstance(one, Warning) or one.is_serious()


def test_the_command_works_on_the_project_s_own_store(tmp_path: Any) -> None:
    stack = Keyguard(APIKeys(prefix="acme"), store=f"sqlite:///{tmp_path}/keys.db")
    with site(stack), override_settings(INSTALLED_APPS=["keyguard.django"]):
        out = io.StringIO()
        call_command("keyguard", "keys", "issue", "--owner", "ada", "--json", stdout=out)
        key = json.loads(out.getvalue())["key"]
        assert key.startswith("acme_")
        assert django_site.ask("Client", "/view", x_api_key=key).status == 200
        with pytest.raises(SystemExit) as left:
            call_command("keyguard", "keys", "revoke", "nonsense")
        assert left.value.code == 1
    wrong = site(stack, KEYGUARD="no.such", INSTALLED_APPS=["keyguard.django"])
    with wrong, pytest.raises(CommandError, match="cannot be imported"):
        call_command("keyguard", "keys", "list")


def test_a_whole_project_with_admin_sessions_and_a_database() -> None:
    """In a process of its own: settings are configured once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.django_whole"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stdout + done.stderr
