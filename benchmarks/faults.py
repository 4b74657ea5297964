"""The fault table: what callers see while a store fails in each way that the tests know, and how soon it is back.

    python benchmarks/faults.py

Eight threads ask through a key and a limit (`local`) while the fault lasts, with keys that the process has seen, and at
the end with one that it has not. What the machine itself stood still for is left out of the times.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.stores.postgres import test_faults as test_postgres_faults
from tests.stores.redis import test_faults as test_redis_faults
from tests.stores.sqlite import test_faults as test_sqlite_faults
from tests.support.faulty import Seen, Service
from tests.support.servers import Postgres, Proxy, RedisServer

from keyguard.stores.postgres import PostgresStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore


def row(name: str, service: Service, fault: Callable[[], AbstractContextManager[None]]) -> None:
    unknown = service.stack.keys.issue("stranger").key.reveal()
    service.warm()
    with fault():
        if isinstance(service.store, SQLiteStore):
            time.sleep(1.1)  # it looks once a second whether the file is still the same

        def some(_: int) -> list[Seen]:
            return [service.ask() for _ in range(40)]

        with ThreadPoolExecutor(8) as pool:
            answers = [seen for found in pool.map(some, range(8)) for seen in found]
        stranger = service.ask(unknown)
    took = service.recovers()
    statuses = Counter(f"{seen.status}{' ' + seen.cause if seen.cause else ''}" for seen in answers)
    waited = sorted(seen.seconds * 1000 for seen in answers)
    print(
        f"| {name} | {', '.join(f'{count} x {status}' for status, count in statuses.items())} | "
        f"{stranger.status} {stranger.cause} | {waited[len(waited) // 2]:.1f} / {waited[-1]:.0f} ms | {took:.2f} s |"
    )


def main() -> None:
    logging.disable()
    print("| fault | known keys | an unknown key | median / slowest | decided by the store again |")
    print("|---|---|---|---|---|")
    for name, fault in test_redis_faults.FAULTS.items():
        with RedisServer(persistent=True) as server, Proxy(server.port) as proxy:
            store = RedisStore(f"redis://127.0.0.1:{proxy.port}")
            row(f"Valkey: {name}", Service(store), lambda fault=fault, s=server, p=proxy: fault(s, p))
            store.close()
    for name, failing in test_postgres_faults.FAULTS.items():
        with Postgres("-c", "max_connections=20") as database, Proxy(database.port) as proxy:
            tables = PostgresStore(database.url.replace(f":{database.port}", f":{proxy.port}"))
            tables.migrate()
            row(f"PostgreSQL: {name}", Service(tables), lambda fault=failing, s=database, p=proxy: fault(s, p))
            tables.close()
    for name, broken in test_sqlite_faults.FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "store" / "keyguard.db"
            path.parent.mkdir()
            file = SQLiteStore(path)
            row(f"SQLite: {name}", Service(file), lambda fault=broken, path=path: fault(path))
            file.close()


if __name__ == "__main__":
    main()
