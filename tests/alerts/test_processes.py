"""Real processes, a real store, a real receiver that fails now and then: told once, and it always comes."""

from __future__ import annotations

import base64
import random
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from keyguard import AlertBook, AuditLog, KeyRegistry, open_store
from tests.alerts.receiving import OK, served
from tests.support.every_store import url_of
from tests.support.servers import python, wait_until

ROOT = Path(__file__).parents[2]
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
KEYS = 20


AT_THE_END = """
import sys
from keyguard import Alerts, APIKeys, Keyguard, RateLimit, Webhook, quota
from tests.support.harness import Ask, ask_wsgi, wsgi_app
hook = Webhook(sys.argv[2], sys.argv[3], allow_local=True)
guard = Keyguard(APIKeys(), RateLimit(quota("2/day"), by="subject"), store=sys.argv[1], alerts=Alerts(to=[hook]))
key = guard.keys.issue(owner="acme").key.reveal()
for _ in range(2):
    ask_wsgi(guard.wsgi(wsgi_app), Ask(headers=(("X-API-Key", key),)))
"""


def test_a_process_that_ends_tells_what_it_has_heard_before_it_has_gone(tmp_path: Path) -> None:
    with (
        served() as server,
        python("-c", AT_THE_END, f"sqlite:///{tmp_path}/k.db?timeout=1", server.url, SECRET, cwd=ROOT) as process,
    ):
        assert process.wait(60) == 0
    (request,) = server.requests
    assert standardwebhooks.Webhook(SECRET).verify(request.body, request.fields)["data"]["level"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_four_processes_decide_once_and_deliver_at_least_once_though_one_dies_and_the_receiver_fails(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = url_of(kind, request, tmp_path)
    store: Any = open_store(url)
    request.addfinalizer(store.close)
    keys = [KeyRegistry(store).issue(owner=f"tenant {number}").key.reveal() for number in range(KEYS)]
    chance = random.Random(7)

    def answer(connection: socket.socket) -> None:
        connection.sendall(OK if chance.random() > 0.2 else b"HTTP/1.1 500 Oops\r\n\r\n")

    def all_sent(notices: int) -> bool:
        found = [one for alert in AlertBook(store).list() for notice in alert.notices for one in notice.deliveries]
        return len(found) == notices and {one.state for one in found} == {"sent"}

    with (
        served(answer) as server,
        python("-m", "tests.alerts.four_processes", url, server.url, SECRET, *keys, cwd=ROOT) as processes,
    ):
        assert processes.stdin is not None
        assert processes.stdout is not None
        for phase, more in enumerate([10, 6, 2, 2], 1):  # 50, 80, 90 and 100 %
            processes.stdin.write(f"{more}\n")
            processes.stdin.flush()
            assert processes.stdout.readline() == "done\n"
            wait_until(lambda wanted=phase * KEYS: all_sent(wanted), f"phase {phase}", 60)  # type: ignore[misc]
        processes.stdin.close()
        assert processes.stdout.readline() == "[9, 0, 0, 0]\n"  # the first one was killed
        processes.wait(60)
    messages = [standardwebhooks.Webhook(SECRET).verify(one.body, one.fields) for one in server.requests]
    ids = [one.fields["webhook-id"] for one in server.requests]
    told = {id: (one["data"]["subject"], one["data"]["level"]) for id, one in zip(ids, messages, strict=True)}
    expected = {(f"tenant {number}", level) for number in range(KEYS) for level in (50, 80, 90, 100)}
    assert Counter(told.values()) == Counter(dict.fromkeys(expected, 1))
    fired = [(record.caller, record.after["level"]) for record in AuditLog(store).list(action="alerts.fire")]
    assert Counter(fired) == Counter(dict.fromkeys(expected, 1))
