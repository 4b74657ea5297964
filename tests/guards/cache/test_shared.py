"""The response cache on stores that processes share: what one stores another serves, and what one voids no other does.

A `Node` is a process: a stack of its own, with a store of its own, on one server. Time that the cache measures is a
test's clock; the store's is the server's.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyguard.guards.cache.entry import Entry, decode, encode
from keyguard.guards.cache.shared_ops import Purge, Purges
from keyguard.ops import Put
from keyguard.stores import open_store
from keyguard.testing import ManualClock
from tests.support.cached import HOST, SHARED, Node, Nodes, Trips, everything, run_op, store_url
from tests.support.servers import Postgres, wait_until

SECOND = 1_000_000


# -- what one stores another serves ------------------------------------------------------------------------------


def test_what_one_process_stores_another_serves(nodes: Nodes) -> None:
    one, two = nodes.pair()
    assert one.get()[1] == "fwd=uri-miss"
    body, how = two.get()
    assert (body, how) == (b"%s 1" % one.store_name, "hit")
    assert two.calls == 0
    answer = two.ask()
    assert answer.get("content-type") == "text/plain"
    assert len(answer.all("age")) == 1


def test_a_hit_is_one_trip_and_a_local_one_none(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = nodes.pair(local_ttl=1)
    one.get("/a")
    one.get("/b")
    two.get("/a")  # connections, scripts, the layout
    trips = Trips(monkeypatch, nodes.kind)
    expected = {"cluster": 4 if nodes.world == "wsgi" else 3}.get(nodes.kind, 1)
    if nodes.kind == "cluster":
        assert trips.of(lambda: two.get("/b")) <= expected  # what lies on several nodes is asked side by side
    else:
        assert trips.of(lambda: two.get("/b")) == 1
    assert trips.of(lambda: two.get("/b")) == 0
    nodes.later(0.9)
    assert trips.of(lambda: two.get("/b")) == 0
    nodes.later(0.2)
    assert trips.of(lambda: two.get("/b")) >= 1
    assert one.calls == 2
    assert two.calls == 0


def test_a_hit_of_a_response_that_varies_is_one_trip_from_the_second_time_on(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes.pair(local_ttl=0)
    one.fields.append(("Vary", "Accept-Language"))
    languages = ("de", "en", "fr")
    for language in languages:
        one.get(accept_language=language)
    assert two.get(accept_language="de")[1] == "hit"
    trips = Trips(monkeypatch, nodes.kind)
    counts = []
    for language in languages:
        counts.append(trips.of(lambda language=language: two.get(accept_language=language)))
    if nodes.kind == "cluster":
        assert max(counts) <= 4
    else:
        assert counts == [1, 1, 1]
    assert two.calls == 0


def test_variants_that_another_process_stored_are_found_while_one_is_held_here(nodes: Nodes) -> None:
    one, two = nodes.pair(local_ttl=60)
    one.fields.append(("Vary", "Accept-Language"))
    one.get(accept_language="de")
    one.get(accept_language="en")
    assert two.get(accept_language="de")[1] == "hit"
    assert two.get(accept_language="en")[1] == "hit"
    assert two.get(accept_language="de")[1] == "hit"
    assert two.calls == 0


def test_variants_of_one_url_do_not_push_each_other_out_of_the_first_level(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes.pair(local_ttl=60)
    one.fields.append(("Vary", "Accept-Language"))
    for language in ("de", "en"):
        one.get(accept_language=language)
    for language in ("de", "en"):
        two.get(accept_language=language)
    trips = Trips(monkeypatch, nodes.kind)
    assert trips.of(lambda: [two.get(accept_language=language) for language in ("de", "en", "de")]) == 0


def test_a_miss_takes_few_trips(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking, becoming the one that asks, and writing: as few as there can be, for the client waits for them."""
    (one,) = (nodes.node(),)
    one.get("/warm")
    trips = Trips(monkeypatch, nodes.kind)
    found = trips.of(lambda: one.get("/cold"))
    # On a cluster the nodes are asked side by side, and each counts: how many those are depends on the keys' slots.
    most = {"sqlite": 3, "postgres": 3, "valkey": 4, "redis6": 4, "cluster": 16}[nodes.kind]
    assert found <= most


def test_a_revalidation_serves_the_others_too(nodes: Nodes) -> None:
    one, two = nodes.pair(local_ttl=0)
    one.fields = two.fields = [("Cache-Control", "max-age=10"), ("ETag", '"v1"')]
    one.get()
    nodes.later(20)
    two.status = 304
    two.body = lambda node: b""
    answer = two.ask()
    assert (answer.status, answer.body) == (200, b"%s 1" % one.store_name)
    assert one.get() == (b"%s 1" % one.store_name, "hit")
    assert (one.calls, two.calls) == (1, 1)


def test_a_stale_entry_is_refreshed_by_one_process_and_served_by_both(nodes: Nodes) -> None:
    """RFC 5861, section 3: at once, and the background asks the app once."""
    one, two = nodes.pair(local_ttl=0)
    one.fields = two.fields = [("Cache-Control", "max-age=10, stale-while-revalidate=600")]
    old = one.get()[0]
    nodes.later(20)
    started, release = threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        release.wait(5)

    one.meanwhile = slow
    try:
        assert one.get() == (old, "hit")
        if nodes.world == "asgi":
            nodes.runner.run(asyncio.sleep(0.05))  # the loop has to run for what runs in the background
        started.wait(5)
        assert two.get() == (old, "hit")
        assert one.get() == (old, "hit")
    finally:
        release.set()

    def settle() -> None:
        if nodes.world == "asgi":
            nodes.runner.run(asyncio.sleep(0.01))

    wait_until(lambda: settle() or two.get()[0] != old, "the new entry")
    assert (one.calls, two.calls) == (2, 0)


# -- voiding ------------------------------------------------------------------------------------------------------


def by_purge_of_a_url(node: Node) -> None:
    node.stack.cache.purge(f"{HOST}/x")


def by_purge_of_a_path(node: Node) -> None:
    node.stack.cache.purge("/x")


def by_purge_of_a_tag(node: Node) -> None:
    node.stack.cache.purge(tag="t1")


def by_purge_all(node: Node) -> None:
    node.stack.cache.purge_all()


def by_post(node: Node) -> None:
    answer = node.ask("/x", "POST")
    assert answer.status == 200


VOIDING = [by_purge_of_a_url, by_purge_of_a_path, by_purge_of_a_tag, by_purge_all, by_post]
VOIDED = [
    (f"{kind}-{which}", VOIDING[(place + way) % len(VOIDING)])
    for place, kind in enumerate(SHARED)
    for which, ways in (("asgi", (0, 1, 2)), ("wsgi", (2, 3, 4)))
    for way in ways
]
"""Each way on each store, and in each world."""


@pytest.mark.parametrize(("nodes", "void"), VOIDED, indirect=["nodes"])
def test_what_one_process_voids_the_other_does_not_serve_after_local_ttl(
    nodes: Nodes, void: Callable[[Node], None]
) -> None:
    one, two = nodes.pair(local_ttl=1)
    one.fields.append(("Cache-Tag", "t1, t2"))
    one.get()
    assert two.get()[1] == "hit"
    void(one)
    two.fields.append(("Cache-Tag", "t1, t2"))
    nodes.later(1.1)
    calls = two.calls
    assert two.get()[1] != "hit"
    assert two.calls == calls + 1
    nodes.later(1.1)
    assert one.get() == (b"%s %d" % (two.store_name, two.calls), "hit")  # and what came after is served again


@pytest.mark.parametrize(("nodes", "void"), VOIDED, indirect=["nodes"])
def test_what_was_asked_before_it_was_voided_elsewhere_does_not_come_back(
    nodes: Nodes, void: Callable[[Node], None]
) -> None:
    """The request is on its way to the app of one process while another purges."""
    one, two = nodes.pair(local_ttl=1)
    other = Node(nodes.url, "wsgi", nodes.runner, nodes.clock, local_ttl=1)  # a thread may ask it, whatever runs here
    one.fields.append(("Cache-Tag", "t1"))
    one.meanwhile = lambda: void(other)
    one.get()
    assert two.get()[1] != "hit"
    one.meanwhile = lambda: None
    nodes.later(1.1)
    assert one.get()[0] != b"%s 1" % one.store_name
    other.close()


def test_other_tags_and_urls_stay(nodes: Nodes) -> None:
    one, two = nodes.pair(local_ttl=0)
    one.fields.append(("Cache-Tag", "t2"))
    one.get()
    one.stack.cache.purge(tag="t1")
    one.stack.cache.purge("/y")
    one.stack.cache.purge(f"{HOST}/x?a=1")
    one.stack.cache.purge("http://other.test/x")
    assert two.get()[1] == "hit"


def test_purges_are_bounded_and_what_is_not_remembered_counts_as_purged() -> None:
    log, version = b'[0,{"tx":5}]', (5).to_bytes(8, "little")
    assert not Purges(log, version, 9000).after(6, ["tx"])
    for now in range(10, 1210):
        _, ((_, log, _, _), (_, version, _, _)) = Purge([f"t{now}"]).apply([log, version], now)
    purges = Purges(log, version, 9000)
    assert len(purges.moments) == 1000
    assert len(log) < 50_000
    assert purges.after(209, ["tx"])
    assert not purges.after(210, ["tx"])
    assert purges.after(1209, ["t1209"])
    assert not purges.after(1209, ["t1208"])


def test_purges_that_the_store_forgot_void_what_is_older(nodes: Nodes) -> None:
    """A server that runs out of memory evicts what it likes: what was purged must not come back."""
    one, two = nodes.pair(local_ttl=0)
    one.get()
    one.stack.cache.purge("/x")
    run_op(one, Put("rc:purges|log", None))
    assert nodes.node(local_ttl=0).get()[1] != "hit"
    three = nodes.node(local_ttl=0)
    one.get("/y")
    one.stack.cache.purge("/y")
    run_op(one, Put("rc:purges|log", None))
    run_op(one, Put("rc:purges|v", None))
    assert three.get("/y")[1] != "hit"
    assert two.get("/y")[1] == "hit"  # what was stored since is served


def test_an_entry_whose_mark_the_store_forgot_is_not_used(nodes: Nodes) -> None:
    """So an invalidation that was evicted brings nothing back."""
    one, two = nodes.pair(local_ttl=0)
    one.get()
    one.stack.cache.purge(f"{HOST}/x")
    marks = [key for key, _, _ in everything(one.store) if key.endswith("|!")]
    assert len(marks) == 1
    run_op(one, Put(marks[0], None))
    body, how = two.get()
    assert (body, how) == (b"%s 1" % two.store_name, "fwd=uri-miss")
    assert one.get() == (body, "hit")


# -- what stands in the store ---------------------------------------------------------------------------------------


def test_variants_are_bounded_and_those_that_fall_off_are_deleted(nodes: Nodes) -> None:
    one, two = nodes.pair(max_variants=4)
    one.fields.append(("Vary", "Accept-Language"))
    for number in range(12):
        one.get(accept_language=f"x{number}")
    blobs = [key for key, _, _ in everything(one.store) if re.fullmatch(r"rc:[0-9a-f]+\|v.+", key)]
    late = one.guards[0].stats().errors  # a value whose deletion came too late leaves with its time to live
    assert 4 <= len(blobs) <= 4 + late
    assert two.get(accept_language="x11")[1] == "hit"
    assert two.get(accept_language="x0")[1] == "fwd=vary-miss"


def test_everything_has_a_time_to_live(nodes: Nodes, request: pytest.FixtureRequest) -> None:
    one, two = nodes.pair(max_variants=2)
    one.fields += [("Vary", "Accept-Language"), ("Cache-Tag", "t")]
    for number in range(4):
        one.get(accept_language=f"x{number}")
    by_post(one)
    one.stack.cache.purge("/z")
    one.stack.cache.purge(tag="t")
    one.stack.cache.purge(HOST + "/y")
    one.stack.cache.purge_all()
    one.status = 404
    one.fields = [("Cache-Control", "private")]
    one.ask("/private")
    two.ask("/private")
    found = everything(one.store)
    assert len(found) > 5
    day = 25 * 3600 * SECOND
    assert all(ttl is not None and 0 < ttl <= day for _, _, ttl in found), found
    if nodes.kind in ("valkey", "redis6", "cluster"):
        server = request.getfixturevalue(nodes.kind)
        servers = server.nodes if nodes.kind == "cluster" else [server]
        name = one.store.namespace
        ends = []
        for node in servers:
            ends += [node.ask("PTTL", key) for key in node.ask("KEYS", f"{name}:*")]
        assert len(ends) >= len(found)
        assert all(0 < end <= day // 1000 + 3_600_000 for end in ends)


SECRETS = ("s3cr3t-path", "s3cr3t-query", "s3cr3t-bearer", "s3cr3t-key", "s3cr3t-cookie", "s3cr3t-tag", "s3cr3t-host")


def test_no_url_and_no_credential_stands_in_the_store(nodes: Nodes) -> None:
    one = nodes.node(public=True)
    one.fields += [("Vary", "Authorization, X-API-Key, Cookie, X-Tenant"), ("Cache-Tag", SECRETS[5])]
    credentials = {
        "authorization": f"Bearer {SECRETS[2]}",
        "x_api_key": SECRETS[3],
        "cookie": f"session={SECRETS[4]}",
        "x_tenant": SECRETS[6],
    }
    target = f"/{SECRETS[0]}?q={SECRETS[1]}"
    assert one.get(target, **credentials)[1] == "fwd=uri-miss"
    assert one.get(target, **credentials)[1] == "hit"
    one.ask(target, "POST", **credentials)
    one.stack.cache.purge(target)
    one.stack.cache.purge(HOST + target)
    one.stack.cache.purge(tag=SECRETS[5])
    found = everything(one.store)
    assert len(found) > 3
    for key, value, _ in found:
        for secret in SECRETS:
            if secret == SECRETS[5] and "|v" in key:
                continue  # an entry's tags are the app's own words
            assert secret not in key
            assert secret.encode() not in value
            assert secret.encode().hex() not in key


def test_nobody_sees_half_an_entry(nodes: Nodes) -> None:
    """Three write the same URL with bodies of different sizes, each of one letter; readers look all the time."""
    sizes = {"a": 10, "b": 70_000, "c": 300_000}
    entries = {
        letter: Entry(200, (("X-Letter", letter), ("Cache-Control", "max-age=60")), received=0, age=0, lifetime=60,
                      body=letter.encode() * size, since=1)
        for letter, size in sizes.items()
    }  # fmt: skip
    node = nodes.node()
    wrong: list[Any] = []
    rounds = 20

    def write(letter: str) -> None:
        try:
            for _ in range(rounds):
                run_op(node, Put("rc:pool|vslot", encode(entries[letter]), 60 * SECOND))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in sizes]
    for thread in threads:
        thread.start()
    seen = set()
    writing = True
    while writing:
        writing = any(thread.is_alive() for thread in threads)  # the last look is at what they have left
        for key, value in node.store.scan("rc:pool|v"):
            entry = decode(value)
            assert entry is not None, key
            letter = entry.fields[0][1]
            assert entry.body == letter.encode() * sizes[letter]
            seen.add(letter)
    for thread in threads:
        thread.join()
    assert not wrong
    assert seen


def test_what_has_lapsed_leaves_a_postgresql_database(postgres: Postgres, request: pytest.FixtureRequest) -> None:
    with store_url("postgres", request, Path()) as url:
        clock = ManualClock()
        store: Any = open_store(url, clock)
        for number in range(60):
            store.execute([Put(f"rc:{number}|{part}", b"x", SECOND) for part in range(10)])
        clock.advance(10)
        table = f"{url.partition('schema=')[2].partition('&')[0]}.entries"

        def left() -> bool:
            for _ in range(50):
                store.execute([Put("rc:more|x", RANDOM.randbytes(4), 3600 * SECOND)])
            return bool(postgres.query(f"SELECT count(*) FROM {table}") == [(1,)])

        wait_until(left, "what has lapsed to leave")
        store.close()


# -- what others may have left there ----------------------------------------------------------------------------------

RANDOM = random.Random(7)
GARBAGE = [
    b"",
    b"\0",
    b"\1",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"x"',
    b"[1,2,3]",
    b'[["w"]]',
    b'[["w",["accept"],"x"]]',
    b"[[1,2,9e999]]",
    b'[0,{"*":"x"}]',
    b'["x",{}]',
    b"[" * 5000,
    b"\xff" * 8,
    b"\xff" * 100,
    b"\2\4\0\0\0\4\0\0\0nullbody",
    b"\2\2\0\0\0\0\0\0\0{}",
    b"\2\2\0\0\0\0\0\0\0[]",
    RANDOM.randbytes(1000),
]


@pytest.mark.parametrize("garbage", range(len(GARBAGE)))
def test_garbage_in_the_store_is_a_miss(garbage: int, request: pytest.FixtureRequest, runner: asyncio.Runner) -> None:
    with store_url("valkey", request, Path()) as url:
        nodes = Nodes("valkey", "wsgi", url, runner)
        one, two = nodes.pair(local_ttl=0)
        one.get()
        keys = [key for key, _, _ in everything(one.store)]
        for key in [*keys, "rc:purges|log", "rc:purges|v"]:
            for other in keys:
                run_op(one, Put(other, None))
            one.get()
            run_op(one, Put(key, GARBAGE[garbage], 60 * SECOND))
            answer = two.ask()
            assert answer.status == 200
            assert answer.body.startswith(b"n")
            assert two.ask("/x", "POST").status == 200
            two.stack.cache.purge("/z")
        for node in nodes.made:
            node.close()


def test_entries_of_another_version_or_cut_short_are_misses() -> None:
    entry = Entry(200, (("A", "b"),), received=5, age=0, lifetime=60, body=b"x" * 100, since=1)
    value = encode(entry)
    assert decode(value) is not None
    assert decode(bytes([value[0] + 1]) + value[1:]) is None
    head = value[: -len(entry.body)]
    for cut in range(len(value)):
        assert decode(value[:cut]) is None, cut
    for _ in range(3000):
        damaged = bytearray(value)
        damaged[RANDOM.randrange(len(head))] = RANDOM.randrange(256)
        found = decode(bytes(damaged))
        if found is not None:  # then it is one that can be used
            found.ttl(10)
            found.measure()
            assert found.since >= 0
