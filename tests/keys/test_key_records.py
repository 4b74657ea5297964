"""What a store holds of a key: sealed, so that only who knows the pepper can say what a key may do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import APIKeys, ConfigurationError, Keyguard, KeyRegistry, StoreError
from keyguard.cli import main
from keyguard.keys import Peppers, new_key, record_key
from keyguard.keys.record import read_head
from keyguard.ops import RECORD, SEALED, CompareAndSet, Put, Read
from keyguard.stores import open_store
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play
from tests.support import old_records
from tests.support.every_store import KINDS, store_of
from tests.support.old_records import KEYS, NEW, OLD, RECORDS, SUCCESSOR

PEPPER = "a pepper of some length"
PEPPERS: dict[int, Any] = {0: None, 1: OLD, 2: NEW}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return store_of(request.param, request, tmp_path)


def status(store: Any, key: str, *, scopes: Any = None, **options: Any) -> int:
    """The answer to a key, by a process that has not seen it before."""
    return play(APIKeys(scopes=scopes, **options), headers={"X-API-Key": key}, store=store).status


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Why requests were refused, and the key that the log names."""
    found = []
    for record in caplog.records:
        words = dict(word.split("=", 1) for word in record.getMessage().split() if "=" in word)
        found.append(f"{words['reason']} {words['key']}")
    caplog.clear()
    return found


def stored(store: Any, id: str) -> bytes:
    found: tuple[bytes | None, ...] = store.execute([Read(record_key(id))])[0]
    assert found[0] is not None
    return found[0]


# -- pepper versions ----------------------------------------------------------------------------------------------


def test_keys_without_a_pepper_are_accepted_if_none_is_set_or_if_they_are_named(
    store: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    issued = KeyRegistry(store).issue("acme")
    key, id = issued.key.reveal(), issued.record.id
    assert status(store, key) == 200
    for pepper in (PEPPER, {1: PEPPER}, {1: OLD, 2: NEW}):
        assert status(store, key, pepper=pepper) == 401
        assert reasons(caplog) == [f"pepper {id}"]
    for pepper in ({1: PEPPER, 0: None}, {0: "", 7: PEPPER}, {0: b"", 1: OLD}, {0: None}):
        assert status(store, key, pepper=pepper) == 200
    monkeypatch.setenv("KEYGUARD_PEPPER", f"1:{PEPPER}")
    assert status(store, key) == 401
    monkeypatch.setenv("KEYGUARD_PEPPER", f"1:{PEPPER},0:")
    assert status(store, key) == 200


def test_a_key_of_a_version_that_is_not_set_is_invalid_and_the_log_says_so(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    issued = KeyRegistry(store, pepper={1: OLD, 2: NEW}).issue("acme")
    key, id = issued.key.reveal(), issued.record.id
    other = KeyRegistry(store, pepper={1: OLD}).issue("other").key.reveal()
    for pepper in (None, {1: OLD}, {3: NEW}, {0: None, 1: OLD}):
        assert status(store, key, pepper=pepper) == 401
        assert reasons(caplog) == [f"pepper {id}"]
    # The right version and another pepper: that is a wrong key, and the log names nobody's.
    assert status(store, key, pepper={2: PEPPER}) == 401
    assert reasons(caplog) == ["unknown -"]
    assert [status(store, one, pepper={1: OLD, 2: NEW}) for one in (key, other)] == [200, 200]


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32])
@pytest.mark.parametrize("layout", [1, 2])
def test_no_secret_fits_a_version_that_is_not_set(store: Any, digest: bytes, layout: int) -> None:
    """A digest of zeros was what such a record was compared with: it let any secret pass."""
    key = KeyRegistry(MemoryStore()).issue("acme").key
    for version in (0, 1, 2, 7, 65535):
        if layout == 1:
            record = RECORD.pack(1, version, 0, 2**62, digest) + RECORDS["key|Ky9Pf34qY6Nb"][RECORD.size :]
        else:
            record = SEALED.pack(2, 1, 0, version, 0, 2**62, digest, bytes(32)) + b"{}"
        store.execute([Put(record_key(key.id), record)])
        for pepper in (None, PEPPER, {2: NEW, 1: OLD}):
            assert status(store, key.reveal(), pepper=pepper) == 401


@pytest.mark.parametrize(
    ("pepper", "words"),
    [
        ({0: "x" * 20}, "write {0: None}"),
        ({1: None}, "pepper 1 is shorter"),
        ({1: ""}, "pepper 1 is shorter"),
        ({-1: "x" * 20}, "a number from 1 to 65535, or 0"),
        ({True: "x" * 20}, "a number from 1 to 65535, or 0"),
        ({1: 5}, "pepper 1 is shorter"),
    ],
)
def test_a_version_that_cannot_be_stops_the_start(pepper: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        APIKeys(pepper=pepper)


@pytest.mark.parametrize(
    "text", ["1:first-of-some-length,1:other-of-some-length", "0:x", "1:short", "99999999:" + "x" * 20]
)
def test_an_environment_that_contradicts_itself_stops_the_start(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYGUARD_PEPPER", text)
    with pytest.raises(ConfigurationError):
        APIKeys()


# -- records that somebody has changed ----------------------------------------------------------------------------


def tampered(record: bytes, change: Callable[[bytes], bytes]) -> bytes:
    return record[: SEALED.size] + change(record[SEALED.size :])


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "scopes": lambda record: tampered(record, lambda text: text.replace(b'"scopes":["read"]', b'"scopes":["admin"]')),
    "plan": lambda record: tampered(record, lambda text: text.replace(b'"plan":"free"', b'"plan":"pro!"')),
    "subject": lambda record: tampered(record, lambda text: text.replace(b'"subject":"acme"', b'"subject":"else"')),
    "networks": lambda record: tampered(record, lambda text: text.replace(b'"networks":["10', b'"networks":["20')),
    "metadata": lambda record: tampered(record, lambda text: text.replace(b'"team":"blue"', b'"team":"gold"')),
    "the end": lambda record: record[:14] + b"\xff" * 7 + b"\x7f" + record[22:],
    "the beginning": lambda record: record[:6] + bytes(8) + record[14:],
    "no JSON": lambda record: record[: SEALED.size] + b"\xff\xfe",
    "no text": lambda record: record[: SEALED.size],
    "no seal": lambda record: record[:54] + bytes(32) + record[86:],
    "one more blank": lambda record: record + b" ",
}


def test_a_pepper_that_is_not_utf_8_is_one_and_what_is_no_text_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `export KEYGUARD_PEPPER=$(head -c 24 /dev/urandom)` makes it."""
    raw = bytes(range(128, 160))
    key = new_key()
    monkeypatch.setenv("KEYGUARD_PEPPER", raw.decode("utf-8", "surrogateescape"))
    assert Peppers().digests(key) == Peppers(raw).digests(key)
    with pytest.raises(ConfigurationError, match="pepper 1 is not text") as caught:
        Peppers("a secret of some length \ud800")
    assert caught.value.__context__ is caught.value.__cause__ is None


@pytest.mark.parametrize("pepper", [PEPPER, None])
@pytest.mark.parametrize("what", CHANGES)
def test_who_changes_a_record_makes_it_invalid(
    what: str, pepper: str | None, store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    keys = KeyRegistry(store, pepper=pepper)
    issued = keys.issue(
        "acme", plan="free", scopes=["read"], networks=["198.51.100.0/24", "10.0.0.0/8"], metadata={"team": "blue"},
        not_before=timedelta(0), expires=timedelta(days=1),
    )  # fmt: skip
    record, key = stored(store, issued.record.id), issued.key.reveal()
    changed = CHANGES[what](record.replace(b'"networks":["198.51.100.0/24","10', b'"networks":["10'))
    assert changed != record
    assert status(store, key, pepper=pepper) == 200
    store.execute([Put(record_key(issued.record.id), changed)])
    caplog.set_level(logging.INFO)
    assert status(store, key, pepper=pepper) == 401
    assert reasons(caplog) == [f"tampered {issued.record.id}"]
    store.execute([Put(record_key(issued.record.id), record)])
    assert status(store, key, pepper=pepper) == 200


def test_a_key_in_use_is_refused_within_a_second_of_its_record_being_changed(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    guard = Keyguard(APIKeys(pepper=PEPPER), store=store, clock=clock)
    issued = guard.keys.issue("acme", scopes=["read"])
    headers = {"X-API-Key": issued.key.reveal()}
    assert play(guard, headers=headers).status == 200
    store.execute([Put(record_key(issued.record.id), CHANGES["scopes"](stored(store, issued.record.id)))])
    clock.advance(1)
    assert play(guard, headers=headers).status == 401


@settings(max_examples=150)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_no_byte_of_a_record_can_be_changed(place: int, value: int) -> None:
    store = MemoryStore(clock=ManualClock())
    issued = KeyRegistry(store, pepper=PEPPER, clock=ManualClock()).issue("acme", scopes=["read"])
    record = bytearray(stored(store, issued.record.id))
    before, record[place % len(record)] = record[place % len(record)], value
    store.execute([Put(record_key(issued.record.id), bytes(record))])
    expected = 200 if before == value else 401
    assert status(store, issued.key.reveal(), pepper=PEPPER) == expected


@given(data=st.binary(max_size=200), layout=st.sampled_from([b"", b"\1", b"\2", b"\3"]))
def test_whatever_stands_in_the_place_of_a_record_is_a_401(data: bytes, layout: bytes) -> None:
    store = MemoryStore(clock=ManualClock())
    key = KeyRegistry(MemoryStore()).issue("acme").key
    store.execute([Put(record_key(key.id), layout + data)])
    assert status(store, key.reveal(), pepper=PEPPER) == 401


@pytest.mark.parametrize("members", [b"[]", b"null", b'{"subject": 5}', b'{"id": "x", "scopes": 5}', b"{", b"\xff"])
def test_a_record_of_the_old_layout_that_cannot_be_read_is_a_401(members: bytes, clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    record = RECORDS["key|8IQ9Y7aJZqhB"]
    store.execute([Put("key|8IQ9Y7aJZqhB", record[: RECORD.size] + members)])
    assert status(store, KEYS["peppered"], pepper={1: OLD}) == 401


def test_a_record_stands_for_the_key_that_it_names() -> None:
    """One that lies under another key's id is nobody's, though its seal is right."""
    store = MemoryStore()
    keys = KeyRegistry(store, pepper=PEPPER)
    one, other = keys.issue("acme", scopes=["admin"]), keys.issue("other")
    store.execute([Put(record_key(other.record.id), stored(store, one.record.id))])
    assert status(store, other.key.reveal(), pepper=PEPPER) == 401
    assert status(store, one.key.reveal(), pepper=PEPPER) == 200


def test_a_sealed_record_cannot_be_put_back_into_the_layout_without_a_seal(store: Any) -> None:
    """Its digest is not that of the old layout: who can write to the store knows no digest that would fit."""
    issued = KeyRegistry(store, pepper=PEPPER).issue("acme", scopes=["read"])
    record = stored(store, issued.record.id)
    head = read_head(record)
    text = record[SEALED.size :].replace(b'"read"', b'"admin"')
    forged = RECORD.pack(1, head.pepper, 0, 2**62, head.digest) + text
    store.execute([Put(record_key(issued.record.id), forged)])
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 401


def test_a_record_that_is_disabled_is_not_valid(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing sets the mark yet; what a later keyguard has marked is closed for this one, and stays so."""
    from dataclasses import replace

    from keyguard.keys.record import decode, encode

    keys = KeyRegistry(store, pepper=PEPPER)
    issued = keys.issue("acme")
    record = stored(store, issued.record.id)
    disabled = encode(replace(decode(record), disabled=True), keys._peppers, read_head(record))
    store.execute([Put(record_key(issued.record.id), disabled)])
    caplog.set_level(logging.INFO)
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 401
    assert reasons(caplog) == [f"disabled {issued.record.id}"]
    assert keys.update(issued.record.id, plan="pro").disabled
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 401


# -- what is changed by whom --------------------------------------------------------------------------------------


def test_no_change_makes_valid_what_somebody_else_has_changed() -> None:
    """Else he would only have to wait until the operator changes another thing of the record."""
    store = MemoryStore()
    keys = KeyRegistry(store, pepper=PEPPER)
    issued = keys.issue("acme", scopes=["read"])
    store.execute([Put(record_key(issued.record.id), CHANGES["scopes"](stored(store, issued.record.id)))])
    for change in (lambda: keys.update(issued.record.id, plan="pro"), lambda: keys.rotate(issued.record.id)):
        with pytest.raises(StoreError, match="changed without the pepper: revoke it"):
            change()
    assert keys.revoke(issued.record.id).revoked is not None
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 401
    with pytest.raises(StoreError, match="revoke it"):
        keys.update(issued.record.id, plan="pro")


def test_a_leaked_key_can_be_revoked_without_the_pepper_and_nothing_else(store: Any) -> None:
    issued = KeyRegistry(store, pepper=PEPPER).issue("acme")
    blind = KeyRegistry(store)
    for change in (lambda: blind.update(issued.record.id, plan="pro"), lambda: blind.rotate(issued.record.id)):
        with pytest.raises(ConfigurationError, match="pepper 1, which is not set: set KEYGUARD_PEPPER"):
            change()
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 200
    blind.revoke(issued.key.reveal(), "leaked")
    assert status(store, issued.key.reveal(), pepper=PEPPER) == 401
    assert KeyRegistry(store, pepper=PEPPER).get(issued.record.id).revoked_for == "leaked"


def test_a_store_that_holds_keys_with_a_pepper_gets_none_without(store: Any) -> None:
    blind, seeing = KeyRegistry(store), KeyRegistry(store, pepper=PEPPER)
    blind.issue("first")  # it holds none yet
    seeing.issue("second")
    with pytest.raises(ConfigurationError, match="holds keys that were made with a pepper, and none is set"):
        blind.issue("third")
    with pytest.raises(ConfigurationError, match="none is set"):
        KeyRegistry(store, pepper={0: None}).issue("third")
    assert [record.owner for record in seeing.list()] == ["first", "second"]
    assert KeyRegistry(store, pepper={**PEPPERS}).issue("third").record.owner == "third"


def test_so_does_one_whose_keys_were_made_before_that_was_noted() -> None:
    for name, expected in (("peppered", True), ("plain", False)):
        store = MemoryStore()
        key = record_key(KEYS[name].split("_")[2])
        store.execute([Put(key, RECORDS[key])])
        if not expected:
            assert KeyRegistry(store).issue("acme").record.owner == "acme"
            continue
        with pytest.raises(ConfigurationError, match="none is set"):
            KeyRegistry(store).issue("acme")


def test_it_is_the_same_under_an_event_loop() -> None:
    async def story() -> None:
        store = MemoryStore()
        key = record_key(KEYS["peppered"].split("_")[2])
        store.execute([Put(key, RECORDS[key])])
        with pytest.raises(ConfigurationError, match="none is set"):
            await KeyRegistry(store).aissue("acme")
        assert (await KeyRegistry(store, pepper=OLD).aissue("acme")).record.owner == "acme"
        with pytest.raises(ConfigurationError, match="none is set"):
            await KeyRegistry(store).aissue("acme")

    asyncio.run(story())


def test_the_command_refuses_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    monkeypatch.setenv("KEYGUARD_STORE", url)
    monkeypatch.setenv("KEYGUARD_PEPPER", PEPPER)
    assert main(["keys", "issue", "--owner", "acme"]) == 0
    id = capsys.readouterr().out.split("_")[2]
    monkeypatch.delenv("KEYGUARD_PEPPER")
    for words in (["issue", "--owner", "other"], ["rotate", id], ["update", id, "--plan", "pro"]):
        assert main(["keys", *words]) == 1
        said = capsys.readouterr()
        assert (said.out, "KEYGUARD_PEPPER" in said.err, said.err.count("\n")) == ("", True, 1)
    assert len(KeyRegistry(open_store(url)).list()) == 1
    assert main(["keys", "revoke", id]) == 0


# -- records that were written before -----------------------------------------------------------------------------


def with_old_records(store: Any) -> Any:
    store.execute([CompareAndSet(dict.fromkeys(RECORDS), RECORDS)])
    return store


def old_guard(store: Any, clock: ManualClock, **options: Any) -> Keyguard:
    return Keyguard(APIKeys(pepper={0: None, 1: OLD, 2: NEW}, **options), store=store, clock=lambda: clock.now)


def test_old_records_verify(clock: ManualClock, store: Any) -> None:
    """The store's own clock decides: it is long before or behind the clock of these records, which do not end."""
    guard = old_guard(with_old_records(store), clock)

    def ask(key: str) -> int:
        return play(guard, headers={"X-API-Key": key}).status

    assert {name: ask(key) for name, key in KEYS.items() if name not in ("rotated", "expiring", "revoked")} == {
        "plain": 200, "peppered": 200, "second pepper": 200,
    }  # fmt: skip
    assert ask(SUCCESSOR) == 200
    wrong = KEYS["peppered"][:-7] + ("0" if KEYS["peppered"][-7] != "0" else "1")
    from keyguard.keys.format import _checksum

    assert ask(wrong + _checksum(wrong)) == 401


def test_old_records_begin_and_end_when_they_say(clock: ManualClock) -> None:
    store = with_old_records(MemoryStore(clock=clock))
    guard = old_guard(store, clock)

    def statuses() -> dict[str, int]:
        found = {}
        for name in ("rotated", "expiring", "revoked"):
            found[name] = play(guard, headers={"X-API-Key": KEYS[name]}).status
        return found

    assert statuses() == {"rotated": 200, "expiring": 401, "revoked": 401}
    clock.advance(3600)
    assert statuses() == {"rotated": 401, "expiring": 200, "revoked": 401}
    clock.advance(3600)
    assert statuses() == {"rotated": 401, "expiring": 401, "revoked": 401}


def test_old_records_keep_what_they_say(store: Any, clock: ManualClock) -> None:
    guard = old_guard(with_old_records(store), clock, scopes=["read"])
    assert play(guard, headers={"X-API-Key": KEYS["plain"]}).status == 200
    assert play(guard, headers={"X-API-Key": KEYS["plain"]}, client="192.0.2.1").status == 403  # its networks
    assert play(guard, headers={"X-API-Key": KEYS["second pepper"]}).status == 403  # its scopes
    record = KeyRegistry(store).get(KEYS["plain"])
    assert (record.plan, record.metadata, record.disabled) == ("pro", {"team": {"name": "blue", "tags": ["a"]}}, False)
    assert len(KeyRegistry(store).list()) == len(RECORDS)


@pytest.mark.parametrize("change", ["update", "revoke", "rotate", "migrate"])
def test_an_old_record_is_sealed_when_it_is_written_again(change: str, store: Any) -> None:
    with_old_records(store)
    keys = KeyRegistry(store, pepper={0: None, 1: OLD, 2: NEW})
    if change == "migrate":
        assert keys.migrate() == (len(RECORDS), 0)
    for name in ("plain", "peppered", "second pepper"):
        id = KEYS[name].split("_")[2]
        assert read_head(stored(store, id)).layout == (2 if change == "migrate" else 1)
        if change == "update":
            keys.update(id, plan="team")
        elif change == "revoke":
            keys.revoke(id)
        elif change == "rotate":
            successor = keys.rotate(id)
            assert status(store, successor.key.reveal(), pepper=PEPPERS) == 200
        assert read_head(stored(store, id)).layout == 2
        assert status(store, KEYS[name], pepper=PEPPERS) == (401 if change == "revoke" else 200)
        # And from now on it is sealed.
        forged = stored(store, id)
        store.execute(
            [Put(record_key(id), forged[: SEALED.size] + forged[SEALED.size :].replace(b'"acme"', b'"Acme"'))]
        )
        assert status(store, KEYS[name], pepper=PEPPERS) == 401


def test_migrating_says_what_it_could_not_do(clock: ManualClock) -> None:
    store = with_old_records(MemoryStore(clock=clock))
    store.execute([Put("key|damaged", b"nonsense")])
    assert KeyRegistry(store, pepper={1: OLD}).migrate() == (5, 3)  # without a pepper, the second one's, the damaged
    assert KeyRegistry(store, pepper={1: OLD}).migrate() == (0, 3)
    assert KeyRegistry(store, pepper={0: None, 2: NEW, 1: OLD}).migrate() == (2, 1)
    assert status(store, KEYS["plain"]) == 200


def test_migrating_with_a_pepper_that_is_another_one_loses_no_key(clock: ManualClock) -> None:
    """A seal tells which pepper is right; an old record, which has none, would be sealed with any."""
    store = with_old_records(MemoryStore(clock=clock))
    KeyRegistry(store, pepper={1: OLD}).issue("acme")
    before = dict(store.scan("key|"))
    for wrong in ({1: NEW}, {0: None, 1: OLD + " misspelt", 2: NEW}):
        with pytest.raises(ConfigurationError, match="pepper 1 is not the one") as caught:
            KeyRegistry(store, pepper=wrong).migrate()
        assert NEW not in str(caught.value)
    assert dict(store.scan("key|")) == before
    assert KeyRegistry(store, pepper={1: OLD}).migrate()[0] == 5
    assert status(store, KEYS["peppered"], pepper=OLD) == 200


def test_an_old_record_can_be_revoked_without_its_pepper(store: Any) -> None:
    with_old_records(store)
    KeyRegistry(store).revoke(KEYS["peppered"], "leaked")
    assert status(store, KEYS["peppered"], pepper=OLD) == 401
    assert KeyRegistry(store, pepper=OLD).get(KEYS["peppered"]).revoked_for == "leaked"


def test_the_command_migrates_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    store: Any = with_old_records(open_store(url))
    monkeypatch.setenv("KEYGUARD_PEPPER", f"1:{OLD}")
    assert main(["store", "migrate", url]) == 0
    said = capsys.readouterr().err
    assert "5 records of keys were sealed" in said
    assert "2 were left" in said
    assert "KEYGUARD_PEPPER" in said
    monkeypatch.setenv("KEYGUARD_PEPPER", f"0:,1:{OLD},2:{NEW}")
    assert main(["store", "migrate", url]) == 0
    assert "2 records of keys were sealed" in capsys.readouterr().err
    assert main(["store", "migrate", url]) == 0
    assert capsys.readouterr().err == "All is in the layout of this keyguard.\n"
    store.close()
    assert main(["store", "migrate", f"sqlite:///{tmp_path}/misspelt.db"]) == 1
    assert "there is no file" in capsys.readouterr().err


def test_the_frozen_records_are_those_that_were_frozen() -> None:
    assert len(old_records.RECORDS) == 7
    assert all(read_head(record).layout == 1 for record in old_records.RECORDS.values())


@pytest.mark.parametrize("scope", [["admin"], 3, "two words"])
def test_what_is_no_scope_is_told_of(scope: Any) -> None:
    with pytest.raises(ValueError, match="a scope is printable ASCII without blanks, quotes and backslashes, not"):
        KeyRegistry(MemoryStore()).issue("acme", scopes=[scope])
