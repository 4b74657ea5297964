"""A shop with a dashboard, in both worlds, and browsers that keep cookies and send forms as browsers do."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode, urljoin

from keyguard import APIKeys, Keyguard, ResponseCache, Usage, quota
from keyguard.guards import RateLimit
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi

WORLDS = ("asgi", "wsgi")
PEPPER = "a pepper that is long enough"


def named(request: Any) -> str | None:
    """Know an operator by a field that a proxy sets."""
    return request.header("x-operator")


class Desk:
    """A stack with its dashboard, by a clock that is set by hand."""

    def __init__(self, auth: Any = "keys", *, store: Any = "memory://", usage: bool = True, **options: Any) -> None:
        self.clock = ManualClock()
        self.clock.advance("15 hours")
        self.usage = Usage() if usage else None
        self.guard = Keyguard(
            APIKeys(pepper=PEPPER),
            RateLimit(quota("4/day"), by="subject", name="daily"),
            ResponseCache(),
            store=store(clock=self.clock) if callable(store) else store,
            clock=self.clock,
            usage=self.usage,
            name="shop",
            **options,
        )
        self.dashboard = self.guard.dashboard(auth=auth)
        self.shop = self.guard.wsgi(_shop)
        self.admin = self.guard.keys.issue("Ada", name="ada at work", scopes=["keyguard:admin"])
        self.reader = self.guard.keys.issue("Bob", scopes=["keyguard:read"])
        self.acme = self.guard.keys.issue("Acme <b>Ltd</b>", subject="acme", name="nightly & sync", plan="pro")
        self.id = self.acme.record.id

    def buy(self, times: int = 1, target: str = "/v1/orders") -> Answer:
        """Ask the shop with the key of Acme; the ledger hears of it."""
        headers = (("X-API-Key", self.acme.key.reveal()),)
        answers = [ask_wsgi(self.shop, Ask(target, headers=headers), lint=False) for _ in range(times)]
        if self.usage is not None:
            self.usage.flush()
        return answers[-1]

    def browser(self, world: str, **more: Any) -> Browser:
        return Browser(self, world, **more)

    def inside(self, world: str, key: Any = None) -> Browser:
        """Return a browser that has logged in, by default with the key of the admin."""
        browser = self.browser(world)
        answer = browser.log_in((key or self.admin).key.reveal())
        assert answer.status == 303, answer.body
        return browser


def _shop(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2"), ("Cache-Control", "no-store")])
    return [b"ok"]


class Browser:
    """Keeps cookies, and sends what a browser sends with links and forms."""

    def __init__(self, desk: Desk, world: str, *, root: str = "/ops", headers: dict[str, str] | None = None) -> None:
        self.app = desk.dashboard.asgi if world == "asgi" else desk.dashboard.wsgi
        self.ask = ask_asgi if world == "asgi" else ask_wsgi
        self.root = root
        self.headers = headers or {}
        self.cookies: dict[str, str] = {}
        self.answer: Answer | None = None

    def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in {**self.headers, **headers}.items()}
        if self.cookies:
            fields.setdefault("Cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()))
        if method == "POST":
            fields.setdefault("Content-Length", str(len(body)))
        pairs = tuple((name, value) for name, value in fields.items() if value != "")
        answer = self.ask(self.app, Ask(self.root + target, pairs, method, root=self.root, body=body))
        for line in answer.all("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies.pop(name, None)
            if value:
                self.cookies[name] = value
        self.answer = answer
        return answer

    def get(self, target: str = "/", **headers: str) -> Answer:
        return self.send("GET", target, **headers)

    def text(self, target: str = "/") -> str:
        answer = self.get(target)
        assert answer.status == 200, (target, answer.status, answer.headers)
        return answer.body.decode()

    def token(self, page: str = "/log-in") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(page).body.decode())
        assert found is not None, page
        return found[1]

    def post(self, target: str, form: dict[str, str], **headers: str) -> Answer:
        """Send a form, as a browser does by TLS."""
        fields = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Sec-Fetch-Site": "same-origin",
            "Origin": "https://example.test",
            **headers,
        }
        return self.send("POST", target, urlencode(form).encode(), **fields)

    def form(self, page: str, target: str, **fields: str) -> Answer:
        """Open a page, fill in its form, and send it."""
        text = self.text(page)
        hidden = dict(re.findall(r'name="(csrf|once)" value="([^"]+)"', text))
        return self.post(target, {**hidden, **fields})

    def log_in(self, key: str, **more: str) -> Answer:
        return self.post("/log-in", {"key": key, "csrf": self.token(), **more})

    def follow(self, asked: str) -> str:
        """Return where the last answer leads to, of the page that was asked for, within the dashboard."""
        assert self.answer is not None
        place = self.answer.get("location")
        assert place is not None, self.answer
        return urljoin(f"https://example.test{self.root}{asked}", place).removeprefix(
            f"https://example.test{self.root}"
        )
