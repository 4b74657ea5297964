"""How a Redis is named, and how one signs in: schemes, TLS everywhere, passwords that change, and mistakes in words."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

import keyguard
from keyguard import ConfigurationError, StoreBusy, StoreError
from keyguard.ops import Demand, Put, Read, Take
from keyguard.rates import window
from keyguard.stores import open_store
from keyguard.stores.redis import RedisStore
from tests.support.servers import Proxy, RedisCluster, RedisServer, Sentinel, wait_until

HOUR = window(1000, 3_600_000_000, "1000/hour")


def left(store: Any, world: str, caller: str = "x") -> int:
    """Take one unit, and say how many are left. A busy machine may take long to connect: it is asked again then."""
    ends = time.monotonic() + 30
    while True:
        try:
            return _left(store, world, caller)
        except StoreBusy:
            assert time.monotonic() < ends


def _left(store: Any, world: str, caller: str) -> int:
    take = Take([Demand("d", f"rl:urls|{caller}", HOUR)])
    if world == "threads":
        return int(store.execute([take])[0].takings[0][2])

    async def story() -> int:
        try:
            return int((await store.aexecute([take]))[0].takings[0][2])
        finally:
            await store.aclose()

    return asyncio.run(story())


class Tls:
    """An authority, its certificate in a file, and what a server shows."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self.context)
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
        self.other = folder / "other.pem"


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path)


# -- other names for the same ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["valkey", "redis", "VALKEY"])
def test_valkey_is_read_as_redis(scheme: str, valkey: RedisServer) -> None:
    store: Any = open_store(f"{scheme}://127.0.0.1:{valkey.port}/0?namespace={scheme}&timeout=1")
    assert left(store, "threads") == 999
    store.close()


@pytest.mark.parametrize("scheme", ["unix", "redis+unix", "valkey+unix", "redis+socket"])
def test_sockets_are_read_by_each_of_their_names(scheme: str, tmp_path: Path) -> None:
    with RedisServer("valkey", "--unixsocket", str(tmp_path / "s")):
        store: Any = open_store(f"{scheme}://{tmp_path}/s?db=1&timeout=1")
        assert left(store, "threads") == 999
        store.close()


def test_valkeys_is_by_tls(tls: Tls, valkey: RedisServer) -> None:
    with Proxy(valkey.port, tls.context) as proxy:
        store: Any = open_store(f"valkeys://localhost:{proxy.port}/0?ssl_ca_certs={tls.ca}&namespace=tls&timeout=1")
        assert left(store, "threads") == 999
        store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+tls://h", "redis+tls:// is written rediss://"),
        ("redis+ssl://h", "is written rediss://"),
        ("redis-cluster://h", "is written redis+cluster://"),
        ("sentinel://h/s", "is written redis+sentinel://"),
        ("async+redis://h", "is written redis://"),
        ("valkeyz://h", "rediss+"),
    ],
)
def test_what_others_write_is_answered_with_what_to_write(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        open_store(url)
    assert words in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter@2secret@host:6379/0",
        "rediss://:hunter@2secret@host",
        "redis+cluster://user:hunter@2secret@a:1,b:2",
        "rediss+sentinel://user:hunter@2secret@a:1/s",
        "valkey://:hunter@2secret@host",
        "unix://user:hunter@2secret@/run/s",
    ],
)
@pytest.mark.parametrize("way", ["open_store", "RedisStore", "CLI"])
def test_an_at_sign_in_a_password_is_refused_without_being_shown(
    way: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if way == "CLI":
        from keyguard.cli import main

        assert main(["keys", "list", "--store", url]) != 0
        text = "".join(capsys.readouterr())
    else:
        with pytest.raises(ConfigurationError) as told:
            open_store(url) if way == "open_store" else RedisStore(url)
        text = str(told.value)
    assert "%40" in text
    assert "hunter" not in text
    assert "2secret" not in text


# -- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_cluster_by_tls(world: str, tls: Tls) -> None:
    """As managed ones are: every node is spoken to by TLS, also those that are learned of."""
    with RedisCluster() as cluster, ExitStack() as stack:
        proxies = [stack.enter_context(Proxy(node.port, tls.context)) for node in cluster.nodes]
        for node, proxy in zip(cluster.nodes, proxies, strict=True):
            node.ask("CONFIG", "SET", "cluster-announce-port", proxy.port)
        ports = {proxy.port for proxy in proxies}
        for node in cluster.nodes:  # they tell each other
            wait_until(lambda node=node: {slot[2][1] for slot in node.ask("CLUSTER", "SLOTS")} == ports, "new ports")
        url = f"rediss+cluster://127.0.0.1:{proxies[0].port}?ssl_ca_certs={tls.ca}&timeout=1"
        store: Any = open_store(url)
        assert {left(store, world, f"caller-{number}") for number in range(8)} == {999}
        assert all(proxy.accepted for proxy in proxies)
        store.execute([Put("k|1", b"x")])
        assert store.scan("k|") == [("k|1", b"x")]
        store.close()
        with pytest.raises(StoreError, match="certificate verify failed"):
            open_store(url.replace(str(tls.ca), str(tls.other))).execute([Read("k|1")])


class Naming:
    """Speaks like a sentinel that names one primary."""

    def __init__(self, port: int) -> None:
        self._primary = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        state = {"name": "mymaster", "ip": "127.0.0.1", "port": self._primary, "flags": "master"}
        words = [str(word) for pair in (state | {"num-other-sentinels": 0}).items() for word in pair]
        reply = f"*1\r\n*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        with client:
            while data := client.recv(65536):
                client.sendall(reply.encode() if b"MASTERS" in data.upper() else b"+OK\r\n" * data.count(b"*"))

    def __enter__(self) -> Naming:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_sentinels_and_their_server_by_tls(world: str, tls: Tls, valkey: RedisServer) -> None:
    with (
        Proxy(valkey.port, tls.context) as primary,
        Naming(primary.port) as naming,
        Proxy(naming.port, tls.context) as sentinel,
    ):
        url = f"rediss+sentinel://127.0.0.1:{sentinel.port}/mymaster/0?ssl_ca_certs={tls.ca}&timeout=1"
        store: Any = open_store(f"{url}&namespace=sentinel-{world}")
        assert left(store, world) == 999
        assert len(store.scan("rl:")) == 1
        assert (primary.accepted > 0, sentinel.accepted > 0) == (True, True)
        store.close()
        other: Any = open_store(url.replace(str(tls.ca), str(tls.other)))
        with pytest.raises(StoreError, match="no sentinel names a primary"):
            left(other, world)
        other.close()


def test_options_of_tls_are_checked_at_the_start(tmp_path: Path) -> None:
    for scheme in ("rediss", "rediss+cluster", "rediss+sentinel"):
        with pytest.raises(ConfigurationError, match="there is no file"):
            open_store(f"{scheme}://h?ssl_ca_certs={tmp_path}/none")
        with pytest.raises(ConfigurationError):
            open_store(f"{scheme}://h?ssl_nonsense=1")
    for scheme in ("redis", "redis+cluster", "redis+sentinel"):
        with pytest.raises(ConfigurationError, match="no option 'ssl_ca_certs'"):
            open_store(f"{scheme}://h?ssl_ca_certs=x")


# -- credentials from a function -----------------------------------------------------------------------------------


class Tokens:
    """A service that gives out passwords, each for one time of the server."""

    def __init__(self, servers: list[RedisServer]) -> None:
        self.servers = servers
        self.asked = 0
        self.number = 0
        self.renew()

    def renew(self) -> None:
        self.number += 1
        for server in self.servers:
            server.ask("ACL", "SETUSER", "iam", "on", "resetpass", f">token-{self.number}", "~*", "+@all")
            server.ask("CLIENT", "KILL", "USER", "iam")

    def __call__(self) -> tuple[str, str]:
        self.asked += 1
        return "iam", f"token-{self.number}"


@pytest.mark.parametrize("world", ["threads", "loop"])
@pytest.mark.parametrize("kind", ["plain", "cluster", "sentinel"])
def test_each_new_connection_asks_for_credentials(
    kind: str, world: str, valkey: RedisServer, cluster: RedisCluster
) -> None:
    with ExitStack() as stack:
        url, servers = valkey.url, [valkey]
        if kind == "cluster":
            url, servers = cluster.url, cluster.nodes
        elif kind == "sentinel":
            naming = stack.enter_context(Sentinel(valkey))
            url = f"redis+sentinel://127.0.0.1:{naming.port}/mymaster/0"
        tokens = Tokens(servers)
        store = RedisStore(url, namespace=f"iam-{kind}-{world}", timeout=1, credentials=tokens)
        assert left(store, world) == 999
        first = tokens.asked
        assert first >= 1
        tokens.renew()
        assert left(store, world) == 998
        assert tokens.asked > first
        assert len(store.scan("rl:")) == 1
        store.close()
        for server in servers:
            server.ask("ACL", "DELUSER", "iam")


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_function_that_fails_is_told_of_without_what_it_knows(world: str, valkey: RedisServer) -> None:
    def broken() -> str:
        raise RuntimeError("the secret is hunter2")

    async def later() -> str:
        return "x"

    store = RedisStore(valkey.url, timeout=1, credentials=broken)
    with pytest.raises(StoreError, match=r"the function for credentials failed \(RuntimeError\)") as told:
        left(store, world)
    assert "hunter2" not in str(told.value)
    store.close()
    wrong: Any = lambda: 3  # noqa: E731
    with pytest.raises(StoreError, match="returns a password, or a name and a password"):
        left(RedisStore(valkey.url, timeout=1, credentials=wrong), world)
    for never in ("token", later):
        with pytest.raises(ConfigurationError, match="plain function"):
            RedisStore(valkey.url, credentials=never)  # type: ignore[arg-type]
    for url in ("redis://:pw@h", "redis://h?password=pw", "redis+cluster://u:pw@h"):
        with pytest.raises(ConfigurationError, match="not both"):
            RedisStore(url, credentials=lambda: "x")


# -- what a connection is like, and what a server is ------------------------------------------------------------------


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_plain_url_to_a_cluster_says_what_to_write(world: str, cluster: RedisCluster) -> None:
    store: Any = open_store(f"redis://127.0.0.1:{cluster.nodes[0].port}?timeout=1")
    told = []
    for number in range(20):
        try:
            left(store, world, f"caller-{number}")
        except StoreError as error:
            told.append(str(error))
    assert told
    assert set(told) == {"Redis: this server is a node of a cluster: write redis+cluster:// in the store's URL"}
    store.close()


@pytest.mark.parametrize("world", ["threads", "loop"])
def test_connections_are_kept_alive(world: str, valkey: RedisServer) -> None:
    """Or a NAT forgets them, and whoever comes next waits for nothing."""
    store: Any = open_store(f"{valkey.url}?timeout=1&namespace=alive")
    if world == "threads":
        left(store, world)
        (connection,) = store._line._threads._idle
        sock = connection.socket._sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
    else:

        async def story() -> None:
            await store.aexecute([Read("k|1")])
            (pipe,) = [link._pipe for link in store._line._link("take").beside._pipes and [store._line._link("read")]]
            sock = pipe._transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
            await store.aclose()

        asyncio.run(story())
    store.close()


def test_a_package_without_its_scripts_fails_at_the_start(tmp_path: Path) -> None:
    """As PyInstaller, zipapps and the like make one."""
    source = Path(keyguard.__file__).parent
    subprocess.run(["cp", "-a", str(source), str(tmp_path / "keyguard")], check=True)
    (tmp_path / "keyguard/stores/redis/lua/take.lua").unlink()
    code = "import keyguard; keyguard.Keyguard(keyguard.RateLimit('1/hour', by='ip'), store='redis://127.0.0.1:1')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Lua scripts were left out" in done.stderr
    assert "take.lua" in done.stderr
