"""Keys that were made elsewhere: imported as texts, digests and slow hashes, and look-ups beside the registry."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import argon2
import bcrypt
import pytest

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, KeyRegistry, StoreError
from keyguard.guards.api_keys import others
from keyguard.keys import BrokenImport, ForeignKey
from keyguard.keys.record import ENTRY
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support.every_store import KINDS, store_of
from tests.support.harness import Ask, aask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

KEY, OTHER = "sk_9f8e7d6c5b4a39281706", "sk_00112233445566778899"
SECRET = "the old service's secret"
PEPPER = "a pepper of 24 letters.."
QUICK = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def sent(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


def ask_of(key: str) -> Ask:
    return Ask("/", (("X-API-Key", key),))


WORLDS: list[Callable[[Keyguard, Ask], Any]] = [
    lambda guard, ask: ask_wsgi(guard.wsgi(wsgi_app), ask),
    lambda guard, ask: ask_asgi(guard.asgi(asgi_app), ask),
]
worlds = pytest.mark.parametrize("world", WORLDS, ids=["wsgi", "asgi"])


def slow_of(scheme: str, key: str) -> str:
    data = key.encode()
    if scheme == "argon2":
        return QUICK.hash(data)
    if scheme == "django-argon2":
        return "argon2" + QUICK.hash(data)
    if scheme == "bcrypt":
        return bcrypt.hashpw(data, bcrypt.gensalt(4)).decode()
    if scheme == "sha512":
        return "sha512$$" + hashlib.sha512(data).hexdigest()
    from django.contrib.auth.hashers import PBKDF2PasswordHasher

    return PBKDF2PasswordHasher().encode(key, "salt", 1000)


FORMS: dict[str, Callable[[], dict[str, str]]] = {
    "key": lambda: {"key": KEY},
    "sha256": lambda: {"sha256": hashlib.sha256(KEY.encode()).hexdigest()},
    "hmac": lambda: {"hmac_sha256": hmac.digest(SECRET.encode(), KEY.encode(), "sha256").hex()},
    **{
        scheme: lambda scheme=scheme: {"hash": slow_of(scheme, KEY), "prefix": KEY[:8]}  # type: ignore[misc]
        for scheme in ("argon2", "django-argon2", "bcrypt", "pbkdf2", "sha512")
    },
}


# -- every form, on every store -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["key", "hmac", "argon2"])
def test_an_imported_key_is_like_any_other(
    kind: str, form: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = store_of(kind, request, tmp_path)
    guard = Keyguard(APIKeys(imported=True, hmac_secret=SECRET, pepper=PEPPER), store=store)
    found = guard.keys.import_keys([ForeignKey("acme", **FORMS[form](), plan="pro", scopes=["read"])])
    assert (found.new, found.there) == (1, 0)
    assert play(guard, headers=sent(OTHER)).status == 401
    assert play(guard, headers=sent(KEY)).status == 200
    (record,) = guard.keys.list()
    assert (record.owner, record.plan, record.verifier) == ("acme", "pro", None)
    guard.keys.disable(record.id)
    fresh = Keyguard(APIKeys(imported=True, hmac_secret=SECRET, pepper=PEPPER), store=store)
    assert play(fresh, headers=sent(KEY)).status == 401
    fresh.keys.enable(record.id)
    assert play(fresh, headers=sent(KEY)).status == 200
    assert KEY not in "".join(f"{key}{value!r}" for prefix in ("key", "keys|") for key, value in store.scan(prefix))


@worlds
@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_both_worlds(form: str, world: Callable[[Keyguard, Ask], Any]) -> None:
    guard = Keyguard(APIKeys(imported=True, hmac_secret=SECRET), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", **FORMS[form]())])
    for _ in range(2):
        assert world(guard, ask_of(OTHER)).status == 401
        assert world(guard, ask_of(KEY[:-1] + "x")).status == 401
        assert world(guard, ask_of(KEY)).status == 200


def test_a_slow_hash_is_tried_once_and_by_no_key_that_begins_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    fits = others.fits

    def counted(key: str, verifier: str) -> bool:
        tried.append(key)
        return fits(key, verifier)

    monkeypatch.setattr(others, "_fits", others.blocking(counted))
    store = MemoryStore()
    guard = Keyguard(APIKeys(imported=True), store=store)
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("argon2", KEY), prefix=KEY[:8])])
    assert play(guard, headers=sent(OTHER)).status == 401
    assert tried == []
    assert play(guard, headers=sent(KEY[:12] + "0" * 20)).status == 401
    assert len(tried) == 1
    for _ in range(3):  # each stack begins with no memory of its own
        assert play(Keyguard(APIKeys(imported=True), store=store), headers=sent(KEY)).status == 200
    assert tried == [KEY[:12] + "0" * 20, KEY]


def test_guesses_at_a_slow_hash_end_with_the_limit_on_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(others, "_fits", others.blocking(lambda key, verifier: bool(tried.append(key))))
    guard = Keyguard(APIKeys(imported=True, guesses="3/minute"), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("sha512", KEY), prefix=KEY[:8])])
    statuses = [play(guard, headers=sent(KEY[:8] + f"{number:020}")).status for number in range(6)]
    assert statuses == [401, 401, 401, 429, 429, 429]
    assert len(tried) == 3


def test_a_slow_hash_holds_up_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends only when another request has been answered meanwhile."""
    answered = threading.Event()
    monkeypatch.setattr(others, "_fits", others.blocking(lambda key, verifier: answered.wait(60)))
    guard = Keyguard(APIKeys(imported=True, public=["/health"]), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("sha512", KEY), prefix=KEY[:8])])
    app = guard.asgi(asgi_app)

    async def story() -> list[int]:
        slow = [asyncio.create_task(aask(app, ask_of(KEY))) for _ in range(5)]
        await asyncio.sleep(0)
        quick = await aask(app, Ask("/health"))
        answered.set()
        return [quick.status, *[(await one).status for one in slow]]

    assert asyncio.run(story()) == [200] * 6


def test_a_key_that_is_revoked_before_its_first_use_is_never_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(others, "_fits", others.blocking(lambda key, verifier: not tried.append(key)))
    guard = Keyguard(APIKeys(imported=True), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("sha512", KEY), prefix=KEY[:8])])
    guard.keys.revoke(guard.keys.list()[0].id)
    assert play(guard, headers=sent(KEY)).status == 401
    assert tried == []


def test_whoever_can_write_to_the_store_adds_no_key() -> None:
    """Not by another entry, nor by another hash in a record."""
    store = MemoryStore()
    guard = Keyguard(APIKeys(imported=True, pepper=PEPPER), store=store)
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("sha512", KEY), prefix=KEY[:8])])
    ((place, stored),) = [(key, value) for key, value in store.scan("key|") if not key.startswith(ENTRY)]
    forged = stored.replace(slow_of("sha512", KEY).encode(), slow_of("sha512", OTHER).encode())
    forged = forged.replace(b"sk_9f8e7", b"sk_00112")
    assert forged != stored
    from keyguard.keys import Peppers
    from keyguard.keys.imported import Imported
    from keyguard.ops import Put

    _, begins = Imported(Peppers(PEPPER)).places(OTHER)
    store.execute([Put(place, forged), *[Put(begin, place.removeprefix("key|").encode()) for begin in begins]])
    assert play(guard, headers=sent(OTHER)).status == 401
    exact, _ = Imported(Peppers(PEPPER)).places(OTHER)
    store.execute([Put(place, stored), *[Put(entry, place.removeprefix("key|").encode()) for entry in exact]])
    assert play(guard, headers=sent(OTHER)).status == 401
    assert play(guard, headers=sent(KEY)).status == 200


def test_without_the_library_of_a_hash_the_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Keyguard(APIKeys(imported=True), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("argon2", KEY), prefix=KEY[:8])])
    monkeypatch.setitem(__import__("sys").modules, "argon2", None)
    assert play(guard, headers=sent(KEY)).status == 503
    with pytest.raises(BrokenImport, match="pip install 'keyguard\\[hashes\\]'"):
        guard.keys.import_keys([ForeignKey("acme", hash=slow_of("argon2", OTHER), prefix=OTHER[:8])])


def test_the_pepper_may_change_after_an_import() -> None:
    store = MemoryStore()
    KeyRegistry(store, pepper=PEPPER).import_keys(
        [ForeignKey("acme", key=KEY), ForeignKey("b", hash=slow_of("argon2", OTHER), prefix=OTHER[:8])]
    )
    later = Keyguard(APIKeys(imported=True, pepper={2: "another pepper of letters", 1: PEPPER}), store=store)
    assert [play(later, headers=sent(key)).status for key in (KEY, OTHER, OTHER)] == [200, 200, 200]
    without = Keyguard(APIKeys(imported=True, pepper={2: "another pepper of letters"}), store=store)
    assert play(without, headers=sent(KEY)).status == 401


def test_keys_with_a_dot_are_found_by_what_stands_before_it() -> None:
    key = "Zk3dQ9fA.6qQ0mUe3Jb4sWv7yTn1cXr5pLh8gDk2z"
    guard = Keyguard(APIKeys(imported=True), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", hash=slow_of("pbkdf2", key), prefix="Zk3dQ9fA.")])
    assert [play(guard, headers=sent(one)).status for one in (key, key, key[:-1])] == [200, 200, 401]


def test_a_bearer_text_that_begins_otherwise_is_a_key_if_keys_were_imported() -> None:
    guard = Keyguard(APIKeys(imported=True), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", key=KEY)])
    assert play(guard, headers={"Authorization": f"Bearer {KEY}"}).status == 200


# -- imports ----------------------------------------------------------------------------------------------------


def test_importing_again_changes_nothing_and_brings_nothing_back() -> None:
    keys = KeyRegistry(MemoryStore())
    given = [
        ForeignKey("a", key=KEY),
        ForeignKey("b", sha256=hashlib.sha256(OTHER.encode()).hexdigest()),
        ForeignKey("c", hash=slow_of("argon2", "sk_aaaaaaaaaaaaaaaa"), prefix="sk_aaaaa"),
    ]
    assert keys.import_keys(given).new == 3
    assert (keys.import_keys(given).new, keys.import_keys(given).there) == (0, 3)
    assert keys.import_keys([ForeignKey("z", sha256=hashlib.sha256(KEY.encode()).hexdigest())]).there == 1
    keys.delete(KEY)
    again = keys.import_keys(given)
    assert (again.new, again.there, again.deleted) == (0, 2, 1)
    assert sorted(record.owner for record in keys.list()) == ["b", "c"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["key", "sha256", "hmac", "argon2"])
def test_nor_does_it_under_a_newer_pepper(kind: str, form: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    store, ended = store_of(kind, request, tmp_path), FORMS[form]()
    given = [ForeignKey("acme", **ended), ForeignKey("b", key=OTHER)]
    before = KeyRegistry(store, pepper=PEPPER)
    before.import_keys(given)
    before.delete(next(record.id for record in before.list(owner="acme")))
    before.revoke(OTHER)
    peppers = {2: "another pepper of letters", 1: PEPPER}
    later = Keyguard(APIKeys(imported=True, hmac_secret=SECRET, pepper=peppers), store=store)
    again = later.keys.import_keys(given)
    assert (again.new, again.there, again.deleted) == (0, 1, 1)
    assert [play(later, headers=sent(key)).status for key in (KEY, OTHER)] == [401, 401]
    assert len(later.keys.list()) == 1


def test_a_key_of_which_the_hmac_is_known_is_revoked_by_its_text_with_the_secret_of_the_app() -> None:
    guard = Keyguard(APIKeys(imported=True, hmac_secret=SECRET), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", **FORMS["hmac"]())])
    assert guard.keys.import_keys([ForeignKey("acme", key=KEY)]).there == 1
    assert guard.keys.revoke(KEY, "leaked").revoked is not None
    assert play(guard, headers=sent(KEY)).status == 401


def test_a_key_and_its_hmac_are_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYGUARD_HMAC_SECRET", SECRET)
    one, same = ForeignKey("a", **FORMS["key"]()), ForeignKey("b", **FORMS["hmac"]())
    for given in ([one, same], [same, one]):
        with pytest.raises(BrokenImport, match="this is the same key as 1"):
            KeyRegistry(MemoryStore()).import_keys(given)
    keys = KeyRegistry(MemoryStore())
    assert keys.import_keys([same]).new == 1
    assert keys.import_keys([one]).there == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of key, sha256"),
        ({"key": KEY, "sha256": "0" * 64}, "one of key, sha256"),
        ({"key": "s3cr3t"}, "16 to 512"),
        ({"key": "sixteen letters, but blanks"}, "16 to 512"),
        ({"key": "kn\u00f6del" * 4}, "16 to 512"),
        ({"sha256": "0" * 63}, "64 hexadecimal digits"),
        ({"hash": "$2b$04$nonsense", "prefix": "sk_9f8e7"}, "no hash of argon2"),
        ({"hash": "$2b$31$" + "a" * 53, "prefix": "sk_9f8e7"}, "at most"),
        ({"hash": "$argon2id$v=19$m=99999999,t=3,p=4$YWFhYWFhYWE$YWFh", "prefix": "sk_9f8e7"}, "at most"),
        ({"hash": "sha512$$" + "0" * 128}, "needs the prefix"),
        ({"hash": "sha512$$" + "0" * 128, "prefix": "sk_9f8e"}, "needs the prefix"),
        ({"key": KEY, "prefix": "sk_9f8e7"}, "a prefix is for a slow hash"),
        ({"key": KEY, "plan": "\n"}, "plan is a printable text"),
        ({"key": KEY, "scopes": ["two words"]}, "a scope is"),
        ({"key": KEY, "networks": ["10.0.0.1/8"]}, "networks are such as"),
        ({"key": KEY, "metadata": {"x": "y" * 5000}}, "metadata is"),
        ({"key": KEY, "expires": "0s"}, "expires has passed"),
    ],
)
def test_a_wrong_key_is_named_by_its_number_and_shown_nowhere(given: dict[str, Any], message: str) -> None:
    keys = KeyRegistry(MemoryStore())
    with pytest.raises(BrokenImport, match=message) as caught:
        keys.import_keys([ForeignKey("right", key=OTHER), ForeignKey("acme", **given)])
    assert [number for number, _ in caught.value.problems] == [2]
    for value in given.values():
        assert str(value) not in str(caught.value)
    assert keys.list() == []
    assert keys.import_keys([ForeignKey("right", key=OTHER), ForeignKey("acme", **given)], skip_broken=True).new == 1


def test_a_key_of_ours_is_not_imported_as_one_of_others() -> None:
    keys = KeyRegistry(MemoryStore())
    with pytest.raises(BrokenImport, match="store copy"):
        keys.import_keys([ForeignKey("a", key=keys.issue("a").key.reveal())])


def test_a_guess_tries_a_few_hashes_at_most() -> None:
    keys = KeyRegistry(MemoryStore())
    many = [ForeignKey("a", hash=slow_of("sha512", f"sk_live_{number:020}"), prefix="sk_live_") for number in range(5)]
    with pytest.raises(BrokenImport, match="5: more than 4 keys"):
        keys.import_keys(many)
    assert keys.import_keys(many[:4]).new == 4
    with pytest.raises(ConfigurationError, match="a longer prefix"):
        keys.import_keys(many[4:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_beginning_has_room_again_for_hashes_once_keys_are_verified_or_deleted(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    texts = [f"sk_abcdefgh_{number:012d}" for number in range(7)]
    given = [ForeignKey("a", hash=slow_of("sha512", text), prefix=text[:12]) for text in texts]
    guard = Keyguard(APIKeys(imported=True), store=store_of(kind, request, tmp_path))
    guard.keys.import_keys(given[:4])
    with pytest.raises(ConfigurationError, match="begin in the same way"):
        guard.keys.import_keys(given[4:5])
    assert play(guard, headers=sent(texts[0])).status == 200
    deleted = next(record.id for record in guard.keys.list() if record.verifier == given[1].hash)
    guard.keys.delete(deleted)
    assert guard.keys.import_keys(given[4:6]).new == 2
    fresh = Keyguard(APIKeys(imported=True), store=guard.store)
    assert [play(fresh, headers=sent(text)).status for text in texts] == [200, 401, 200, 200, 200, 200, 401]
    assert fresh.keys.import_keys(given[1:2]).deleted == 1


def test_an_imported_key_is_rotated_to_one_of_ours_and_revoked_by_its_text() -> None:
    guard = Keyguard(APIKeys(imported=True), store=MemoryStore())
    guard.keys.import_keys([ForeignKey("acme", key=KEY, plan="pro")])
    successor = guard.keys.rotate(KEY)
    assert (successor.record.plan, successor.record.imported) == ("pro", None)
    assert [play(guard, headers=sent(key)).status for key in (KEY, successor.key.reveal())] == [200, 200]
    guard.keys.revoke(KEY)
    assert [play(guard, headers=sent(key)).status for key in (KEY, successor.key.reveal())] == [401, 200]


# -- the registry first, then a look-up -------------------------------------------------------------------------


class Legacy:
    """A look-up that knows one key, and notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, key: str) -> Identity | None:
        self.asked.append(key)
        return Identity("legacy") if key == OTHER else None


@worlds
def test_issued_imported_and_looked_up_keys_in_one_guard(world: Callable[[Keyguard, Ask], Any]) -> None:
    legacy = Legacy()
    guard = Keyguard(APIKeys(lookup=legacy, issued=True, imported=True), store=MemoryStore())
    issued = guard.keys.issue("acme")
    guard.keys.import_keys([ForeignKey("b", key=KEY)])
    assert [world(guard, ask_of(key)).status for key in (issued.key.reveal(), KEY)] == [200, 200]
    assert legacy.asked == []
    assert world(guard, ask_of(OTHER)).status == 200
    assert world(guard, ask_of("nobody's key, at all")).status == 400  # two texts: a key holds no comma
    assert world(guard, ask_of("nobodys_key_at_all")).status == 401
    assert legacy.asked == [OTHER, "nobodys_key_at_all"]


@pytest.mark.parametrize("imported", [False, True])
def test_what_the_registry_has_ended_no_look_up_revives(imported: bool) -> None:
    guard = Keyguard(
        APIKeys(lookup=lambda key: Identity("anybody"), issued=True, imported=imported), store=MemoryStore()
    )
    issued = guard.keys.issue("acme")
    guard.keys.revoke(issued.record.id)
    deleted = guard.keys.issue("acme")
    guard.keys.delete(deleted.record.id)
    for key in (issued, deleted):
        assert play(guard, headers=sent(key.key.reveal())).status == 401
    if imported:
        guard.keys.import_keys([ForeignKey("b", key=KEY), ForeignKey("c", key=OTHER)])
        guard.keys.revoke(KEY)
        guard.keys.delete(OTHER)
        assert [play(guard, headers=sent(key)).status for key in (KEY, OTHER)] == [401, 401]
    assert play(guard, headers=sent("of the look-up")).status == 200


class Broken(MemoryStore):
    broken = False
    of_one_process = False

    def execute(self, ops: Any) -> list[Any]:
        if self.broken:
            raise StoreError("the store is out of order")
        return super().execute(ops)


@worlds
def test_an_outage_is_a_503_and_no_look_up_is_asked_instead(world: Callable[[Keyguard, Ask], Any]) -> None:
    legacy, store = Legacy(), Broken()
    guard = Keyguard(APIKeys(lookup=legacy, imported=True), store=store)
    issued = guard.keys.issue("acme").key.reveal()
    guard.keys.import_keys([ForeignKey("b", key=KEY)])
    store.broken = True
    assert [world(guard, ask_of(key)).status for key in (issued, KEY, OTHER)] == [503, 503, 503]
    assert legacy.asked == []


@worlds
def test_without_imported_keys_a_look_up_is_asked_through_an_outage(world: Callable[[Keyguard, Ask], Any]) -> None:
    legacy, store = Legacy(), Broken()
    guard = Keyguard(APIKeys(lookup=legacy, issued=True), store=store)
    issued = guard.keys.issue("acme").key.reveal()
    store.broken = True
    assert [world(guard, ask_of(key)).status for key in (issued, OTHER)] == [503, 200]


def test_a_verified_imported_key_passes_an_outage_for_a_while() -> None:
    clock, store = ManualClock(), Broken()
    guard = Keyguard(APIKeys(imported=True, stale_if_error="1 minute"), store=store, clock=clock)
    guard.keys.import_keys([ForeignKey("b", key=KEY)])
    assert play(guard, headers=sent(KEY)).status == 200
    store.broken = True
    clock.advance("30 seconds")
    assert play(guard, headers=sent(KEY)).status == 200
    clock.advance("31 seconds")
    assert play(guard, headers=sent(KEY)).status == 503


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"issued": False}, "would accept nobody"),
        ({"issued": False, "imported": True, "lookup": Legacy()}, "would accept nobody"),
        ({"issued": "yes"}, "issued is True or False"),
        ({"imported": "yes"}, "imported is True or False"),
        ({"hmac_secret": SECRET}, "set imported=True"),
        ({"imported": True, "hmac_secret": "short"}, "at least 8 bytes"),
    ],
)
def test_wrong_settings_do_not_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        APIKeys(**settings)


def test_nothing_secret_is_logged_or_stored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told = kept = ""
    for form in FORMS.values():
        store = MemoryStore()
        guard = Keyguard(APIKeys(imported=True, hmac_secret=SECRET, pepper=PEPPER), store=store)
        guard.keys.import_keys([ForeignKey("acme", **form())])
        for key in (OTHER, KEY[:12] + "0" * 20, KEY, KEY):
            play(guard, headers=sent(key))
        told += repr(guard) + repr(guard.keys.list()) + repr(ForeignKey("a", **form()))
        kept += "".join(f"{key}{value!r}{value.hex()}" for key, value in store.scan("key"))
    for secret in (KEY, OTHER, SECRET, PEPPER, hashlib.sha256(KEY.encode()).hexdigest()):
        assert secret not in caplog.text
        assert secret not in kept
    for secret in (KEY, SECRET, "$argon2", "$2b$"):
        assert secret not in told
