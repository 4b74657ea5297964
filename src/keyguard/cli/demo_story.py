"""The story of the demo: its requests, and what each is held to.

A key is issued, used, used up, waited for and used again. Then its customer comes near a quota, which somebody is told
of, and spends it; an operator asks why it is refused, sees the same on a page, and lets it go on. In the end the key is
revoked.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from html import unescape
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

from keyguard.clock import monotonic, pause

if TYPE_CHECKING:
    from keyguard.stack.keyguard import Keyguard

HOST = "127.0.0.1"
BLOCKED = "203.0.113.7"


class Reply(NamedTuple):
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        problem: dict[str, Any] = json.loads(self.body)
        return problem


class Server(NamedTuple):
    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.send("GET", path, headers or {})

    def send(self, method: str, path: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None) -> Reply:
        sent = dict(headers)
        if form is not None:
            sent |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.url}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request(method, path, None if form is None else urlencode(form), sent)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, answer.reason, fields, answer.read())
        finally:
            connection.close()


class Story:
    """The demo's requests. Each says what it expects, and is held to it."""

    def __init__(self, fastapi: Server, flask: Server, guard: Keyguard, told: SimpleQueue[str], store: str) -> None:
        self.fastapi = fastapi
        self.flask = flask
        self.guard = guard
        self.told = told
        self.store = store
        self.admin = guard.keys.issue("operators", scopes=["keyguard:admin"]).key.reveal()
        """The key with which operators log in."""
        self.as_expected = True

    def tell(self) -> bool:
        say("A request without a key")
        self.ask(self.fastapi, None, 401)

        say("A key is issued to acme, and shown once")
        issued = self.guard.keys.issue("acme", plan="trial")
        key = issued.key.reveal()
        print(f"  {key}")

        say("It works, in both apps; what is left counts for both")
        self.ask(self.fastapi, key, 200)
        self.ask(self.flask, key, 200)

        say("It runs dry")
        for server in (self.fastapi, self.flask, self.fastapi, self.flask):
            self.ask(server, key, 200)

        say("The refusal explains itself: whose doing, which limit, and when the key works again")
        refused = self.ask(self.flask, key, 429, whole=True)

        wait = int(refused.headers.get("retry-after", 1))
        began = monotonic()
        if wait > 1:
            say(f"Retry-After says {wait} s. A second too early it is still refused ...")
            sleep_until(began + wait - 1)
            self.ask(self.fastapi, key, 429)
        say(f"... and {wait} s after the refusal the same key works again")
        sleep_until(began + wait)
        self.ask(self.fastapi, key, 200)

        say("At 80 % of acme's quota for the day somebody is told, once, whichever app it was")
        sleep_until(began + 10)  # all that it has sent is older than the shorter limit
        self.ask(self.flask, key, 200)
        self.hear("80 %")

        say("The quota is used up")
        for server, expected in ((self.fastapi, 200), (self.flask, 200), (self.fastapi, 429)):
            self.ask(server, key, expected)
        self.hear("used up")

        say('A customer calls: "why am I refused?" The store answers')
        pause(1.5)  # until both apps have written what they counted
        self.command("why", "acme", has="acme works again at")
        self.look(f"/ops/keys/{issued.record.id}")

        say("It is let go on, by hand, which is noted")
        self.command("limits", "grant", "acme", "5", "--limit", "subject:10/day", has="5 left now")
        self.ask(self.fastapi, key, 200)

        say("The key is revoked; every process knows within a second")
        self.guard.keys.revoke(issued.record.id)
        sleep_until(monotonic() + 1)
        self.ask(self.fastapi, key, 401)
        self.ask(self.flask, key, 401)

        say(f"A blocked address, {BLOCKED}, told by the proxy that this demo plays")
        self.ask(self.flask, key, 403, {"X-Forwarded-For": BLOCKED})
        print()
        print("All as it should be." if self.as_expected else "Something was NOT as it should be: see above.")
        return self.as_expected

    def ask(
        self,
        server: Server,
        key: str | None,
        expected: int,
        headers: Mapping[str, str] | None = None,
        *,
        whole: bool = False,
    ) -> Reply:
        """Send one request and print it with its answer."""
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        reply = server.get("/hello", sent)
        self.check(reply.status == expected, f"{server.name:8} GET /hello -> {reply.status} {reply.reason}", expected)
        if whole:
            for name in ("retry-after", "ratelimit", "ratelimit-policy", "cache-control", "content-type"):
                print(f"           {name}: {reply.headers.get(name, '-')}")
            print(textwrap.indent(json.dumps(reply.problem, indent=2), " " * 11))
        elif reply.status == 200:
            print(f"           {reply.body.decode().strip()}  ratelimit: {reply.headers.get('ratelimit')}")
        else:
            print(f"           {reply.problem['cause']}: {reply.problem['detail']}")
        return reply

    def hear(self, expected: str) -> None:
        """Print what people are told of next."""
        try:
            told = self.told.get(timeout=30)
        except Empty:
            told = "nothing"
        self.check(expected in told, f"an alert: {told}", expected)

    def command(self, *words: str, has: str) -> None:
        """Run `keyguard` on the store, and print what it says."""
        if has not in command(*words, store=self.store):
            self.check(False, "which does not say", has)

    def look(self, page: str) -> None:
        """Log in to the pages for operators, and print the headline of one."""
        say("The same on a page, for operators: they log in with a key of the scope keyguard:admin")
        cookies: dict[str, str] = {}
        form = self.fastapi.get("/ops/log-in", {})
        keep(cookies, form)
        fields = dict(re.findall(r'name="(csrf|next)" value="([^"]*)"', form.body.decode()))
        keep(cookies, self.fastapi.send("POST", "/ops/log-in", sent(cookies), {**fields, "key": self.admin}))
        reply = self.fastapi.get(page, sent(cookies))
        text = " ".join(unescape(re.sub(r"<[^>]*>", " ", reply.body.decode())).split())
        found = re.search(r"The daily quota[^.]*\.", text)
        self.check(reply.status == 200, f"FastAPI  GET {page} -> {reply.status} {reply.reason}", 200)
        self.check(found is not None, f"         {found[0] if found else text[:200]}", "the quota")

    def check(self, good: bool, line: str, expected: object) -> None:
        self.as_expected &= good
        print(f"  {line}{'' if good else f'  (expected {expected})'}")


def command(*words: str, store: str) -> str:
    """Run `keyguard` on a store, print what it says, and return its standard output."""
    print(f"  $ keyguard {' '.join(words)}")
    done = subprocess.run([sys.executable, "-m", "keyguard", *words, "--store", store], capture_output=True, text=True)
    print(textwrap.indent(done.stdout + done.stderr, "  "), end="")
    return done.stdout


def keep(cookies: dict[str, str], reply: Reply) -> None:
    """Keep the cookie of an answer, as a browser does."""
    name, _, value = reply.headers.get("set-cookie", "").partition(";")[0].partition("=")
    cookies[name] = value


def sent(cookies: Mapping[str, str]) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}


def say(line: str) -> None:
    print(f"\n{line}")


def sleep_until(moment: float) -> None:
    pause(max(0.0, moment - monotonic()))
