"""Every Lua script and every SQL statement is held to its meaning: programs with one mistake each are all noticed.

The mistakes are made by rule from the files (`mutants.py`), so a script or a statement that is added has its own. Tried
are so many of each, evenly over the file and always the same. What is not noticed must change nothing that anybody
could see: `CHANGES_NOTHING` says by rule what that is.
"""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import re
import sqlite3
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import timedelta
from hashlib import sha1
from pathlib import Path
from random import Random
from typing import Any

import pytest

from keyguard.clock import SECOND, monotonic
from keyguard.errors import StoreError
from keyguard.ops import Authenticate, Demand, Put, Read, Renew, Settle, Take
from keyguard.rates import Slots, credits, quota, smooth, window
from keyguard.rates.strikes import Strikes
from keyguard.stores.redis import RedisStore, calls
from keyguard.stores.redis.demands import taken_of
from keyguard.stores.redis.scripts import script_of
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, Reference, check_store
from keyguard.testing.conformance.choosing import check_upstream, check_upstream_stories
from keyguard.testing.conformance.comparing import twins
from tests.support import mutants
from tests.support.other_times import check_other_times
from tests.support.servers import RedisServer

LUA = Path(calls.__file__).parent / "lua"
SCRIPTS = {str(path.relative_to(LUA)): path.read_text() for path in sorted(LUA.rglob("*.lua"))}
UPSTREAM = ("acquire.lua", "groups.lua", "learn.lua", "lessons.lua")
"""The scripts about upstream keys, which have a check of their own."""
STEPS = 300

CHANGES_NOTHING: list[tuple[str, str]] = [
    (
        r"\bslack\b|'PEXPIRE'",
        "for how long the server keeps a value beyond the expiry that stands in it: nobody reads it",
    ),
    (
        r"\bREMEMBERED\b|\bMOST\b",
        "how many decisions are known by their tokens, and for how long: more than are asked for",
    ),
    (r"if micros < \S+ then micros, ticks = ", "moments before 1970"),
    (r"if ticks < 1 then micros, ticks = ", "the same moment, a microsecond earlier and as many ticks more"),
    (r"if at > CALLED_OFF then", "what was called off is taken in the future, where nothing is given back"),
    (r"pack\('<I8I8', [01], micros\)|pack\('<I8I8i8', [01], till", "the place of an expiry that is written later"),
    (r"--> .*lives\[hash\] = list, 1$", "a microsecond more of a hash's life"),
    (r"local MOST_(SPENT|CREDITS)", "how much debt can be told: more than is asked for"),
    (r"quota.lua.* if till <=? now then return", "a state that has outlived the period for which it counts"),
    (r"quota.lua.*ending \+ now", "for how long the server keeps a value beyond the expiry that stands in it"),
    (r"--> .*#left > 9 ", "no state has nine bytes: one of eight is empty, and the next has sixteen"),
    (r"strikes.lua:.*#entry > 29", "no state of strikes has one byte: it has none, or twelve for each"),
    (r"strikes.lua:.*(or 1$|max\(1, time)", "the first microsecond of 1970"),
    (r"strikes.lua:.*back >= 0", "what is written again as it stood"),
    (r"settle.lua:\d+ \[.*\] +return [01] ", "a result that nobody reads"),
    (r"holds.lua.*local held = \{.*--> .*= 1[,}]", "the longest lease and the last number of nothing"),
    (r"holds.lua.*held.last \+ 1.*--> .*(count > 1|and 1|last \+ 2)", "a microsecond more of what nothing is held of"),
    (r"holds.lua.*--> .*(ending >= now \+|latest < now)", "what is written again as it stood, or for no time"),
    (r"holds.lua.*--> .*lives\[hash\] or 1", "a microsecond of a life"),
    (r"decisions.lua.*--> .*lives\[hash\] = list, 1", "a microsecond of a life"),
    (r"learn.lua.*return 2$", "a result that nobody reads"),
    (r"acquire.lua.*--> .*return place, 1 end", "the wait for a key that need not be waited for"),
    (r"acquire.lua.*--> .*-2", "what stands for none: any number below 0"),
    (r"renew.lua.*--> .*found = 2", "a truth value"),
    (r"--> .*at > CALLED_OFF", "undoing what was never taken, step by step and not at once, changes nothing"),
    (r"life = -floor\(-ahead / TICKS\) \+ ", "less than a microsecond of a life"),
    (r"--> .*if ticks < 1 then micros", "the same moment, written in another way"),
    (
        r"--> .*(newest >= now|moved or (entry|pack)|cost >= 1 then taken|ttl >= lives|m.when >= high)",
        "what is written again as it stood",
    ),
    (r"--> .*key <= \?", "no key ends with the last character that there is"),
    (r"_NEXT.*--> .*key >= \?", "a key that is tidied twice"),
    (r"_NEXT.*\[no order\]", "what is found by the index of keys comes in their order anyway"),
    (r"_DELETE_POOL.*--> .*key > \?", "no key consists of its pool alone"),
    (r"_TOUCH.*--> .*used <= \?", "what is written again as it stood"),
    (r"_OLDEST.*--> .*LIMIT 2", "one row is read of them"),
    (r"_OLDEST.*--> .*rowid DESC", "the order of those that were used in the same minute"),
]
"""Patterns of mutants, and why a mistake there is none."""


# -- Redis ------------------------------------------------------------------------------------------------------------


def limits() -> Iterator[Any]:
    yield window(5, 60 * SECOND, "5/minute")
    yield window(50, 60 * SECOND, "50/minute")
    yield smooth("5/minute", burst=5)
    yield smooth("50000/second", burst=9)
    yield quota("5/hour", tz="Asia/Kolkata")
    yield credits(5, refill=quota("5/hour"))


def check_lost_replies(server: RedisServer) -> None:
    """A decision that is sent twice is made once; called off, it is undone or never made."""
    make = RedisStore(server.url).scratch
    held = [window(5, 60 * SECOND, "5/minute"), Slots(6)]
    for limit, cost, apart, lease in [
        *itertools.product(limits(), (1, 2), (False, True), (0,)),
        *itertools.product(held, (2,), (False, True), (5 * SECOND,)),
    ]:
        clock = ManualClock()
        store = make(clock)
        demands = [Demand("d", f"rl:{limit.code}|a", limit, cost, lease)]
        if apart:
            demands.append(Demand("e", "rl:win7000000|b", window(50, 7 * SECOND, "50/7 seconds"), cost))
        take, asking = Take(demands), Take([Demand(d.name, d.key, d.limit, 0, holds=d.holds) for d in demands])

        def left(store: RedisStore = store, asking: Take = asking) -> list[int]:
            return [taking[2] for taking in store.execute([asking])[0].takings]

        def ask(call: Any, store: RedisStore = store) -> Any:
            return calls.checked(store._ask([call], monotonic() + 10)[0])

        whole = left()
        call = next(store._wire.plan(take))[0]
        first = taken_of(demands, ask(call))
        used = [units - cost for units in whole]
        clock.advance(0.000003)
        again = taken_of(demands, ask(call))
        assert not first.refused
        assert not again.refused
        assert [taking[2] for taking in again.takings] == left() == used or limit.text.startswith("50000")
        if lease:  # what was told again is found, as what was told first
            clock.advance(0.000003)
            assert store.execute([Renew(again), Renew(first)]) == [True, True]
        store.execute([take])
        before = left()
        clock.advance(0.000003)
        ask(call.sequel)
        assert left() == [min(units + cost, most) for units, most in zip(before, whole, strict=True)]
        ask(call.sequel)
        assert left() == [min(units + cost, most) for units, most in zip(before, whole, strict=True)]
        with suppress(StoreError):
            taken_of(demands, ask(call))
            raise AssertionError("what was called off was done")
        never = next(store._wire.plan(take))[0]
        before = left()
        ask(never.sequel)
        with suppress(StoreError):
            taken_of(demands, ask(never))
            raise AssertionError("what was called off beforehand was done")
        assert left() == before
        store.close()
    clock = ManualClock()
    store = make(clock)
    guess = [Demand("g", "guess:win60000000|a", window(5, 60 * SECOND, "5/minute"))]
    call = next(store._wire.plan(Authenticate("k|none", {0: b"d" * 32}, guess)))[0]
    for _ in range(3):
        assert calls.checked(store._ask([call], monotonic() + 10)[0])[0] == 0
    (asked,) = store.execute([Take([Demand("g", "guess:win60000000|a", guess[0].limit, 0)])])
    assert asked.takings[0][2] == 4, "sent three times, and it is one guess"
    store._ask([call.sequel], monotonic() + 10)
    (asked,) = store.execute([Take([Demand("g", "guess:win60000000|a", guess[0].limit, 0)])])
    assert asked.takings[0][2] == 5
    store.close()


def check_strikes(server: RedisServer) -> None:
    """Bans begin, end and grow to the microsecond, and what is kept of them is the same byte for byte."""
    make = RedisStore(server.url).scratch
    random = Random(7)
    for most, period, length, longest in ((2, 400, 100, 350), (33, 3200, 50, 50), (32, 3200, 50, 50)):
        clock = ManualClock()
        store, reference = make(clock), Reference(clock)
        limit = Strikes(most, period, "strikes", length, longest)
        asking = Take([Demand("d", "rl:ban:strikes|a", limit, 0)])
        spans = [0, 0, 1, 1, 2, -1, -40, length - 1, length, longest - 1, longest, longest + 1]
        spans += [99, 100, 101, 33, 33, period - 1, period, period - 50]
        # Strikes a period apart; two bans that follow each other; strikes that keep the state until the bans are
        # forgotten; strikes of one moment and of two.
        steps = [(0, 1), (1, 1), (period - 1, 1), (period, most + 1), (length, most + 1)]
        steps += [(2 * length, 1), (longest - 10, 1), (10, most), (2 * period, 1), (99, 1), (1, 1), (98, 1)]
        steps += [(random.choice(spans), random.choice([0, 1, 1, 1, most])) for _ in range(70)]
        for pause, strikes in steps:
            clock.advance(timedelta(microseconds=pause))
            op: Any = Settle(reference.execute([asking])[0], [strikes]) if strikes else asking
            expected, told = reference.execute([op, asking]), store.execute([op, asking])
            assert [taking[1:] for taking in told[1].takings] == [taking[1:] for taking in expected[1].takings]
            assert store.scan("rl:ban:") == list(reference.scan("rl:ban:"))
        store.close()


def check_server_time(server: RedisServer) -> None:
    """By the server's own clock, and what is kept ends with its time."""
    store = RedisStore(server.url, namespace=f"mutant{os.urandom(4).hex()}", timeout=1)
    try:
        limits = [window(50, 60 * SECOND, "50/minute"), window(5, 9 * SECOND, "5/9 seconds")]
        (taken,) = store.execute([Take([Demand("d", f"rl:{limit.code}|a", limit) for limit in limits])])
        assert abs(taken.at / SECOND - time.time()) < 60
        held = [Demand("d", "rl:held|a", limits[0], 1, lease=9 * SECOND)]
        call = next(store._wire.plan(Take(held)))[0]
        first, again = (taken_of(held, calls.checked(store._ask([call], monotonic() + 10)[0])) for _ in range(2))
        assert first.at + first.takings[0][1] == again.at + again.takings[0][1], "a hold ends when it ended"
        store.execute([Settle(first)])
        held = [Demand("d", "rl:slots:slots|b", Slots(2), 1, 90 * SECOND)]
        store.execute([Take([*held, Demand("e", "rl:win9000000|b", limits[1])])])
        store.execute([Put("k|ttl", b"x", 20 * SECOND)])
        assert store.execute([Read("k|ttl")]) == [(b"x",)]
        ends = sorted(server.ask("PTTL", name) for name in server.client().scan_iter(f"{store.namespace}:*"))
        assert len(ends) == 3  # the counters of one caller lie together
        assert 15_000 < ends[0] < 25_000
        assert 55_000 < ends[1] < 80_000
        assert 85_000 < ends[2] < 120_000
    finally:
        store.clear()
        store.close()


def check_operations(server: RedisServer) -> None:
    check_store(RedisStore(server.url).scratch, steps=STEPS)


def check_upstream_operations(server: RedisServer) -> None:
    with twins(RedisStore(server.url).scratch) as compared:
        check_upstream_stories(compared)
        check_upstream(compared, 800)


CHECKS = (check_server_time, check_other_times, check_lost_replies, check_operations, check_strikes)
"""What is quick comes first: a mistake is shown to one after the other, until it is noticed."""
VALUES = ("authenticate.lua", "put.lua", "read.lua", "swap.lua")
FIRST = {
    **dict.fromkeys(UPSTREAM, (check_upstream_operations,)),
    **dict.fromkeys(VALUES, (check_operations, *CHECKS)),
    "kinds/strikes.lua": (check_strikes, *CHECKS),
}


def wrong_with_redis(server: RedisServer, script: str = "") -> bool:
    """Whether a mistake is noticed."""
    try:
        for check in dict.fromkeys(FIRST.get(script, CHECKS)):
            check(server)
    except (AssertionError, StoreError, IndexError, TypeError, struct.error):
        return True
    return False


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A server of one's own: a mistake that does not end would hold up others."""
    with RedisServer() as server:
        yield server


def test_the_scripts_pass_as_they_are(own_redis: RedisServer) -> None:
    assert not wrong_with_redis(own_redis)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script(script: str, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = mutants.of_lua(script, SCRIPTS[script])
    assert len(made) >= (2 if script == "learn.lua" else 5)
    most = 9 if script in UPSTREAM else 11 if script in ("decisions.lua", "kinds/window.lua") else 7
    alive = []
    for mutant in mutants.sample(made, most):
        if not mutants.survivors([mutant], CHANGES_NOTHING):
            continue  # it costs a whole check
        texts = {**SCRIPTS, script: mutant.text}

        def text_of(name: str, texts: dict[str, str] = texts) -> tuple[bytes, bytes]:
            text = script_of(name, {file.removesuffix(".lua"): part.encode() for file, part in texts.items()})
            return text, sha1(text).hexdigest().encode()

        monkeypatch.setattr(calls, "script_text", text_of)
        if not wrong_with_redis(own_redis, script):
            alive.append(mutant)
        assert own_redis.ask("PING"), "it is not held up: what follows is noticed for its own mistake"
    assert mutants.survivors(alive, CHANGES_NOTHING) == ""


# -- SQLite -----------------------------------------------------------------------------------------------------------


def sqlite_statements() -> dict[str, tuple[Any, str, str]]:
    """By name: the module, the attribute, and the statement."""
    found = {}
    package = importlib.import_module(SQLiteStore.__module__.rpartition(".")[0])
    for place in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{place.name}")
        for name, value in vars(module).items():
            if isinstance(value, str) and re.match(r"\s*(SELECT|REPLACE|INSERT|DELETE|UPDATE)\b", value):
                found[f"{module.__name__.rpartition('.')[2]}.{name}"] = (module, name, value)
    return found


def check_room(folder: Path) -> None:
    """Cached responses stay within their bound; what was used leaves last, a pool as a whole; nothing else leaves."""
    clock = ManualClock()
    path = folder / f"room{os.urandom(4).hex()}.db"
    store = SQLiteStore(path, cache_bytes=1024 * 1024, clock=clock)
    try:
        store.execute([Put("k|key", b"kept"), Put("rc:purges|log", b"kept")])
        for table, pool in (("cached", "rc:tidy"), ("entries", "k|tidy")):
            for number in range(700):  # now and then what has lapsed is looked for
                store.execute([Put(f"{pool}|{number:03d}", b"x", SECOND if number % 2 else 7200 * SECOND)])
            clock.advance(2)
            assert len(store.scan(pool)) == 350
            for number in range(450):
                store.execute([Put(f"{pool}|zzz", str(number).encode(), 7200 * SECOND)])
            with closing(sqlite3.connect(path)) as connection:
                ((rows,),) = connection.execute(f"SELECT count(*) FROM {table} WHERE key LIKE '{pool}%'")
            assert rows == 351
        pools = [f"rc:{number:02d}" for number in range(30)]
        for pool in pools:
            store.execute([Put(f"{pool}|a", b"x" * 40_000, 3600 * SECOND), Put(f"{pool}|b", b"mark", 3600 * SECOND)])
            clock.advance(61)
            store.execute([Read(f"{pools[0]}|a", f"{pools[0]}|b")])
        there = {key for key, _ in store.scan("rc:")}
        kept = [pool for pool in pools if f"{pool}|a" in there]
        assert "rc:purges|log" in there
        assert store.execute([Read("k|key")]) == [(b"kept",)]
        assert kept[0] == pools[0], "it was used all the time"
        assert kept[1:] == pools[-len(kept) + 1 :], "of the others the latest"
        assert 10 <= len(kept) <= 26
        assert [f"{pool}|b" in there for pool in pools] == [pool in kept for pool in pools], "a pool leaves as a whole"
    finally:
        store.close()


def check_statements(folder: Path) -> None:
    numbers = itertools.count()
    made = os.urandom(4).hex()
    check_store(lambda clock: SQLiteStore(folder / f"{made}{next(numbers)}.db", 5.0, clock=clock), steps=400)


UPKEEP = {"_DELETE", "_TOUCH", "_BYTES", "_OLDEST", "_DELETE_POOL", "_NEXT"}
"""Statements that hardly any answer hangs on: their mistakes are shown to `check_room` first."""


def wrong_with_sqlite(folder: Path, name: str = "") -> bool:
    try:
        for check in (check_room, check_statements) if name in UPKEEP else (check_statements, check_room):
            check(folder)
    except (AssertionError, StoreError, IndexError, TypeError):
        return True
    return False


@pytest.mark.parametrize("statement", sqlite_statements())
def test_every_statement_of_sqlite(statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, text = sqlite_statements()[statement]
    all_made = mutants.of_sql(statement, text)
    assert len(all_made) >= 2
    alive = []
    for mutant in mutants.sample([one for one in all_made if mutants.survivors([one], CHANGES_NOTHING)], 3):
        monkeypatch.setattr(module, name, mutant.text)
        if not wrong_with_sqlite(tmp_path, name):
            alive.append(mutant)
    assert mutants.survivors(alive, CHANGES_NOTHING) == ""


def test_the_statements_of_sqlite_pass_as_they_are(tmp_path: Path) -> None:
    assert not wrong_with_sqlite(tmp_path)
