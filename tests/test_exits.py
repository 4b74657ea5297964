"""A server that is told to stop leaves nothing unclosed, unawaited or unfinished behind: Python would say so."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyguard.stores.postgres import PostgresStore
from tests.neighbours import ASGI_SERVERS, WSGI_SERVERS, served
from tests.servers import Postgres, RedisServer

pytestmark = pytest.mark.slow

STORES = ["memory", "sqlite", "redis", "postgresql"]
_COMPLAINTS = re.compile(
    r"ResourceWarning|RuntimeWarning|never awaited|never retrieved|Task was destroyed|Exception ignored|unclosed|"
    r"Traceback|Fatal Python error|leaked"
)
SERVERS = {
    **{f"{name}, asgi": (command, "whole_asgi") for name, command in ASGI_SERVERS.items()},
    **{f"{name}, wsgi": (command, "whole_wsgi") for name, command in WSGI_SERVERS.items()},
    "uvicorn without lifespan, asgi": ([*ASGI_SERVERS["uvicorn"], "--lifespan=off"], "whole_asgi"),
}


_FEW = ("uvicorn, ", "hypercorn-trio, ", "gunicorn, ", "gunicorn-gevent, ", "uwsgi, ")
CASES = [
    (name, kind)
    for name in SERVERS
    for kind in STORES
    if kind == "sqlite" or name.startswith(_FEW)
    if "trio" not in name or kind != "postgresql"  # which needs asyncio
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_nothing_is_left_behind(name: str, kind: str, tmp_path: Path, valkey: RedisServer, postgres: Postgres) -> None:
    command, app = SERVERS[name]
    urls = {
        "memory": "memory://",
        "sqlite": f"sqlite:///{tmp_path}/exit.db",
        "redis": valkey.url,
        "postgresql": postgres.url,
    }
    words = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "default::ResourceWarning,default::RuntimeWarning"}
    if kind == "postgresql":
        store = PostgresStore(postgres.url)
        store.migrate()
        store.close()
    with served(command, f"tests.served_neighbours:{app}", tmp_path, KEYGUARD_STORE=urls[kind], **words) as server:
        with ThreadPoolExecutor(8) as pool:
            for pause in (1.1, 0):
                statuses = list(pool.map(lambda number: server.get(f"/{number % 4}")[0], range(32)))
                assert set(statuses) == {200}, server.log
                time.sleep(pause)  # stale by the server's own clock then, and refreshed in the background
        log = server.stop(signal.SIGINT if "uvicorn" in name else signal.SIGTERM)
    found = [line for line in log.splitlines() if _COMPLAINTS.search(line)]
    assert found == [], log
