"""No secret leaves a pool but by `reveal`: not by exceptions, logs, pickles, copies, or tracebacks with locals."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from typing import Any

import pytest

from keyguard import ConfigurationError, Key, KeyPool, UpstreamExhausted
from keyguard.stores.memory import MemoryStore
from tests.support.frames import of_keyguard
from tests.support.virtual_upstream import DEAD, World

SECRET = "sk-very-secret-1234567890"


def everything_of(error: BaseException) -> str:
    """An exception as a reporter of errors shows it: its traceback with the locals of all frames of ours."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    frames = []
    at: Any = told
    while at is not None:
        frames += [
            f"{name}={value}"
            for frame in at.stack
            if of_keyguard(frame.filename)
            for name, value in (frame.locals or {}).items()
        ]
        at = at.__cause__ or at.__context__
    assert frames, "there are frames of ours"
    return str(told) + "\n".join(frames)


@pytest.mark.parametrize(
    "settings",
    [
        {"secret": f"{SECRET}\n"},
        {"secret": f"{SECRET}é"},
        {"secret": SECRET, "env": "HOME"},
        {"secret": SECRET, "rank": -1},
        {"secret": SECRET, "weight": 0},
        {"secret": SECRET, "group": "|"},
        {"env": "BAD_UPSTREAM_KEY"},
    ],
)
def test_refused_settings_show_none(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAD_UPSTREAM_KEY", f"{SECRET}\n")
    with pytest.raises(ConfigurationError) as refused:
        Key("a", **settings)
    assert SECRET not in everything_of(refused.value)


def test_a_pool_that_is_refused_shows_none() -> None:
    with pytest.raises(ConfigurationError) as refused:
        KeyPool.openai([Key("a", SECRET), Key("b", SECRET)])
    assert SECRET not in everything_of(refused.value)


def shown(thing: object) -> str:
    members = {name: getattr(thing, name, None) for name in dir(thing) if name != "reveal"}
    return f"{thing!r} {thing!s} {thing:} {members!r}"


def test_keys_and_pools_do_not_show_theirs() -> None:
    key = Key("a", SECRET)
    pool = KeyPool.openai([key])
    for thing in (key, key._secret, pool, pool.parts, pool.parts.groups, vars(pool.parts)):
        assert SECRET not in shown(thing)
    assert key.reveal() == SECRET


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_are_neither_pickled_nor_copied(way: Any) -> None:
    for thing in (Key("a", SECRET), Key("a", SECRET)._secret, [Key("a", SECRET)]):
        if way is copy.copy and isinstance(thing, list):
            continue
        with pytest.raises(TypeError, match="not pickled") as refused:
            way(thing)
        assert SECRET not in str(refused.value)


def test_logs_at_debug_and_events_show_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world = World([Key("a", SECRET)], lambda key, number: DEAD)
    result = world.ask()
    world.ask()
    assert len(caplog.records) > 1
    assert SECRET not in caplog.text
    assert SECRET not in repr(world.events)
    assert SECRET not in repr(result)


def test_a_store_holds_digests_alone_and_those_of_two_pools_are_two() -> None:
    store = MemoryStore()
    for name in ("one", "other"):
        pool = KeyPool.openai([Key("a", SECRET)], name=name, store=store)
        with pool.acquire() as grant:
            grant.report(401, {}, b'{"error": {"code": "invalid_api_key"}}')
        pool.close()
    held = b"".join([key.encode() + value for key, value in store.scan("up:")])
    digests = [Key("a", SECRET).digest(name) for name in ("one", "other")]
    assert SECRET.encode() not in held
    assert digests[0] != digests[1]
    assert all(digest.encode() in held for digest in digests)


def test_an_exhaustion_shows_none() -> None:
    pool = KeyPool.openai([Key("a", SECRET)], limits={"a": {"rpm": 1}}, max_wait=0)
    with pool.acquire() as grant:
        grant.report(200, {})
    with pytest.raises(UpstreamExhausted) as raised, pool.acquire():
        pass
    assert SECRET not in everything_of(raised.value)
