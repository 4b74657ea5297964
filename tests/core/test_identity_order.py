"""Reading the caller's identity: known where APIKeys stands outside, and an error that says so where it does not."""

from __future__ import annotations

import functools
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import (
    ANONYMOUS,
    APIKeys,
    ConfigurationError,
    Forward,
    Guard,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    Request,
    Response,
    ResponseCache,
)
from tests.drivers.test_asgi_driver import lifespan, lifespan_app
from tests.support.harness import Ask, asgi_app, ask_asgi, ask_wsgi, wsgi_app

PLANS = {"free": "1/minute", "pro": "5/minute"}


def lookup(key: str) -> Identity | None:
    return Identity(key, plan="pro") if key.startswith("key-") else None


def keyed(name: str) -> Ask:
    return Ask("/", (("X-API-Key", name),))


# -- what can be seen before any request ----------------------------------------------------------------------------


def by_subject(request: Request) -> str:
    return request.identity.subject


def by_plan(request: Request) -> str:
    return PLANS[request.identity.plan or "free"]


def is_staff(request: Request) -> bool:
    who = request.identity
    return who.plan == "staff"


async def is_staff_later(request: Request) -> bool:
    return request.identity.plan == "staff"


def nested(request: Request) -> bool:
    return any(name == request.identity.subject for name in ("a", "b"))


class Teller:
    def __call__(self, request: Request) -> str:
        return request.identity.subject

    def tell(self, request: Request) -> str:
        return request.identity.subject


def tell(prefix: str, request: Request) -> str:
    return prefix + request.identity.subject


def plain_guard(request: Request) -> Response | None:
    return None if request.identity.plan else Response(403, [], b"")


class PlainGuard:
    def __call__(self, request: Request) -> Response | None:
        return None if request.identity.plan else Response(403, [], b"")


READERS: dict[str, Any] = {
    "by": lambda: RateLimit("2/minute", by=lambda r: r.identity.subject),
    "by a function": lambda: RateLimit("2/minute", by=by_subject),
    "by an instance": lambda: RateLimit("2/minute", by=Teller()),
    "by a method": lambda: RateLimit("2/minute", by=Teller().tell),
    "by a partial function": lambda: RateLimit("2/minute", by=functools.partial(tell, "x")),
    "rates": lambda: RateLimit(by_plan),
    "cost": lambda: RateLimit("9/minute", cost=lambda r: 1 if r.identity.plan else 5),
    "when": lambda: RateLimit("9/minute", when=is_staff),
    "when, async": lambda: RateLimit("9/minute", when=is_staff_later),
    "exempt": lambda: RateLimit("9/minute", exempt=nested),
    "a plain guard": lambda: plain_guard,
    "a plain guard of a class": lambda: PlainGuard(),
    "a cache's when": lambda: ResponseCache(when=lambda r: r.identity.plan == "free"),
    "plans": lambda: RateLimit(plans=PLANS, default="free"),
}


@pytest.mark.parametrize("reader", READERS)
def test_what_reads_the_identity_before_api_keys_does_not_start(reader: str) -> None:
    with pytest.raises(ConfigurationError, match=r"needs the identity that <APIKeys keys> finds: put it after that"):
        Keyguard(READERS[reader](), APIKeys(lookup=lookup))
    with pytest.raises(ConfigurationError, match=r"none finds it: put APIKeys\(\) first"):
        Keyguard(READERS[reader]())
    Keyguard(APIKeys(lookup=lookup), READERS[reader]())


def test_a_single_layer_that_reads_it_does_not_start_without_one_outside() -> None:
    for reader in (by_subject, lambda r: r.identity.subject):
        app = keyguard.asgi.RateLimit(lifespan_app, "1/second", by=reader)
        assert lifespan(app) == ["lifespan.startup.failed"]
        assert lifespan(keyguard.asgi.APIKeys(app, lookup=lookup)) == [
            *("lifespan.startup.complete", "lifespan.shutdown.complete")
        ]
        with pytest.raises(ConfigurationError, match="a layer further in finds"):
            keyguard.wsgi.RateLimit(keyguard.wsgi.APIKeys(wsgi_app), "1/second", by=reader)


def test_a_plain_guard_that_sets_the_identity_is_not_one_that_reads_it() -> None:
    class ByAddress(Guard):
        provides = frozenset({"identity"})

        def __call__(self, request: Request) -> None:
            request.identity = Identity(str(request.client))

    Keyguard(ByAddress(), RateLimit("9/minute", by="subject"))


def test_what_reads_something_else_of_that_name_starts() -> None:
    class Tenant:
        identity = "shop"

    tenant = Tenant()
    Keyguard(
        RateLimit("1/minute", by=lambda r: tenant.identity), RateLimit("2/hour", when=lambda r: bool(tenant.identity))
    )
    Keyguard(RateLimit("1/minute", by=lambda r, tenant=tenant: tenant.identity))


# -- what only a request shows --------------------------------------------------------------------------------------


def helper(request: Request) -> str:
    return by_subject(request)


def reads(request: Request) -> str:
    return getattr(request, "identity").subject  # noqa: B009 - as what cannot be seen would


@pytest.mark.parametrize(
    "make",
    [
        lambda: RateLimit("2/minute", by=helper),
        lambda: RateLimit("2/minute", by=reads),
        lambda: RateLimit("2/minute", when=lambda r: bool(reads(r))),
        lambda: RateLimit(lambda r: PLANS[getattr(r, "identity").plan or "free"]),  # noqa: B009
        lambda: lambda r: Response(403, [], b"") if reads(r) else None,
    ],
)
def test_where_nobody_has_looked_it_is_a_fault_and_the_log_says_what_is_right(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Keyguard(make(), APIKeys(lookup=lookup))
    for answer in (ask_asgi(guard.asgi(asgi_app), keyed("key-1")), ask_wsgi(guard.wsgi(wsgi_app), keyed("key-1"))):
        assert answer.status == 503
        assert b'"cause": "fault"' in answer.body
    assert "Put APIKeys() before the guard that reads it" in caplog.text
    assert "key-1" not in caplog.text


def test_four_callers_are_not_counted_as_one() -> None:
    """Placed after APIKeys it counts each by itself; before that, it never counted anybody as somebody else."""
    guard = Keyguard(APIKeys(lookup=lookup), RateLimit("2/minute", by=helper))
    app = guard.wsgi(wsgi_app)
    assert [ask_wsgi(app, keyed(f"key-{n % 4}")).status for n in range(12)] == [200] * 8 + [429] * 4


def test_who_needs_no_key_is_anonymous() -> None:
    seen: list[Identity] = []

    def noting(request: Request) -> None:
        seen.append(request.identity)

    app = Keyguard(APIKeys(lookup=lookup, public=["/health"], optional=True), noting).wsgi(wsgi_app)
    for ask in (Ask("/health"), Ask("/"), keyed("key-1")):
        assert ask_wsgi(app, ask).status == 200
    assert seen == [ANONYMOUS, ANONYMOUS, Identity("key-1", plan="pro")]
    scoped = APIKeys(optional=True, scopes=lambda r: ["x"] if r.identity.anonymous else None)
    assert ask_wsgi(Keyguard(scoped).wsgi(wsgi_app), Ask()).status == 401


def test_a_guard_that_tells_of_requests_may_stand_outside() -> None:
    """It reads the identity once everything is decided: of who was served, who was refused, and who had no key."""
    told: list[str] = []

    async def telling(request: Request, forward: Forward) -> Response:
        response = await forward(request)
        told.append(f"{response.status} {request.identity.subject}")
        return response

    guard = Keyguard(telling, IPFilter(deny=["10.0.0.1"]), APIKeys(lookup=lookup, guesses="99/minute"))
    for ask in (keyed("key-1"), Ask(), keyed("wrong"), Ask(client="10.0.0.1")):
        ask_asgi(guard.asgi(asgi_app), ask)
        ask_wsgi(guard.wsgi(wsgi_app), ask)
    assert told == ["200 key-1"] * 2 + ["401 "] * 4 + ["403 "] * 2
    assert ask_wsgi(Keyguard(telling).wsgi(wsgi_app), Ask()).status == 200


def test_refusals_and_caches_do_not_trip_on_it(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []
    guard = Keyguard(RateLimit("1/minute"), ResponseCache(ttl=9), on_refusal=told.append)
    app = guard.asgi(asgi_app)
    assert [ask_asgi(app, Ask()).status for _ in range(2)] == [200, 429]
    assert told[0].subject == ""
    assert "Traceback" not in caplog.text


def test_an_app_behind_a_stack_without_keys_sees_that_nobody_looked() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["keyguard"].identity)
        await asgi_app(scope, receive, send)

    ask_asgi(Keyguard(RateLimit("1/minute")).asgi(app), Ask(), lint=False)
    ask_asgi(Keyguard(APIKeys(optional=True)).asgi(app), Ask(), lint=False)
    assert seen == [None, ANONYMOUS]
