"""The story of a key, told by real servers: `keyguard demo`. That of a provider's keys stands in `demo_llm.py`.

A guarded FastAPI app under uvicorn and a guarded Flask app under waitress share one SQLite file. What happens there, by
real HTTP requests on 127.0.0.1, stands in `demo_story.py`.
"""

import argparse
import logging
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from keyguard import AlertMessage, Alerts, APIKeys, ConfigurationError, IPFilter, Keyguard, RateLimit, Usage, quota
from keyguard.cli.demo_servers import listen, stay_up
from keyguard.cli.demo_story import BLOCKED, HOST, Server, Story
from keyguard.cli.input import add_json
from keyguard.clock import pause, wall_clock
from keyguard.units import as_datetime

BURST, DAILY = "6/10 seconds", "10/day"


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the options of `keyguard demo`."""
    parser.add_argument("--llm", action="store_true", help="the story of a gateway to language models instead")
    parser.add_argument("--serve", action="store_true", help="stay up afterwards, to try by hand")
    parser.add_argument("--port", type=_port, help="of the first server; the second gets the next one")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.json:
        raise ConfigurationError("the demo is a story to read: it has no --json")
    if options.llm:
        from keyguard.cli import demo_llm  # with the pool and the provider, which the other story does without

        return demo_llm.run(serve=options.serve, port=options.port)
    return run(serve=options.serve, port=options.port)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65534:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a number from 1 to 65534")
    return int(text)


class Stage(NamedTuple):
    """The place where the story happens."""

    fastapi: Server
    flask: Server
    guard: Keyguard
    told: SimpleQueue[str]
    """The messages that alerts have sent."""


def guarded(store: str, pepper: str, tell: Callable[[AlertMessage], None]) -> Keyguard:
    """Return the stack that both apps stand behind."""
    late = as_datetime(wall_clock()).hour == 23
    return Keyguard(
        IPFilter(deny=["203.0.113.0/24"]),
        APIKeys(public=["/health"], pepper=pepper),
        RateLimit(BURST, by="key"),
        # The quota must not begin anew while the story goes on, so just before midnight another place's day is meant.
        RateLimit(quota(DAILY, tz="Asia/Tokyo" if late else "UTC"), by="subject"),
        store=store,
        usage=Usage(every=0.5),
        alerts=Alerts(at=(80, 100), to=[tell]),
        # The requests of this demo come from 127.0.0.1, so it may speak for another address, as a proxy would.
        trusted_proxies=[HOST],
    )


def fastapi_app(guard: Keyguard) -> Any:
    """Return an app with the pages for operators beside it, where none of its limits shuts them out."""
    from fastapi import FastAPI, Request

    shop = FastAPI()
    shop.add_middleware(guard.asgi)

    @shop.get("/hello")
    async def hello(request: Request) -> dict[str, str]:
        return {"hello": request.scope["keyguard"].identity.subject, "from": "FastAPI"}

    @shop.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    app = FastAPI()
    app.mount("/ops", guard.dashboard(auth="keys").asgi)
    app.mount("/", shop)
    return app


def flask_app(guard: Keyguard) -> Any:
    from flask import Flask, request

    app = Flask("keyguard-demo")
    setattr(app, "wsgi_app", guard.wsgi(app.wsgi_app))  # noqa: B010 - a type checker minds a method replaced

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": request.environ["keyguard.request"].identity.subject, "from": "Flask"}

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    return app


@contextmanager
def serving(store: str, port: int | None) -> Iterator[Stage]:
    """Run both servers, up and answering, and stop them on the way out."""
    told: SimpleQueue[str] = SimpleQueue()

    def pager(message: AlertMessage) -> None:
        told.put(f"{message.title}. {message.text}")

    pepper = secrets.token_hex(16)
    guards = [guarded(store, pepper, pager) for _ in range(2)]
    try:
        import uvicorn
        from waitress.server import create_server

        asgi, wsgi = fastapi_app(guards[0]), flask_app(guards[1])
    except ImportError as error:
        raise ConfigurationError(f"the demo needs {error.name}: pip install 'keyguard[demo]'") from error
    logging.getLogger("waitress").setLevel(logging.ERROR)
    sockets = [listen(port), listen(port and port + 1)]
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
        log.setLevel(logging.CRITICAL)  # the story tells of refusals and alerts itself
        _wait_until_up(one, other)
        yield Stage(one, other, guards[0], told)
    finally:
        uvicorn_server.should_exit = True
        waitress_server.task_dispatcher.shutdown(timeout=5)  # before its threads lose what they write to
        waitress_server.trigger.pull_trigger(lambda: _end_loop(waitress_server))
        for thread in threads:
            thread.join(timeout=5)
        sockets[0].close()
        for guard in guards:
            guard.close()
        log.setLevel(level)


def _end_loop(waitress_server: Any) -> None:
    """Called in the server's own thread: closed from another one, its loop would still select on what is closed."""
    waitress_server.close()
    waitress_server._map.clear()  # the loop runs while there is something in it


def _wait_until_up(*servers: Server) -> None:
    for server in servers:
        for _ in range(100):
            try:
                if server.get("/health").status == 200:
                    break
            except OSError:
                pass
            pause(0.05)
        else:
            raise ConfigurationError(f"the {server.name} app did not come up at {server.url}")


def run(serve: bool = False, port: int | None = None) -> int:
    """Tell the story; with `serve`, stay up afterwards. Return the exit code: 0 if all went as it should."""
    with tempfile.TemporaryDirectory(prefix="keyguard-demo-") as folder:
        store = f"sqlite:///{Path(folder, 'keyguard.db')}"
        with serving(store, port) as stage:
            print(f"FastAPI under uvicorn at {stage.fastapi.url}, Flask under waitress at {stage.flask.url}.")
            print(
                f"They share one SQLite file, let a key through {BURST}, a customer {DAILY}, and block 203.0.113.0/24."
            )
            story = Story(stage.fastapi, stage.flask, stage.guard, stage.told, store)
            went_well = story.tell()
            if serve:
                _stay(stage, story)
            else:
                print("`keyguard demo --serve` stays up: to try it by hand, and to look at the page in a browser.")
    return 0 if went_well else 1


def _stay(stage: Stage, story: Story) -> None:
    key = stage.guard.keys.issue("you").key.reveal()
    print("\nStaying up. Try, until the key is used up:\n")
    for server in (stage.fastapi, stage.flask):
        print(f"  curl -i {server.url}/hello -H 'Authorization: Bearer {key}'")
    print(f"  curl -i {stage.fastapi.url}/hello")
    print(f"  curl -i {stage.flask.url}/hello -H 'X-Forwarded-For: {BLOCKED}'")
    print(f"  keyguard why you --store {story.store}")
    print(f"\nLook at {stage.fastapi.url}/ops/ in a browser, and log in with {story.admin}")
    stay_up()
