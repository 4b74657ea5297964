"""Lines of access logs, as servers write them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyguard import ConfigurationError
from keyguard.replay import FIELDS, BrokenLine, Entry, Reader

AT = int(datetime(2026, 10, 10, 13, 55, 36, tzinfo=UTC).timestamp()) * 1_000_000
GET = Entry(AT, "GET", "/items/7", "a=b", "203.0.113.7", None, None, 200)


HEAD = "203.0.113.7 - - [10/Oct/2026:13:55:36 +0000]"


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (f'{HEAD} "GET /items/7?a=b HTTP/1.1" 200 17', GET),
        ('203.0.113.7 - - [10/Oct/2026:15:55:36 +0200] "GET /items/7?a=b HTTP/1.1" 200 17 "-" "curl/8"', GET),
        (f'{HEAD.replace("- - ", "- frank ")} "GET /items/7?a=b" 200 -', GET._replace(caller="frank")),
        (f'{HEAD.replace("- - ", "- a b ")} "GET /items/7?a=b" - -', GET._replace(caller="a b", status=None)),
        (f'{HEAD} "GET /items/7?a=b HTTP/2.0" 429 17 "x \\" y" "z"', GET._replace(status=429)),
        (f'{HEAD.replace("203.0.113.7", "-")} "GET /items/7?a=b HTTP/2.0" 200 17', GET._replace(client=None)),
        (
            '2001:db8::1 - - [10/Oct/2026:13:55:36.123 +0000] "POST http://h.test/a HTTP/1.1" 201 1',
            Entry(AT, "POST", "/a", "", "2001:db8::1", None, None, 201),
        ),
        (f'{HEAD} "OPTIONS * HTTP/1.1" 200 1', GET._replace(method="OPTIONS", path="/", query="")),
        (f'{HEAD} "CONNECT h.test:443 HTTP/1.1" 200 1', GET._replace(method="CONNECT", path="/", query="")),
    ],
)
def test_the_common_and_the_combined_format(line: str, entry: Entry) -> None:
    assert Reader().read(line) == entry
    assert Reader().read(f"{line}\r\n") == entry


TARGET = "/items/7?a=b"
LOGS: dict[str, dict[str, Any]] = {
    "plain": {"time": "2026-10-10T13:55:36Z", "client": "203.0.113.7", "method": "GET", "path": TARGET, "status": 200},
    "caddy": {"ts": AT / 1e6, "request": {"remote_ip": "203.0.113.7", "method": "GET", "uri": TARGET}, "status": 200},
    "nginx": {
        "time_iso8601": "2026-10-10T15:55:36+02:00",
        "remote_addr": "203.0.113.7",
        "request": f"GET {TARGET} HTTP/1.1",
        "status": "200",
    },
    "traefik": {
        "StartUTC": "2026-10-10T13:55:36.000000000Z",
        "ClientHost": "203.0.113.7",
        "RequestMethod": "GET",
        "RequestPath": TARGET,
        "DownstreamStatus": 200,
    },
    "milliseconds": {
        "timestamp": AT // 1000,
        "ip": "203.0.113.7",
        "method": "GET",
        "url": f"http://h.test{TARGET}",
        "status_code": 200,
    },
    "msec": {
        "msec": f"{AT // 1_000_000}.000",
        "remote_addr": "203.0.113.7",
        "remote_user": "-",
        "request": f"GET {TARGET} HTTP/1.1",
        "status": "200",
    },
}


@pytest.mark.parametrize("members", LOGS.values(), ids=LOGS)
def test_json(members: dict[str, Any]) -> None:
    assert Reader().read(json.dumps(members)) == GET


def test_fields_of_json_may_be_named() -> None:
    line = json.dumps({"time": AT / 1e6, "method": "GET", "path": "/", "labels": {"account": "acme"}, "a.b": "pro"})
    entry = Reader({"caller": "labels.account", "plan": "a.b"}).read(line)
    assert entry is not None
    assert (entry.caller, entry.plan) == ("acme", "pro")
    with pytest.raises(ConfigurationError, match="'account' is not a field of a request"):
        Reader({"account": "labels.account"})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("INFO: 127.0.0.1:5000 - \"GET / HTTP/1.1\" 200 OK", "neither in the common log format nor JSON"),
        ('10.0.0.1 - - [32/Oct/2026:13:55:36 +0000] "GET / HTTP/1.1" 200 1', "no calendar"),
        ('10.0.0.1 - - [10/Okt/2026:13:55:36 +0000] "GET / HTTP/1.1" 200 1', "no moment"),
        ('10.0.0.1 - - [10/Oct/2026:13:55:36 +9900] "GET / HTTP/1.1" 200 1', "no calendar"),
        ('10.0.0.1 - - [10/Oct/2026:13:55:36 +0000] "\\x16\\x03\\x01" 400 1', "no request line"),
        ("{", "begins as JSON"),
        ("[" * 100_000, "neither"),
        ("{\"a\":" * 100_000, "begins as JSON"),
        ('{"method": "GET", "path": "/"}', "no moment"),
        ('{"time": 1, "path": "/"}', "no method"),
        ('{"time": "yesterday", "method": "GET", "path": "/"}', "cannot be read"),
        ('{"time": "1066-10-14T00:00:00Z", "method": "GET", "path": "/"}', "before 1970"),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_broken_lines_say_why_and_repeat_nothing(line: str, why: str) -> None:
    with pytest.raises(BrokenLine, match=why) as caught:
        Reader().read(line)
    assert len(str(caught.value)) < 80


def test_empty_lines_are_none() -> None:
    assert [Reader().read(line) for line in ("", "\n", "  \r\n")] == [None, None, None]


_VALUES = st.text() | st.floats() | st.integers() | st.none()
_OBJECTS = st.dictionaries(st.sampled_from([name for names in FIELDS.values() for name in names]), _VALUES)


@given(st.text() | _OBJECTS.map(json.dumps))
@example('{"time": 1e400, "method": "GET"}')
@example('{"time": NaN, "method": "GET"}')
@example('{"time": 99999999999999999999, "method": "GET", "url": "//["}')
def test_any_line_is_read_or_broken(line: str) -> None:
    try:
        entry = Reader().read(line)
    except BrokenLine:
        return
    if entry is not None:
        assert entry.at >= 0
        assert entry.path.startswith("/")
