"""`decide`, the quick answer of a guard: the same as that of its `__call__`, and never in place of somebody's own."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Ban,
    Cause,
    Concurrency,
    ForeignKey,
    Identity,
    IPFilter,
    Keyguard,
    KeyRegistry,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    blocking,
    path,
)
from keyguard.guard import LONG, Mark, may_decide
from keyguard.ops import SETTLED, Put, is_counter
from keyguard.request import Forward
from keyguard.response import Headers
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.distant import BUSY, FAILS, FINE, LATE, STOPS, STUMBLES, DistantStore, Stopped
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

WORLDS = {"asgi": (ask_asgi, asgi_app), "wsgi": (ask_wsgi, wsgi_app)}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def asked(world: str, guard: Keyguard, ask: Ask, app: Any = None) -> Answer:
    send, usual = WORLDS[world]
    return send(getattr(guard, world)(app or usual), ask)


# -- subclasses -------------------------------------------------------------------------------------------------


class OwnCall:
    """Refuses all that it is asked about with a 418."""

    async def __call__(self, request: Request, forward: Forward) -> Response:
        return Response(418)


class OwnPlainCall:
    def __call__(self, request: Request) -> Response | None:
        return Response(418)


GUARDS: dict[str, Any] = {
    "IPFilter": (IPFilter, {"deny": ["10.0.0.0/8"]}),
    "APIKeys": (APIKeys, {}),
    "RateLimit": (RateLimit, {"by": "ip"}),
    "RateLimit by key": (RateLimit, {"by": "key"}),
    "Concurrency": (Concurrency, {"limit": 3}),
    "ResponseCache": (ResponseCache, {"ttl": 60}),
}


def made(kind: Any, options: dict[str, Any]) -> Any:
    return kind("9/minute", **options) if issubclass(kind, RateLimit) else kind(**options)


@pytest.mark.parametrize("own", [OwnCall, OwnPlainCall])
@pytest.mark.parametrize("name", GUARDS)
def test_a_subclass_with_a_call_of_its_own_is_called(world: str, name: str, own: type) -> None:
    """Alone, between others, and twice: what is decided for its parent is not decided for it."""
    kind, options = GUARDS[name]
    guard = made(type("Own", (own, kind), {}), options)
    clock = ManualClock()
    keys = () if kind is APIKeys else (APIKeys(),)
    stack = Keyguard(*keys, RateLimit("99/minute", name="other"), guard, store=MemoryStore(clock=clock), clock=clock)
    ask = Ask("/", (("X-API-Key", stack.keys.issue("acme").key.reveal()),))
    if kind is APIKeys:
        ask = Ask()
    assert [asked(world, stack, ask).status for _ in range(3)] == [418] * 3


@pytest.mark.parametrize("name", ["take_at_once", "counted"])
def test_a_limit_that_overrides_a_method_counts_by_it(world: str, name: str) -> None:
    class Own(RateLimit):
        pass

    def refuse(*args: Any) -> Any:
        raise ValueError("asked")

    setattr(Own, name, refuse)
    guard = Own("9/minute", by="key", paths=["/*"])
    assert may_decide(RateLimit("9/minute"))
    assert not may_decide(guard)
    clock = ManualClock()
    stack = Keyguard(APIKeys(), guard, store=MemoryStore(clock=clock), clock=clock)
    ask = Ask("/", (("X-API-Key", stack.keys.issue("acme").key.reveal()),))
    assert asked(world, stack, ask).status == 503  # its method was called


def test_what_says_nothing_about_decisions_may_be_overridden() -> None:
    class Named(APIKeys):
        provides = frozenset({"identity", "team"})

        def __init__(self) -> None:
            super().__init__(optional=True)

        def __repr__(self) -> str:
            return "<Named>"

        def helper(self) -> None: ...

    assert may_decide(Named())
    patched = APIKeys()
    patched.admitted = print  # type: ignore[attr-defined]
    assert may_decide(patched)
    patched._missing_scopes = print  # type: ignore[method-assign, assignment]
    assert not may_decide(patched)


# -- both ways --------------------------------------------------------------------------------------------------


def stacks(name: str, store: Any, clock: ManualClock) -> Keyguard:
    plans = {"free": "3/minute", "pro": None}
    guards: dict[str, list[Any]] = {
        "key and limits": [
            IPFilter(deny=["10.0.0.0/8"], paths=["/*"]),
            APIKeys(public=["/open/*"], scopes=["read"]),
            RateLimit("4/second; 9/minute", by="key", headers=["draft-11", "x-ratelimit"]),
            RateLimit("7/minute", by="ip", paths=["/items/*"], methods=["GET"], name="items"),
        ],
        "limits outside": [
            RateLimit("30/minute", by="ip"),
            IPFilter(deny=["10.0.0.0/8"]),
            RateLimit("5/second", by="ip", name="second", headers="x-ratelimit"),
            APIKeys(optional=True, preflights=True),
            RateLimit(plans=plans, default="free"),
        ],
        "a cache": [
            RateLimit("60/minute", by="ip"),
            APIKeys(optional=True),
            ResponseCache(ttl=2, public=True),
            RateLimit("9/minute", by="subject"),
        ],
        "a cache between limits": [
            APIKeys(optional=True),
            RateLimit("9/minute", by="subject"),
            ResponseCache(ttl=2, serve_exhausted=True),
        ],
        "bans": [
            Ban(after="5/minute", of=(401, 404, Cause.REQUEST), for_="9 seconds", growing=True, exempt=["10.0.0.0/8"]),
            RateLimit("60/minute", by="ip"),
            APIKeys(optional=True, preflights=True),
            Ban(after="2/minute", of=(404, 429), by="subject", for_=5),
            Ban(after="3/minute", of=500, by=tenant, for_="20 seconds", name="tenants"),
            ResponseCache(ttl=2, public=True),
        ],
        "slots": [
            Concurrency(1, by="ip", exempt=path("/open/*")),
            APIKeys(optional=True),
            ResponseCache(ttl=2, public=True),
            Concurrency(2, by="subject", paths=["/items/*"], methods=["GET"]),
            RateLimit("9/minute", by="ip"),
            Concurrency(3, by=tenant, name="tenants"),
        ],
        "functions": [
            RateLimit("20/minute; 40/hour", by=tenant, cost=cost, exempt=path("/open/*"), name="tenants"),
            RateLimit("5/second", when=lambda request: request.method != "HEAD", by="ip", name="heads"),
            lambda request: None,
            RateLimit(lambda request: None if request.method == "HEAD" else "9/minute", by=tenant, name="chosen"),
            IPFilter(deny=["10.0.0.0/8"]),
            APIKeys(optional=True),
            RateLimit("30/minute", by="ip", cost=cost, name="costs"),
        ],
        "a look-up": [
            RateLimit("60/minute", by="ip"),
            APIKeys(lookup=owner, scopes=["read"], guesses="20/minute"),
            RateLimit("9/minute", by="subject"),
        ],
        "all kinds of keys": [
            APIKeys(lookup=owner, issued=True, imported=True, scopes=["read"], guesses="20/minute"),
            RateLimit("9/minute", by="subject"),
        ],
        "imported keys": [
            RateLimit("60/minute", by="ip"),
            APIKeys(imported=True, optional=True),
            RateLimit("9/minute", by="subject"),
        ],
        "scopes by path": [
            APIKeys(scopes=needed, optional=True, guess_exempt=["198.51.100.2/32"], public=["/open/*"]),
            RateLimit("9/minute", by="subject"),
        ],
        "functions that return awaitables": [
            RateLimit("20/minute", by=tenant, cost=lambda request: later(cost(request)), name="tenants"),
            RateLimit("50/minute", by="ip"),
            APIKeys(optional=True),
        ],
    }
    return Keyguard(*guards[name], store=store, clock=clock, trusted_proxies=["192.0.2.0/24"])


ELSEWHERE = "sk_9f8e7d6c5b4a39281706"


def registry(store: Any, clock: ManualClock) -> KeyRegistry:
    return Keyguard(APIKeys(), store=store, clock=clock).keys


def owner(text: str) -> Identity | None:
    return None if text.endswith("x") else Identity(subject=text[-3:], scopes=frozenset({"read"} - {text[-1]}))


def needed(request: Request) -> Any:
    return {"/items/1": ["read"], "/items/own": ["write"]}.get(request.path)


def tenant(request: Request) -> Any:
    """Return whose request it is, in each way that is allowed, and in some that are not."""
    if request.method == "BREW":
        raise LookupError("tenant")
    named = {"/items/1": 1, "/items/own": ("a", 2), "/missing": None, "/busy": 2.5, "/broken": b"b"}
    return named.get(request.path, "everybody")


def cost(request: Request) -> Any:
    prices = {"/items/1": 3, "/items/own": 0, "/items/old": 31, "/late": -1, "/open/door": "2", "/missing": 100}
    return prices.get(request.path, 1)


async def later(value: Any) -> Any:
    return value


def _fields(path: str) -> list[tuple[str, str]]:
    own = [("RateLimit", '"own";r=1;t=9'), ("RateLimit-Policy", '"own";q=1;w=9')] if path == "/items/own" else []
    old = [("X-RateLimit-Limit", "9"), ("X-RateLimit-Remaining", "2"), ("X-RateLimit-Reset", "5")]
    return [("content-type", "text/plain"), *own, *(old if path == "/items/old" else [])]


def asgi_site(scope: Any, receive: Any, send: Any) -> Any:
    async def run() -> None:
        path = scope["path"]
        if path == "/early":
            raise LookupError(path)
        if path != "/silent":
            fields = [(name.lower().encode(), value.encode()) for name, value in _fields(path)]
            await send({"type": "http.response.start", "status": status_of(path), "headers": fields})
            await send({"type": "http.response.body", "body": path.encode()})

    return run()


def wsgi_site(environ: Any, start_response: Any) -> Any:
    path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
    if path == "/early":
        raise LookupError(path)
    if path == "/silent":
        return []
    if path == "/late":
        return late(path, start_response)
    start_response(f"{status_of(path)} Answer", _fields(path))
    return [path.encode()]


def late(path: str, start_response: Any) -> Iterator[bytes]:
    start_response("200 Answer", _fields(path))
    yield path.encode()


def status_of(path: str) -> int:
    return {"/missing": 404, "/busy": 429, "/broken": 500}.get(path, 200)


PATHS = "/ /items/1 /items/own /items/old /open/door /missing /busy /broken /early /late //items/1 /a%2Fb /items/%2e%2e"
METHODS = "GET GET GET HEAD POST OPTIONS BREW"


def random_ask(random: Random, keys: list[str]) -> Ask:
    one, other = random.choice(keys), random.choice(keys)
    credentials: list[list[tuple[str, str]]] = [
        [],
        [("X-API-Key", one)],
        [("X-API-Key", one)],
        [("Authorization", f"Bearer {one}")],
        [("Authorization", f"bearer  {one} , Basic x")],
        [("Authorization", "Bearer other.token"), ("X-API-Key", one)],
        [("X-API-Key", one), ("X-API-Key", other)],
        [("X-API-Key", f"{one},{other}")],
        [("X-API-Key", one), ("Authorization", f"Bearer {one}")],
        [("X-API-Key", one + "x")],
        [("X-API-Key", "")],
        [("X_API_Key", one)],
    ]
    more: list[list[tuple[str, str]]] = [
        [],
        [],
        [],
        [("X-HTTP-Method-Override", "POST")],
        [("Origin", "https://a.test"), ("Access-Control-Request-Method", "PUT")],
        [("X-Forwarded-For", "10.1.1.1")],
        [("Cache-Control", "no-cache")],
        [("Cookie", "a=1")],
    ]
    return Ask(
        random.choice(PATHS.split()),
        (("X-Request-ID", "one"), *random.choice(credentials), *random.choice(more)),
        random.choice(METHODS.split()),
        random.choice(["198.51.100.1", "198.51.100.1", "198.51.100.2", "10.1.1.1", "192.0.2.9", None]),
    )


NAMES = ["key and limits", "limits outside", "a cache", "a cache between limits", "bans", "slots"]
NAMES += ["functions", "functions that return awaitables", "a look-up", "scopes by path"]


@pytest.mark.parametrize("name", NAMES)
def test_the_short_and_the_long_way_answer_alike(name: str, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    short_store, long_store = MemoryStore(clock=clock), MemoryStore(clock=clock)
    short = stacks(name, short_store, clock)
    monkeypatch.setattr("keyguard.chain.may_decide", lambda guard: False)
    long = stacks(name, long_store, clock)
    issue = registry(short_store, clock).issue
    issued = [
        issue("acme", plan="free", scopes=["read"]),
        issue("else", plan="pro", scopes=["read", "write"]),
        issue("none"),
        issue("near", scopes=["read"], networks=["198.51.100.1/32"]),
    ]
    registry(short_store, clock).import_keys([ForeignKey("made elsewhere", key=ELSEWHERE, scopes=["read"])])
    keys = [ELSEWHERE, *[each.key.reveal() for each in issued]]
    long_store.execute([Put(key, value) for key, value in short_store.scan("")])
    site = asgi_site if world == "asgi" else wsgi_site
    apps = [getattr(stack, world)(site) for stack in (short, long)]
    for seed in range(120):
        random = Random(f"{name} {seed}")
        ask = random_ask(random, keys)
        answers = [outcome(world, app, ask) for app in apps]
        assert answers[0] == answers[1], (seed, ask)
        clock.advance(random.choice([0, 0, 0, 0.1, 0.6, 2, 20]))
        if seed == 60:
            for store in (short_store, long_store):
                registry(store, clock).revoke(issued[0].record.id)
            clock.advance(1)  # for so long a key may be taken for what it was


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_ask_a_store_that_must_be_awaited_the_same_and_answer_alike(
    name: str, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it answers, in time or late, is busy or fails. Each guard is asked by itself here."""
    monkeypatch.setattr("keyguard.chain.neighbours", lambda guards, *_: [()] * len(guards))
    clock = ManualClock()
    stores = [DistantStore(clock), DistantStore(clock)]
    short = stacks(name, stores[0], clock)
    monkeypatch.setattr("keyguard.chain.may_decide", lambda guard: False)
    both = [short, stacks(name, stores[1], clock)]
    issue = registry(stores[0], clock).issue
    issued = [issue("acme", plan="free", scopes=["read"]), issue("else", plan="pro")]
    registry(stores[0], clock).import_keys([ForeignKey("made elsewhere", key=ELSEWHERE, scopes=["read"])])
    stores[1].execute([Put(key, value) for key, value in stores[0].scan("")])
    apps = [getattr(stack, world)(asgi_site if world == "asgi" else wsgi_site) for stack in both]
    for seed in range(80):
        random = Random(f"{name} {seed}")
        ask = random_ask(random, [ELSEWHERE, *[each.key.reveal() for each in issued]])
        outcomes = [FINE, FINE, FINE, random.choice([FINE, LATE, BUSY, FAILS, STUMBLES])]
        answers = []
        for store, app in zip(stores, apps, strict=True):
            monkeypatch.setattr("keyguard.drivers.interpreter.monotonic", store.monotonic)
            turns = Random(seed)
            store.plan = lambda op, turns=turns, outcomes=outcomes: turns.choice(outcomes)  # type: ignore[misc]
            store.asked.clear()
            answer = outcome(world, app, ask)
            counted = [pair for pair in store.scan("") if is_counter(pair[0]) and not pair[0].startswith(SETTLED)]
            answers.append((answer, store.asked[:], counted))
        assert answers[0] == answers[1], (seed, ask)
        clock.advance(random.choice([0, 0, 0.1, 0.3, 0.6, 20]))
        if seed == 40:
            for store in stores:
                store.plan = lambda op: FINE
                registry(store, clock).revoke(issued[0].record.id)
    assert both[0].health.degraded == both[1].health.degraded
    assert both[0].health.degraded


def outcome(world: str, app: Any, ask: Ask) -> Any:
    try:
        answer = WORLDS[world][0](app, ask, lint=False)
    except (LookupError, AssertionError) as error:
        return type(error)
    return answer.status, sorted(answer.headers), answer.body


# -- functions --------------------------------------------------------------------------------------------------


def test_functions_are_called_once_a_request_and_none_that_is_not_needed(world: str) -> None:
    called: list[str] = []

    def note(word: str, value: Any) -> Any:
        return lambda request: called.append(word) or (value(request) if callable(value) else value)  # type: ignore[func-returns-value]

    limit = RateLimit(
        "9/minute",
        when=note("when", lambda request: request.method != "POST"),
        exempt=note("exempt", False),
        by=note("by", lambda request: None if request.path == "/nobody" else "a"),
        cost=note("cost", 2),
        name="noted",
    )
    stack = Keyguard(limit, store=MemoryStore(clock=ManualClock()))
    for ask in (Ask(), Ask(method="POST"), Ask("/nobody")):
        answer = asked(world, stack, ask)
        called.append(" ".join(answer.all("ratelimit")))
    assert called == [
        "when",
        "exempt",
        "by",
        "cost",
        '"noted:9/minute";r=7;t=60',
        "when",
        "",
        "when",
        "exempt",
        "by",
        "",
    ]


def test_limits_by_plain_functions_are_decided_at_once() -> None:
    async def waits(request: Request) -> str:
        return "a"

    store = MemoryStore()
    for by, prompt in ((tenant, True), (waits, False), (blocking(tenant), False)):
        assert (RateLimit("9/minute", by=by, name="by").decider(store) is not None) is prompt


def test_what_a_function_returns_is_awaited_though_nothing_tells_of_it_before(world: str) -> None:
    stack = Keyguard(RateLimit("9/minute", by=lambda request: later("a"), name="later"), store=MemoryStore())
    answers = [asked(world, stack, Ask()) for _ in range(3)]
    if world == "asgi":
        assert [answer.all("ratelimit")[0].split(";")[1] for answer in answers] == ["r=8", "r=7", "r=6"]
    else:
        assert [answer.status for answer in answers] == [200] * 3  # a coroutine that waits for nothing runs there too


# -- marks ------------------------------------------------------------------------------------------------------


class Marking:
    """A guard that leaves a mark, and writes down what that is told."""

    def __init__(self, told: list[str], name: str, fails: bool = False) -> None:
        self.told, self.name, self.fails = told, name, fails

    def decider(self, store: Any) -> Any:
        def decide(request: Request) -> Any:
            return LONG if request.method == "POST" else Told(self)

        return decide

    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await forward(request)
        self.told.append(f"{self.name} called")
        return response


class Told(Mark):
    def __init__(self, guard: Marking) -> None:
        self.guard = guard

    def head(self, request: Request, status: int, headers: Headers) -> None:
        self.guard.told.append(f"{self.guard.name} {status}")
        headers.add("X-Told", self.guard.name)
        if self.guard.fails:
            raise ValueError("told")

    def failed(self, request: Request, error: BaseException) -> Any:
        async def note() -> None:
            self.guard.told.append(f"{self.guard.name} {type(error).__name__}")

        return note()


def test_marks_are_told_the_innermost_first(world: str) -> None:
    told: list[str] = []
    guard = Keyguard(Marking(told, "outer"), lambda request: None, Marking(told, "inner"))
    assert asked(world, guard, Ask()).all("x-told") == ["inner", "outer"]
    assert told == ["inner 200", "outer 200"]
    asked(world, guard, Ask(method="POST"))
    assert told[2:] == ["inner called", "outer called"]


def test_marks_are_told_of_a_refusal_further_in_and_of_a_failure(world: str) -> None:
    told: list[str] = []

    def refusing(request: Request) -> Response | None:
        if request.path == "/fails":
            raise ValueError(request.path)
        return Response(403) if request.path == "/refused" else None

    async def last(request: Request, forward: Forward) -> Response:
        if request.path == "/fails-long":
            raise LookupError(request.path)
        return await forward(request)

    guard = Keyguard(Marking(told, "outer"), Marking(told, "inner"), refusing, last)
    assert [asked(world, guard, Ask(path)).status for path in ("/refused", "/fails", "/fails-long", "/")] == [
        403,
        503,
        503,
        200,
    ]
    assert told == [
        *("inner 403", "outer 403"),
        *("inner ValueError", "outer ValueError"),
        *("inner LookupError", "outer LookupError"),
        *("inner 200", "outer 200"),
    ]


def test_a_mark_that_fails_at_the_head_ends_in_a_503_whatever_the_app_makes_of_it(world: str) -> None:
    for fails in ("outer", "inner"):
        told: list[str] = []
        guard = Keyguard(*[Marking(told, name, fails == name) for name in ("outer", "inner")])
        assert asked(world, guard, Ask()).status == 503

        async def swallowing(scope: Any, receive: Any, send: Any) -> None:
            with pytest.raises(ValueError, match="told"):
                await asgi_app(scope, receive, send)
            with pytest.raises(ValueError, match="told"):
                await asgi_app(scope, receive, send)

        def swallowing_too(environ: Any, start_response: Any) -> Any:
            for _ in range(2):
                with pytest.raises(ValueError, match="told"):
                    start_response("200 OK", [])
            return [b"mine"]

        app = swallowing if world == "asgi" else swallowing_too
        assert asked(world, guard, Ask(), app).status == 503


def test_a_plain_guard_that_answers_anything_else_lets_nobody_in(world: str) -> None:
    for answer in (True, False, "no", LONG, Mark, ()):
        assert asked(world, Keyguard(lambda request, answer=answer: answer), Ask()).status == 503  # type: ignore[misc]


# -- credentials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize(
    "sources",
    [
        ["authorization", "x-api-key"],
        ["X-API-Key"],
        ["Authorization"],
        ["x-other", "authorization", "x-api-key"],
        ["x-api-key", "cookie:key"],
        ["query:key", "authorization"],
    ],
)
def test_the_quick_reading_of_credentials_is_that_of_the_full_one(
    sources: list[str], lookup: bool, world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = APIKeys(sources=sources, lookup=(lambda text: None) if lookup else None)
    read: list[tuple[bytes | None, set[str]]] = []

    def note(request: Request) -> Response | None:
        read.append((keys.sources.read_plain(request), keys.sources.read(request)))
        return None

    app = getattr(Keyguard(note), world)(WORLDS[world][1])
    pieces = ["kg_a", "kg_b", "Bearer", "bearer", "BEARER", "Basic", " ", "  ", ",", "\t", "", "=", "x"]
    names = ["Authorization", "authorization", "X-API-Key", "x-api-key", "X-Other", "Cookie"]
    random = Random(f"{sources} {lookup}")
    usual = [
        "kg_a",
        "Bearer kg_a",
        "Bearer kg_a ",
        "bearer kg_b",
        "Bearer other",
        "other",
        "Bearer  kg_a",
        "key=kg_a",
        "",
        " kg_a",
    ]
    for _ in range(700):
        values = [random.choice([*usual, "".join(random.choices(pieces, k=random.randint(1, 5)))]) for _ in range(3)]
        fields = tuple((random.choice(names), value) for value in values[: random.randint(0, 3)])
        WORLDS[world][0](app, Ask(random.choice(["/", "/?key=kg_a", "/?key=kg_b&key=kg_a"]), fields), lint=False)
    ever = set().union(*[texts for _, texts in read])
    valid = {text for text in ever if text.startswith("" if lookup else "kg_")}
    quick = [(one.decode("latin-1"), texts) for one, texts in read if one is not None]
    for one, texts in quick:
        assert texts == {one} or one not in valid, (one, texts)
    if not any(":" in source for source in sources):
        assert {one for one, _ in quick} >= {"kg_a"}
    else:
        assert not quick, "what stands in other places is read by the full reading alone"


def test_a_key_that_is_revoked_in_this_process_is_refused_at_once(world: str) -> None:
    clock = ManualClock()
    guard = Keyguard(APIKeys(), store=MemoryStore(clock=clock), clock=clock)
    issued = guard.keys.issue("acme")
    ask = Ask("/", (("X-API-Key", issued.key.reveal()),))
    app = getattr(guard, world)(WORLDS[world][1])
    assert [WORLDS[world][0](app, ask).status for _ in range(3)] == [200] * 3
    clock.advance(3600)  # nothing was written since, so nobody is asked
    assert WORLDS[world][0](app, ask).status == 200
    guard.keys.revoke(issued.record.id)
    assert WORLDS[world][0](app, ask).status == 401


def test_a_key_is_looked_up_again_once_anything_was_written_and_known_as_before_if_it_was_not_this_key(
    world: str,
) -> None:
    clock = ManualClock()
    guard = Keyguard(APIKeys(), store=MemoryStore(clock=clock), clock=clock)
    issued = [guard.keys.issue(name) for name in ("acme", "else", "other")]
    asks = [Ask("/", (("X-API-Key", each.key.reveal()),)) for each in issued]
    app = getattr(guard, world)(WORLDS[world][1])
    for _ in range(2):
        assert [WORLDS[world][0](app, ask).status for ask in asks] == [200] * 3
    guard.keys.revoke(issued[1].record.id)
    for _ in range(2):
        assert [WORLDS[world][0](app, ask).status for ask in asks] == [200, 401, 200]
    guard.keys.issue("new")
    guard.keys.revoke(issued[2].record.id)
    assert [WORLDS[world][0](app, ask).status for ask in asks] == [200, 401, 401]


def test_a_guard_in_two_stacks_knows_the_keys_of_each_store_from_those_of_the_other(world: str) -> None:
    clock, keys = ManualClock(), APIKeys(guesses=None)
    stacks = [Keyguard(keys, store=MemoryStore(clock=clock), clock=clock) for _ in range(2)]
    asks = [Ask("/", (("X-API-Key", stack.keys.issue("acme").key.reveal()),)) for stack in stacks]
    apps = [getattr(stack, world)(WORLDS[world][1]) for stack in stacks]
    statuses = [[WORLDS[world][0](app, ask).status for ask in asks] for app in apps for _ in range(2)]
    assert statuses == [[200, 401], [200, 401], [401, 200], [401, 200]]


# -- a store that must be awaited -------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_client_that_leaves_while_the_store_is_asked_leaves_no_charge_behind(asked: int) -> None:
    """While the first limit is asked, or one further in."""
    store = DistantStore(ManualClock())
    limits = [RateLimit("9/minute", by="ip", name=name) for name in "abc"]
    guard = Keyguard(limits[0], lambda request: None, limits[1], lambda request: None, limits[2], store=store)

    async def leave() -> None:
        store.hangs_at = asked - 1
        task = asyncio.create_task(guard.asgi(asgi_app)(Ask().scope(), never, never))
        for _ in range(50):
            await asyncio.sleep(0)
        assert store.hanging
        store.hangs_at = None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(50):
            await asyncio.sleep(0)

    asyncio.run(leave())
    assert [word.split()[0] for word in store.asked] == ["Take"] * (asked - 1) + ["Settle"] * (asked - 1)
    left = ask_asgi(guard.asgi(asgi_app), Ask()).all("ratelimit")
    assert left == [", ".join([f'"{name}:9/minute";r=8;t=60' for name in "cba"])]


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_a_thread_that_is_stopped_while_the_store_is_asked_leaves_no_charge_and_no_slot_behind(asked: int) -> None:
    store = DistantStore(ManualClock())
    guards = [Concurrency(5, by="ip"), RateLimit("9/minute", by="ip"), RateLimit("9/minute", by="ip", name="further")]
    guard = Keyguard(guards[0], lambda request: None, guards[1], lambda request: None, guards[2], store=store)
    store.plan = lambda op: STOPS if len(store.asked) == asked - 1 else FINE
    with pytest.raises(Stopped):
        ask_wsgi(guard.wsgi(wsgi_app), Ask())
    kinds = [word.split()[0] for word in store.asked]
    assert kinds == ["Take"] * asked + ["Settle"] * (asked - 1)


@pytest.mark.parametrize("ends", [FINE, BUSY, FAILS, STUMBLES])
def test_a_request_that_asks_a_store_leaves_nothing_to_the_garbage_collector(world: str, ends: str) -> None:
    store = DistantStore(ManualClock())
    limits = [RateLimit("9/minute", by="ip", name=name) for name in "ab"]
    seen: list[Any] = []

    def note(request: Request) -> None:
        seen.append(weakref.ref(request.state))

    app = getattr(Keyguard(note, limits[0], plain, limits[1], store=store), world)(WORLDS[world][1])
    WORLDS[world][0](app, Ask(), lint=False)
    store.plan = lambda op: ends if len(store.asked) == 3 else FINE
    gc.collect()
    gc.disable()
    try:
        WORLDS[world][0](app, Ask(), lint=False)
        assert [state() for state in seen] == [None, None]
    finally:
        gc.enable()


def plain(request: Request) -> None: ...


async def never(*message: Any) -> Any:
    raise AssertionError("nobody listens, and nobody sends")
