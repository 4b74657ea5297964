"""A server that is told to stop leaves nothing unclosed, unawaited or unfinished behind: Python would say so."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keyguard.stores.postgres import PostgresStore
from tests.support.neighbours import ASGI_SERVERS, WSGI_SERVERS, served
from tests.support.servers import Postgres, RedisServer, wait_until

pytestmark = pytest.mark.slow

_COMPLAINTS = re.compile(
    r"ResourceWarning|RuntimeWarning|never awaited|never retrieved|Task was destroyed|Exception ignored|unclosed|"
    r"Traceback|Fatal Python error|leaked"
)
SERVERS = {
    **{f"{name}, asgi": (command, "asgi") for name, command in ASGI_SERVERS.items()},
    **{f"{name}, wsgi": (command, "wsgi") for name, command in WSGI_SERVERS.items()},
    "uvicorn without lifespan, asgi": ([*ASGI_SERVERS["uvicorn"], "--lifespan=off"], "asgi"),
}


@pytest.fixture(scope="module")
def migrated(postgres: Postgres) -> str:
    store = PostgresStore(postgres.url)
    store.migrate()
    store.close()
    return postgres.url


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_is_left_behind(name: str, tmp_path: Path, valkey: RedisServer, migrated: str) -> None:
    """Each store by itself is looked at in `test_exits_plain.py`."""
    stores = [f"{valkey.url}?timeout=1"]
    if "trio" not in name:
        stores.append(f"{migrated}?timeout=1")  # which needs asyncio
    log = log_of_a_life(name, tmp_path, ["memory://", f"sqlite:///{tmp_path}/exit.db?timeout=5", *stores])
    assert [line for line in log.splitlines() if _COMPLAINTS.search(line)] == [], log


def log_of_a_life(name: str, folder: Path, stores: list[str]) -> str:
    """Return what a server writes that is asked for a while, and then told to stop."""
    command, app = SERVERS[name]
    kinds = [store.partition(":")[0] for store in stores]
    words = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "default::ResourceWarning,default::RuntimeWarning"}
    with served(
        command, f"tests.support.served_exits:{app}", folder, KEYGUARD_STORES=" ".join(stores), **words
    ) as server:
        paths = [f"/{kind}/{age}" for kind in kinds for age in ("fresh", "stale")]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(2):
                statuses = set(pool.map(lambda path: server.get(path)[0], paths * 4))
                assert statuses <= {200, 503}, server.log  # a busy machine may be too late for a store
        for path in paths:
            wait_until(lambda path=path: server.get(path)[0] == 200, f"{path} to be answered")
        wait_until(lambda: "hit" in server.get(f"/{kinds[-1]}/fresh")[2].get("cache-status", ""), "a stored answer")
        return server.stop(signal.SIGINT if "uvicorn" in name else signal.SIGTERM)
