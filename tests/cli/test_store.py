"""`keyguard store`: stores made, checked and copied from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keyguard.cli import main
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.keys import KeyRegistry
from keyguard.ops import Demand, Put, Read, Settle, Take
from keyguard.rates import smooth, window
from keyguard.stores import open_store
from keyguard.stores.sqlite import SQLiteStore
from tests.support.every_store import SHARED, store_of
from tests.support.servers import Postgres, RedisServer


def url_of(kind: str, name: str, folder: Path, valkey: RedisServer, postgres: Postgres) -> str:
    schema = "".join(character if character.isalnum() else "_" for character in f"c_{name}_{folder.name}")
    return {
        "sqlite": f"sqlite:///{folder}/{name}.db",
        "redis": f"{valkey.url}?namespace=cli-{name}-{folder.name}",
        "postgresql": f"{postgres.url}?schema={schema}",
    }[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "redis"])  # and PostgreSQL: tests/stores/test_stores.py
def test_check(
    kind: str, tmp_path: Path, valkey: RedisServer, postgres: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    url = url_of(kind, "check", tmp_path, valkey, postgres)
    assert main(["store", "init", url]) == 0
    assert main(["store", "check", url, "--steps", "20"]) == 0
    assert "means what every store means" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if "check-" in path.name] == []


def test_check_says_what_is_wrong(
    valkey: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard.rates.window import WindowLog

    take = WindowLog.take
    monkeypatch.setattr(WindowLog, "take", lambda self, *asked: (*take(self, *asked)[:2], 7, *take(self, *asked)[3:]))
    assert main(["store", "check", valkey.url, "--steps", "50"]) == 1
    assert "does not mean what every store means: step" in capsys.readouterr().out
    assert not valkey.ask("KEYS", "keyguard*:check-*"), "it has left something behind"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("one", "other"), [("sqlite", "redis"), ("redis", "postgresql"), ("postgresql", "sqlite"), ("redis", "sqlite")]
)
def test_copy(
    one: str,
    other: str,
    tmp_path: Path,
    valkey: RedisServer,
    postgres: Postgres,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Keys work on, and what was used is still used."""
    source_url = url_of(one, "source", tmp_path, valkey, postgres)
    target_url = url_of(other, "target", tmp_path, valkey, postgres)
    for url in (source_url, target_url):
        assert main(["store", "init", url]) == 0
    source = open_store(source_url + ("&" if "?" in source_url else "?") + "timeout=1")
    ids = [KeyRegistry(source).issue(f"customer {n}").record.id for n in range(210)]
    limits = [window(20, 3_600_000_000, "20/hour"), window(500, 86_400_000_000, "500/day"), smooth("5/hour", 4)]
    take = Take([Demand("", f"rl:k:{limit.code}|{ids[0]}", limit, 2) for limit in limits])
    before = source.execute([take])[0]
    capsys.readouterr()
    assert main(["store", "copy", source_url, target_url]) == 0
    said = capsys.readouterr()
    assert "423 entries here, 423 of them there; 423 were written." in said.err
    first, second = said.out.splitlines()
    assert first.split()[1] == second.split()[1]

    target = open_store(target_url + ("&" if "?" in target_url else "?") + "timeout=1")
    assert [record.owner for record in KeyRegistry(target).list()] == [r.owner for r in KeyRegistry(source).list()]
    after = target.execute([take])[0]
    assert [now[2] for now in after.takings] == [then[2] - 2 for then in before.takings]

    # Again: it goes on where it is, and writes only what has changed.
    KeyRegistry(source).issue("a newcomer")
    assert main(["store", "copy", source_url, target_url]) == 0
    assert "5 were written" in capsys.readouterr().err
    for store in (source, target):
        store.close()  # type: ignore[attr-defined]


def test_a_copy_that_was_stopped_goes_on(
    tmp_path: Path, valkey: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyguard.cli import store as cli_store

    source_url, target_url = f"sqlite:///{tmp_path}/s.db", f"{valkey.url}?namespace=stopped"
    source = open_store(source_url)
    for n in range(250):
        KeyRegistry(source).issue(f"customer {n}")

    @contextmanager
    def stopped(*_: Any) -> Iterator[Any]:
        yield lambda done: (_ for _ in ()).throw(KeyboardInterrupt())

    monkeypatch.setattr(cli_store, "progress", stopped)
    assert main(["store", "copy", source_url, target_url]) == 130
    monkeypatch.undo()
    assert main(["store", "copy", source_url, target_url]) == 0
    assert "500 entries here, 500 of them there; 300 were written" in capsys.readouterr().err
    open_store(target_url).clear()  # type: ignore[attr-defined]


def test_a_copy_replaces_no_key_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copied once more after the move, a key that was revoked since worked again; and both were said to be the same."""
    old, new = f"sqlite:///{tmp_path}/old.db", f"sqlite:///{tmp_path}/new.db"
    source, target = KeyRegistry(open_store(old)), KeyRegistry(open_store(new))
    leaked, other = source.issue("acme").record.id, source.issue("other").record.id
    assert main(["store", "copy", old, new]) == 0
    target.revoke(leaked)
    target.issue("a newcomer")
    assert main(["store", "copy", old, new]) == 1
    assert f"1 keys differ from those that stand there, such as {leaked}" in capsys.readouterr().err
    assert target.get(leaked).revoked is not None
    source.update(other, plan="pro")
    assert main(["store", "copy", old, new, "--replace"]) == 0
    said = capsys.readouterr().err
    assert "3 were written" in said
    assert "There are 3 more there, and the rest is the same" in said
    assert (target.get(other).plan, target.get(leaked).revoked) == ("pro", None)


class Raced:
    """A target in which somebody else does something just before the copy writes, the `after`th time."""

    def __init__(self, store: Any, race: Callable[[], object], after: int = 0) -> None:
        self.store, self.race, self.after = store, race, after
        self.dump = store.dump

    def execute(self, ops: Any) -> list[Any]:
        if self.after == 0:
            self.race()
        self.after -= 1
        found: list[Any] = self.store.execute(ops)
        return found


@pytest.mark.slow
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("race", ["revoked", "updated", "deleted", "issued", "counted", "given back"])
@pytest.mark.parametrize("kind", SHARED)
def test_what_is_changed_in_the_target_meanwhile_stays(
    kind: str,
    race: str,
    replace: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A key that was revoked in the target between reading and writing worked again."""
    from keyguard.cli.store import _copy_all

    source, target = SQLiteStore(tmp_path / "source.db"), store_of(kind, request, tmp_path, "target")
    here, there = KeyRegistry(source), KeyRegistry(target)
    raced = here.issue("acme").record.id
    limit = window(20, 3_600_000_000, "20/hour")
    demand = Demand("", f"rl:k:{limit.code}|{raced}", limit, 2)
    source.execute([Take([demand])])
    if race != "issued":
        assert _copy_all(source, target, replace=False) == 0
        if replace:
            here.update(raced, plan="pro")
    newcomer = here.issue("newcomer").record.id  # so that there is something to write
    taken = target.execute([Take([demand])])[0] if race == "given back" else None
    if race in ("counted", "given back"):
        source.execute([Take([demand])] * 2)
    name = f"key|{raced}"
    stand: list[bytes | None] = []

    def do() -> None:
        if race == "revoked":
            there.revoke(raced)
        elif race == "updated":
            there.update(raced, owner="changed there")
        elif race == "deleted":
            target.execute([Put(name, None)])
        elif race == "issued":
            target.execute([Put(name, b"something else")])
        elif race == "counted":
            target.execute([Take([demand])])
        else:
            target.execute([Settle(taken)])
        stand.extend(target.execute([Read(name if race not in ("counted", "given back") else demand.key)])[0])

    with pytest.raises(KeyguardError, match="1 entries were changed in the target while they were copied"):
        _copy_all(source, Raced(target, do), replace=replace)
    assert target.execute([Read(name if race not in ("counted", "given back") else demand.key)])[0] == tuple(stand)
    assert there.get(newcomer) == here.get(newcomer), "all the others were copied"
    assert "entries here" in capsys.readouterr().err
    source.close()


def test_what_is_changed_in_the_target_later_stays_too(tmp_path: Path) -> None:
    """In the second round of a copy, which follows what the source did during the first one."""
    from keyguard.cli.store import _copy_all

    source, target = SQLiteStore(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    here, there = KeyRegistry(source), KeyRegistry(target)
    ids = [here.issue(f"customer {number}").record.id for number in range(3)]

    def do() -> None:
        there.revoke(ids[0])
        here.update(ids[1], plan="pro")

    # The first batch has been written when this happens: its notes, then the second round.
    here_again = Raced(target, lambda: here.update(ids[0], plan="team"))
    here_again.execute = lambda ops, write=here_again.execute: (write(ops), do() if len(ops) == 6 else None)[0]  # type: ignore[method-assign, misc]
    with pytest.raises(KeyguardError, match=f"such as {ids[0]}"):
        _copy_all(source, here_again, replace=True)
    assert there.get(ids[0]).revoked is not None
    assert there.get(ids[1]).plan == "pro"
    for store in (source, target):
        store.close()


def test_a_copy_takes_along_that_there_are_peppers(tmp_path: Path) -> None:
    from keyguard.cli.store import _copy_all

    source, target = SQLiteStore(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    KeyRegistry(target).issue("without")
    KeyRegistry(source, pepper="a pepper of some length").issue("with")
    assert _copy_all(source, target, replace=False) == 0
    with pytest.raises(ConfigurationError, match="none is set"):
        KeyRegistry(target).issue("without")
    for store in (source, target):
        store.close()


def test_that_there_are_peppers_is_noted_before_the_keys_are_there(tmp_path: Path) -> None:
    """A copy may be stopped at any moment, and finds nothing to write when it goes on."""
    from keyguard.cli.store import _copy_all

    class Stopped(Exception):
        pass

    source, target = SQLiteStore(tmp_path / "source.db"), SQLiteStore(tmp_path / "target.db")
    KeyRegistry(source, pepper="a pepper of some length").issue("with")
    KeyRegistry(target).issue("without")
    write = target.execute

    def stopped(ops: Any) -> Any:
        results = write(ops)
        if any(op.keys[0].startswith("key|") for op in ops):
            raise Stopped
        return results

    target.execute = stopped  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        _copy_all(source, target, replace=False)
    target.execute = write  # type: ignore[method-assign]
    assert _copy_all(source, target, replace=False) == 0
    with pytest.raises(ConfigurationError, match="none is set"):
        KeyRegistry(target).issue("without")
    for store in (source, target):
        store.close()


def test_a_misspelt_source_is_no_empty_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = f"sqlite:///{tmp_path}/new.db"
    assert main(["store", "copy", f"sqlite:///{tmp_path}/misspelt.db", target]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert main(["store", "copy", f"SQLite:///{tmp_path}/misspelt.db", target]) == 1
    assert not (tmp_path / "misspelt.db").exists()
    open_store(f"sqlite:///{tmp_path}/empty.db")
    assert main(["store", "copy", f"sqlite:///{tmp_path}/empty.db", target]) == 1
    assert "there is nothing to copy" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "postgresql://127.0.0.1:1/db"])
def test_a_server_that_is_down_is_not_said_to_mean_something_else(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", url]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(("keyguard: error: Redis: ", "keyguard: error: PostgreSQL: "))


def test_a_check_of_nothing_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    for steps in ("0", "-5", "1_000", "many"):
        with pytest.raises(SystemExit):
            main(["store", "check", "redis://127.0.0.1:1", "--steps", steps])
        assert "is not a number of steps" in capsys.readouterr().err


def test_what_cannot_be_copied_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "copy", "memory://", f"sqlite:///{tmp_path}/x.db"]) == 1
    assert "cannot be copied" in capsys.readouterr().err
    assert main(["store", "check", "memory://"]) == 1
    assert main(["store", "init", "memory://"]) == 0
    assert main(["store", "init", "redis://127.0.0.1:1"]) == 0
    KeyRegistry(open_store(f"sqlite:///{tmp_path}/x.db")).issue("acme")
    assert main(["store", "copy", f"sqlite:///{tmp_path}/x.db", "redis://127.0.0.1:1"]) == 1
    assert "keyguard: error: Redis" in capsys.readouterr().err
