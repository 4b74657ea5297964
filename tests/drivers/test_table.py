"""One table of requests goes through ASGI and WSGI, raw and in frameworks, and gets the same answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.frameworks import APPS
from tests.support.harness import Answer, ask_asgi, ask_wsgi
from tests.support.table import ROWS, Row, Stacks


def answers(row: Row, asgi: Any, wsgi: Any, *, lint: bool) -> tuple[Answer, Answer]:
    stacks = Stacks()
    one, other = stacks.pair(row.stack)
    asgi_app, wsgi_app = one.asgi(asgi), other.wsgi(wsgi)
    for ask in row.before:
        filled = stacks.fill(ask)
        assert ask_asgi(asgi_app, filled, lint=lint).status == ask_wsgi(wsgi_app, filled, lint=lint).status
    stacks.clock.advance(row.wait)
    filled = stacks.fill(row.ask)
    return ask_asgi(asgi_app, filled, lint=lint), ask_wsgi(wsgi_app, filled, lint=lint)


def check(row: Row, answer: Answer) -> None:
    assert answer.status == row.status, answer
    for name, value in row.has.items():
        assert answer.get(name) == value
    if row.cause is not None and row.ask.method != "HEAD":
        problem = json.loads(answer.body)
        assert (problem["cause"], problem["status"]) == (row.cause, row.status)
    if row.says is not None:
        assert row.says in answer.body.decode()
    if row.status >= 400:
        assert answer.get("cache-control") == "no-store"
        assert answer.get("set-cookie") is None
    if row.status != 429 and row.status != 503:
        assert answer.get("retry-after") is None


def test_the_table_is_large_enough_and_names_each_row_once() -> None:
    assert len(ROWS) >= 80
    assert len({(row.stack, row.name) for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.stack}: {row.name}")
def test_raw_apps_between_linters(row: Row) -> None:
    asgi, wsgi = APPS["raw"]
    one, other = answers(row, asgi, wsgi, lint=True)
    check(row, one)
    assert one == other  # status, header for header, body


@pytest.mark.parametrize("name", [name for name in APPS if name != "raw"])
def test_frameworks(name: str) -> None:
    asgi, wsgi = APPS[name]
    raw_asgi, raw_wsgi = APPS["raw"]
    for row in ROWS:
        one, other = answers(row, asgi or raw_asgi, wsgi or raw_wsgi, lint=False)
        check(row, one)
        one.headers.sort()
        other.headers.sort()
        assert one == other, f"{row.stack}: {row.name}"
