"""Look-ups of a user's own: where they run, what they are asked about, and what their failures say of a key."""

from __future__ import annotations

import asyncio
import logging
import re
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from django.core.exceptions import ObjectDoesNotExist
from itsdangerous import BadSignature
from rest_framework.exceptions import AuthenticationFailed
from starlette.exceptions import HTTPException
from werkzeug.exceptions import NotFound, Unauthorized

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, Request, StoreError, blocking
from keyguard.drivers import threads
from keyguard.ops import Settle, Take
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

PATIENCE = 20.0  # seconds, for what would never come


def ask_of(key: str, target: str = "/") -> Ask:
    return Ask(target, (("X-API-Key", key),))


def in_loop_thread(seen: list[bool]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        seen.append(False)
    else:
        seen.append(True)


# -- where they run -----------------------------------------------------------------------------------------------


def test_a_look_up_that_blocks_holds_up_no_other_request() -> None:
    """The first one ends only when another request has been answered meanwhile."""
    answered = threading.Event()

    def lookup(key: str) -> Identity | None:
        return Identity(key) if key == "quick" or answered.wait(PATIENCE) else None

    app = Keyguard(APIKeys(lookup=lookup, public=["/health"])).asgi(asgi_app)

    async def story() -> list[int]:
        slow = asyncio.create_task(aask(app, ask_of("slow")))
        await asyncio.sleep(0)
        statuses = [(await aask(app, Ask("/health"))).status, (await aask(app, ask_of("quick"))).status]
        assert not slow.done()
        answered.set()
        return [*statuses, (await slow).status]

    assert asyncio.run(story()) == [200, 200, 200]


def test_it_runs_in_place_under_wsgi_and_an_async_one_in_the_loop() -> None:
    seen: list[Any] = []

    def lookup(key: str) -> Identity:
        seen.append(threading.current_thread())
        return Identity(key)

    async def alookup(key: str) -> Identity:
        in_loop_thread(seen)
        return Identity(key)

    def returns_a_coroutine(key: str) -> Any:
        return alookup(key)

    assert ask_wsgi(Keyguard(APIKeys(lookup=lookup)).wsgi(wsgi_app), ask_of("k")).status == 200
    assert seen == [threading.current_thread()]
    seen.clear()
    assert ask_asgi(Keyguard(APIKeys(lookup=lookup)).asgi(asgi_app), ask_of("k")).status == 200
    assert seen[0].name == "keyguard"
    seen.clear()
    for function in (alookup, returns_a_coroutine):
        assert ask_asgi(Keyguard(APIKeys(lookup=function)).asgi(asgi_app), ask_of("k")).status == 200
    assert seen == [True, True]


WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


def test_it_sees_the_context_variables_of_its_request() -> None:
    def lookup(key: str) -> Identity | None:
        seen = WHO.get()
        WHO.set("changed in the thread")
        return Identity(key) if seen == key else None

    guarded = Keyguard(APIKeys(lookup=lookup)).asgi(asgi_app)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope["headers"])[b"x-api-key"].decode()
        WHO.set(key)
        await guarded(scope, receive, send)
        assert WHO.get() == key

    async def story() -> list[int]:
        return [answer.status for answer in await asyncio.gather(*[aask(app, ask_of(f"key-{n}")) for n in range(10)])]

    assert asyncio.run(story()) == [200] * 10


def test_what_it_raises_is_a_fault_and_is_told_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    def lookup(key: str) -> Identity | None:
        raise RuntimeError(f"no luck with {key}")

    answer = ask_asgi(Keyguard(APIKeys(lookup=lookup)).asgi(asgi_app), ask_of("secret-of-ada"))
    assert (answer.status, b'"cause": "fault"' in answer.body) == (503, True)
    assert "no luck with ***" in caplog.text
    assert "secret-of-ada" not in caplog.text
    assert "test_look_ups.py" in caplog.text


def test_a_look_up_does_not_wait_behind_the_app_s_own_jobs() -> None:
    """The default executor is the app's, and full."""
    end = threading.Event()

    async def story() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        jobs = [loop.run_in_executor(None, end.wait, PATIENCE) for _ in range(3)]
        try:
            app = Keyguard(APIKeys(lookup=Identity)).asgi(asgi_app)
            return (await aask(app, ask_of("ada"))).status
        finally:
            end.set()
            await asyncio.gather(*jobs)

    assert asyncio.run(story()) == 200


def test_a_look_up_waits_for_a_thread_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "threads", threads.Threads(2))
    end, begun = threading.Event(), threading.Semaphore(0)

    def lookup(key: str) -> Identity | None:
        begun.release()
        return Identity(key) if end.wait(PATIENCE) else None

    async def story() -> tuple[list[int], list[int]]:
        app = Keyguard(APIKeys(lookup=lookup, guesses=None)).asgi(asgi_app)
        first = [asyncio.create_task(aask(app, ask_of(f"{number}"))) for number in range(2)]
        await asyncio.to_thread(begun.acquire)
        monkeypatch.setattr(threads, "TURN", 0.05)
        late = [await aask(app, ask_of(f"late {number}")) for number in range(2)]
        assert all(answer.get("retry-after") == "1" and b'"overload"' in answer.body for answer in late)
        monkeypatch.setattr(threads, "TURN", PATIENCE)
        waiting = [asyncio.create_task(aask(app, ask_of(f"waiting {number}"))) for number in range(5)]
        await asyncio.sleep(0.01)
        end.set()
        answers = await asyncio.gather(*first, *waiting)
        return [answer.status for answer in late], [answer.status for answer in answers]

    assert asyncio.run(story()) == ([503, 503], [200] * 7)


def test_a_client_that_leaves_costs_nobody_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "threads", threads.Threads(1))
    end = threading.Event()
    begun = threading.Event()
    asked: list[str] = []

    def lookup(key: str) -> Identity | None:
        asked.append(key)
        begun.set()
        end.wait(PATIENCE)
        return Identity(key)

    async def story() -> list[int]:
        app = Keyguard(APIKeys(lookup=lookup, guesses="3/minute")).asgi(asgi_app)
        running = asyncio.create_task(aask(app, ask_of("running")))
        waiting = asyncio.create_task(aask(app, ask_of("waiting")))
        await asyncio.to_thread(begun.wait, PATIENCE)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        end.set()
        return [(await aask(app, ask_of(f"next {number}"))).status for number in range(5)]

    assert asyncio.run(story()) == [200] * 5
    assert asked == ["running", *[f"next {number}" for number in range(5)]], "what had not begun was not begun"


def test_threads_are_made_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    ten = threads.Threads(10)
    monkeypatch.setattr(threads, "threads", ten)

    async def story(at_once: int) -> None:
        together = threading.Barrier(at_once)

        def lookup(key: str) -> Identity | None:
            together.wait(PATIENCE)
            return Identity(key)

        app = Keyguard(APIKeys(lookup=lookup, guesses=None)).asgi(asgi_app)
        answers = await asyncio.gather(*[aask(app, ask_of(f"key {number}")) for number in range(at_once)])
        assert {answer.status for answer in answers} == {200}

    for at_once in (1, 3, 2, 10, 10):
        before = ten.made
        asyncio.run(story(at_once))
        # One that has just ended its work may not be idle yet.
        assert at_once <= ten.made <= min(before + at_once, 10)


# -- blocking functions elsewhere ---------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["by", "cost", "when", "exempt", "rates", "scopes"])
def test_other_functions_run_in_place_or_in_a_thread_as_one_says(setting: str) -> None:
    values: dict[str, Any] = {
        "by": "ada", "cost": 1, "when": True, "exempt": False, "rates": "2/minute", "scopes": [],
    }  # fmt: skip
    seen: list[threading.Thread] = []

    def function(request: Request) -> Any:
        seen.append(threading.current_thread())
        return values[setting]

    def guard(function: Any) -> Keyguard:
        if setting == "scopes":
            return Keyguard(APIKeys(lookup=lambda key: Identity(key), scopes=function), RateLimit("2/minute"))
        if setting == "rates":
            return Keyguard(RateLimit(function, name="n"))
        return Keyguard(RateLimit("2/minute", name="n", **{setting: function}))

    here = threading.current_thread()
    for made, in_place in ((function, True), (blocking(function), False)):
        one, other = guard(made), guard(made)
        app = one.asgi(asgi_app)
        assert [ask_asgi(app, ask_of("k")).status for _ in range(3)] == [200, 200, 429]
        assert {thread is here for thread in seen} == {in_place}
        seen.clear()
        wsgi = other.wsgi(wsgi_app)
        assert [ask_wsgi(wsgi, ask_of("k")).status for _ in range(3)] == [200, 200, 429]
        assert {thread is here for thread in seen} == {True}
        seen.clear()


def test_blocking_decorates_and_can_be_awaited_in_a_guard() -> None:
    @blocking
    def owner(text: str, *, of: str) -> str:
        """Find an owner."""
        return f"{text} of {of} in {threading.current_thread().name}"

    assert (owner.__name__, owner.__doc__) == ("owner", "Find an owner.")  # type: ignore[attr-defined]
    seen = []

    async def guard(request: Request, forward: Any) -> Any:
        seen.append(await owner("key", of="ada"))
        return await forward(request)

    assert ask_asgi(Keyguard(guard).asgi(asgi_app), Ask()).status == 200
    assert ask_wsgi(Keyguard(guard).wsgi(wsgi_app), Ask()).status == 200
    assert seen == ["key of ada in keyguard", f"key of ada in {threading.current_thread().name}"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: blocking(5), "a plain function"),
        (lambda: blocking(asyncio.sleep), "needs no thread"),
        (lambda: Keyguard(on_refusal=blocking(print)), "would not be awaited"),
        (lambda: Keyguard(on_health=blocking(print)), "would not be awaited"),
        (lambda: RateLimit("1/minute", by=blocking(lambda: "x")), "called with the request alone"),
        (lambda: Keyguard(blocking(lambda request: None)), "runs in place"),
    ],
)
def test_a_use_of_blocking_that_cannot_work_stops_the_start(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_blocking_twice_is_blocking_once() -> None:
    lookup = blocking(blocking(lambda key: Identity(key)))
    assert ask_asgi(Keyguard(APIKeys(lookup=lookup)).asgi(asgi_app), ask_of("k")).status == 200
    assert play(APIKeys(lookup=lookup), headers={"X-API-Key": "k"}).status == 200


# -- what they are asked about ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "ask"),
    [
        ("x-api-key", Ask(headers=(("X-API-Key", ""),))),
        ("x-api-key", Ask(headers=(("X-API-Key", " \t "),))),
        ("x-api-key", Ask(headers=(("X-API-Key", ","),))),
        ("x-api-key", Ask(headers=(("X-API-Key", "\xa0"),))),
        ("authorization", Ask(headers=(("Authorization", "Bearer"),))),
        ("authorization", Ask(headers=(("Authorization", "Bearer "),))),
        ("authorization", Ask(headers=(("Authorization", "Bearer    "),))),
        ("authorization", Ask(headers=(("Authorization", "bearer ,"),))),
        ("cookie:key", Ask(headers=(("Cookie", "key="),))),
        ("cookie:key", Ask(headers=(("Cookie", 'key=""'),))),
        ("cookie:key", Ask(headers=(("Cookie", 'key="  "'),))),
        ("query:key", Ask("/?key=")),
        ("query:key", Ask("/?key=%20")),
        ("query:key", Ask("/?key=+%09%0d%0a")),
        ("x-api-key", Ask(headers=(("X-API-Key", "k" * 600),))),
    ],
)
def test_a_look_up_is_not_asked_about_an_empty_key(source: str, ask: Ask) -> None:
    asked = []

    def lookup(key: str) -> Identity:
        asked.append(key)
        return Identity("anybody")

    guard = Keyguard(APIKeys(lookup=lookup, sources=[source]))
    for answer in (ask_asgi(guard.asgi(asgi_app), ask, lint=False), ask_wsgi(guard.wsgi(wsgi_app), ask, lint=False)):
        assert answer.status == 401
    assert asked == []


# -- what their failures say --------------------------------------------------------------------------------------


class DataError(Exception):
    """As databases call it (PEP 249)."""


class OperationalError(Exception):
    """The same."""


class BrokenPipeOfSomeLibrary(ConnectionError, ValueError):
    """Both, as some libraries have it."""


def of_library(name: str, *bases: type[Exception], **members: Any) -> Exception:
    """An error as libraries have it that are not installed here."""
    return type(name, bases or (Exception,), members)()


def http_error(status: int, *bases: type[Exception]) -> Exception:
    """As httpx, requests and aiohttp raise it for what a server has answered."""
    return of_library("HTTPStatusError", *bases, response=type("Response", (), {"status_code": status}))


ERRORS_OF_LIBRARIES = [
    ObjectDoesNotExist("no row"), BadSignature("no"), of_library("InvalidToken"), struct.error("4 bytes"),
    re.error("nothing to repeat"), zlib.error(), HTTPException(401), HTTPException(403), HTTPException(404),
    NotFound(), Unauthorized(), AuthenticationFailed("no"),
    of_library("DecodeError", type("InvalidTokenError", (Exception,), {})), of_library("ExpiredSignatureError"),
    of_library("NoResultFound"), of_library("UserDoesNotExist"), of_library("JWTError"),
    http_error(404), http_error(400), http_error(404, OSError), of_library("ClientResponseError", status=404),
]  # fmt: skip
FAILURES_OF_LIBRARIES = [
    HTTPException(500), HTTPException(503), HTTPException(429), http_error(401), http_error(403), http_error(502),
    http_error(500, OSError), of_library("ClientResponseError", status=500), of_library("PoolTimeout"),
    of_library("ConnectionDoesNotExistError"), of_library("ConnectError"), of_library("InterfaceError"),
    of_library("PyJWKClientConnectionError", type("JWTError", (Exception,), {})), of_library("InvalidPassword"),
    of_library("InvalidRequestError"), of_library("BrokenReply", ConnectionError, status_code=503),
]  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a key is 20 digits"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), KeyError("k"),
        IndexError(), LookupError(), TypeError("'NoneType' object is not subscriptable"), OverflowError(),
        ZeroDivisionError(), DataError("invalid byte sequence"), *ERRORS_OF_LIBRARIES,
    ],
    ids=ascii,
)  # fmt: skip
def test_one_that_raises_on_its_input_counts_as_a_guess(error: Exception) -> None:
    def lookup(key: str) -> Identity | None:
        if key == "right":
            return Identity("ada")
        raise error.with_traceback(None)  # or it grows with each time, and is told each time

    for run in (
        lambda guard, ask, app=None: ask_wsgi(guard.wsgi(wsgi_app), ask),
        lambda guard, ask, app=None: ask_asgi(guard.asgi(asgi_app), ask),
    ):
        guard = Keyguard(APIKeys(lookup=lookup, guesses="3/minute"))
        assert [run(guard, ask_of(f"wrong {n}")).status for n in range(5)] == [503, 503, 503, 429, 429]
        fresh = Keyguard(APIKeys(lookup=lookup, guesses="3/minute"))
        assert [run(fresh, ask_of(key)).status for key in ("wrong", "right", "wrong", "right")] == [503, 200, 503, 200]


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("no route"), TimeoutError(), OSError(5, "disk"), OperationalError("server closed"),
        BrokenPipeOfSomeLibrary(), StoreError("its store is out of order"), RuntimeError("pool is closed"),
        AttributeError("'NoneType' object has no attribute 'execute'"), MemoryError(), Exception("of a library"),
        *FAILURES_OF_LIBRARIES,
    ],
    ids=ascii,
)  # fmt: skip
def test_one_whose_world_has_failed_blames_nobody(error: Exception) -> None:
    broken = True

    def lookup(key: str) -> Identity | None:
        if broken:
            raise error.with_traceback(None)
        return Identity(key) if key == "right" else None

    guard = Keyguard(APIKeys(lookup=lookup, guesses="2/minute"))
    statuses = [play(guard, headers={"X-API-Key": f"key {n}"}).status for n in range(8)]
    assert statuses == [503] * 8
    broken = False
    assert [play(guard, headers={"X-API-Key": key}).status for key in ("wrong", "right", "bad")] == [401, 200, 401]


def test_one_that_returns_something_else_is_a_mistake_of_its_own() -> None:
    guard = Keyguard(APIKeys(lookup=lambda key: {"subject": key}, guesses="2/minute"))  # type: ignore[arg-type, return-value]
    assert [play(guard, headers={"X-API-Key": "k"}).status for _ in range(5)] == [503] * 5


# -- without the counters -----------------------------------------------------------------------------------------


class Breakable(MemoryStore):
    broken: tuple[type, ...] = ()

    def execute(self, ops: Any) -> list[Any]:
        if any(isinstance(op, self.broken) for op in ops):
            raise StoreError("broken")
        return super().execute(ops)


def wrapped(store: Breakable) -> Any:
    """Not a `MemoryStore` to the stack, which knows that those cannot fail."""

    class Store:
        execute = staticmethod(store.execute)
        scan = staticmethod(store.scan)

    return Store()


@pytest.mark.parametrize("wrap", [wrapped, lambda store: store])
def test_the_look_up_is_asked_while_the_counters_cannot_be(wrap: Any) -> None:
    clock = ManualClock()
    store = Breakable(clock=clock)
    valid = {"ada-key", "bob-key"}
    guard = Keyguard(
        APIKeys(lookup=lambda key: Identity(key) if key in valid else None, guesses="4/minute"),
        store=wrap(store), clock=clock, workers=2,
    )  # fmt: skip

    def ask(key: str, client: str = "198.51.100.1") -> int:
        return play(guard, headers={"X-API-Key": key}, client=client).status

    assert ask("ada-key") == 200
    store.broken = (Take, Settle)
    clock.advance(1)
    assert ask("ada-key") == 200
    assert ask("bob-key") == 200, "one that was not seen before"
    valid.remove("ada-key")
    clock.advance(1)
    assert ask("ada-key") == 401, "revoked: what the look-up says counts, and not what is remembered"
    assert ask("bob-key") == 200
    assert [ask(f"wrong {n}", "192.0.2.1") for n in range(5)][:2] == [401, 401]
    assert ask("wrong again", "192.0.2.1") == 429, "guesses are counted here meanwhile"
    assert ask("", "192.0.2.2") == 401
    if wrap is wrapped:
        assert guard.health.degraded["keys guesses counted locally"] > 0
    store.broken = ()


def test_a_look_up_that_fails_with_the_counters_blames_nobody() -> None:
    store = Breakable()
    store.broken = (Take, Settle)

    def lookup(key: str) -> Identity | None:
        raise ConnectionError("the same network")

    guard = Keyguard(APIKeys(lookup=lookup, guesses="2/minute"), store=wrapped(store))
    assert [play(guard, headers={"X-API-Key": f"k{n}"}).status for n in range(6)] == [503] * 6


def test_a_guess_that_cannot_be_given_back_is_not_the_callers_failure() -> None:
    store = Breakable()
    guard = Keyguard(APIKeys(lookup=Identity), store=wrapped(store))
    store.broken = (Settle,)
    assert play(guard, headers={"X-API-Key": "ada-key"}).status == 200


def test_a_key_that_is_known_asks_the_look_up_and_no_store(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    store = Breakable(clock=clock)
    asked: list[str] = []

    def lookup(key: str) -> Identity | None:
        asked.append(key)
        return Identity(key)

    guard = Keyguard(APIKeys(lookup=lookup), store=store, clock=clock)
    play(guard, headers={"X-API-Key": "ada-key"})
    store.broken = (object,)
    caplog.set_level(logging.INFO)
    for _ in range(3):
        clock.advance(1)
        assert play(guard, headers={"X-API-Key": "ada-key"}).status == 200
    assert asked == ["ada-key"] * 4
    assert caplog.records == []


@pytest.mark.parametrize(
    "returned", [Identity(""), Identity("", key_id=""), True, "ada", {}, 0, "", Identity, object()]
)
def test_what_is_no_identity_lets_nobody_in_and_blames_nobody(returned: Any) -> None:
    def lookup(key: str) -> Any:
        return returned

    async def alookup(key: str) -> Any:
        return returned

    for function in (lookup, alookup):
        guard = Keyguard(APIKeys(lookup=function, guesses="2/minute", optional=True))
        assert [ask_asgi(guard.asgi(asgi_app), ask_of(f"key {n}")).status for n in range(4)] == [503] * 4
    guard = Keyguard(APIKeys(lookup=lookup, guesses="2/minute"))
    assert [ask_wsgi(guard.wsgi(wsgi_app), ask_of(f"key {n}")).status for n in range(4)] == [503] * 4
