"""Redis fails in every way we could make it fail. The invariant is written once, in `Service.check`: no caller is
blamed, nobody waits longer than 150 ms, every refusal says when to come again; and it recovers within a second."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import pytest

from keyguard.ops import Demand, Take
from keyguard.rates import window
from keyguard.stores.redis import RedisStore
from keyguard.stores.redis.pulse import GRACE
from tests.support.faulty import (
    Service,
    admitted_by_processes,
    flood,
    in_children,
    killed,
    proxied,
    soon,
    survived_by_a_loop,
)
from tests.support.servers import Proxy, RedisCluster, RedisServer, Sentinel, wait_until

pytestmark = pytest.mark.slow  # real servers, and what they need to start, stop and be waited for


@pytest.fixture(scope="module")
def started() -> Iterator[RedisServer]:
    with RedisServer(persistent=True) as server:
        yield server


@pytest.fixture
def server(started: RedisServer) -> RedisServer:
    """As if it were new: who was there has gone, and what was stored too."""
    for words in ("CLIENT KILL TYPE normal SKIPME yes", "FLUSHALL", "SCRIPT FLUSH"):
        started.ask(*words.split())
    return started


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as started:
        yield started


@pytest.fixture
def service(proxy: Proxy) -> Iterator[Service]:
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}")
    yield Service(store)
    store.close()


@pytest.fixture
def patient(proxy: Proxy) -> Iterator[Service]:
    """Where nobody waits for a store in vain: it has the time that a busy machine may need."""
    store = RedisStore(f"redis://127.0.0.1:{proxy.port}", timeout=1)
    yield Service(store)
    store.close()


# -- ways to fail: each a context in which the store is out of order ---------------------------------------------


@contextmanager
def stopped(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    """For longer than anybody has patience, as a machine does that swaps or moves."""
    server.signal(signal.SIGSTOP)
    ends = time.monotonic() + GRACE + 0.5
    try:
        yield
        time.sleep(max(0.0, ends - time.monotonic()))
    finally:
        server.signal(signal.SIGCONT)


@contextmanager
def out_of_memory(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    server.ask("CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction")
    try:
        yield
    finally:
        server.ask("CONFIG", "SET", "maxmemory", "0")


def replica(stale: str) -> Callable[[RedisServer, Proxy], AbstractContextManager[None]]:
    """It follows a primary that cannot be reached, and says what it has if it may be stale."""

    @contextmanager
    def following(server: RedisServer, proxy: Proxy) -> Iterator[None]:
        server.ask("CONFIG", "SET", "replica-serve-stale-data", stale)
        server.ask("REPLICAOF", "127.0.0.1", "1")
        try:
            yield
        finally:
            server.ask("REPLICAOF", "NO", "ONE")

    return following


@contextmanager
def locked_out(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    """The password is changed, and whoever was connected is thrown out."""
    admin = server.admin()
    admin.execute_command("CONFIG", "SET", "requirepass", "another one")
    admin.execute_command("AUTH", "another one")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    try:
        yield
    finally:
        admin.execute_command("CONFIG", "SET", "requirepass", "")
        admin.close()


@contextmanager
def crowded(server: RedisServer, proxy: Proxy) -> Iterator[None]:
    """Others have taken all the connections there are."""
    admin = server.admin()
    admin.execute_command("CONFIG", "SET", "maxclients", "3")
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    others = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
    time.sleep(0.05)
    try:
        yield
    finally:
        for other in others:
            other.close()
        admin.execute_command("CONFIG", "SET", "maxclients", "1000")
        admin.close()


FAULTS = {
    "killed and restarted": killed,
    "stopped": stopped,
    "slow by 0.3 s": proxied("delay"),
    "replies lost": proxied("drop"),
    "connections reset": proxied("reset"),
    "replies cut": proxied("cut"),
    "half-closed": proxied("half-close"),
    "requests lost": proxied("deaf"),
    "out of memory": out_of_memory,
    "read-only": replica("yes"),
    "a stale replica": replica("no"),
    "password changed": locked_out,
    "no connections left": crowded,
}

READABLE = ("out of memory", "read-only")
"""There a key that is not known here yet can still be looked up, by the call that probes."""


@pytest.mark.parametrize("fault", list(FAULTS))
def test_threads(fault: str, server: RedisServer, proxy: Proxy, service: Service) -> None:
    unknown = service.stack.keys.issue("stranger").key.reveal()
    service.warm()
    with FAULTS[fault](server, proxy):
        service.hammered(8, 10, bursts=2)
        # A key that this process has seen goes on working; of one that it has not, nothing is known.
        assert service.check([service.ask()])[0].status == 200
        seen = service.check([service.ask(unknown)])[0]
        assert seen.status == 503 or (seen.status == 200 and fault in READABLE)
        health = service.stack.health
        assert not health.ok
        assert abs(time.time() - health.since.timestamp()) < 10
        assert seen.status == 200 or health.degraded["keys refused"] >= 1
    tries = service.recovers_in_time(lambda: FAULTS[fault](server, proxy))
    service.recovers(lambda: service.ask(unknown))
    assert service.stack.health.ok
    service.told_of_outages(tries)
    time.sleep(0.05)
    service.check([service.ask()])


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in ("out of memory", "a stale replica")])
def test_an_event_loop(fault: str, server: RedisServer, proxy: Proxy, service: Service) -> None:
    """Of the faults that a server tells of in words, one: they are read by the same code as in threads."""

    async def story() -> None:
        await survived_by_a_loop(service, FAULTS[fault](server, proxy))
        await service.store.aclose()

    asyncio.run(story())
    service.told_of_outages(1)


# -- what is survived without anybody noticing --------------------------------------------------------------------


def _scripts_flushed(server: RedisServer) -> None:
    server.ask("SCRIPT", "FLUSH")


def _clients_killed(server: RedisServer) -> None:
    server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def _restarted(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("what", [_scripts_flushed, _clients_killed, _restarted])
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_no_request_is_lost(what: Callable[[RedisServer], None], world: str, server: RedisServer) -> None:
    service = Service(RedisStore(server.url, timeout=1))  # on a busy machine connecting anew may take a while
    service.warm()
    used = service.used()
    if world == "threads":
        for _ in range(3):
            assert all(seen.told for seen in [service.ask() for _ in range(5)])
            what(server)
        assert service.ask().told
    else:

        async def story() -> None:
            for _ in range(3):
                answers, _ = await flood(service, 5, 1)
                assert all(seen.told for seen in answers)
                await asyncio.to_thread(what, server)
            assert (await service.aask()).told
            await service.store.aclose()

        asyncio.run(story())
    assert service.used() == used + 16
    assert service.news == []
    service.store.close()


def test_what_flushall_takes_away(server: RedisServer, patient: Service) -> None:
    """The store has forgotten everything: limits begin anew; keys are unknown, which a process knows in a second."""
    for _ in range(5):
        assert patient.ask().status == 200
    server.ask("FLUSHALL")
    asked = flushed = time.monotonic()
    while (status := patient.ask().status) != 401:
        assert status == 200
        assert asked < flushed + 1.0, "it was asked later than that, and the key was still good"
        time.sleep(0.05)
        asked = time.monotonic()


def test_while_it_loads_its_data_it_is_out_of_order() -> None:
    with RedisServer(persistent=True) as server:
        store = RedisStore(server.url)
        service = Service(store)
        client = server.client()
        client.mset({f"ballast{place}": "x" for place in range(30)})
        client.close()
        service.check([service.ask()])
        server.kill()
        server.command += ["--key-load-delay", "30000", "--loading-process-events-interval-bytes", "1024"]
        starting = threading.Thread(target=server.start)
        starting.start()
        refused = 0
        while starting.is_alive():
            refused += service.check([service.ask()])[0].told is False
            time.sleep(0.02)
        starting.join()
        assert refused > 5
        assert service.recovers() < soon()
        store.close()


# -- exactly once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reset", "cut", "drop", "delay", "half-close", "deaf"])
@pytest.mark.parametrize("world", ["threads", "loop"])
def test_a_lost_reply_is_not_charged(mode: str, world: str, proxy: Proxy, service: Service) -> None:
    """What the store says is used is what it was heard to admit: no reply that was lost has charged anybody."""
    told = 0

    def broken() -> None:
        proxy.mode, proxy.delay = mode, 0.15

    if world == "threads":
        for place in range(4):
            if place % 2:
                broken()
            told += service.check([service.ask()])[0].told
            proxy.mode = ""
            service.recovers()
            told += 1
        told += service.check([service.ask()])[0].told
    else:

        async def story() -> int:
            told = 0
            for place in range(2):
                if place % 2:
                    broken()
                answers, _ = await flood(service, 4, 1)
                told += sum(seen.told for seen in service.check(answers))
                proxy.mode = ""
                told += await _told_again(service)
            await asyncio.sleep(0.1)
            told += service.check([await service.aask()])[0].told
            await asyncio.sleep(0.1)
            await service.store.aclose()
            return told

        told = asyncio.run(story())
    wait_until(lambda: service.used() == told, f"{told} units to be used")


async def _told_again(service: Service) -> int:
    ends = time.monotonic() + 45
    while not service.check([await service.aask()])[0].told:
        assert time.monotonic() < ends, "not recovered"
        await asyncio.sleep(0.02)
    return 1


@pytest.mark.parametrize("mode", ["reset once", "cut once"])
def test_a_connection_that_breaks_once_costs_nothing_at_all(mode: str, proxy: Proxy, patient: Service) -> None:
    """The decision is made, its reply lost; it is sent again, and the token keeps it from being charged twice."""
    patient.warm()
    used = patient.used()
    for _ in range(10):
        proxy.mode = mode
        assert patient.ask().told
        assert proxy.mode == ""
        used += 1
        assert patient.used() == used
    assert patient.news == []


def test_a_request_that_was_cancelled_is_not_charged(proxy: Proxy, patient: Service) -> None:
    async def story() -> None:
        assert (await patient.aask()).told
        proxy.mode, proxy.delay = "delay", 0.05
        tasks = [asyncio.create_task(patient.aask()) for _ in range(10)]
        await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        proxy.mode = ""
        await asyncio.sleep(0.3)
        await patient.store.aclose()

    asyncio.run(story())
    wait_until(lambda: patient.used() == 1, "the charges to be undone")


# -- modes, exactness, forks ----------------------------------------------------------------------------------------


def test_what_happens_without_the_store_is_chosen() -> None:
    chosen = {"local": [200] * 5 + [503] * 15, "allow": [200] * 20, "refuse": [503] * 20}
    with RedisServer() as server:
        stores = {mode: RedisStore(server.url, namespace=mode, timeout=1) for mode in chosen}
        services = {mode: Service(store, {"if_store_fails": mode}, limit="5/hour") for mode, store in stores.items()}
        assert all(service.ask().told for service in services.values())
        server.kill()
        for mode, service in services.items():
            assert [seen.status for seen in service.check([service.ask() for _ in range(20)])] == chosen[mode], mode
            stores[mode].close()


def test_four_processes_admit_exactly_the_limit(valkey: RedisServer) -> None:
    """4 processes, 64 in flight each, against 1000: not one too many, and not one too few."""
    store = RedisStore(valkey.url, namespace="exact", timeout=1)
    take = Take([Demand("d", "rl:exact|x", window(1000, 3_600_000_000, "1000/hour"))])
    admitted = admitted_by_processes(store, take, tasks=64)
    assert admitted[0] <= 1000, "over-admission"
    assert admitted[-1] >= 1000
    store.clear()


def test_an_app_killed_between_charge_and_response_has_charged_once(valkey: RedisServer) -> None:
    """Nobody can know whether its client got the answer: the unit comes back with its window, not sooner or later."""
    store = RedisStore(valkey.url, namespace="killed", timeout=1)
    take = Take([Demand("d", "rl:killed|x", window(10, 3_600_000_000, "10/hour"))])
    for _ in range(3):
        child = os.fork()
        if not child:
            store.execute([take])
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
    assert store.execute([take])[0].takings[0][2] == 10 - 4
    store.clear()


def test_connections_do_not_cross_a_fork(valkey: RedisServer) -> None:
    """Children and parent go on with a store that was in use before the fork; each reply reaches who asked."""
    store = RedisStore(valkey.url, namespace="fork", timeout=1)
    take = Take([Demand("d", "rl:fork|x", window(1000, 3_600_000_000, "1000/hour"))])
    store.execute([take])

    def ask() -> None:
        for _ in range(50):
            store.execute([take])

    in_children(4, ask, ask)
    assert store.execute([take])[0].takings[0][2] == 1000 - 252
    store.clear()


# -- clusters and sentinels -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def replicated() -> Iterator[RedisCluster]:
    """Each test takes one node of it away."""
    with RedisCluster(replicas=True) as started:
        yield started


@pytest.mark.slow
def test_a_node_of_a_cluster_goes_down_and_its_replica_takes_over(replicated: RedisCluster) -> None:
    store = RedisStore(replicated.url, namespace="threads")
    service = Service(store)
    keys = [service.stack.keys.issue(f"customer {n}").key.reveal() for n in range(30)]

    def all_are_told() -> bool:  # the first one that is not ends it
        return all(service.check([service.ask(key)])[0].told for key in keys)

    wait_until(all_are_told, "the cluster")
    replicated.nodes[0].kill()
    during = service.check([service.ask(key) for key in keys * 3])
    # Callers whose counters live elsewhere are served as if nothing had happened.
    assert sum(seen.told for seen in during) >= len(during) // 3
    wait_until(all_are_told, "the replica", 20)
    store.close()


@pytest.mark.slow
def test_a_node_of_a_cluster_goes_down_under_an_event_loop(replicated: RedisCluster) -> None:
    service = Service(RedisStore(replicated.url, namespace="loop"))
    keys = [service.stack.keys.issue(f"customer {n}").key.reveal() for n in range(30)]

    async def ask_all() -> list[bool]:
        return [seen.told for seen in service.check(await asyncio.gather(*map(service.aask, keys)))]

    async def all_are_told(what: str) -> None:
        end = time.monotonic() + 20
        while not all(await ask_all()):
            assert time.monotonic() < end, what
            await asyncio.sleep(0.05)

    async def story() -> None:
        await all_are_told("the cluster does not answer")
        await asyncio.to_thread(replicated.nodes[1].kill)
        during = [told for _ in range(3) for told in await ask_all()]
        assert sum(during) >= len(during) // 3
        await all_are_told("the replica does not take over")
        await service.store.aclose()

    asyncio.run(story())
    service.store.close()


def test_right_keys_that_come_together_are_no_guesses(cluster: RedisCluster) -> None:
    """More of them than an address may guess: on a cluster each reserved a guess, and they refused each other."""
    service = Service(RedisStore(cluster.url, namespace="together", timeout=1))
    keys = [service.stack.keys.issue(f"customer {n}").key.reveal() for n in range(60)]

    async def story() -> list[int]:
        answers = await asyncio.gather(*map(service.aask, keys))
        wrong = [(await service.aask(key[:-7] + "0" * 7)).status for key in keys[:3]]
        await service.store.aclose()
        return [*{seen.status for seen in answers}, *wrong]

    assert asyncio.run(story()) == [200, 401, 401, 401]
    service.store.clear()
    service.store.close()


@pytest.mark.slow
def test_slots_move_while_requests_come(cluster: RedisCluster) -> None:
    """Every slot of one node moves to another and back, key by key, under traffic: nobody is refused for it."""
    store = RedisStore(cluster.url, namespace="moving")
    service = Service(store)
    keys = [service.stack.keys.issue(f"customer {n}").key.reveal() for n in range(20)]
    for key in keys:
        service.ask(key)
    answers = []
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            answers.extend(service.check([service.ask(key) for key in keys]))

    thread = threading.Thread(target=hammer)
    thread.start()
    clients = {node.port: node.admin() for node in cluster.nodes}
    ask = {port: client.execute_command for port, client in clients.items()}
    source, target, third = cluster.nodes
    slots = {ask[source.port]("CLUSTER", "KEYSLOT", name) for name in clients[source.port].scan_iter("moving*")}
    for source, target in ((source, target), (target, source)):  # noqa: B020
        for slot in slots:
            ask[target.port]("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
            ask[source.port]("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))
            while names := ask[source.port]("CLUSTER", "GETKEYSINSLOT", slot, 100):
                ask[source.port]("MIGRATE", "127.0.0.1", target.port, "", 0, 1000, "KEYS", *names)
            for node in (target, source, third):
                ask[node.port]("CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))
    time.sleep(0.3)
    done.set()
    thread.join()
    for client in clients.values():
        client.close()
    assert slots
    assert all(seen.status == 200 for seen in answers)
    assert all(seen.told for seen in service.check([service.ask(key) for key in keys]))
    store.clear()
    store.close()


@pytest.mark.slow
def test_a_sentinel_fails_over() -> None:
    with RedisServer() as primary, RedisServer("valkey", "--replicaof", f"127.0.0.1 {primary.port}") as replica:
        wait_until(lambda: replica.ask("ROLE")[3] == b"connected", "the replica")
        with Sentinel(primary) as sentinel:
            wait_until(lambda: sentinel.ask("SENTINEL", "REPLICAS", "mymaster"), "the sentinel to know the replica")
            url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0"
            threads, loop = (Service(RedisStore(url, namespace=world)) for world in ("threads", "loop"))
            assert all(service.check([service.ask()])[0].told for service in (threads, loop))
            wait_until(lambda: replica.client().dbsize() >= 4, "replication")
            primary.kill()

            async def story() -> None:
                end = time.monotonic() + 20
                while not loop.check([await loop.aask()])[0].told:
                    assert time.monotonic() < end
                    await asyncio.sleep(0.02)
                await loop.store.aclose()

            with ThreadPoolExecutor(1) as pool:
                found = pool.submit(wait_until, lambda: threads.check([threads.ask()])[0].told, "the new primary", 20)
                asyncio.run(story())
                assert found.result()
            for service in (threads, loop):
                service.store.close()
