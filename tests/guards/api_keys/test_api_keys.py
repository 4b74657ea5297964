"""Authentication: what a key opens, how soon it stops opening it, and what leaks: nothing."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import threading
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, KeyNotFound, RateLimit, StoreError
from keyguard.keys import KeyRegistry, Peppers, new_key, parse_key
from keyguard.keys.format import ALPHABET
from keyguard.ops import Op
from keyguard.request import Forward, Request
from keyguard.response import Response
from keyguard.stores.memory import MemoryStore
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock, play
from keyguard.units import as_datetime
from tests.support.harness import Ask, aask, asgi_app, ask_wsgi, wsgi_app

SECOND = 1_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def guard(clock: ManualClock) -> Keyguard:
    return Keyguard(APIKeys(), store=MemoryStore(clock=clock), clock=clock)


@pytest.fixture
def keys(guard: Keyguard, clock: ManualClock) -> KeyRegistry:
    return KeyRegistry(guard.store, clock=clock)


def status(guard: Keyguard, key: str) -> int:
    return play(guard, headers={"X-API-Key": key}).status


# -- the life of a key ------------------------------------------------------------------------------------------


def test_a_key_works_from_not_before_until_it_expires(guard: Keyguard, keys: KeyRegistry, clock: ManualClock) -> None:
    issued = keys.issue("acme", not_before=timedelta(hours=1), expires=timedelta(hours=2))
    key = issued.key.reveal()
    seen = []
    for _ in range(5):
        seen.append((status(guard, key), keys.get(issued.record.id).status(as_datetime(clock()))))
        clock.advance(1800)
    assert seen == [(401, "pending"), (401, "pending"), (200, "active"), (200, "active"), (401, "expired")]


def test_a_revoked_key_stops_within_a_second_in_every_process(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    processes = [Keyguard(APIKeys(), store=store, clock=clock) for _ in range(3)]
    keys = KeyRegistry(store, clock=clock)
    issued = keys.issue("acme")
    key = issued.key.reveal()
    assert [status(guard, key) for guard in processes] == [200] * 3
    keys.revoke(issued.record.id)
    clock.advance(1)
    assert [status(guard, key) for guard in processes] == [401] * 3


@pytest.mark.parametrize("ahead", [300, -300])
def test_a_machine_whose_clock_is_wrong_revokes_and_rotates_at_once(clock: ManualClock, ahead: int) -> None:
    guard = Keyguard(APIKeys(), store=MemoryStore(clock=clock), clock=clock)
    keys = KeyRegistry(guard.store, clock=lambda: clock.now + timedelta(seconds=ahead))
    revoked, rotated = keys.issue("acme"), keys.issue("acme")
    keys.revoke(revoked.record.id)
    successor = keys.rotate(rotated.record.id, overlap=0)
    assert [status(guard, issued.key.reveal()) for issued in (revoked, rotated, successor)] == [401, 401, 200]


class Slow(MemoryStore):
    """A store that answers an event loop in a while."""

    asked = 0

    def aexecute(self, ops: Sequence[Op[Any]]) -> Any:
        self.asked += 1

        async def later() -> list[Any]:
            await asyncio.sleep(0.01)
            return self.execute(ops)

        return later()


def test_a_key_in_use_is_looked_up_again_by_one_request_for_all(clock: ManualClock) -> None:
    store = Slow(clock=clock)
    guard = Keyguard(APIKeys(), store=store, clock=clock)
    key = guard.keys.issue("acme").key.reveal()
    app = guard.asgi(asgi_app)

    async def story() -> list[int]:
        asked = []
        for wait in (0, 0.3, 0.1, 0.01, 0.6):
            clock.advance(wait)
            before = store.asked
            answers = await asyncio.gather(*[aask(app, Ask(headers=(("X-API-Key", key),))) for _ in range(8)])
            assert [answer.status for answer in answers] == [200] * 8
            asked.append(store.asked - before)
        return asked

    # Nothing known; known; one asks ahead; known again; not trusted any more, so nobody goes on unasked.
    assert asyncio.run(story()) == [8, 0, 1, 0, 8]


def test_a_guard_of_its_own_kind_is_not_passed_by(clock: ManualClock) -> None:
    class Stricter(APIKeys):
        async def __call__(self, request: Request, forward: Forward) -> Response:
            return await super().__call__(request, forward) if request.path == "/" else Response(404)

    guard = Keyguard(Stricter(), store=MemoryStore(clock=clock), clock=clock)
    headers = {"X-API-Key": guard.keys.issue("acme").key.reveal()}
    assert [play(guard, path, headers=headers).status for path in ("/", "/", "/a")] == [200, 200, 404]


def test_an_expiry_is_exact_also_for_a_key_in_use(guard: Keyguard, keys: KeyRegistry, clock: ManualClock) -> None:
    key = keys.issue("acme", expires=timedelta(milliseconds=200)).key.reveal()
    assert status(guard, key) == 200
    clock.advance(0.199999)
    assert status(guard, key) == 200
    clock.advance(0.000001)
    assert status(guard, key) == 401


def test_rotation_overlaps_and_resets_no_limit(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    guard = Keyguard(APIKeys(), RateLimit("3/day", by="subject"), store=store, clock=clock)
    keys = KeyRegistry(store, clock=clock)
    old = keys.issue("acme", plan="pro", scopes=["read"], metadata={"team": "blue"})
    assert status(guard, old.key.reveal()) == 200
    new = keys.rotate(old.record.id, overlap=timedelta(hours=1))
    assert (new.record.plan, new.record.scopes, new.record.metadata) == ("pro", {"read"}, {"team": "blue"})
    assert (keys.get(old.record.id).replaced_by, new.record.replaces) == (new.record.id, old.record.id)
    assert status(guard, new.key.reveal()) == 200
    assert status(guard, old.key.reveal()) == 200
    assert status(guard, new.key.reveal()) == 429  # the subject's fourth
    clock.advance(3600)
    assert status(guard, old.key.reveal()) == 401
    with pytest.raises(ValueError, match="was rotated already"):
        keys.rotate(old.record.id)


def test_what_cannot_be_rotated_or_found_says_so(keys: KeyRegistry) -> None:
    issued = keys.issue("acme")
    keys.revoke(issued.record.id, "leaked")
    with pytest.raises(ValueError, match="is revoked: issue a new one"):
        keys.rotate(issued.record.id)
    with pytest.raises(KeyNotFound, match="no key with the id abc"):
        keys.get("abc")
    with pytest.raises(KeyNotFound) as caught:
        keys.get(issued.key.reveal()[:-1] + "!")
    assert issued.key.reveal()[20:40] not in str(caught.value)
    assert keys.revoke(issued.key.reveal()).revoked_for == "leaked"  # the whole key names itself; the first word stays


def test_keys_are_listed_oldest_first_and_by_status(keys: KeyRegistry, clock: ManualClock) -> None:
    names = []
    for name in ("ada", "bob", "cleo"):
        names.append(keys.issue(name, subject="team").record.id)
        clock.advance(1)
    keys.revoke(names[1])
    assert [record.owner for record in keys.list()] == ["ada", "bob", "cleo"]
    assert [record.owner for record in keys.list(status="active", subject="team")] == ["ada", "cleo"]
    assert keys.list(subject="nobody") == []


def test_a_key_is_updated_in_part(keys: KeyRegistry) -> None:
    record = keys.issue("acme", plan="free", scopes=["read"]).record
    changed = keys.update(record.id, plan="pro", networks=["10.0.0.0/8"])
    assert (changed.plan, changed.scopes, changed.networks) == ("pro", {"read"}, ("10.0.0.0/8",))
    assert keys.get(record.id) == changed


def test_the_registry_is_the_same_under_an_event_loop(tmp_path: Path) -> None:
    async def story() -> None:
        store = SQLiteStore(tmp_path / "k.db")
        keys = KeyRegistry(store)
        issued = await keys.aissue("acme", scopes=["read"])
        assert await keys.aget(issued.record.id) == issued.record
        assert await keys.alist() == [issued.record]
        assert (await keys.aupdate(issued.record.id, plan="pro")).plan == "pro"
        successor = await keys.arotate(issued.record.id, overlap=0)
        assert (await keys.arevoke(successor.record.id)).revoked is not None
        store.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"owner": ""}, "owner is a printable text"),
        ({"owner": "a\nb"}, "owner is a printable text"),
        ({"scopes": "read write"}, "scopes are a list"),
        ({"scopes": ["two words"]}, "without blanks"),
        ({"networks": ["10.0.0.1/8"]}, "did you mean '10.0.0.0/8'"),
        ({"metadata": {"x": object()}}, "JSON values"),
        ({"metadata": {"x": float("nan")}}, "JSON values"),
        ({"metadata": {"x": "y" * 5000}}, "more than the 4096"),
        ({"expires": datetime(2030, 1, 1)}, "with a time zone"),
        ({"expires": timedelta(days=-1)}, "not one before it"),
        ({"expires": datetime(2000, 1, 1, tzinfo=UTC)}, "before the key would begin"),
        ({"expires": timedelta.max}, "behind the year 9999"),
    ],
)
def test_a_bad_value_is_refused_and_nothing_is_issued(keys: KeyRegistry, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        keys.issue(**{"owner": "acme", **options})
    assert keys.list() == []


# -- the text of a key ------------------------------------------------------------------------------------------


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    assert parse_key(text) is None


@given(place=st.integers(0, 200), letter=st.sampled_from(ALPHABET))
def test_every_typing_error_is_found_by_the_checksum(place: int, letter: str) -> None:
    text = new_key().reveal()
    place %= len(text)
    assert parse_key(text) is not None
    typed = text[:place] + letter + text[place + 1 :]
    assert typed == text or parse_key(typed) is None
    swapped = text[:place] + text[place : place + 2][::-1] + text[place + 2 :]
    assert swapped == text or parse_key(swapped) is None


def test_keys_differ_and_can_be_told_from_other_tokens() -> None:
    keys = [new_key("acme", "test").reveal() for _ in range(100)]
    assert len(set(keys)) == 100
    assert all(key.startswith("acme_test_") and len(key) == 10 + 12 + 1 + 38 for key in keys)
    for bad in ("", "A", "1a", "a_b", "x" * 17):
        with pytest.raises(ConfigurationError, match="a letter first"):
            new_key(bad)


# -- peppers ----------------------------------------------------------------------------------------------------


def test_a_pepper_can_be_replaced_while_old_keys_go_on(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(clock=clock)
    old, new = "an old pepper of some length", "a new pepper of some length"
    first = KeyRegistry(store, pepper=old, clock=clock).issue("acme").key.reveal()
    second = KeyRegistry(store, pepper={1: old, 2: new}, clock=clock).issue("acme").key.reveal()

    def statuses(pepper: Any) -> list[int]:
        guard = Keyguard(APIKeys(pepper=pepper), store=store, clock=clock)
        return [status(guard, first), status(guard, second)]

    assert statuses({1: old, 2: new}) == [200, 200]
    assert statuses({2: new}) == [401, 200]
    assert statuses("some other pepper entirely") == [401, 401]
    monkeypatch.setenv("KEYGUARD_PEPPER", f"2:{new},1:{old}")
    assert statuses(None) == [200, 200]


@pytest.mark.parametrize(
    "pepper", ["short", {1: "short"}, {0: "x" * 20}, {"1": "x" * 20}, {70000: "x" * 20}, ["x" * 20]]
)
def test_a_bad_pepper_stops_the_start_and_is_not_shown(pepper: Any) -> None:
    with pytest.raises(ConfigurationError, match="pepper") as caught:
        APIKeys(pepper=pepper)
    assert "x" * 20 not in str(caught.value)


# -- nothing leaks ----------------------------------------------------------------------------------------------


def test_no_secret_is_shown_stored_or_logged(tmp_path: Path) -> None:
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    pepper = "a pepper that must not be seen"
    store = SQLiteStore(tmp_path / "k.db")
    seen = []
    try:
        guard = Keyguard(APIKeys(pepper=pepper), RateLimit("2/day", by="key"), store=store)
        issued = guard.keys.issue("acme")
        key = issued.key.reveal()
        for sent in (key, key, key, key[:-1] + "x", key + "x"):
            answer = play(guard, headers={"Authorization": f"Bearer {sent}"})
            seen += [repr(answer.headers), answer.body.decode()]
        guard.keys.revoke(key)
        status(guard, key)
        for thing in (guard, guard.guards[0], guard.keys, issued, issued.key, store, Peppers(pepper)):
            seen += [repr(thing), str(thing)]
        for thing in (issued.key, Peppers(pepper), issued):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(thing)
        try:
            guard.keys.rotate(key)
        except ValueError:
            seen.append(traceback.format_exc())
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(logging.WARNING)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.close()
    stored += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    secret = key.split("_")[3]
    assert issued.record.id.encode() in stored
    for text in (logged.getvalue(), *seen):
        assert secret[:12] not in text
        assert pepper not in text
    assert secret[:12].encode() not in stored
    assert pepper.encode() not in stored


# -- failing closed ---------------------------------------------------------------------------------------------


class Failing(MemoryStore):
    fails = False

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        if self.fails:
            raise StoreError("the disk is on fire at /secret/place")
        return super().execute(ops)


def test_a_store_that_fails_is_never_the_keys_fault() -> None:
    store = Failing()
    guard = Keyguard(APIKeys(), RateLimit("1/day", by="key"), store=store)
    key = guard.keys.issue("acme").key.reveal()
    store.fails = True
    for sent in ({"X-API-Key": key}, {"X-API-Key": key[:-1] + "x"}, {"X-API-Key": "nonsense"}):
        answer = play(guard, headers=sent)
        assert (answer.status, answer.header("Retry-After")) == (503, "1")
        assert b'"cause": "fault"' in answer.body
        assert b"fire" not in answer.body
    assert play(guard).status == 401  # without a key there is nothing to ask the store
    store.fails = False
    assert status(guard, key) == 200


@pytest.mark.parametrize("key", ["a\nb", "a\r\nX-Admin: 1", "a\0b", "\0", "k" * 2**20, "\x80\xff", " ", ","])
def test_keys_that_no_server_should_let_through_are_refused_all_the_same(key: str) -> None:
    guard = Keyguard(APIKeys())
    ask = Ask(headers=(("X-API-Key", key),))
    assert asyncio.run(aask(guard.asgi(asgi_app), ask, lint=False)).status == 401
    assert ask_wsgi(guard.wsgi(wsgi_app), ask, lint=False).status == 401


def test_a_look_up_that_fails_is_not_the_keys_fault_either() -> None:
    def lookup(key: str) -> Identity | None:
        raise ConnectionError("no route to the table of keys")

    answer = play(APIKeys(lookup=lookup), headers={"X-API-Key": "k"})
    assert (answer.status, b"route" in answer.body) == (503, False)
    guard = Keyguard(RateLimit("2/minute"), APIKeys(lookup=lookup, guesses="2/minute"))
    statuses = [play(guard, headers={"X-API-Key": "k"}).status for _ in range(6)]
    assert statuses == [503] * 6  # and it is counted neither as a guess nor against the outer limit
    wrong = APIKeys(lookup=lambda key: {"subject": "x"})  # type: ignore[arg-type, return-value]
    assert play(wrong, headers={"X-API-Key": "k"}).status == 503


SECRET = "sk_a'key_of_somebody's"


@pytest.mark.parametrize(
    "guard",
    [
        APIKeys(lookup=lambda key: {"other": Identity("ada")}[key]),
        RateLimit("2/minute", by=lambda request: {"other": "ada"}[request.header("x-api-key") or ""]),
        RateLimit("2/minute", cost=lambda request: int((request.header("authorization") or "").split(" ")[1])),
    ],
)
def test_what_a_users_function_raises_is_logged_without_the_key(guard: Any, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"X-API-Key": SECRET, "Authorization": f"Bearer {SECRET}"}
    assert play(guard, headers=headers).status == 503
    assert "Error" in caplog.text
    assert "test_api_keys.py" in caplog.text  # where it was raised is told
    assert "somebody" not in caplog.text


@pytest.mark.parametrize("by", ["key", "subject"])
def test_a_caller_whom_a_look_up_knows_by_one_name_only_is_nobody_anonymous(by: Any) -> None:
    callers = {"first-key": Identity("ada"), "second-key": Identity("", key_id="2")}
    guard = Keyguard(APIKeys(lookup=callers.get), RateLimit("2/minute", by=by))

    def ask(key: str, client: str) -> int:
        return play(guard, headers={"X-API-Key": key}, client=client).status

    for key in callers:  # each has a limit, wherever the calls come from
        assert [ask(key, f"198.51.100.{number}") for number in range(3)] == [200, 200, 429]
    assert not any(identity.anonymous for identity in callers.values())


# -- guessing ---------------------------------------------------------------------------------------------------


def test_an_async_look_up_works_under_asgi_and_is_refused_under_wsgi() -> None:
    async def lookup(key: str) -> Identity | None:
        await asyncio.sleep(0)
        return Identity("ada", key_id="1") if key == "right" else None

    guard = Keyguard(APIKeys(lookup=lookup))
    app = guard.asgi(asgi_app)

    async def story() -> list[int]:
        return [(await aask(app, Ask(headers=(("X-API-Key", key),)))).status for key in ("right", "wrong", "right")]

    assert asyncio.run(story()) == [200, 401, 200]
    with pytest.raises(ConfigurationError, match="no event loop under WSGI"):
        guard.wsgi(wsgi_app)


def test_guesses_that_race_each_other_do_not_get_through() -> None:
    async def lookup(key: str) -> Identity | None:
        await asyncio.sleep(0)
        return None

    async def story() -> list[int]:
        app = Keyguard(APIKeys(lookup=lookup, guesses="5/minute")).asgi(asgi_app)
        asks = [aask(app, Ask(headers=(("X-API-Key", f"guess-{n}"),))) for n in range(50)]
        return [answer.status for answer in await asyncio.gather(*asks)]

    statuses = asyncio.run(story())
    assert (statuses.count(401), statuses.count(429)) == (5, 45)


@pytest.mark.parametrize("store", [MemoryStore, Slow])
def test_right_keys_that_are_looked_up_at_once_are_no_guesses(store: type[MemoryStore]) -> None:
    """Many first calls from one address: each holds a guess for as long as its look-up takes."""

    async def lookup(key: str) -> Identity | None:
        await asyncio.sleep(0.001)
        return Identity(key) if key.startswith("right") else None

    async def ask_all(*keys: str) -> list[int]:
        app = Keyguard(APIKeys(lookup=lookup, guesses="2/minute"), store=store()).asgi(asgi_app)
        answers = await asyncio.gather(*[aask(app, Ask(headers=(("X-API-Key", key),))) for key in keys])
        return [answer.status for answer in answers]

    assert asyncio.run(ask_all(*["right"] * 50)) == [200] * 50
    assert asyncio.run(ask_all(*[f"right {number}" for number in range(20)])) == [200] * 20
    assert sorted(asyncio.run(ask_all(*[f"wrong {number}" for number in range(20)]))) == [401] * 2 + [429] * 18


def test_right_keys_that_are_looked_up_in_threads_at_once_are_no_guesses() -> None:
    everybody = threading.Barrier(2)

    def lookup(key: str) -> Identity | None:
        if key != "third":
            everybody.wait(10)  # both guesses are held
        return Identity(key)

    app = Keyguard(APIKeys(lookup=lookup, guesses="2/minute")).wsgi(wsgi_app)
    statuses: list[int] = []

    def ask(key: str) -> None:
        statuses.append(ask_wsgi(app, Ask(headers=(("X-API-Key", key),))).status)

    threads = [threading.Thread(target=ask, args=(key,)) for key in ("first", "second", "third")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 3


def test_guesses_that_race_in_threads_do_not_get_through(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "k.db")
    app = Keyguard(APIKeys(guesses="5/minute"), store=store).wsgi(wsgi_app)
    statuses: list[int] = []

    def guess() -> None:
        for _ in range(4):
            key = new_key().reveal()
            statuses.append(ask_wsgi(app, Ask(headers=(("X-API-Key", key),))).status)

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert (statuses.count(401), statuses.count(429)) == (5, 59)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lookup": "table"}, "lookup is a function"),
        ({"sources": []}, "sources is empty"),
        ({"sources": ["body:key"]}, "not a source"),
        ({"sources": ["x api key"]}, "not a source"),
        ({"public": ["health"]}, "begins with '/'"),
        ({"guesses": "0/minute"}, "admits nothing"),
        ({"realm": 'a"b'}, "realm is printable"),
        ({"scopes": ["two words"]}, "a scope is"),
        ({"prefix": "KG"}, "a letter first"),
        ({"preflights": "no"}, "preflights is True or False"),
        ({"optional": "no"}, "optional is True or False"),
        ({"name": "a|b"}, "a name is"),
        ({"name": 5}, "a name is"),
        ({"public": 5}, "public is a list of texts"),
        ({"sources": None}, "sources is a list of texts"),
        ({"scopes": 5}, "scopes is a list of texts"),
        ({"lookup": lambda: None}, "called with the text of a key alone"),
        ({"scopes": lambda request, key: None}, "called with the request alone"),
    ],
)
def test_a_bad_setting_stops_the_start(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Keyguard(APIKeys(**options))


def test_who_sends_no_key_has_no_scopes() -> None:
    """Where keys are optional, a scope that a request needs is not optional with them."""
    guard = Keyguard(APIKeys(optional=True, scopes=lambda request: ["write"] if request.method == "PUT" else None))
    assert play(guard, "/").status == 200
    refused = play(guard, "/", method="PUT")
    assert (refused.status, refused.header("www-authenticate")) == (401, 'Bearer realm="api"')
    for scopes, status in ((["write"], 200), (["read"], 403)):
        key = guard.keys.issue("acme", scopes=scopes).key.reveal()
        assert play(guard, "/", method="PUT", headers={"X-API-Key": key}).status == status
