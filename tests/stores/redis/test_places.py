"""Sentinels and clusters that cannot be used say why, to threads and under an event loop."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from keyguard import Keyguard, RateLimit, StoreError
from keyguard.cli import main
from keyguard.ops import Put, Read
from keyguard.stores import open_store
from keyguard.stores.redis import RedisStore
from keyguard.testing import check_store, play
from tests.support.every_store import store_of
from tests.support.servers import Proxy, RedisCluster, RedisServer, Sentinel, wait_until


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_a_listing_reads_what_it_lists_and_nothing_else(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read every cached response to list a few keys."""
    store = store_of(kind, request, tmp_path)
    pools = ["stack", "rc:1", "st", "a*[b]?\\^{c}", "aXb", "\udcff"]
    store.execute([Put(f"{pool}|{number}", b"a value") for pool in pools for number in range(3)])
    client = type(store._servers.client())
    read: list[bytes] = []
    get = client.get
    monkeypatch.setattr(client, "get", lambda self, name: (read.append(name), get(self, name))[1])
    for pool in pools:
        read.clear()
        assert store.scan(f"{pool}|") == [(f"{pool}|{number}", b"a value") for number in range(3)]
        assert store.scan(f"{pool}|2") == [(f"{pool}|2", b"a value")]
        assert len(read) == 4
    for begin, many in (("st", 6), ("rc:", 3), ("a*", 3), ("\udcff", 3), ("s*", 0)):
        read.clear()
        assert len(store.scan(begin)) == many
        assert len(read) == many
    store.execute([Put(key, b"a value") for key in (".dot|1", "}brace|1", "whole")])
    assert [len(store.scan(begin)) for begin in (".", ".d", "}b", "}brace|1", "wh", "whole|")] == [1, 1, 1, 1, 1, 0]
    assert len(store.scan("")) == 21


def test_a_listing_of_many_takes_few_trips_and_an_error_names_no_caller(valkey: RedisServer) -> None:
    with Proxy(valkey.port) as proxy:
        store = RedisStore(f"redis://127.0.0.1:{proxy.port}/0", namespace="many", timeout=1)
        store.execute([Put(f"k|{number:03d}", b"a value") for number in range(500)])
        before = proxy.replies
        assert [key for key, _ in store.scan("k|")] == [f"k|{number:03d}" for number in range(500)]
        assert proxy.replies - before < 100
        valkey.ask("SET", "many:c:{somebody}", "no hash")
        with pytest.raises(StoreError, match="Redis: WRONGTYPE") as caught:
            store.scan("rl:")
        assert "somebody" not in str(caught.value)
        store.clear()
        assert store.scan("") == []
        store.close()


def failure(url: str, world: str) -> str:
    """What an operation says; empty where it works."""
    store = open_store(f"{url}{'&' if '?' in url else '?'}timeout=1")

    async def ask() -> None:
        try:
            await store.aexecute([Read("k|1")])  # type: ignore[attr-defined]
        finally:
            await store.aclose()  # type: ignore[attr-defined]

    try:
        if world == "threads":
            store.execute([Read("k|1")])
        else:
            asyncio.run(ask())
    except StoreError as error:
        return str(error)
    finally:
        store.close()  # type: ignore[attr-defined]
    return ""


@pytest.fixture(scope="module")
def locked_sentinel() -> Iterator[Sentinel]:
    """The sentinel has one password, and the server that it watches another."""
    with RedisServer() as server, Sentinel(server) as sentinel:
        server.ask("CONFIG", "SET", "requirepass", "the-server-s")
        sentinel.ask("SENTINEL", "SET", "mymaster", "auth-pass", "the-server-s")
        sentinel.ask("ACL", "SETUSER", "default", "resetpass", ">the-sentinel-s")
        yield sentinel


@pytest.fixture(scope="module")
def sentinel(valkey: RedisServer) -> Iterator[Sentinel]:
    with Sentinel(valkey) as started:
        yield started


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_sentinels_have_passwords_of_their_own(world: str, locked_sentinel: Sentinel) -> None:
    url = f"redis+sentinel://:the-server-s@127.0.0.1:{locked_sentinel.port}/mymaster/0"
    own = "?sentinel_password=the-sentinel-s"
    wait_until(lambda: failure(url + own, world) == "", "the sentinel to reach its server")
    open_store(url + own).scan("")
    words = "invalid username-password pair or user is disabled."  # a busy sentinel may know no primary for a moment
    wait_until(lambda: failure(url.replace(":the-server-s", ":another") + own, world).endswith(words), "the sentinel")
    told = [
        failure(url, world),
        failure(url + own.replace("-s", "-x"), world),
        failure(url.replace(":the-server-s", ":another") + own, world),
        failure(url.replace("mymaster", "nobody") + own, world),
        failure(url.replace(str(locked_sentinel.port), "1") + own, world),
    ]
    assert [words.removeprefix("Redis: ") for words in told] == [
        "no sentinel names a primary for 'mymaster' (auth:AuthenticationError)",
        "no sentinel names a primary for 'mymaster' (auth:AuthenticationError)",
        "invalid username-password pair or user is disabled.",
        "no sentinel names a primary for 'nobody'",
        "no sentinel names a primary for 'mymaster' (network:ConnectionError)",
    ]


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_cluster_that_does_not_answer_says_what_it_said(
    world: str, valkey: RedisServer, cluster: RedisCluster
) -> None:
    assert "cluster support disabled" in failure(f"redis+cluster://127.0.0.1:{valkey.port}", world)
    assert "Connection refused" in failure("redis+cluster://127.0.0.1:1", world).replace(
        "Connect call failed", "Connection refused"
    )
    wrong = cluster.url.replace("//", "//nobody:wrong@")
    assert "invalid username-password pair" in failure(wrong, world)
    assert failure(cluster.url, world) == ""


@pytest.mark.parametrize("kind", ["plain", "sentinel", "cluster"])
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_process_may_open_any_number_of_connections_in_its_life(
    kind: str, world: str, valkey: RedisServer, sentinel: Sentinel, cluster: RedisCluster
) -> None:
    """After a hundred, as after 25 seconds without the server, a thread got none any more until the next restart."""
    places = {
        "plain": valkey.url,
        "sentinel": f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0",
        "cluster": cluster.url,
    }
    store = RedisStore(places[kind], timeout=1)

    async def ask_often() -> None:
        for _ in range(130):
            await store.aexecute([Read("k|1")])
            await store.aclose()

    if world == "loop":
        asyncio.run(ask_often())
    else:
        for _ in range(130):
            store.execute([Read("k|1")])
            store.close()


@pytest.mark.slow
def test_a_cluster_of_which_no_node_is_left_is_out_of_order() -> None:
    """It was said to be in order while each request was refused: each node alone concerns some keys only."""
    with RedisCluster() as nodes:
        stack = Keyguard(RateLimit("1000/minute", if_store_fails="refuse"), store=nodes.url)
        addresses = [f"192.0.2.{number}" for number in range(30)]
        assert {play(stack, client=address).status for address in addresses} == {200}
        for node in nodes.nodes:
            node.kill()
        for _ in range(2):
            assert {play(stack, client=address).status for address in addresses} == {503}
        assert (stack.health.ok, stack.health.partial) == (False, False)
        stack.store.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["valkey", "redis6"])
def test_a_user_with_the_rights_that_the_readme_names_can_do_everything(kind: str) -> None:
    readme = (Path(__file__).parents[3] / "docs" / "stores.md").read_text()
    rights = [
        word
        for quoted in re.findall(r"`((?:~keyguard:\* )?\+(?:scan|eval|select)[^`]*)`", readme)
        for word in quoted.split()
    ]
    assert rights[0] == "~keyguard:*"
    with RedisServer(kind) as server:
        server.ask("ACL", "SETUSER", "app", "on", ">pw", "resetchannels", "-@all", *rights)
        url, numbers = f"redis://app:pw@127.0.0.1:{server.port}/1", count()
        check_store(
            lambda clock: RedisStore(url, clock=clock, timeout=1, namespace=f"keyguard:{next(numbers)}"), steps=40
        )


@pytest.mark.parametrize("version", ["7.4.0", "9.0.0"])
def test_a_client_library_of_another_version_stops_the_start(version: str) -> None:
    script = (
        f"import redis\nredis.__version__ = '{version}'\n"
        "from keyguard.stores import open_store\nopen_store('redis://localhost')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ConfigurationError: this store needs more: pip install 'keyguard[redis]'" in done.stderr
    assert f"redis-py {version} is not version 8" in done.stderr


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for url in ("redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/mymaster"):
        assert main(["keys", "list", "--store", url]) == 1
        said = capsys.readouterr().err
        assert said.startswith("keyguard: error: Redis: ")
        assert said.count("\n") == 1
        assert len(said) < 200
