"""Between the app and PostgreSQL stands a real PgBouncer, which gives each transaction any of its connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.postgres import PostgresStore
from tests.support.servers import PgBouncer, Postgres, wait_until
from tests.support.transport import check_transport

pytestmark = pytest.mark.slow

LIMIT = window(50, 3_600_000_000, "50/hour")
TAKE = Take([Demand("", f"rl:x:{LIMIT.code}|x", LIMIT)])

SESSION = (
    "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "search_path", "application_name",
    "default_transaction_isolation", "default_transaction_read_only", "client_encoding",
)  # fmt: skip


@pytest.fixture(scope="module")
def pooler(postgres: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(postgres, "default_pool_size = 2", "max_client_conn = 100") as started:
        yield started


def opened(url: str, schema: str, **settings: Any) -> PostgresStore:
    store = PostgresStore(url, schema=schema, **{"timeout": 1, **settings})
    store.migrate()
    return store


def test_a_store_means_the_same_through_a_pooler_of_transactions(pooler: PgBouncer) -> None:
    check_transport(PostgresStore(pooler.url).scratch, 60)


def test_others_find_nothing_of_ours_on_the_connections_that_they_get(postgres: Postgres, pooler: PgBouncer) -> None:
    def session(url: str) -> tuple[dict[str, str], int, int]:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None, application_name="other") as connection:
            found = {name: str(connection.execute(f"SHOW {name}").fetchone()) for name in SESSION}
            prepared = connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
            mine = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'"
            locks = connection.execute(mine).fetchone()
        assert prepared is not None
        assert locks is not None
        return found, prepared[0], locks[0]

    expected = session(postgres.url)
    assert expected[1:] == (0, 0)
    store = opened(pooler.url, "tidy")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: outcome(store), range(200)))
        store.scan("")
        assert list(pool.map(lambda _: session(pooler.url), range(8))) == [expected] * 8
    store.close()


def outcome(store: PostgresStore) -> str:
    try:
        return "refused" if store.execute([TAKE])[0].refused else "admitted"
    except StoreBusy:
        return "busy"


def test_exactly_as_many_as_the_limit_though_the_pooler_has_fewer_connections_than_we(pooler: PgBouncer) -> None:
    store = opened(pooler.url, "narrow", max_connections=20)
    with ThreadPoolExecutor(100) as pool:
        outcomes = list(pool.map(lambda _: outcome(store), range(400)))
    assert outcomes.count("admitted") == 50
    assert outcomes.count("refused") == 350

    async def story() -> int:
        found = await asyncio.gather(*[store.aexecute([TAKE]) for _ in range(100)])
        return sum(not results[0].refused for results in found)

    assert asyncio.run(story()) == 0
    store.close()


def test_a_pooler_that_takes_no_further_client_has_those_served_that_are_there(postgres: Postgres) -> None:
    with PgBouncer(postgres, "default_pool_size = 2", "max_client_conn = 3") as pooler:
        store = opened(pooler.url, "few", max_connections=20)
        wait_until(lambda: store.execute([TAKE]), "a connection")  # the one of `migrate` may still be counted
        with ThreadPoolExecutor(64) as pool:
            outcomes = list(pool.map(lambda _: outcome(store), range(300)))
        assert outcomes.count("admitted") <= 50
        assert outcomes.count("admitted") + outcomes.count("refused") == 300
        store.close()


def test_a_pooler_of_single_statements_cannot_be_used_and_the_first_connection_says_so(postgres: Postgres) -> None:
    opened(postgres.url, "statements").close()
    with PgBouncer(postgres, mode="statement") as pooler:
        store = PostgresStore(pooler.url, schema="statements", timeout=1)
        with pytest.raises(StoreError, match="transaction blocks not allowed in statement pooling mode"):
            store.execute([TAKE])
        store.close()


def test_a_pooler_that_is_restarted_loses_no_request(postgres: Postgres) -> None:
    with PgBouncer(postgres) as pooler:
        store = opened(pooler.url, "restarted")
        assert outcome(store) == "admitted"
        for _ in range(3):
            pooler.admin("RECONNECT")  # each connection to the server is closed when its transaction has ended
            postgres.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
                "AND pid <> pg_backend_pid() AND state = 'idle'"
            )
            wait_until(lambda: outcome(store) == "admitted", "the pooler to have noticed")
        store.close()


def test_a_url_of_a_pooler_is_opened_as_any_other(pooler: PgBouncer) -> None:
    store: Any = open_store(f"{pooler.url}?schema=opened&timeout=1")
    assert store.migrate() == (0, 1)
    assert not store.execute([TAKE])[0].refused
    store.close()
