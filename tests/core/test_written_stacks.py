"""What stacks write down in their stores: when, under which name, and that no app waits for it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import runpy
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, StoreError, smooth
from keyguard.counter_names import LimitFacts
from keyguard.ops import Put, traits_of
from keyguard.rates import window
from keyguard.stack.written import StackNote, decode, encode, module_of_caller, read_stacks
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import play
from tests.support.harness import Ask, ask_wsgi
from tests.support.threads import Begun


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/keyguard.db?timeout=1"


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return []


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def wait_until(done: Any) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def written(store: Any) -> list[str]:
    return [stack.name for stack in read_stacks(store)]


# -- when -------------------------------------------------------------------------------------------------------


def test_the_first_request_has_them_written(file: str) -> None:
    stack = Keyguard(RateLimit("5/day"), store=file, name="shop")
    guarded = stack.wsgi(wsgi)
    assert written(stack.store) == []
    ask_wsgi(guarded, Ask())
    wait_until(lambda: written(stack.store) == ["shop"])


def test_the_start_of_an_app_that_says_so_has_them_written(file: str) -> None:
    stack = Keyguard(RateLimit("5/day"), store=file, name="shop")
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, Any]:
        return {"type": next(messages)}

    async def send(message: Any) -> None: ...

    asyncio.run(stack.asgi(asgi)({"type": "lifespan"}, receive, send))
    wait_until(lambda: written(stack.store) == ["shop"])


class Ended(SQLiteStore):
    """A store that can be out of order, for all that it is asked."""

    down = False

    def execute(self, ops: Any) -> list[Any]:
        if self.down:
            raise StoreError("it is down")
        return super().execute(ops)


class Slow(SQLiteStore):
    """A store that does not answer what is written down, until it is told to."""

    failures = 0
    writes = 0
    fail = 0

    def execute(self, ops: Any) -> list[Any]:
        if not isinstance(ops[0], Put):
            return super().execute(ops)
        self.writes += 1
        gate.wait(60)
        if self.writes <= self.fail:
            raise StoreError("it is down")
        return super().execute(ops)


gate = threading.Event()


def test_no_request_waits_for_it(tmp_path: Path) -> None:
    gate.clear()
    store = Slow(tmp_path / "keyguard.db")
    stack = Keyguard(RateLimit("5/day"), store=store)
    try:
        assert [play(stack).status for _ in range(3)] == [200] * 3
        wait_until(lambda: store.writes == 1)
        assert written(store) == []
    finally:
        gate.set()
    wait_until(lambda: written(store) == [__name__])
    play(stack)
    assert store.writes == 1  # once in each process


def test_a_store_that_is_down_is_asked_again_for_a_day(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate.set()
    pauses: list[float] = []
    for fail, found in ((2, ["shop"]), (10, ["shop"]), (1000, [])):
        store = Slow(tmp_path / f"{fail}.db")
        store.fail = fail
        pauses.clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            StackNote(store, "shop", "app", FACTS)._write(pauses.append)
        assert written(store) == found
        assert pauses[:6] == [1, 4, 15, 60, 300, 300][: min(fail, 6)]
        told = [one.getMessage() for one in caplog.records]
        assert told == ["the rules of the stack 'shop' are not written down yet: it is down"] * (fail > 2)
    assert 86_400 <= sum(pauses) < 90_000


def test_a_store_that_comes_back_empty_has_them_written_again(tmp_path: Path) -> None:
    store = Ended(tmp_path / "keyguard.db")
    stack = Keyguard(RateLimit("5/day"), store=store)
    play(stack)
    wait_until(lambda: written(store) == [__name__])
    store.execute([Put(f"stack|{__name__}", None)])
    store.down = True
    play(stack)
    assert not stack.health.ok
    store.down = False
    wait_until(lambda: play(stack).status and stack.health.ok)
    wait_until(lambda: written(store) == [__name__])


def test_what_stands_there_already_is_left_as_it_is(file: str) -> None:
    store = open_store(file)
    put = Put("stack|shop", encode("shop", FACTS))
    assert store.execute([put, put]) == [True, False]


def test_a_child_of_a_fork_writes_its_own(file: str) -> None:
    stack = Keyguard(RateLimit("5/day"), store=file, name="shop")
    play(stack)
    wait_until(lambda: written(stack.store) == ["shop"])
    stack.store.execute([Put("stack|shop", None)])

    child = os.fork()
    if not child:
        try:
            play(stack)
            wait_until(lambda: written(stack.store) == ["shop"])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert written(stack.store) == ["shop"]


def test_what_nobody_else_could_read_is_not_written(begun: Begun) -> None:
    stack = Keyguard(RateLimit("5/day"), store=MemoryStore())
    play(stack)
    assert begun.all == []
    assert [key for key, _ in stack.store.scan("")] == ["rl:ip:win86400000000|198.51.100.1"]


# -- under which name -------------------------------------------------------------------------------------------


def test_a_stack_is_called_as_the_module_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Keyguard(RateLimit("5/day")).name == module_of_caller() == __name__
    code = "from keyguard import Keyguard\nname = Keyguard().name\n"
    (tmp_path / "a_shop.py").write_text(code)
    (tmp_path / "a_site").mkdir()
    (tmp_path / "a_site" / "__init__.py").touch()
    (tmp_path / "a_site" / "__main__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert runpy.run_path(f"{tmp_path}/a_shop.py", run_name="__main__")["name"] == "a_shop"
    assert runpy.run_module("a_shop", run_name="__main__")["name"] == "a_shop"
    assert runpy.run_module("a_site", run_name="__main__")["name"] == "a_site"
    assert runpy.run_module("a_shop")["name"] == "a_shop"
    by_hand: dict[str, Any] = {"__name__": "__main__"}
    exec(code, by_hand)
    assert by_hand["name"] == "app"


def test_stacks_of_one_module_and_store_are_numbered(file: str) -> None:
    first, second = (
        Keyguard(RateLimit("5/day", name="a"), store=file),
        Keyguard(RateLimit("5/day", name="b"), store=file),
    )
    twin, elsewhere = Keyguard(RateLimit("5/day", name="b"), store=file), Keyguard(RateLimit("5/day", name="b"))
    names = [stack.name for stack in (first, second, twin, elsewhere)]
    assert names == [__name__, f"{__name__}-2", f"{__name__}-2", __name__]
    del first
    gc.collect()
    assert Keyguard(RateLimit("5/day", name="c"), store=file).name == __name__


def test_a_layer_is_called_as_its_guard(file: str) -> None:
    assert keyguard.wsgi.RateLimit(wsgi, "5/day", name="a b", store=file).engine.note.name == "layer a b"
    assert keyguard.asgi.RateLimit(asgi, "5/day", store=file).engine.note.name == "layer ip"


def test_two_stacks_around_one_app_have_two_names(file: str) -> None:
    inner = Keyguard(RateLimit("5/day", name="inner"), store=file, name="shop")
    outer = Keyguard(RateLimit("5/day", name="outer"), store=file, name="shop")
    with pytest.raises(ConfigurationError, match="two stacks around one app are called 'shop'"):
        outer.wsgi(inner.wsgi(wsgi))
    with pytest.raises(ConfigurationError, match="two stacks around one app are called 'shop'"):
        outer.asgi(inner.asgi(asgi))
    other = Keyguard(RateLimit("5/day", name="outer"), store=file, name="front")
    assert ask_wsgi(other.wsgi(inner.wsgi(wsgi)), Ask()).status == 200


def test_two_stacks_of_one_process_with_one_name_are_told_of(file: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        one = Keyguard(RateLimit("5/day", name="a"), store=file, name="shop")
        twin = Keyguard(RateLimit("5/day", name="a"), store=file, name="shop")
        assert caplog.records == []
        other = Keyguard(RateLimit("5/day", name="b"), store=file, name="shop")
    assert ["two stacks of this process are called 'shop'" in one.getMessage() for one in caplog.records] == [True]
    assert one is not twin is not other


@pytest.mark.parametrize("name", ["", " ", "a|b", "a\nb", "x" * 129, 7, ("a",)])
def test_a_name_that_is_none(name: Any) -> None:
    with pytest.raises(ConfigurationError, match="name is a printable text of 1 to 128 characters without"):
        Keyguard(name=name)


# -- the text ---------------------------------------------------------------------------------------------------

DAY = 86_400_000_000
FACTS = (
    LimitFacts(
        "key", "key:5/day", f"rl:key:win{DAY}|", window(5, DAY, "5/day"), "key", paths=("/a",), methods=("GET",)
    ),
    LimitFacts("even", "even:5/day smooth", "rl:even|", smooth("5/day"), "shop.tenant", plans=("pro",), default=True),
    LimitFacts("chosen", "chosen", "rl:chosen:", None, "ip", if_store_fails="refuse"),
)


def test_what_is_written_is_what_is_read() -> None:
    found = decode(encode("shop", FACTS))
    assert (found.name, found.unknown) == ("shop", ())
    assert encode("shop", found.facts) == encode("shop", FACTS)
    assert [facts.limit and (facts.limit.code, facts.limit.quota, facts.limit.text) for facts in found.facts] == [
        facts.limit and (facts.limit.code, facts.limit.quota, facts.limit.text) for facts in FACTS
    ]


def test_its_format_is_json_with_a_version() -> None:
    """Workers and commands of other versions read it: what stands here stays as it is."""
    assert json.loads(encode("shop", FACTS[:1])) == {
        "v": 1,
        "name": "shop",
        "limits": [
            {
                "guard": "key",
                "name": "key:5/day",
                "prefix": f"rl:key:win{DAY}|",
                "limit": {"kind": "window", "quota": 5, "period": DAY, "text": "5/day"},
                "by": "key",
                "plans": None,
                "default": False,
                "methods": ["GET"],
                "paths": ["/a"],
                "if_store_fails": "local",
            }
        ],
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "are damaged"),
        (b"[]", "are damaged"),
        (b'{"v": 1}', "are damaged"),
        (b'{"v": 1, "name": "x", "limits": [7]}', "are damaged"),
        (b'{"v": 1, "name": "x", "limits": [{"limit": null}]}', "are damaged"),
        (b'{"v": 2}', "written by a later keyguard, in version 2"),
    ],
)
def test_what_cannot_be_read_is_said(data: bytes, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        decode(data)


def test_a_limit_of_a_later_kind_hides_no_other() -> None:
    stored = json.loads(encode("shop", FACTS))
    stored["limits"][0]["limit"] = {"kind": "lunar", "phase": 3}
    found = decode(json.dumps(stored).encode())
    assert [facts.name for facts in found.facts] == ["even:5/day smooth", "chosen"]
    assert found.unknown == ("'key:5/day': it is of a kind that this keyguard does not know",)


def test_no_secret_is_written() -> None:
    stack = Keyguard(APIKeys(pepper="p" * 40), RateLimit("5/day", by="key"), store=MemoryStore())
    assert b"pppp" not in encode("shop", stack._note.facts)
    assert traits_of(stack.store).of_one_process
