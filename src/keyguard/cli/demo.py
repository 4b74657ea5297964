"""The story of a key, told by real servers: `keyguard demo`.

A guarded FastAPI app under uvicorn and a guarded Flask app under waitress share one SQLite file. A key is issued,
used, used up, waited for, used again and revoked, with real HTTP requests on 127.0.0.1.
"""

import argparse
import http.client
import json
import logging
import socket
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from keyguard import APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit
from keyguard.cli.input import add_json

HOST = "127.0.0.1"
BLOCKED = "203.0.113.7"
LIMITS = "5/10 seconds; 1000/day"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyguard demo`."""
    parser.add_argument("--serve", action="store_true", help="stay up afterwards, to try by hand")
    parser.add_argument("--port", type=_port, help="of the first server; the second gets the next one")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.json:
        raise ConfigurationError("the demo is a story to read: it has no --json")
    return run(serve=options.serve, port=options.port)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65534:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65534")
    return int(text)


def guarded(store: str) -> Keyguard:
    """Return the stack that both apps stand behind."""
    return Keyguard(
        IPFilter(deny=["203.0.113.0/24"]),
        APIKeys(public=["/health"]),
        RateLimit(LIMITS, by="key"),
        store=store,
        # The requests of this demo come from 127.0.0.1, so it may speak for another address, as a proxy would.
        trusted_proxies=[HOST],
    )


def fastapi_app(store: str) -> tuple[Any, Keyguard]:
    from fastapi import FastAPI, Request

    guard = guarded(store)
    app = FastAPI()
    app.add_middleware(guard.asgi)

    @app.get("/hello")
    async def hello(request: Request) -> dict[str, str]:
        return {"hello": request.scope["keyguard"].identity.subject, "from": "FastAPI"}

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    return app, guard


def flask_app(store: str) -> tuple[Any, Keyguard]:
    from flask import Flask, request

    guard = guarded(store)
    app = Flask("keyguard-demo")
    setattr(app, "wsgi_app", guard.wsgi(app.wsgi_app))  # noqa: B010 - a type checker minds a method replaced

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": request.environ["keyguard.request"].identity.subject, "from": "Flask"}

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    return app, guard


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
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path, headers=dict(headers or {}))
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, answer.reason, fields, answer.read())
        finally:
            connection.close()


@contextmanager
def serving(store: str, port: int | None) -> Iterator[tuple[Server, Server, Keyguard]]:
    """Run both servers, up and answering, and stop them on the way out."""
    try:
        import uvicorn
        from waitress.server import create_server

        asgi, guard = fastapi_app(store)
        wsgi, _ = flask_app(store)
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'keyguard[demo]'") from error
    logging.getLogger("waitress").setLevel(logging.ERROR)
    sockets = [_listen(port), _listen(port and port + 1)]
    one, other = (Server(name, s.getsockname()[1]) for name, s in zip(("FastAPI", "Flask"), sockets, strict=True))
    # The demo plays the proxy itself, so uvicorn must not read the forwarding header first.
    config = uvicorn.Config(asgi, log_level="warning", proxy_headers=False, server_header=False)
    uvicorn_server = uvicorn.Server(config)
    # waitress drops X-Forwarded-For unless told that the app knows about proxies.
    waitress_server: Any = create_server(wsgi, sockets=[sockets[1]], threads=4, clear_untrusted_proxy_headers=False)
    threads = [
        threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [sockets[0]]}, daemon=True),
        threading.Thread(target=waitress_server.run, daemon=True),
    ]
    for thread in threads:
        thread.start()
    log = logging.getLogger("keyguard")
    level = log.level
    try:
        log.setLevel(logging.ERROR)  # the story tells of refusals itself
        _wait_until_up(one, other)
        yield one, other, guard
    finally:
        log.setLevel(level)
        uvicorn_server.should_exit = True
        waitress_server.task_dispatcher.shutdown(timeout=5)  # before its threads lose what they write to
        waitress_server.trigger.pull_trigger(lambda: _end_loop(waitress_server))
        for thread in threads:
            thread.join(timeout=5)
        sockets[0].close()


def _end_loop(waitress_server: Any) -> None:
    """Called in the server's own thread: closed from another one, its loop would still select on what is closed."""
    waitress_server.close()
    waitress_server._map.clear()  # the loop runs while there is something in it


def _listen(port: int | None) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port or 0))
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"cannot listen on {HOST}:{port}: {error.strerror}") from error
    listener.listen(128)
    return listener


def _wait_until_up(*servers: Server) -> None:
    for server in servers:
        for _ in range(100):
            try:
                if server.get("/health").status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        else:
            raise ConfigurationError(f"the {server.name} app did not come up at {server.url}")


def run(serve: bool = False, port: int | None = None) -> int:
    """Tell the story; with `serve`, stay up afterwards. Return the exit code: 0 if all went as it should."""
    with tempfile.TemporaryDirectory(prefix="keyguard-demo-") as folder:
        store = f"sqlite:///{Path(folder, 'keyguard.db')}"
        with serving(store, port) as (fastapi, flask, guard):
            print(f"FastAPI under uvicorn at {fastapi.url}, Flask under waitress at {flask.url}, one SQLite file.")
            print(f"Both let a key through {LIMITS.replace(';', ' and')}, and block 203.0.113.0/24.")
            told = Story(fastapi, flask, guard).tell()
            if serve:
                _stay(fastapi, flask, guard, store)
    return 0 if told else 1


class Story:
    """The demo's requests. Each says what it expects, and is held to it."""

    def __init__(self, fastapi: Server, flask: Server, guard: Keyguard) -> None:
        self.fastapi = fastapi
        self.flask = flask
        self.guard = guard
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
        for server in (self.fastapi, self.flask, self.fastapi):
            self.ask(server, key, 200)

        say("The refusal explains itself: whose doing, which limit, and when the key works again")
        refused = self.ask(self.flask, key, 429, whole=True)

        wait = int(refused.headers.get("retry-after", 1))
        began = time.monotonic()
        if wait > 1:
            say(f"Retry-After says {wait} s. A second too early it is still refused ...")
            sleep_until(began + wait - 1)
            self.ask(self.fastapi, key, 429)
        say(f"... and {wait} s after the refusal the same key works again")
        sleep_until(began + wait)
        self.ask(self.fastapi, key, 200)

        say("The key is revoked; every process knows within a second")
        self.guard.keys.revoke(issued.record.id)
        sleep_until(time.monotonic() + 1)
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
        good = reply.status == expected
        self.as_expected &= good
        print(
            f"  {server.name:8} GET /hello -> {reply.status} {reply.reason}{'' if good else f'  (expected {expected})'}"
        )
        if whole:
            for name in ("retry-after", "ratelimit", "ratelimit-policy", "cache-control", "content-type"):
                print(f"           {name}: {reply.headers.get(name, '-')}")
            print(textwrap.indent(json.dumps(reply.problem, indent=2), " " * 11))
        elif reply.status == 200:
            print(f"           {reply.body.decode().strip()}  ratelimit: {reply.headers.get('ratelimit')}")
        else:
            print(f"           {reply.problem['cause']}: {reply.problem['detail']}")
        return reply


def say(line: str) -> None:
    print(f"\n{line}")


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def _stay(fastapi: Server, flask: Server, guard: Keyguard, store: str) -> None:
    key = guard.keys.issue("you").key.reveal()
    print("\nStaying up. Try, until the key is used up:\n")
    for server in (fastapi, flask):
        print(f"  curl -i {server.url}/hello -H 'Authorization: Bearer {key}'")
    print(f"  curl -i {fastapi.url}/hello")
    print(f"  curl -i {flask.url}/hello -H 'X-Forwarded-For: {BLOCKED}'")
    print(f"  keyguard keys list --store {store}")
    print("\nCtrl-C ends it.", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
