"""What real servers tell an app of a request: names with an underscore (`test_field_names.py`), and of themselves
nothing that names a caller (`test_cache_callers.py`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.neighbours import ASGI_SERVERS, WSGI_SERVERS, Served, served

BOTH = b"GET / HTTP/1.1\r\nHost: x\r\nX-Mine: right\r\nX_Mine: forged\r\nX_Only: forged\r\nConnection: close\r\n\r\n"


def nothing_said_of_itself_names_a_caller(server: Served) -> None:
    hits = ["hit" in server.get("/page?a=1")[2]["cache-status"] for _ in range(3)]
    named = server.get("/page?a=1", X_Forwarded_User="ada")
    assert hits == [False, True, True], server.log
    assert "hit" not in named[2]["cache-status"]
    assert "ada" in named[1]


@pytest.mark.parametrize("name", list(ASGI_SERVERS))
def test_no_asgi_server_s_app_sees_two_readings_or_a_name_where_nobody_is_named(name: str, tmp_path: Path) -> None:
    app = "told_asgi" if name.endswith("trio") else "told_bridged"
    with served(ASGI_SERVERS[name], f"tests.support.served_neighbours:{app}", tmp_path) as server:
        body = server.raw(BOTH).partition(b"\r\n\r\n")[2]
        assert b"right" in body
        assert b"forged" not in body
        nothing_said_of_itself_names_a_caller(server)
        assert "makes one variable" not in server.stop()


@pytest.mark.parametrize("name", list(WSGI_SERVERS))
def test_wsgi_servers_drop_such_names_or_the_log_says_that_they_fold(name: str, tmp_path: Path) -> None:
    """And they name nobody where nobody is named."""
    with served(WSGI_SERVERS[name], "tests.support.served_neighbours:told_wsgi", tmp_path) as server:
        bodies = [server.raw(BOTH).partition(b"\r\n\r\n")[2] for _ in range(3)]
        nothing_said_of_itself_names_a_caller(server)
        log = server.stop()
    folds = name in ("wsgiref", "granian", "hypercorn", "uwsgi")
    assert all((b"forged" in body) == folds for body in bodies)
    assert log.count("makes one variable of X-Forwarded-For and X_Forwarded_For") == folds
