"""The apps that the benchmarks compare: bare ones, guarded ones, the floor, and peers doing the same."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from keyguard import APIKeys, IPFilter, Keyguard, RateLimit, ResponseCache
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

# High enough never to refuse within a run; three windows, as a real plan has.
RATES = "1000000/second; 50000000/hour; 1000000000/day"
ONE_RATE = "1000000/second"
CLIENT = "198.51.100.1"


def networks(count: int) -> list[str]:
    """`count` separate networks, none of them the client's."""
    return [f"10.{number >> 8 & 255}.{number & 255}.0/25" for number in range(count)]


def bare_fastapi() -> Any:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def full_guard(count: int = 1000, paths: int = 0) -> tuple[Keyguard, str]:
    public = [f"/public/{number}/*" for number in range(paths)]
    guard = Keyguard(IPFilter(deny=networks(count)), APIKeys(public=public), RateLimit(RATES, by="key"))
    return guard, guard.keys.issue("bench").key.reveal()


def keyguard_fastapi(count: int = 1000, paths: int = 0) -> tuple[Any, str]:
    guard, key = full_guard(count, paths)
    return guard.asgi(bare_fastapi()), key


def floor_fastapi() -> tuple[Any, str]:
    import ipaddress

    from floor import Floor

    spans = [ipaddress.ip_network(text) for text in networks(1000)]
    bounds = sorted((int(span[0]), int(span[-1])) for span in spans)
    key = full_guard()[1]
    return Floor(bare_fastapi(), key, bounds, RATES), key


def composed_fastapi() -> tuple[Any, str]:
    """The same from three libraries: FastAPI's own `APIKeyHeader`, slowapi, fastapi-guard."""
    from fastapi import Depends, FastAPI, HTTPException, Request, Response
    from fastapi.security import APIKeyHeader
    from guard import SecurityConfig, SecurityMiddleware
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    logging.disable(logging.WARNING)
    key = full_guard()[1]
    known = {key: "bench"}
    header = APIKeyHeader(name="X-API-Key")
    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)

    def caller(sent: str = Depends(header)) -> str:
        if sent not in known:
            raise HTTPException(401)
        return known[sent]

    app = FastAPI()
    app.state.limiter = limiter
    config = SecurityConfig(
        blacklist=networks(1000),
        enable_redis=False,
        enable_rate_limiting=False,
        enable_penetration_detection=False,
        enable_ip_banning=False,
        passive_mode=False,
    )
    app.add_middleware(SecurityMiddleware, config=config)

    @app.get("/hello")
    @limiter.limit(RATES.replace(" ", ""))
    async def hello(request: Request, response: Response, who: str = Depends(caller)) -> dict[str, str]:
        return {"hello": "world"}

    return app, key


def one_limit_fastapi() -> Any:
    return Keyguard(RateLimit(ONE_RATE, by="ip")).asgi(bare_fastapi())


def one_limit_floor() -> Any:
    from floor import OneLimit

    return OneLimit(bare_fastapi(), ONE_RATE)


def slowapi_fastapi() -> Any:
    from fastapi import FastAPI, Request, Response
    from slowapi import Limiter
    from slowapi.util import get_remote_address

    limiter = Limiter(key_func=get_remote_address, headers_enabled=True)
    app = FastAPI()
    app.state.limiter = limiter

    @app.get("/hello")
    @limiter.limit(ONE_RATE)
    async def hello(request: Request, response: Response) -> dict[str, str]:
        return {"hello": "world"}

    return app


def bare_flask() -> Any:
    from flask import Flask

    app = Flask("bench")

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def one_limit_flask() -> Any:
    return Keyguard(RateLimit(ONE_RATE, by="ip")).wsgi(bare_flask())


def limiter_flask() -> Any:
    from flask_limiter import Limiter
    from flask_limiter.util import get_remote_address

    app = bare_flask()
    Limiter(get_remote_address, app=app, default_limits=[ONE_RATE], headers_enabled=True, storage_uri="memory://")
    return app


def refusing_fastapi() -> Any:
    """Refuses all but the first request."""
    return Keyguard(RateLimit("1/day", by="ip")).asgi(bare_fastapi())


# -- asking -------------------------------------------------------------------------------------------------

_FIELDS = [
    (b"host", b"api.example.test"),
    (b"user-agent", b"bench/1.0"),
    (b"accept", b"application/json"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"x-request-start", b"1700000000"),
]


def scope_with(key: str | None) -> dict[str, Any]:
    headers = [*_FIELDS, (b"x-api-key", key.encode())] if key else list(_FIELDS)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/hello",
        "raw_path": b"/hello",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": (CLIENT, 40000),
        "server": ("api.example.test", 80),
    }


def environ_with(key: str | None) -> dict[str, Any]:
    import io
    import sys

    environ = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/hello",
        "QUERY_STRING": "",
        "SERVER_NAME": "api.example.test",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": CLIENT,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in _FIELDS:
        environ["HTTP_" + name.decode().upper().replace("-", "_")] = value.decode()
    if key:
        environ["HTTP_X_API_KEY"] = key
    return environ


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def run_asgi(app: Any, scope: dict[str, Any], count: int, expected: int = 200) -> None:
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    for _ in range(count):
        fresh = dict(scope)
        fresh["state"] = {}
        await app(fresh, receive, send)
        if status != expected:
            raise SystemExit(f"expected {expected}, got {status}")


def run_wsgi(app: Any, environ: dict[str, Any], count: int, expected: int = 200) -> None:
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses[:] = [status]

    for _ in range(count):
        iterable = app(dict(environ), start_response)
        for _ in iterable:
            pass
        if hasattr(iterable, "close"):
            iterable.close()
        if int(statuses[0][:3]) != expected:
            raise SystemExit(f"expected {expected}, got {statuses[0]}")


# -- what is counted ------------------------------------------------------------------------------------------


class Variant(NamedTuple):
    """One app, and requests of many callers to it. `run(count)` awaits them under ASGI."""

    name: str
    asynchronous: bool
    run: Callable[[int], Any]


def variants(callers: int, *, build: bool = True, kinds: Collection[str] = ()) -> Iterator[Variant]:
    """Each app whose cost is counted, of these kinds or all, ready to be run; with `build=False` only their names."""
    for name, make in _VARIANTS.items():
        if kinds and name.partition(":")[0] not in kinds:
            continue
        asynchronous = not name.startswith(("wsgi", "flask"))
        if not build:
            yield Variant(name, asynchronous, print)
            continue
        app, keys, expected = make(callers)
        yield Variant(name, asynchronous, (_asgi_run if asynchronous else _wsgi_run)(app, keys, callers, expected))


def _addresses(callers: int) -> list[str]:
    return [f"198.51.{number >> 8}.{number & 255}" for number in range(callers)]


def _asgi_run(app: Any, keys: list[str], callers: int, expected: int) -> Callable[[int], Any]:
    scopes = []
    for place, address in enumerate(_addresses(callers)):
        scope = scope_with(keys[place] if keys else None)
        scope["client"] = (address, 40000)
        scopes.append(scope)
    turn = itertools.cycle(scopes)
    status = 0

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]

    async def run(count: int) -> None:
        for _ in range(count):
            scope = dict(next(turn))
            scope["state"] = {}
            await app(scope, receive, send)
            if status != expected:
                raise SystemExit(f"expected {expected}, got {status}")

    return run


def _wsgi_run(app: Any, keys: list[str], callers: int, expected: int) -> Callable[[int], Any]:
    environs = []
    for place, address in enumerate(_addresses(callers)):
        environ = environ_with(keys[place] if keys else None)
        environ["REMOTE_ADDR"] = address
        environs.append(environ)
    turn = itertools.cycle(environs)
    return lambda count: [run_wsgi(app, next(turn), 1, expected) for _ in range(count)]


def _frozen(*guards: Any) -> Keyguard:
    """A stack in whose world no time passes."""
    clock = ManualClock()
    return Keyguard(*guards, store=MemoryStore(clock=clock), clock=clock)


def _issued(guard: Keyguard, count: int) -> list[str]:
    return [guard.keys.issue(f"caller-{number}").key.reveal() for number in range(count)]


def raw_asgi() -> Any:
    """The least that an ASGI app can do."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"17")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"hello":"world"}'})

    return app


def raw_wsgi() -> Any:
    """The least that a WSGI app can do."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "17")])
        return [b'{"hello":"world"}']

    return app


def cacheable_asgi() -> Any:
    """An app whose answer a shared cache may keep."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"1000"), (b"cache-control", b"s-maxage=86400")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * 1000})

    return app


def _one(inner: Any, world: str) -> Callable[[int], tuple[Any, list[str], int]]:
    return lambda callers: (getattr(_frozen(RateLimit(ONE_RATE, by="ip")), world)(inner()), [], 200)


def _three(inner: Any, world: str) -> Callable[[int], tuple[Any, list[str], int]]:
    return lambda callers: (getattr(_frozen(RateLimit(RATES, by="ip")), world)(inner()), [], 200)


def _whole(inner: Any, world: str) -> Callable[[int], tuple[Any, list[str], int]]:
    def make(callers: int) -> tuple[Any, list[str], int]:
        guard = _frozen(IPFilter(deny=networks(1000)), APIKeys(), RateLimit(RATES, by="key"))
        return getattr(guard, world)(inner()), _issued(guard, callers), 200

    return make


def _refusing(callers: int) -> tuple[Any, list[str], int]:
    guard = _frozen(RateLimit("1/day", by="ip"))
    app = guard.asgi(raw_asgi())
    asyncio.run(_asgi_run(app, [], callers, 200)(callers))
    logging.getLogger("keyguard").setLevel(logging.WARNING)
    return app, [], 429


def _hits(callers: int) -> tuple[Any, list[str], int]:
    return _frozen(ResponseCache()).asgi(cacheable_asgi()), [], 200


def _hits_within_keys(callers: int) -> tuple[Any, list[str], int]:
    guard = _frozen(APIKeys(), ResponseCache())
    return guard.asgi(cacheable_asgi()), _issued(guard, callers), 200


def _bare(inner: Any) -> Callable[[int], tuple[Any, list[str], int]]:
    return lambda callers: (inner(), [], 200)


_VARIANTS: dict[str, Callable[[int], tuple[Any, list[str], int]]] = {
    "asgi: bare": _bare(raw_asgi),
    "asgi: empty Keyguard()": lambda callers: (_frozen().asgi(raw_asgi()), [], 200),
    "asgi: one limit": _one(raw_asgi, "asgi"),
    "asgi: three limits": _three(raw_asgi, "asgi"),
    "asgi: networks, key, three limits": _whole(raw_asgi, "asgi"),
    "asgi: refusal": _refusing,
    "asgi: cache hit": _hits,
    "asgi: cache hit within APIKeys": _hits_within_keys,
    "fastapi: bare": _bare(bare_fastapi),
    "fastapi: one limit": _one(bare_fastapi, "asgi"),
    "fastapi: three limits": _three(bare_fastapi, "asgi"),
    "fastapi: networks, key, three limits": _whole(bare_fastapi, "asgi"),
    "wsgi: bare": _bare(raw_wsgi),
    "wsgi: one limit": _one(raw_wsgi, "wsgi"),
    "wsgi: three limits": _three(raw_wsgi, "wsgi"),
    "flask: bare": _bare(bare_flask),
    "flask: one limit": _one(bare_flask, "wsgi"),
}
