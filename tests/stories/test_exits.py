"""The life of each real server: what it tells an app of a request, and that nothing is left when it has stopped.

Names with an underscore are looked at in `test_field_names.py`, what names a caller in `test_cache_callers.py`, and
what each store by itself leaves behind in `test_exits_plain.py`.
"""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from keyguard.stores.postgres import PostgresStore
from tests.support.neighbours import ASGI_SERVERS, WSGI_SERVERS, Served, served
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
FOLD = ("wsgiref, wsgi", "granian, wsgi", "hypercorn, wsgi", "uwsgi, wsgi")
"""Servers that make one variable of two names."""

BOTH = b"GET / HTTP/1.1\r\nHost: x\r\nX-Mine: right\r\nX_Mine: forged\r\nX_Only: forged\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Life:
    """What was seen of a server that was started, asked for a while, and then told to stop."""

    name: str
    bodies: list[bytes]
    """What the app has seen of requests with names that differ in an underscore."""
    hits: list[bool]
    """Whether a page came from the cache each time."""
    named: tuple[int, str, dict[str, str]]
    """The answer to one more request for it, in whose fields a caller is named."""
    log: str


@pytest.fixture(scope="module")
def migrated(postgres: Postgres) -> str:
    store = PostgresStore(postgres.url)
    store.migrate()
    store.close()
    return postgres.url


@pytest.fixture(scope="module", params=SERVERS)
def life(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: RedisServer, migrated: str
) -> Life:
    name, folder = request.param, tmp_path_factory.mktemp("life")
    command, app = SERVERS[name]
    stores = ["memory://", f"sqlite:///{folder}/exit.db?timeout=5", f"{valkey.url}?timeout=1"]
    if "trio" in name:
        app = "asgi_on_trio"
    else:
        stores.append(f"{migrated}?timeout=1")  # which needs asyncio
    words = {
        "PYTHONDEVMODE": "1",
        "PYTHONMALLOC": "pymalloc",  # the mode's own looks for mistakes in C, and takes its time for that
        "PYTHONWARNINGS": "default::ResourceWarning,default::RuntimeWarning",
        "KEYGUARD_STORES": " ".join(stores),
    }
    with served(command, f"tests.support.served_exits:{app}", folder, **words) as server:
        bodies = [server.raw(BOTH).partition(b"\r\n\r\n")[2] for _ in range(3)]
        hits = ["hit" in server.get("/page?a=1")[2]["cache-status"] for _ in range(3)]
        named = server.get("/page?a=1", X_Forwarded_User="ada")
        use(server, [store.partition(":")[0] for store in stores])
        log = server.stop(signal.SIGINT if "uvicorn" in name else signal.SIGTERM)
    return Life(name, bodies, hits, named, log)


def use(server: Served, kinds: list[str]) -> None:
    """Ask for what these stores keep, several times at once."""
    paths = [f"/{kind}/{age}" for kind in kinds for age in ("fresh", "stale")]
    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(lambda path: server.get(path)[0], paths * 4))
        assert statuses <= {200, 503}, server.log  # a busy machine may be too late for a store
    for path in paths:
        wait_until(lambda path=path: server.get(path)[0] == 200, f"{path} to be answered")
    wait_until(lambda: "hit" in server.get(f"/{kinds[-1]}/fresh")[2].get("cache-status", ""), "a stored answer")


def test_no_app_sees_two_readings_of_a_field_or_the_log_says_so(life: Life) -> None:
    folds = life.name in FOLD
    assert folds or all(b"right" in body for body in life.bodies)
    assert all((b"forged" in body) == folds for body in life.bodies)
    assert life.log.count("makes one variable of X-Forwarded-For and X_Forwarded_For") == folds


def test_nothing_that_a_server_says_of_itself_names_a_caller(life: Life) -> None:
    """Where nobody is named, an answer is for everybody."""
    assert life.hits == [False, True, True], life.log
    status, body, fields = life.named
    assert status == 200
    assert "hit" not in fields["cache-status"]
    assert "ada" in body


def test_nothing_is_left_behind(life: Life) -> None:
    """A server that is told to stop leaves nothing unclosed, unawaited or unfinished behind: Python would say so."""
    assert [line for line in life.log.splitlines() if _COMPLAINTS.search(line)] == [], life.log
