"""No key in what is logged, nor in the variables of a traceback, which error trackers show."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from keyguard import APIKeys, Identity, Keyguard, RateLimit
from keyguard.keys import KeyRegistry
from keyguard.logs import without
from keyguard.stores.memory import MemoryStore
from tests.support.frames import of_keyguard
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

KEY = "secret-of-ada/+ü"
PLACES = [("X-API-Key", KEY), ("Authorization", f"Bearer {KEY}"), ("Cookie", f"key={KEY}")]


async def failing_asgi(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("the app's own")


def failing_wsgi(environ: Any, start_response: Any) -> Any:
    raise LookupError("the app's own")


def asgi(guard: Keyguard, ask: Ask, fails: bool) -> Answer:
    return ask_asgi(guard.asgi(failing_asgi if fails else asgi_app), ask, lint=False)


def wsgi(guard: Keyguard, ask: Ask, fails: bool) -> Answer:
    return ask_wsgi(guard.wsgi(failing_wsgi if fails else wsgi_app), ask, lint=False)


WORLDS: list[Callable[[Keyguard, Ask, bool], Answer]] = [asgi, wsgi]


def shown(error: BaseException, of: str) -> set[str]:
    """The variables of keyguard and of look-ups in a traceback that hold `of`."""
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    ours = [frame for frame in frames if of_keyguard(frame.filename) or frame.name in ("lookup", "alookup", "by")]
    return {name for frame in ours for name, value in (frame.locals or {}).items() if of in value}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("header", PLACES, ids=lambda header: header[0])
def test_a_look_up_that_fails_is_told_without_the_key_and_without_variables(
    world: Any, header: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def lookup(key: str) -> Identity | None:
        raise RuntimeError("no connection")

    def names_it(key: str) -> Identity | None:
        told = [key, repr(key), json.dumps(key), quote(key), quote(key, safe=""), repr(key.encode("latin-1"))]
        raise RuntimeError(" ".join(told))

    async def alookup(key: str) -> Identity | None:
        raise RuntimeError("no connection")

    def by(request: Any) -> str:
        key = request.header("x-api-key") or request.header("authorization") or request.header("cookie")
        raise RuntimeError(f"no tenant {key}")

    def known(key: str) -> Identity:
        return Identity("ada")

    sources = ["x-api-key", "authorization", "cookie:key"]
    for function in (lookup, names_it, *([alookup] if world is asgi else [])):
        assert world(Keyguard(APIKeys(lookup=function, sources=sources)), Ask(headers=(header,)), False).status == 503
    guard = Keyguard(APIKeys(lookup=known, sources=sources), RateLimit("1/minute", by=by))
    assert world(guard, Ask(headers=(header,)), False).status == 503
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) >= 3
    assert "test_log_secrets.py" in caplog.text, "the story is told all the same"
    assert "secret-of-ada" not in caplog.text
    for record in caplog.records:
        assert not record.exc_info or not shown(record.exc_info[1] or Exception(), "secret-of-ada")


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("known", [False, True])
def test_an_error_of_the_app_takes_no_key_along_from_a_guard(world: Any, known: bool) -> None:
    """Of scope and environ the app has them anyway."""
    store = MemoryStore()
    key = KeyRegistry(store).issue("ada").key.reveal()
    for guards in (
        [APIKeys(), RateLimit("9/minute", by="key")],
        [APIKeys(scopes=lambda request: []), RateLimit("9/minute", by="key")],
        [APIKeys(lookup=lambda key: Identity("ada"), optional=True)],
    ):
        guard = Keyguard(*guards, store=store)
        ask = Ask(headers=(("X-API-Key", key),))
        if known:
            assert world(guard, ask, False).status == 200
        with pytest.raises(LookupError) as caught:
            world(guard, ask, True)
        assert shown(caught.value, key) <= {"scope", "environ"}


@pytest.mark.parametrize("key", ["secret-of-ada", "sécrèt-of-ada", "a/b+c d=e%f", 'quo"ted\\key', "tab\tbed-key"])
def test_a_key_is_taken_out_in_each_form_in_which_errors_tell_it(key: str) -> None:
    data = key.encode("latin-1")
    for form in (key, repr(key), repr(data), json.dumps(key), quote(key), quote(key, safe=""), quote(data)):
        told = without([key], f"no luck with {form}, sorry")
        assert told in {f"no luck with {left}***{left}, sorry" for left in ("", "'", '"')} | {
            "no luck with b'***', sorry", 'no luck with b"***", sorry',
        }  # fmt: skip
    assert without(["short"], "short") == "short"
