"""Every store means the same."""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme

from keyguard import ConfigurationError, StoreError, ops
from keyguard.cli import main
from keyguard.clock import Clock
from keyguard.ops import Op, Store
from keyguard.rates import smooth, window
from keyguard.rates.window import WindowLog as Window
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.stores.redis import RedisStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, Reference, check_store
from tests.support.servers import Postgres, Proxy, RedisCluster, RedisServer
from tests.support.transport import check_transport


def makers(folder: Path) -> dict[str, Callable[[Clock], Store]]:
    numbers = iter(range(100))
    return {
        "memory": lambda clock: MemoryStore(clock=clock),
        "sqlite": lambda clock: SQLiteStore(folder / f"{next(numbers)}.db", clock=clock),
    }


@pytest.mark.parametrize("name", ["memory", "sqlite"])
def test_the_conformance_suite(name: str, tmp_path: Path) -> None:
    check_store(makers(tmp_path)[name], steps=800)


@pytest.mark.parametrize(("server", "seed"), [("valkey", 1), ("redis6", 2)])
def test_the_conformance_suite_on_redis(server: str, seed: int, request: pytest.FixtureRequest) -> None:
    """The scripts mean what `apply` means, on Valkey 9 and on Redis 6.2. What a check wrote is gone afterwards."""
    started: RedisServer = request.getfixturevalue(server)
    check_store(RedisStore(started.url).scratch, steps=800, seed=seed)
    assert not started.ask("KEYS", "keyguard*:check-*")


def test_the_conformance_suite_on_a_cluster(cluster: RedisCluster) -> None:
    check_store(RedisStore(cluster.url).scratch, steps=350, compensates=True)


def test_the_conformance_suite_on_postgresql_by_the_command(
    postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{postgres.url}?schema=conformance"
    assert main(["store", "init", url]) == 0
    assert main(["store", "check", url, "--steps", "200"]) == 0, capsys.readouterr().out
    assert "means what every store means" in capsys.readouterr().out


def test_a_unix_socket(tmp_path: Path) -> None:
    with RedisServer("valkey", "--unixsocket", str(tmp_path / "s")) as server:
        assert server.process is not None
        check_transport(RedisStore(f"unix://{tmp_path}/s").scratch)


def test_tls_with_a_password_and_a_certificate_that_is_checked(tmp_path: Path) -> None:
    """A server that shows another certificate is not spoken to."""
    authority, other = trustme.CA(), trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    for name, ca in (("right", authority), ("wrong", other)):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    with RedisServer() as server, Proxy(server.port, context) as proxy:
        server.ask("ACL", "SETUSER", "kg", "on", ">pass word", "~*", "+@all")
        url = f"rediss://kg:pass%20word@localhost:{proxy.port}/0?ssl_ca_certs={tmp_path}"
        check_transport(open_store(f"{url}/right").scratch)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="certificate verify failed"):
            RedisStore(f"{url}/wrong", timeout=1).execute([ops.Read("k|1")])
        with pytest.raises(StoreError, match="invalid username-password") as caught:
            RedisStore(f"{url}/right".replace("20word", "20worse"), timeout=1).execute([ops.Read("k|1")])
        assert "worse" not in str(caught.value)


@pytest.mark.parametrize("password", ["", "kg:pw@"])
def test_tls_connections_are_closed_without_waiting_for_the_other_side(password: str, tmp_path: Path) -> None:
    """It may have gone: what is left to the garbage collector is a warning in whatever runs then."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    with RedisServer() as server, Proxy(server.port, context) as tls, Proxy(tls.port) as wire:
        server.ask("ACL", "SETUSER", "kg", "on", ">pw", "~*", "+@all")
        store = RedisStore(f"rediss://{password}localhost:{wire.port}/0?ssl_ca_certs={tmp_path}/ca", timeout=1)
        assert store.scan("") == []

        async def story() -> None:
            assert await store.aexecute([ops.Read("k|1")]) == [(None,)]
            wire.mode = "deaf"
            await store.aclose()

        asyncio.run(story())
        gc.collect()


class Doubled(Window):
    """A limit that the scripts do not know."""

    def take(self, state: bytes | None, now: int, cost: int) -> Any:
        return super().take(state, now, 2 * cost)


def test_an_operation_without_a_script_of_its_own_is_done_by_comparing(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url).scratch(ManualClock())
    take = ops.Take([ops.Demand("d", "rl:doubled|x", Doubled(5, 60_000_000, "5/minute"))])
    assert [store.execute([take])[0].refused for _ in range(4)] == [False, False, True, True]
    store.close()


class Logged(Window):
    """A limit that the scripts do not know, though they know its like."""


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_operations_without_a_script_are_done_in_order(world: str, valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, timeout=1, namespace=f"order-{world}")
    logged, known = Logged(3, 60_000_000, "3/minute"), window(3, 60_000_000, "3/minute")

    def take(cost: int, limit: Any, caller: str) -> ops.Take:
        return ops.Take([ops.Demand("d", f"rl:order|{caller}", limit, cost)])

    def left(wanted: list[Any]) -> list[Any]:
        if world == "threads":
            found = store.execute(wanted)
        else:

            async def story() -> list[Any]:
                try:
                    return await store.aexecute(wanted)
                finally:
                    await store.aclose()

            found = asyncio.run(story())
        return [one.takings[0][2] if isinstance(one, ops.Taken) else one for one in found]

    assert left([take(1, logged, "x"), take(0, logged, "x")]) == [2, 2]
    assert left([take(1, logged, "x"), take(1, known, "x"), take(0, logged, "x")]) == [1, 0, 0]
    assert left([take(1, logged, "a"), take(1, logged, "b"), take(1, logged, "a")]) == [2, 2, 1]
    # Scripts that the server does not know, among such as it does.
    for _ in range(2):
        valkey.ask("SCRIPT", "FLUSH")
        assert left([ops.Read("k|1")]) == [(None,)]
        assert left([ops.Put("k|1", b"x"), ops.Read("k|1"), ops.Put("k|1", None)]) == [True, (b"x",), True]
    store.clear()
    store.close()


def test_every_counter_has_a_time_to_live_and_ends_with_it(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="ttl", timeout=1)
    limits = [window(5, 200_000, "5/0.2 s"), window(50, 86_400_000_000, "50/day"), smooth("5/second", 3)]
    for place, limit in enumerate(limits):
        store.execute([ops.Take([ops.Demand("d", f"rl:{limit.code}|{place}", limit)])])
    ends = [valkey.ask("PTTL", name) for name in valkey.client().scan_iter("ttl:*")]
    assert len(ends) == 3
    assert all(0 < end <= 101_000_000 for end in ends)
    assert sorted(ends)[0] < 5_000
    store.clear()


def test_the_server_s_time_decides_whatever_the_clock_of_a_worker_says(valkey: RedisServer, monkeypatch: Any) -> None:
    """One worker's clock is ten minutes off: both see one window."""
    take = ops.Take([ops.Demand("d", "rl:skew|x", window(3, 60_000_000, "3/minute"))])
    right, wrong = (
        RedisStore(valkey.url, namespace="skew", timeout=1),
        RedisStore(valkey.url, namespace="skew", timeout=1),
    )
    right.execute([take])
    monkeypatch.setattr("time.time_ns", lambda: 0)
    monkeypatch.setattr("time.time", lambda: 0.0)
    outcomes = [wrong.execute([take])[0].refused for _ in range(3)]
    assert outcomes == [False, False, True]
    assert right.execute([take])[0].refused
    right.clear()


class Broken(Reference):
    """A store with one mistake."""

    def __init__(self, clock: Clock, mistake: str) -> None:
        super().__init__(clock)
        self.mistake = mistake

    def execute(self, batch: Sequence[Op[Any]]) -> list[Any]:
        results = []
        for op in batch:
            now = self.clock()
            if self.mistake == "whole seconds":
                now = now // 1_000_000 * 1_000_000
            before = dict(self.table)
            result = ops.run(op, self.table, now)
            if self.mistake == "no expiry":
                self.table = {key: (value, None) for key, (value, _) in self.table.items()}
            if self.mistake == "forgets the second key" and len(op.keys) > 1:
                self.table = {k: v for k, v in self.table.items() if k != op.keys[1]}
                self.table.update({k: v for k, v in before.items() if k == op.keys[1]})
            if self.mistake == "text":
                self.table = {k: (v.replace(b"\0", b""), end) for k, (v, end) in self.table.items()}
            results.append(result)
        return results

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        found = super().scan(prefix)
        if self.mistake == "lists no counters":
            found = [pair for pair in found if not ops.is_counter(pair[0])]
        return found[::-1] if self.mistake == "scans backwards" else found


@pytest.mark.parametrize(
    "mistake",
    ["whole seconds", "no expiry", "forgets the second key", "text", "scans backwards", "lists no counters"],
)
def test_the_conformance_suite_catches(mistake: str) -> None:
    with pytest.raises(AssertionError, match="expected"):
        check_store(lambda clock: Broken(clock, mistake), steps=300)


def test_the_reference_passes_its_own_suite() -> None:
    check_store(lambda clock: Broken(clock, "none"), steps=300)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis-nonsense://user:secret@host", "no store for the scheme 'redis-nonsense'"),
        ("redis://user:secret@host:port", "not a Redis URL"),
        ("redis+cluster://user:secret@host/3", "not a Redis URL"),
        ("redis+sentinel://user:secret@", "not a Redis URL"),
        ("redis://host?timeout=5", "from 0.01 to 1"),
        ("redis://host?namespace=a*", "holds none of"),
        ("redis://host?max_connections=0", "at least 1"),
        ("redis://host/0?timeot=0.1", "no option 'timeot'; it has namespace, timeout"),
        ("redis://host/0?socket_timeout=10", "no option 'socket_timeout'"),  # each of these would override ours
        ("redis://host/0?decode_responses=true", "no option 'decode_responses'"),
        ("redis://host/0?ssl_ca_certs=/ca", "no option 'ssl_ca_certs'"),
        ("rediss://host/0?ssl_nonsense=1", "unexpected keyword argument 'ssl_nonsense'"),
        ("rediss://host/0?ssl_ca_certs=/no/such/file", "ssl_ca_certs: there is no file /no/such/file"),
        ("redis://host/one", "not a Redis URL"),
        ("redis://host/1/2", "not a Redis URL"),
        ("redis://user:12/secret@host/0", "not a Redis URL"),
        ("unix://", "not a Redis URL"),
        ("redis+sentinel://host/service/0/1", "not a Redis URL"),
        ("redis+sentinel://host/service/1_0", "not a Redis URL"),
        ("redis://user:12#secret@host/0", "is written %23"),
        ("sqlite:///data#1.db", "is written %23"),
        (f"memory://?max_bytes={'9' * 5000}", "max_bytes is a number"),
        ("redis+sentinel://host/service?password=secret", "no option 'password'; it has .*sentinel_password"),
        ("redis+cluster://host?db=1", "no option 'db'"),
        ("postgresql://user:secret@host:port:x/db", "not a PostgreSQL URL"),
        ("postgresql://user:secret@host/db?nonsense=1", "not a PostgreSQL URL"),
        ("postgresql://host/db?schema=a-b", "letters, digits"),
        ("postgresql://host/db?timeout=0", "from 0.01 to 1"),
        ("sqlite://file.db", "three slashes"),
        ("sqlite:///", "not a file"),
        ("sqlite:///:memory:", "not a file"),
        ("sqlite:////no/such/folder/x.db", "cannot use"),
        ("sqlite:///x.db?timeout=soon", "timeout is a number"),
        ("sqlite:///x.db?timeout=0", "above 0"),
        ("sqlite:///x.db?timeut=1", "no option 'timeut'"),
        ("memory://name", "takes no name"),
        ("memory://?max_bytes=1_000_000", "max_bytes is a number"),
        ("memory://?max_bytes=10", "at least"),
        ("", "no store for the scheme"),
    ],
)
def test_a_wrong_url_stops_the_start(url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_a_store_object_is_taken_as_it_is_and_anything_else_refused() -> None:
    store = MemoryStore()
    assert open_store(store) is store
    with pytest.raises(ConfigurationError, match="unlike dict"):
        open_store({})  # type: ignore[arg-type]
