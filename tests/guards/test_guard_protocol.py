"""What a guard tells its stack: a stranger's guard can do all that those of keyguard can."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Cause,
    ConfigurationError,
    Forward,
    Guard,
    Identity,
    IPFilter,
    Keyguard,
    KeyRegistry,
    RateLimit,
    Request,
    Response,
    ResponseCache,
    refuse,
)
from keyguard.clock import Clock
from keyguard.counter_names import Counters
from keyguard.guard import Surroundings
from keyguard.keys.credentials import Sources
from keyguard.ops import Store
from keyguard.rates import window
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app


class Tenants(Guard):
    """Finds the tenant of a request, from a key of its own making."""

    provides = frozenset({"identity"})
    keeps = frozenset({"decisions", "keys"})
    sources = ("x-tenant-key",)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        key = request.header("x-tenant-key")
        if key is None:
            return refuse(request, Cause.CREDENTIALS, "Say who you are.", reason="no-tenant")
        if key == "broken":
            raise KeyError(key)
        request.identity = Identity(key.removeprefix("key-of-"), key_id=key[-1:])
        return await forward(request)

    def registry(self, store: Store) -> KeyRegistry:
        return KeyRegistry(store, prefix="tenant")

    def warn_of_workers(self, workers: int) -> str:
        return f"{workers} processes know {workers} tenants"


class Quarantine(Guard):
    """Refuses some callers for their address."""

    filters_addresses = True
    keeps = frozenset[str]()

    def __call__(self, request: Request) -> Response | None:
        if str(request.client) != "192.0.2.9":
            return None
        return refuse(request, Cause.ADDRESS, "Not you.", reason="quarantine")


class Steps(Guard):
    """Counts requests: three for each of its name, and all that stand next to each other at once."""

    def __init__(self, name: str, most: int = 3, *, by: Callable[[Request], Any] | None = None) -> None:
        self.most, self.by, self.used, self.joins = most, by, 0, [name]
        limit = window(most, 1_000_000, f"{most}/second")
        self.counters = (Counters(name, (most,), limits=[limit], rules=[f"{name}:{limit.text}"], keys=[name]),)

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if self.used >= self.most:
            return refuse(request, Cause.USAGE, "Enough.", reason="steps", policies=self.joins)
        self.used += 1
        response = await forward(request)
        response.headers.add("X-Steps", "+".join(self.joins))
        return response

    @staticmethod
    def joined(guards: Sequence[Steps]) -> Steps:
        made = Steps("joined", min(guard.most for guard in guards))
        made.joins = [name for guard in guards for name in guard.joins]
        return made

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        return {} if self.by is None else {"by": self.by}


class Shelf(Guard):
    """Answers what it has answered before, also those whose limit is used up."""

    answers_early = True
    keeps = frozenset({"values"})

    def __init__(self, *, store: str | Store | None = None, instantly: bool = False) -> None:
        self.store = store
        self.instantly = instantly
        self.held: dict[str, bytes] = {}
        self.stack: Surroundings | None = None
        self.further_in: list[str] = []
        self.children = 0

    def attach(self, stack: Surroundings) -> None:
        self.stack = stack

    def add_sources(self, sources: Sequence[Sources]) -> None:
        self.further_in += [name for source in sources for name in source.names]

    def after_fork(self) -> None:
        self.children += 1

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if request.path in self.held:
            return Response(200, body=self.held[request.path])
        return await forward(request)

    def around_limits(self) -> Callable[[Request, Forward], Awaitable[Response]] | None:
        async def exhausted(request: Request, forward: Forward) -> Response:
            response = await forward(request)
            if response.status == 429 and request.path in self.held:
                return Response(200, body=self.held[request.path])
            return response

        return None if self.instantly else exhausted

    def instant(self, clock: Clock) -> Callable[[MutableMapping[str, Any]], Any] | None:
        def messages(scope: MutableMapping[str, Any]) -> Any:
            if scope["path"] != "/at-once":
                return None
            told = str(clock()).encode()
            return {"type": "http.response.start", "status": 200, "headers": []}, {
                "type": "http.response.body",
                "body": told,
            }

        return messages if self.instantly else None


class Later(Guard):
    """Has a setting that only an event loop can run."""

    def asynchronous(self) -> Mapping[str, object]:
        return {"told": self.told}

    async def told(self) -> None: ...

    def __call__(self, request: Request) -> Response | None:
        return None


WORLDS = ["ASGI", "WSGI"]


def asked(guard: Keyguard, world: str, path: str = "/", *fields: tuple[str, str]) -> Answer:
    ask = Ask(path, fields)
    return ask_asgi(guard.asgi(asgi_app), ask) if world == "ASGI" else ask_wsgi(guard.wsgi(wsgi_app), ask)


TENANT = ("X-Tenant-Key", "key-of-ada")


# -- what it says, and what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_it_finds_the_identity_that_others_need(world: str) -> None:
    guard = Keyguard(Tenants(), RateLimit("1/minute", by="subject"))
    assert asked(guard, world, "/", TENANT).status == 200
    assert asked(guard, world, "/", TENANT).status == 429
    assert asked(guard, world, "/", ("X-Tenant-Key", "key-of-bob")).status == 200
    assert asked(guard, world).status == 401
    with pytest.raises(ConfigurationError, match="put it after that"):
        Keyguard(RateLimit("1/minute", by="subject"), Tenants())


def test_it_gives_access_to_its_keys() -> None:
    assert Keyguard(Tenants()).keys.issue("ada").key.reveal().startswith("tenant_")
    with pytest.raises(ConfigurationError, match=r"Quarantine.*keeps no keys"):
        Quarantine().registry(MemoryStore())


@pytest.mark.parametrize("world", WORLDS)
def test_no_log_holds_its_credentials(world: str, caplog: pytest.LogCaptureFixture) -> None:
    assert asked(Keyguard(Tenants()), world, "/", ("X-Tenant-Key", "broken")).status == 503
    assert "KeyError" in caplog.text
    assert "broken" not in caplog.text


@pytest.mark.parametrize("world", WORLDS)
def test_a_cache_outside_of_it_keeps_its_callers_apart(world: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = ResponseCache(ttl=60)
    guard = Keyguard(cache, Tenants())
    assert "<ResponseCache keyguard> stands outside <" in caplog.text
    for _ in range(2):
        assert asked(guard, world, "/", TENANT).status == 200
    assert cache.stats().hits == 0  # what the app says to one of them is not for others, though it is in no known field


def test_a_layer_further_in_tells_where_it_looks() -> None:
    shelf = Shelf(instantly=True)
    Keyguard(shelf).wsgi(keyguard_layer())
    assert shelf.further_in == ["x-tenant-key"]


def keyguard_layer() -> Any:
    return Keyguard(Tenants()).wsgi(wsgi_app)


def test_fields_it_reads_may_not_be_taken_off() -> None:
    class Folded(Tenants):
        sources = ("tenant_key",)

    with pytest.raises(ConfigurationError, match=r"Folded.* reads 'tenant_key', but fields with an underscore"):
        Keyguard(Folded())


def test_processes_that_share_nothing_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Keyguard(Tenants(), workers=3)
    assert "3 processes know 3 tenants" in caplog.text


def test_an_address_filter_stands_outside_of_what_answers_early() -> None:
    Keyguard(Quarantine(), Shelf(instantly=True))
    for make in (lambda: Shelf(instantly=True), ResponseCache):
        with pytest.raises(ConfigurationError, match="put the filter before the cache"):
            Keyguard(make(), Quarantine())
        with pytest.raises(ConfigurationError, match="would answer addresses"):
            Keyguard(make()).wsgi(Keyguard(Quarantine()).wsgi(wsgi_app))


def test_what_it_keeps_decides_what_a_store_may_push_out() -> None:
    class Told(MemoryStore):
        keeps_decisions = False

    for guards, kept in (
        ((Quarantine(), Shelf(instantly=True)), False),
        ((Tenants(),), True),
        ((lambda _: None,), True),
    ):
        store = Told()
        Keyguard(*guards, store=store)
        assert store.keeps_decisions is kept


# -- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_limits_next_to_each_other_are_joined(world: str) -> None:
    guard = Keyguard(Steps("one"), Steps("two", 2))
    assert asked(guard, world).get("x-steps") == "one+two"
    assert asked(guard, world).status == 200
    assert asked(guard, world).status == 429


def test_limits_that_share_a_counter_do_not_start() -> None:
    with pytest.raises(ConfigurationError, match=r"two limits would share a counter: .* under the name 'same'"):
        Keyguard(Steps("same"), Steps("same", 4))
    store = MemoryStore()
    first = Keyguard(Steps("other"), store=store)
    Keyguard(Steps("other"), store=store)  # it means the same
    with pytest.raises(ConfigurationError, match="two limits would share a counter"):
        Keyguard(Steps("other", 4), store=store)
    assert first.guards


def test_a_store_that_cannot_keep_them_all_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Small(MemoryStore):
        def limitations(self, limits: Sequence[Any], *, keys: bool) -> str:
            return f"{len(limits)} limits, keys: {keys}"

    Keyguard(Steps("one"), RateLimit("1/minute; 2/hour"), store=Small())
    assert "3 limits, keys: False" in caplog.text
    Keyguard(Tenants(), store=Small())
    assert "0 limits, keys: True" in caplog.text


def test_a_function_that_reads_the_identity_makes_it_a_need() -> None:
    with pytest.raises(ConfigurationError, match="these guards need the identity"):
        Keyguard(Steps("one", by=lambda request: request.identity.subject))


@pytest.mark.parametrize("world", WORLDS)
def test_it_answers_callers_whose_limit_is_used_up(world: str) -> None:
    shelf = Shelf()
    shelf.held["/"] = b"held"
    guard = Keyguard(Steps("one", 1), RateLimit("1/minute"), shelf)
    for _ in range(3):
        answer = asked(guard, world)
        assert (answer.status, answer.body) == (200, b"held")
    assert asked(guard, world, "/other").status == 429
    with pytest.raises(ConfigurationError, match="put it right after the RateLimit"):
        Keyguard(shelf)


# -- the store, the process and the world ---------------------------------------------------------------------------


def test_it_is_told_of_its_stack(tmp_path: Any) -> None:
    clock = ManualClock()
    shelf = Shelf(store=f"sqlite:///{tmp_path}/values.db?timeout=5", instantly=True)
    stack = Keyguard(Tenants(), shelf, store=MemoryStore(clock=clock), clock=clock)
    assert shelf.stack is not None
    assert shelf.stack.store is shelf.store is not stack.store
    assert shelf.stack.shared
    assert shelf.stack.clock is clock
    assert [source.names for source in shelf.stack.sources] == [("x-tenant-key",)]
    with pytest.raises(ConfigurationError, match="share one store"):
        Keyguard(shelf, ResponseCache())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_it_is_renewed_in_a_child() -> None:
    shelf = Shelf(instantly=True)
    stack = Keyguard(shelf)
    child = os.fork()
    if not child:
        os._exit(shelf.children)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert (shelf.children, len(stack.guards)) == (0, 1)


def test_it_answers_at_once() -> None:
    guard = Keyguard(Shelf(instantly=True), clock=lambda: datetime(1970, 1, 1, microsecond=7, tzinfo=UTC))
    assert asked(guard, "ASGI", "/at-once").body == b"7"
    assert asked(guard, "ASGI", "/").status == 200


def test_settings_that_need_an_event_loop_do_not_start_under_wsgi() -> None:
    Keyguard(Later()).asgi(asgi_app)
    with pytest.raises(ConfigurationError, match=r"told='?told.* is async, and there is no event loop under WSGI"):
        Keyguard(Later()).wsgi(wsgi_app)


def test_of_other_objects_two_words_are_read() -> None:
    class Other:
        """What it has by these names means something else."""

        needs = ("identity",)
        sources = counters = keeps = joined = 7
        attach = asynchronous = None

        def __call__(self, request: Request) -> Response | None:
            return None

    Keyguard(APIKeys(), Other())
    with pytest.raises(ConfigurationError, match="need the identity"):
        Keyguard(Other())


async def forgetful(request: Request, forward: Forward) -> Any:
    await forward(request) if request.path == "/never" else None


async def trusting(request: Request, forward: Forward) -> Response:
    response = await forward(request)
    response.headers.add("X-Seen", "1")
    return response


def talkative(request: Request) -> Any:
    return "no"


class Forgetful(Guard):
    async def __call__(self, request: Request, forward: Forward) -> Any:
        return 7

    def __repr__(self) -> str:
        return "<Forgetful one>"


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("guards", "says"),
    [
        ([forgetful], "the guard forgetful returned NoneType, not a Response"),
        ([talkative], "the guard talkative returned str, not a Response"),
        ([Forgetful()], "the guard Forgetful returned int, not a Response"),
        ([RateLimit("9/minute"), Forgetful()], "the guard <Forgetful one> returned int, not a Response"),
        ([RateLimit("9/minute"), talkative], "the guard talkative returned str, not a Response"),
        ([trusting, forgetful], "the guard forgetful returned NoneType, not a Response"),
        ([trusting, trusting, Forgetful()], "the guard <Forgetful one> returned int, not a Response"),
        ([trusting, talkative], "the guard talkative returned str, not a Response"),
        ([trusting, RateLimit("9/minute"), forgetful], "the guard forgetful returned NoneType, not a Response"),
    ],
)
def test_the_log_names_a_guard_that_returns_no_response(
    guards: list[Any], says: str, world: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert asked(Keyguard(*guards), world).status == 503
    assert says in caplog.text


# -- subclasses -----------------------------------------------------------------------------------------------------


class Called(Exception):
    pass


class OwnKeys(APIKeys):
    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await super().__call__(request, forward)
        response.headers.add("X-Own", "1")
        return response


class OwnLimit(RateLimit):
    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await super().__call__(request, forward)
        response.headers.add("X-Own", "1")
        return response


class OwnCache(ResponseCache):
    async def __call__(self, request: Request, forward: Forward) -> Response:
        response = await super().__call__(request, forward)
        response.headers.add("X-Own", "1")
        return response


class OwnFilter(IPFilter):
    def __call__(self, request: Request) -> Response | None:
        return super().__call__(request) or refuse(
            request, Cause.ADDRESS, "No.", reason="own", headers=[("X-Own", "1")]
        )


def right(key: str) -> Identity | None:
    return Identity("ada", key_id="1") if key == "right" else None


OWN = {
    "keys": lambda: OwnKeys(lookup=right),
    "limit": lambda: OwnLimit("100/minute"),
    "cache": lambda: OwnCache(ttl=60, public=True),
    "filter": lambda: OwnFilter(deny=["203.0.113.0/24"]),
}
AMONG: dict[str, Callable[[Any], list[Any]]] = {
    "alone": lambda own: [own],
    "outermost": lambda own: [own, RateLimit("99/minute", name="next")],
    "innermost": lambda own: [RateLimit("99/minute", name="before"), own],
    "between": lambda own: [RateLimit("99/minute", name="before"), own, RateLimit("98/minute", name="next")],
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("among", AMONG)
@pytest.mark.parametrize("name", OWN)
def test_a_subclass_with_its_own_call_is_always_called(name: str, among: str, world: str) -> None:
    guard = Keyguard(*AMONG[among](OWN[name]()))
    for _ in range(4):
        assert asked(guard, world, "/", ("X-API-Key", "right")).all("x-own") == ["1"]
