"""What is known of a caller: the same for all requests of a key, so nobody changes it; and remembered within bounds."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from keyguard import ANONYMOUS, APIKeys, Identity, Keyguard, StoreError
from keyguard.guards.api_keys import verified as known_keys
from keyguard.guards.api_keys.verified import Known, KnownKeys
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play

NOTES = {"team": {"name": "blue", "tags": ["a", {"b": [1]}]}, "pair": (1, [2]), "seen": {1, 2}, "none": None}

CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda notes: notes.__setitem__("x", 1),
    "delete": lambda notes: notes.__delitem__("team"),
    "update": lambda notes: notes.update(x=1),
    "|=": lambda notes: notes.__ior__({"x": 1}),
    "pop": lambda notes: notes.pop("team"),
    "popitem": lambda notes: notes.popitem(),
    "setdefault": lambda notes: notes.setdefault("x", 1),
    "clear": lambda notes: notes.clear(),
    "deep set": lambda notes: notes["team"].__setitem__("name", "red"),
    "deeper pop": lambda notes: notes["team"]["tags"][1].pop("b"),
    "append": lambda notes: notes["team"]["tags"].append(1),
    "extend": lambda notes: notes["team"]["tags"].extend([1]),
    "+=": lambda notes: notes["team"]["tags"].__iadd__([1]),
    "*=": lambda notes: notes["team"]["tags"].__imul__(2),
    "set in a list": lambda notes: notes["team"]["tags"].__setitem__(0, 1),
    "delete in a list": lambda notes: notes["team"]["tags"].__delitem__(0),
    "insert": lambda notes: notes["team"]["tags"].insert(0, 1),
    "remove": lambda notes: notes["team"]["tags"].remove("a"),
    "pop of a list": lambda notes: notes["team"]["tags"].pop(),
    "reverse": lambda notes: notes["team"]["tags"].reverse(),
    "sort": lambda notes: notes["team"]["tags"].sort(),
    "clear of a list": lambda notes: notes["team"]["tags"].clear(),
    "in a pair": lambda notes: notes["pair"][1].append(3),
}


@pytest.mark.parametrize("change", CHANGES)
def test_metadata_cannot_be_changed_however_deep(change: str) -> None:
    identity = Identity("acme", metadata=NOTES)
    with pytest.raises(TypeError, match="cannot be changed"):
        CHANGES[change](identity.metadata)
    assert identity.metadata == NOTES


def test_what_it_was_made_of_is_copied() -> None:
    notes: dict[str, Any] = {"team": {"tags": ["a"]}}
    scopes = {"read"}
    identity = Identity("acme", scopes=scopes, metadata=notes)  # type: ignore[arg-type]
    notes["team"]["tags"].append("b")
    scopes.add("admin")
    assert (identity.metadata, identity.scopes) == ({"team": {"tags": ["a"]}}, {"read"})
    assert Identity("acme", scopes="read write").scopes == {"read", "write"}  # type: ignore[arg-type]
    assert Identity("acme", scopes=None, metadata=None).metadata == {}  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cannot be changed"):
        ANONYMOUS.metadata["x"] = 1  # type: ignore[index]


def test_it_is_written_as_json_copied_and_pickled_like_any_other() -> None:
    plain = {"team": {"name": "blue", "tags": ["a", {"b": [1]}]}}
    identity = Identity("acme", metadata=plain)
    notes: Any = identity.metadata
    assert json.dumps(notes) == json.dumps(plain)
    assert json.dumps(notes, indent=2, sort_keys=True) == json.dumps(plain, indent=2, sort_keys=True)
    for copied in (copy.deepcopy(notes), pickle.loads(pickle.dumps(notes)), json.loads(json.dumps(notes))):
        assert copied == plain
        copied["team"]["tags"].append("new")
        copied["more"] = 1
    for shallow in (dict(notes), notes.copy(), copy.copy(notes), {**notes}, notes | {"more": 1}):
        shallow["more"] = 2
    tags = notes["team"]["tags"].copy()
    tags.append("new")
    assert notes == plain
    assert repr(notes) == repr(plain)
    assert dataclasses.replace(identity, plan="pro").metadata == plain
    assert dataclasses.asdict(identity)["metadata"] == plain
    assert copy.deepcopy(identity) == identity == pickle.loads(pickle.dumps(identity))


@pytest.mark.parametrize("lookup", [None, lambda key: Identity("ada", metadata={"team": {"tags": []}})])
def test_one_request_leaves_nothing_for_another(lookup: Any) -> None:
    """An app that noted something in the metadata noted it for all requests of the key."""
    guard = Keyguard(APIKeys(lookup=lookup))
    key = "some-key" if lookup else guard.keys.issue("ada", metadata={"team": {"tags": []}}).key.reveal()
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        notes = environ["keyguard.request"].identity.metadata
        with pytest.raises(TypeError, match="copy it"):
            notes["team"]["tags"].append("seen")
        mine = copy.deepcopy(notes)
        mine["team"]["tags"].append("seen")
        seen.append(json.dumps(notes))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    for _ in range(3):
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", "SCRIPT_NAME": "", "REMOTE_ADDR": "10.0.0.1",
            "HTTP_X_API_KEY": key, "wsgi.url_scheme": "http",
        }  # fmt: skip
        list(guard.wsgi(app)(environ, lambda status, fields, exc_info=None: lambda data: None))
    assert seen == ['{"team": {"tags": []}}'] * 3


# -- remembered for the time of an outage -------------------------------------------------------------------------


class Breakable(MemoryStore):
    broken = False

    def execute(self, ops: Any) -> list[Any]:
        if self.broken:
            raise StoreError("broken")
        return super().execute(ops)


def test_more_keys_than_are_remembered_cost_one_of_them_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key too many wiped them all, and then 10,000 were refused while the store was out of order."""
    monkeypatch.setattr(known_keys, "REMEMBERED", 100)
    clock = ManualClock()
    store = Breakable(clock=clock)
    guard = Keyguard(APIKeys(), store=store, clock=clock)
    keys = [guard.keys.issue(f"customer {number}").key.reveal() for number in range(101)]

    def ask(key: str) -> int:
        return play(guard, headers={"X-API-Key": key}).status

    for key in keys:
        assert ask(key) == 200
    store.broken = True
    clock.advance(60)
    answers = [ask(key) for key in keys]
    assert (answers.count(200), answers[-1]) == (100, 200)
    assert [ask(key) for key in keys] == answers, "asking made none of them go"


def remembered(known: KnownKeys, keys: str) -> str:
    return "".join([key for key in keys if known.get(key.encode()) is not None])


def test_keys_that_were_verified_again_stay_while_there_are_others() -> None:
    known, kept = KnownKeys(3), {key: Known(Identity(key), b"", None, 0) for key in "abcdefgh"}
    for key in "abcad":
        known.keep(key.encode(), kept[key])
    assert remembered(known, "abcd") == "abd"
    known.keep(b"b", kept["b"])
    known.keep(b"e", kept["e"])
    assert remembered(known, "abcde") == "bde", "a was not verified in this generation"
    known.drop(b"d")
    known.drop(b"d")
    for key in "fb":
        known.keep(key.encode(), kept[key])
    assert remembered(known, "abcdef") == "bef"
    for key in "agh":
        known.keep(key.encode(), kept[key])
    assert remembered(known, "abcdefgh") == "agh", "a generation that is not asked for goes"
    assert len(known) == 3


@pytest.mark.parametrize("callers", [100, 120])
def test_most_of_a_few_more_callers_than_are_remembered_find_their_key_known(callers: int) -> None:
    """They take turns: if the oldest made room, each would have been forgotten when its turn came."""
    known, verified = KnownKeys(100), 0
    for turn in range(10):
        for number in range(callers):
            key = number.to_bytes(8, "big")
            if known.get(key) is None:
                known.keep(key, Known(Identity("ada"), b"", None, 0))
                verified += turn > 0
            assert len(known) <= 100
    assert verified <= (callers - 100) * 9 * 2


def test_whose_key_is_in_use_is_remembered_whoever_comes_and_goes() -> None:
    """A key that is asked for again and again is verified no more than once in a generation."""
    known, verified = KnownKeys(100), 0
    for number in range(10_000):
        known.keep(number.to_bytes(8, "big"), Known(Identity("ada"), b"", None, 0))
        if known.get(b"busy") is None:
            known.keep(b"busy", Known(Identity("busy"), b"", None, 0))
            verified += 1
    assert verified <= 10_000 / 99 + 2


def test_threads_that_remember_at_once_stay_within_the_bound() -> None:
    known = KnownKeys(50)
    one = Known(Identity("ada"), b"", None, 0)

    def remember(start: int) -> None:
        for number in range(start, start + 2000):
            known.keep(number.to_bytes(8, "big"), one)
            known.drop((number - 7).to_bytes(8, "big"))

    threads = [threading.Thread(target=remember, args=(place * 10_000,)) for place in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(known) <= 50
