"""A WSGI body that nobody closes, and that Python finds as garbage in the midst of an operation on a store."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import Concurrency, Keyguard
from keyguard.drivers.wsgi.body import left
from keyguard.ops import Change, Op
from tests.support.harness import Ask


class Searching(Op[int]):
    """An operation during which Python searches for garbage."""

    __slots__ = ()

    def __init__(self) -> None:
        self.keys = ("searching|1",)

    def apply(self, old: Any, now: int) -> tuple[int, list[Change]]:
        return gc.collect(), []


def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return iter([b"some", b"more"])


def status_of(guarded: Any) -> tuple[str, Any]:
    heads: list[str] = []
    body = guarded(Ask("/").environ(), lambda status, fields, error=None: heads.append(status))
    next(iter(body))
    return heads[0], body


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/k.db"])
def test_it_is_closed_before_the_next_request(url: str, tmp_path: Path) -> None:
    """Its settlement waited for the lock that the operation held, in one thread: for ever."""
    guard = Keyguard(Concurrency(1, by="ip"), store=url.format(tmp_path))
    guarded = guard.wsgi(app)
    first, body = status_of(guarded)
    assert first == "200 OK"
    assert status_of(guarded)[0] == "429 Too Many Requests"
    circle = [body]
    circle.append(circle)  # type: ignore[arg-type]
    del body, circle
    store: Any = guard.store
    assert store.execute([Searching()])[0] > 0
    assert len(left) == 1
    again, body = status_of(guarded)
    assert (again, len(left)) == ("200 OK", 0)
    body.close()
    body = status_of(guarded)[1]
    del body  # left, and not in a circle: closed at once
    assert status_of(guarded)[0] == "200 OK"
