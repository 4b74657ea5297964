"""The apps that the benchmarks compare: bare ones, guarded ones, the floor, and peers doing the same."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeAlias

from asking import asgi_run, wsgi_run
from keyguard import (
    Alerts,
    APIKeys,
    Ban,
    Concurrency,
    Decision,
    IPFilter,
    Keyguard,
    Overload,
    RateLimit,
    ResponseCache,
    UpstreamCauses,
    Usage,
    quota,
)
from keyguard.ops import Take, Taken
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

# High enough never to refuse within a run; three windows, as a real plan has.
RATES = "1000000/second; 50000000/hour; 1000000000/day"
ONE_RATE = "1000000/second"
MONTHLY = "1000000000/month"


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


def one_limit_floor() -> Any:
    from floor import OneLimit

    return OneLimit(bare_fastapi(), ONE_RATE)


def bare_flask() -> Any:
    from flask import Flask

    app = Flask("bench")

    @app.get("/hello")
    def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


class Variant(NamedTuple):
    """One app, and requests of many callers to it. `run(count)` awaits them under ASGI."""

    name: str
    asynchronous: bool
    run: Callable[[int], Any]


def frozen(*guards: Any) -> Keyguard:
    """A stack in whose world no time passes."""
    clock = ManualClock()
    return Keyguard(*guards, store=MemoryStore(clock=clock), clock=clock)


def variants(
    callers: int, *, build: bool = True, kinds: Collection[str] = (), stack: Callable[..., Keyguard] = frozen
) -> Iterator[Variant]:
    """Each app whose cost is counted, of these kinds or all, ready to be run; with `build=False` only their names.

    `stack` makes a stack of guards.
    """
    for name, make in _VARIANTS.items():
        if kinds and name.partition(":")[0] not in kinds:
            continue
        asynchronous = not name.startswith(("wsgi", "flask"))
        if not build:
            yield Variant(name, asynchronous, print)
            continue
        app, keys, expected = make(stack, callers)
        yield Variant(name, asynchronous, (asgi_run if asynchronous else wsgi_run)(app, keys, callers, expected))


def issued(guard: Keyguard, count: int) -> list[str]:
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


def cacheable_wsgi() -> Any:
    """The same under WSGI."""
    headers = [("Content-Type", "text/plain"), ("Content-Length", "1000"), ("Cache-Control", "s-maxage=86400")]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return [b"x" * 1000]

    return app


Make: TypeAlias = Callable[[Callable[..., Keyguard], int], tuple[Any, list[str], int]]
"""What makes an app, the keys of its callers and the status they see, out of a maker of stacks and their number."""


def _guarded(guard: Callable[[], Any], inner: Any, world: str) -> Make:
    return lambda stack, callers: (getattr(stack(guard()), world)(inner()), [], 200)


def _limited(rates: str, inner: Any, world: str) -> Make:
    return _guarded(lambda: RateLimit(rates, by="ip"), inner, world)


def _for_handlers() -> RateLimit:
    """Return a limit whose stack notes its requests for handlers, as `Keyguard(handlers=True)` does."""
    limit = RateLimit(ONE_RATE, by="ip")
    limit.handlers = True
    return limit


def whole(inner: Any, world: str) -> Make:
    def make(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
        guard = stack(IPFilter(deny=networks(1000)), APIKeys(), RateLimit(RATES, by="key"))
        return getattr(guard, world)(inner()), issued(guard, callers), 200

    return make


class Elsewhere:
    """A store that must be awaited, as one on the network, and always admits: what a network costs is not counted."""

    timeout = 0.075

    def __init__(self, clock: ManualClock) -> None:
        self._values = MemoryStore(clock=clock)
        self.execute, self.scan = self._values.execute, self._values.scan

    async def aexecute(self, ops: Any) -> list[Any]:
        (op,) = ops
        if type(op) is not Take:
            return self.execute(ops)
        return [Taken(op.demands, [(None, 60_000_000, 99, 60_000_000, 0)] * len(op.demands), 10**15, False)]


def _elsewhere(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
    clock = ManualClock()
    guard = Keyguard(APIKeys(), RateLimit(RATES, by="key"), store=Elsewhere(clock), clock=clock)
    return guard.asgi(raw_asgi()), issued(guard, callers), 200


def _refusing(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
    app = stack(RateLimit("1/day", by="ip")).asgi(raw_asgi())
    asyncio.run(asgi_run(app, [], callers, 200)(callers))
    logging.getLogger("keyguard").setLevel(logging.WARNING)
    return app, [], 429


def _refusing_under_wsgi(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
    app = stack(RateLimit("1/day", by="ip")).wsgi(raw_wsgi())
    wsgi_run(app, [], callers, 200)(callers)
    logging.getLogger("keyguard").setLevel(logging.WARNING)
    return app, [], 429


def _hits_within_keys(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
    guard = stack(APIKeys(), ResponseCache())
    return guard.asgi(cacheable_asgi()), issued(guard, callers), 200


def _bare(inner: Any) -> Make:
    return lambda stack, callers: (inner(), [], 200)


def _handled(work: Callable[[Keyguard], Any], world: str = "asgi") -> Make:
    """Return what makes an app whose handler does something about a limit that only handlers charge."""

    def make(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
        guard = stack(RateLimit(ONE_RATE, by="ip", cost=0, name="tokens"))
        asgi, wsgi = raw_asgi(), raw_wsgi()

        async def awaited(scope: Any, receive: Any, send: Any) -> None:
            await work(guard)
            await asgi(scope, receive, send)

        def called(environ: Any, start_response: Any) -> Any:
            work(guard)
            return wsgi(environ, start_response)

        return getattr(guard, world)(awaited if world == "asgi" else called), [], 200

    return make


async def _nothing_asked() -> None: ...


async def _nothing(guard: Keyguard) -> None: ...


async def _charge(guard: Keyguard) -> None:
    guard.charge(3)


async def _reserve(guard: Keyguard) -> None:
    async with guard.reserve(20) as hold:
        hold.settle(7)


def _at_route_of_flask(put: Callable[[Keyguard, Any], Any]) -> Make:
    """Return what makes a Flask app whose view `put` has decorated: it is called with the guard and the app."""

    def make(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
        app, guard = bare_flask(), stack()
        put(guard, app)
        guard.init_app(app)
        return app, [], 200

    return make


def _decorated_below(guard: Keyguard, app: Any) -> None:
    app.view_functions["hello"] = guard.limit(ONE_RATE)(app.view_functions["hello"])


def _decorated_above(guard: Keyguard, app: Any) -> None:
    guard.limit(ONE_RATE)(app.view_functions["hello"])


def _at_route(put: Callable[[Keyguard], dict[str, Any]]) -> Make:
    """Return what makes a FastAPI app with something at its route: `put` gives the arguments of that, or a `view`."""

    def make(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
        from fastapi import FastAPI

        app, guard = FastAPI(), stack()

        async def hello() -> dict[str, str]:
            return {"hello": "world"}

        given = put(guard)
        app.get("/hello", **{word: value for word, value in given.items() if word != "view"})(
            given["view"](hello) if "view" in given else hello
        )
        return guard.asgi(app), [], 200

    return make


def _depending(call: Any) -> dict[str, Any]:
    from fastapi import Depends

    return {"dependencies": [Depends(call)]}


def _charge_plainly(guard: Keyguard) -> None:
    guard.charge(3)


def _reserve_plainly(guard: Keyguard) -> None:
    with guard.reserve(20) as hold:
        hold.settle(7)


class _Passing:
    """Lets the time of a flush pass after each thousandth request: what is counted has all that runs in the background.

    A service with a thousand requests in two seconds does as much.
    """

    def __init__(self, app: Any, clock: ManualClock) -> None:
        self._app, self._clock, self._served = app, clock, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)
        self._served += 1
        if self._served % 1000 == 0:
            self._clock.advance("2 seconds")


def _observed(inner: Callable[[], Any] = raw_asgi, *, metrics: bool = False, **observers: Callable[[], Any]) -> Make:
    """Return what makes an app with keys and limits, whose requests are told to observers."""

    def make(stack: Callable[..., Keyguard], callers: int) -> tuple[Any, list[str], int]:
        clock = ManualClock()
        settings = {word: observer() for word, observer in observers.items()}
        guard = Keyguard(
            *(APIKeys(), RateLimit(RATES, by="key")), store=MemoryStore(clock=clock), clock=clock, **settings
        )
        if metrics:
            guard.metrics()
        return _Passing(guard.asgi(inner()), clock), issued(guard, callers), 200

    return make


def _told(decision: Decision) -> None: ...


_VARIANTS: dict[str, Make] = {
    "asgi: bare": _bare(raw_asgi),
    "asgi: empty Keyguard()": lambda stack, callers: (stack().asgi(raw_asgi()), [], 200),
    "asgi: one limit": _limited(ONE_RATE, raw_asgi, "asgi"),
    "asgi: three limits": _limited(RATES, raw_asgi, "asgi"),
    "asgi: networks, key, three limits": whole(raw_asgi, "asgi"),
    "asgi: key, three limits, store elsewhere": _elsewhere,
    "asgi: calendar quota": _guarded(lambda: RateLimit(quota(MONTHLY), by="ip"), raw_asgi, "asgi"),
    "asgi: limit and calendar quota": _guarded(lambda: RateLimit(ONE_RATE, quota(MONTHLY), by="ip"), raw_asgi, "asgi"),
    "asgi: slots": _guarded(lambda: Concurrency(10, by="ip"), raw_asgi, "asgi"),
    "asgi: ban": _guarded(lambda: Ban(after="20/minute"), raw_asgi, "asgi"),
    "asgi: overload": _guarded(Overload, raw_asgi, "asgi"),
    "asgi: upstream causes": _guarded(UpstreamCauses, raw_asgi, "asgi"),
    "asgi: settle": _guarded(lambda: RateLimit(ONE_RATE, by="ip", settle=lambda outcome: 2), raw_asgi, "asgi"),
    "asgi: failures, none": _guarded(lambda: RateLimit(ONE_RATE, by="ip", count="failures"), raw_asgi, "asgi"),
    "asgi: handlers, idle": _handled(_nothing),
    "asgi: handlers, charge": _handled(_charge),
    "asgi: handlers, reserve and settle": _handled(_reserve),
    "asgi: refusal": _refusing,
    "asgi: cache hit": lambda stack, callers: (stack(ResponseCache()).asgi(cacheable_asgi()), [], 200),
    "asgi: cache hit within APIKeys": _hits_within_keys,
    "fastapi: bare": _bare(bare_fastapi),
    "fastapi: one limit": _limited(ONE_RATE, bare_fastapi, "asgi"),
    "fastapi: three limits": _limited(RATES, bare_fastapi, "asgi"),
    "fastapi: networks, key, three limits": whole(bare_fastapi, "asgi"),
    "routes: bare": _bare(bare_fastapi),
    "routes: outer rule with paths": _guarded(
        lambda: RateLimit(ONE_RATE, by="ip", paths=["/hello"]), bare_fastapi, "asgi"
    ),
    "routes: decorator": _at_route(lambda guard: {"view": guard.limit(ONE_RATE)}),
    "routes: dependency": _at_route(lambda guard: _depending(guard.limit(ONE_RATE))),
    "routes: dependency that does nothing": _at_route(lambda guard: _depending(_nothing_asked)),
    "wsgi: bare": _bare(raw_wsgi),
    "wsgi: empty Keyguard()": lambda stack, callers: (stack().wsgi(raw_wsgi()), [], 200),
    "wsgi: one limit": _limited(ONE_RATE, raw_wsgi, "wsgi"),
    "wsgi: three limits": _limited(RATES, raw_wsgi, "wsgi"),
    "wsgi: handlers, charge": _handled(_charge_plainly, "wsgi"),
    "wsgi: handlers, reserve and settle": _handled(_reserve_plainly, "wsgi"),
    "wsgi: one limit, handlers=True": _guarded(_for_handlers, raw_wsgi, "wsgi"),
    "wsgi: slots": _guarded(lambda: Concurrency(10, by="ip"), raw_wsgi, "wsgi"),
    "wsgi: refusal": _refusing_under_wsgi,
    "wsgi: overload": _guarded(Overload, raw_wsgi, "wsgi"),
    "wsgi: upstream causes": _guarded(UpstreamCauses, raw_wsgi, "wsgi"),
    "wsgi: cache hit": lambda stack, callers: (stack(ResponseCache()).wsgi(cacheable_wsgi()), [], 200),
    "observed: bare": _bare(raw_asgi),
    "observed: by nobody": _observed(),
    "observed: a record": _observed(on_decision=lambda: _told),
    "observed: metrics": _observed(metrics=True),
    "observed: alerts": _observed(alerts=Alerts),
    "observed: usage": _observed(usage=Usage),
    "observed: usage and metrics": _observed(metrics=True, usage=Usage),
    "observed: usage, metrics and alerts": _observed(metrics=True, usage=Usage, alerts=Alerts),
    "flask: bare": _bare(bare_flask),
    "flask: one limit": _limited(ONE_RATE, bare_flask, "wsgi"),
    "flask: one limit, handlers=True": _guarded(_for_handlers, bare_flask, "wsgi"),
    "flask: decorator above": _at_route_of_flask(_decorated_above),
    "flask: decorator below": _at_route_of_flask(_decorated_below),
    "flask: three limits": _limited(RATES, bare_flask, "wsgi"),
}
