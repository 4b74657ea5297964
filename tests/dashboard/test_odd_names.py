"""Callers who are named by what nobody expects: pages show it, whatever it is, and nothing of it takes effect."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest

from keyguard import ANONYMOUS, Alerts, Guard, Identity, Keyguard, RateLimit, Request, Usage, quota
from keyguard.testing import ManualClock
from tests.dashboard.world import named
from tests.support.harness import Ask, ask_wsgi

NAMES = {
    "half a sign": ("a\ud800b", "a\\ud800b"),
    "a command to a terminal": ("a\x1b[2Jb", "a\\x1b[2Jb"),
    "a sign that turns the order round": ("a\u202eb", "a\\u202eb"),
    "one that nobody sees": ("a\u200bb", "a\\u200bb"),
    "nothing at all": ("a\0b", "a\\x00b"),
    "markup": ('"><script>x</script>', "&gt;&lt;script&gt;x&lt;/script&gt;"),
}


class ByName(Guard):
    """Takes callers at their word."""

    provides = frozenset({"identity"})

    def __call__(self, request: Request) -> None:
        name = b64decode(request.headers.get("x-name") or "").decode("utf-8", "surrogatepass")
        request.identity = Identity(name, key_id=name) if name else ANONYMOUS


def shop(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_keeps_operators_from_their_pages(name: str) -> None:
    subject, shown = NAMES[name]
    clock = ManualClock()
    usage = Usage()
    guard = Keyguard(
        ByName(), RateLimit(quota("1/day"), by="subject", name="daily"), clock=clock, usage=usage, alerts=Alerts()
    )
    app = guard.dashboard(auth=named).beside(guard.wsgi(shop), "/ops")
    headers = (("x-name", b64encode(subject.encode("utf-8", "surrogatepass")).decode()),)
    assert [ask_wsgi(app, Ask("/v1", headers), lint=False).status for _ in range(3)] == [200, 429, 429]
    usage.flush()
    told = ""
    for page in ("/ops/", "/ops/refusals", "/ops/alerts", "/ops/audit"):
        answer = ask_wsgi(app, Ask(page, (("x-operator", "ada"),)))
        assert answer.status == 200, page
        told += answer.body.decode()
    assert shown in told
    assert subject not in told
    guard.close()
