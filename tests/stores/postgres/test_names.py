"""Whatever stands in schemas that others may write to, nothing of it runs as us (CVE-2018-1058 and its kind)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest

from keyguard.ops import Authenticate, CompareAndSet, Demand, Put, Read, ReadWithTime, Settle, Take
from keyguard.rates import window
from keyguard.stores.postgres import PostgresStore
from keyguard.stores.postgres import schema as schema_module
from tests.support.servers import Postgres

pytestmark = pytest.mark.slow

ROLE = "keyguard"
PLACES = {
    "public": "public, pg_catalog",
    "named like the role": '"$user", public, pg_catalog',
    "as it comes": '"$user", public',
}
FUNCTIONS = [
    "unnest(bigint[])", "unnest(bytea[])", "unnest(anyarray)", "set_config(text, text, boolean)", "clock_timestamp()",
    "pg_advisory_xact_lock(bigint)", "pg_advisory_xact_lock(integer)", "pg_try_advisory_xact_lock(bigint)",
    "extract(text, timestamptz)", "date_part(text, timestamptz)", "substring(bytea, integer, integer)",
    "substring(bytea, integer)", "substring(bytea, smallint)", "now()", "set_config(unknown, unknown, boolean)",
]  # fmt: skip
OPERATORS = [
    ("=", "bytea", "bytea", "boolean"), (">", "bytea", "bytea", "boolean"), ("<=", "bigint", "bigint", "boolean"),
    ("<=", "bigint", "integer", "boolean"), ("<=", "bigint", "smallint", "boolean"), ("=", "name", "text", "boolean"),
    ("=", "name", "name", "boolean"), ("=", "text", "text", "boolean"), ("*", "numeric", "integer", "numeric"),
    ("*", "numeric", "numeric", "numeric"), ("+", "bigint", "integer", "bigint"),
    ("=", "integer", "integer", "boolean"), ("=", "bigint", "bigint", "boolean"),
]  # fmt: skip
TYPES = ["bytea", "int8", "int4", "bigint", "integer", "name", "text", "boolean", "numeric"]
TABLES = ["pg_namespace", "entries", "counters", "decisions", "version", "unnest"]


@pytest.fixture(params=list(PLACES), scope="module")
def hostile(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A database in which somebody has left traps; each tells its name when it is stepped on."""
    with Postgres() as server:
        place = "public" if request.param == "public" else ROLE
        lines = ["CREATE SEQUENCE public.stepped", f"CREATE SCHEMA IF NOT EXISTS {place}"]
        boom = "LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stepped on a trap'; END $$"
        for function in FUNCTIONS:
            name, _, rest = function.partition("(")
            if "unknown" in rest:
                continue
            back = "anyelement" if "anyarray" in rest else "SETOF bigint" if name == "unnest" else "text"
            lines.append(f'CREATE FUNCTION {place}."{name}"({rest} RETURNS {back} {boom}')
        for number, (sign, left, right, back) in enumerate(OPERATORS):
            types = f"pg_catalog.{left}, pg_catalog.{right}".replace("pg_catalog.boolean", "boolean")
            types = types.replace("pg_catalog.bigint", "bigint").replace("pg_catalog.integer", "integer")
            types = types.replace("pg_catalog.smallint", "smallint")
            lines.append(f"CREATE FUNCTION {place}.trap{number}({types}) RETURNS {back} {boom}")
            one, other = types.split(", ")
            lines.append(
                f"CREATE OPERATOR {place}.{sign} (FUNCTION = {place}.trap{number}, LEFTARG = {one}, RIGHTARG = {other})"
            )
        lines += [f'CREATE DOMAIN {place}."{name}" AS pg_catalog.text CHECK (VALUE IS NULL)' for name in TYPES]
        lines += [f"CREATE TABLE {place}.{name} (trap pg_catalog.text)" for name in TABLES]
        with psycopg.connect(server.url) as connection:
            for line in [*lines, f"ALTER ROLE {ROLE} SET search_path = {PLACES[request.param]}"]:
                connection.execute(line)
        yield server


def test_no_trap_is_stepped_on(hostile: Postgres) -> None:
    """Each statement there is runs: migrations, decisions, purges, doubts, lists."""
    store = PostgresStore(hostile.url, schema="guarded", timeout=1)
    assert store.migrate() == (0, 1)
    assert store.migrate() == (1, 1)
    limit = window(100, 60_000_000, "100/minute")
    demand = Demand("", "rl:x:win60000000|a", limit)
    taken = store.execute([Take([demand])])[0]
    store.execute([Settle(taken), Put("k|a", b"1"), Put("k|b", b"2", 1)])
    assert store.execute([CompareAndSet({"k|a": b"1"}, {"k|a": None})]) == [True]
    assert store.execute([Read("k|a"), ReadWithTime("k|a")])[0] == (None,)
    assert store.execute([Authenticate("k|a", {0: b"d" * 32}, [demand])])[0].valid is False
    for number in range(50):  # until lapsed ones are deleted
        store.execute([*(Put(f"k|{number} {place}", b"1", 1) for place in range(10)), Take([demand])])
    assert store.execute([Put("k|c", b"3")]) == [True]
    assert ("k|c", b"3") in store.scan("k|")
    decisions = store._decisions
    assert decisions is not None
    assert not decisions._trouble
    store.close()


def test_purges_and_doubts_step_on_none_either(hostile: Postgres) -> None:
    """They run aside, and a failure of theirs is told to nobody: here each is run by itself."""
    store = PostgresStore(hostile.url, schema="aside", timeout=1)
    store.migrate()
    made = schema_module.statements("aside")
    words = {"start": b"", "now": 1, "length": 2, "places": [1], "wait": "1s", "lock": "1s", "idle": "1s"}
    words |= {"entries": [b"k"], "counters": [b"c"], "brief": "1s", "end": b"z", "most": 1}
    plain = {
        "wait": [[1, 2]], "remember": [b"t", 1], "call_off": [b"u"], "forget": [1],
        "wait_for_rows": [[b"k"]], "write": [[b"k"], [b"v"], [9]], "delete": [[b"k"]],
    }  # fmt: skip
    with psycopg.connect(hostile.url, autocommit=True) as connection:
        for name in made.__dataclass_fields__:
            found = getattr(made, name)
            for statement in found.values() if isinstance(found, dict) else [found]:
                connection.execute(statement, plain.get(name, words))


def test_each_name_in_a_statement_says_where_it_is_from() -> None:
    """What the traps above do not cover: a sign or a function that is written in a new statement."""
    made = schema_module.statements("s")
    for name in made.__dataclass_fields__:
        found = getattr(made, name)
        for statement in found.values() if isinstance(found, dict) else [found]:
            text = re.sub(r"'[^']*'|%\(\w+\)s|%[sb]", "", statement.as_string())
            bare = re.findall(r"(?<![.\w])(\w+)\((?!pg_catalog\.[^a-z])", re.sub(r"OPERATOR\([^)]*\)", "", text))
            # `substring(x FOR y)`, `extract(x FROM y)` and `coalesce(x, y)` are grammar: no schema can have others.
            allowed = {
                "coalesce",
                "extract",
                "substring",
                "ANY",
                "ARRAY",
                "FROM",
                "IN",
                "CONFLICT",
                "VALUES",
                "old",
                "AS",
            }
            assert set(bare) <= allowed, (name, bare)
            signs = re.sub(r"OPERATOR\([^)]*\)|::|SET value=excluded.value, expires=excluded.expires", "", text)
            assert not re.search(r"[<>=+*/|-](?!\s*FROM)", signs.replace("SELECT *", "")), (name, signs)
            assert set(re.findall(r"::(\w+)", text)) <= {"pg_catalog"}, name
