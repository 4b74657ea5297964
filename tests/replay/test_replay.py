"""What a stack would have refused of the requests in a log: a story, and what may go wrong."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit, Refusal, json_field, open_store
from keyguard.policies import Policy, path
from keyguard.replay import Replay, replay
from tests.support.commands import run, run_json

BEGIN = datetime(2026, 10, 10, 13, 55, 36, tzinfo=UTC)


def line(
    after: float, caller: str = "acme", path: str = "/items/7", status: int = 200, client: str = "203.0.113.7"
) -> str:
    moment = BEGIN + timedelta(seconds=after)
    return f'{client} - {caller} [{moment:%d/%b/%Y:%H:%M:%S +0000}] "GET {path} HTTP/1.1" {status} 17'


def told(found: Replay) -> dict[str, tuple[int, int]]:
    return {rule: (one.requests, len(one.callers)) for (_, rule), one in found.by_rule.items()}


def test_a_policy_refuses_as_it_would_have_done() -> None:
    guard = Keyguard(
        APIKeys(), RateLimit("5/minute", by="subject", name="api"), RateLimit("8/minute", by="ip", name="ip")
    )
    lines = [line(second, "acme") for second in range(8)]  # 5 pass
    lines += [line(20 + second, "bob") for second in range(8)]  # and 3 more of their address
    lines += [line(80, "acme"), line(80, "bob")]  # all are back
    found = replay(guard, lines)
    assert (found.requests, found.refused) == (18, 8)
    assert told(found) == {"api:5/minute": (3, 1), "ip:8/minute": (5, 1)}
    assert found.callers == {"acme": 3, "bob": 5}
    assert (found.begin, found.end) == (BEGIN, BEGIN + timedelta(seconds=80))
    assert found.by_rule["usage", "api:5/minute"].first == BEGIN + timedelta(seconds=5)


def test_a_request_that_several_limits_refuse_counts_for_each_of_them_and_once_in_all() -> None:
    found = replay(Keyguard(RateLimit("2/minute; 2/hour", by="ip")), [line(0)] * 3)
    assert found.refused == 1
    assert told(found) == {"ip:2/minute": (1, 1), "ip:2/hour": (1, 1)}


def test_the_app_answers_with_the_status_of_the_log() -> None:
    guard = Keyguard(RateLimit("3/minute", by="ip", count="failures", name="failures"))
    right = replay(guard, [line(0, status=200)] * 10)
    wrong = replay(guard, [line(0, status=401)] * 10)
    assert (right.refused, wrong.refused) == (0, 7)
    assert replay(guard, [line(0, status=429), line(0, status=503)]).refused_then == 2


def test_callers_are_taken_for_authenticated_with_plan_and_scopes_of_their_keys(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/k.db")
    guard = Keyguard(
        APIKeys(),
        RateLimit(plans={"free": "1/minute", "pro": "100/minute"}, default="10/minute", name="plan"),
        store=store,
    )
    free, pro = guard.keys.issue("acme", plan="free"), guard.keys.issue("bob", plan="pro")
    lines = [line(0, caller) for caller in (free.record.id, pro.record.id, "nobody-knows-it") for _ in range(12)]
    assert replay(guard, lines).callers == {"acme": 11, "nobody-knows-it": 2}
    assert len(guard.keys.list()) == 2  # and nothing was written there
    assert store.scan("rl:") == []
    store.close()


def test_overrides_count_as_they_stand_now(tmp_path: Path) -> None:
    guard = Keyguard(
        APIKeys(),
        RateLimit("2/minute", by="subject", name="api"),
        store=open_store(f"sqlite:///{tmp_path}/k.db"),
        overrides=True,
    )
    guard.overrides.set("acme", {"api": "5/minute"})
    guard.overrides.set("bob", {"api": None})
    found = replay(guard, [line(second, who) for who in ("acme", "bob", "carl") for second in range(6)])
    assert told(found) == {"api:5/minute": (1, 1), "api:2/minute": (4, 1)}
    assert [one.rate for one in guard.overrides.list()] == ["5/minute", None]
    guard.overrides.remove("acme")
    assert replay(guard, [line(0, "acme")] * 3).refused == 1


def test_requests_without_a_caller_are_those_of_their_address() -> None:
    found = replay(Keyguard(APIKeys(), RateLimit("1/minute", by="key", name="api")), [line(0, "-")] * 3)
    assert (found.refused, found.unnamed, dict(found.callers)) == (2, 3, {"203.0.113.7": 2})


def test_rules_by_address_and_path() -> None:
    guard = Keyguard(IPFilter(deny=["198.51.100.0/24"]), RateLimit("1/minute", by="ip", paths=["/login"], name="login"))
    found = replay(
        guard,
        [line(0, client="198.51.100.9"), line(0), line(0), line(0, path="/login?x=%2F"), line(0, path="/%6Cogin")],
    )
    assert told(found) == {"denied-address": (1, 1), "login:1/minute": (1, 1)}


def test_what_is_in_shadow_mode_is_told_apart() -> None:
    tried = Policy("tried", when=path("/items/*"), then=[RateLimit("1/minute", by="ip", name="one")], shadow=True)
    found = replay(Keyguard(tried), [line(0)] * 5)
    assert (found.refused, found.in_shadow) == (0, {"tried": 4})


def test_broken_and_late_lines_are_counted_and_nothing_else_is_lost() -> None:
    lines = [line(0), "junk", "", line(60), line(30), "{", line(61)]
    found = replay(Keyguard(RateLimit("100/minute")), lines)
    assert (found.requests, found.broken, found.late) == (4, 2, 1)
    assert [number for number, _ in found.broken_lines] == [2, 6]


def test_nobody_hears_of_refusals_that_did_not_happen(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Refusal] = []
    guard = Keyguard(RateLimit("1/minute"), on_refusal=heard.append)
    with caplog.at_level("DEBUG", "keyguard"):
        assert replay(guard, [line(0)] * 3).refused == 2
    assert (heard, caplog.records) == ([], [])


def test_lines_are_read_one_by_one() -> None:
    seen: list[int] = []

    def endless() -> Iterator[str]:
        for second in range(1000):
            yield line(second)
            assert len(seen) == second + 1  # each was decided before the next was asked for

    assert replay(Keyguard(RateLimit("1/second")), endless(), tell=seen.append).requests == 1000


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a Keyguard is replayed"):
        replay(RateLimit("1/second"), [])  # type: ignore[arg-type]


# -- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "shop_of_replay.py").write_text(
        "from keyguard import APIKeys, Keyguard, RateLimit\n"
        "guard = Keyguard(APIKeys(), RateLimit('2/minute', by='subject', name='api'), store='memory://')\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("shop_of_replay", None)


def test_the_command_tells_it_in_a_sentence_and_a_table(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shop / "access.log").write_text("\n".join([*[line(0)] * 5, "junk", *[line(1, "bob")] * 3]))
    code, out, err = run(capsys, "replay", "--app", "shop_of_replay:guard", "access.log")
    assert code == 0
    assert "8 requests from 2026-10-10T13:55:36Z to 2026-10-10T13:55:37Z" in out
    assert "this policy would have refused 4 requests (50.00 %) of 2 callers" in out
    assert "api:2/minute" in out
    assert "line 6 is neither in the common log format nor JSON" in err


def test_the_command_for_scripts_and_several_packed_logs(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def entry(second: float) -> str:
        at = (BEGIN + timedelta(seconds=second)).timestamp()
        return json.dumps({"ts": at, "method": "GET", "path": "/", "labels": {"account": "acme"}, "status": 200})

    for number in range(2):
        with gzip.open(shop / f"{number}.json.gz", "wt") as file:
            file.write("\n".join(entry(number * 10 + second) for second in range(3)) + "\n" + "x" * 1_000_000 + "\n")
    words = ["replay", "--app", "shop_of_replay:guard", "--field", "caller=labels.account", "0.json.gz", "1.json.gz"]
    found: Any = run_json(capsys, *words)
    assert (found["requests"], found["refused"], found["broken"], found["unnamed"]) == (6, 4, 2, 0)
    assert found["rules"] == [
        {"rule": "api:2/minute", "cause": "usage", "requests": 4, "callers": 1, "first": "2026-10-10T13:55:38Z"}
    ]
    assert found["top"] == [{"caller": "acme", "refused": 4}]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--app", "shop_of_replay:guard", "nowhere.log"], "there is no log nowhere.log"),
        (["--app", "shop_of_replay:app", "empty.log"], "shop_of_replay has no 'app'; there is guard"),
        (["--app", "shop_of_replay:guard", "empty.log"], "there was no request in the log"),
        (["--app", "shop_of_replay:guard", "--field", "account=a", "empty.log"], "--field is FIELD=NAME"),
        (["empty.log"], "name the stack: --app module:guard"),
    ],
)
def test_mistakes_are_one_line(shop: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    (shop / "empty.log").write_text("")
    code, _, err = run(capsys, "replay", *words)
    assert code == 1
    assert why in err.splitlines()[-1]


def test_a_whole_key_in_a_log_is_named_by_its_id(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    issued = Keyguard(APIKeys(), store="memory://").keys.issue("acme")
    lines = [line(second, issued.key.reveal()) for second in range(9)]
    Path("keys.log").write_text("\n".join([*lines, line(9, f"Bearer_{issued.key.reveal()}")]))
    for words in ([], ["--json"]):
        _, out, err = run(capsys, "replay", "--app", "shop_of_replay:guard", "keys.log", *words)
        assert issued.record.id in out
        assert issued.key.reveal()[-38:] not in out + err


def test_a_limit_by_a_field_of_the_body_is_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    by = json_field("username", unreadable="refuse")
    guard = Keyguard(
        RateLimit("1/minute", by=by, methods=["GET"], name="names"), RateLimit("4/minute", by="ip", name="ip")
    )
    found = replay(guard, [line(0, path="/login")] * 6)
    assert (told(found), found.without_body) == ({"ip:4/minute": (2, 1)}, 6)


def test_a_log_that_is_cut_off_is_told_up_to_there(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(f"{line(0)}{number:099d}" for number in range(2000)).encode()
    Path("cut.log.gz").write_bytes(gzip.compress(text)[:-200])
    code, out, err = run(capsys, "replay", "--app", "shop_of_replay:guard", "cut.log.gz")
    assert (code, "requests from" in out) == (0, True)
    assert "cut.log.gz is cut off" in err
    Path("not.log.gz").write_text(line(0))
    code, out, err = run(capsys, "replay", "--app", "shop_of_replay:guard", "not.log.gz", "--json")
    assert (code, out) == (1, "")
    assert "cut off, or no gzip" in json.loads(err)["error"]


def test_lines_of_several_logs_are_named_by_their_file(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("one.log").write_text(f"{line(0)}\n{line(1)}\n")
    Path("two.log").write_text(f"{line(2)}\nbroken\n")
    _, _, err = run(capsys, "replay", "--app", "shop_of_replay:guard", "one.log", "two.log")
    assert "1 line could not be read: line 2 of two.log is neither" in err


def test_a_pipe_is_a_log(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text(line(0)))
    writer.start()
    code, out, _ = run(capsys, "replay", "--app", "shop_of_replay:guard", "pipe")
    writer.join()
    assert (code, out.startswith("1 request from")) == (0, True)


def test_moments_far_ahead_are_broken_lines() -> None:
    far = '203.0.113.7 - acme [31/Dec/9999:23:59:59 -0100] "GET / HTTP/1.1" 200 17'
    found = replay(Keyguard(RateLimit("1/minute", by="ip")), [far, line(0), line(1)])
    assert (found.broken, found.late, found.refused) == (1, 0, 1)


def test_no_line_ends_the_reading_of_a_log() -> None:
    odd = [
        r'{"time": 1790000000, "method": "GET", "path": "/a\ud800 \u0000", "caller": "\udfff\u202e\u001b[31m"}',
        '{"time": 1790000000, "method": "GET", "path": "/\udcff"}',
        '{"time": 1790000000, "method": "GET", "path": "/", "client": "\x00", "status": 999, "plan": "\ud800"}',
        '{"time": 1790000000, "method": "GET", "path": "//[::1/%zz?%", "caller": "' + "x" * 100_000 + '"}',
    ]
    found = replay(Keyguard(APIKeys(), RateLimit("1/minute", by="key", name="api")), [*odd, *odd, line(0), line(0)])
    assert (found.requests + found.broken, found.refused > 1) == (10, True)
    assert max(map(len, found.callers)) <= 256
    json.dumps(dict(found.callers)).encode()
