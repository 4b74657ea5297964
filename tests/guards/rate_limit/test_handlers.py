"""What handlers charge and reserve: `guard.charge` and `guard.reserve`, in both worlds."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyguard import ConfigurationError, Keyguard, OutsideRequest, RateLimit, Refusal, Refused, ResponseCache, smooth
from keyguard.ops import Demand, Take
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, aask, ask_asgi, ask_wsgi

ASK: dict[str, Callable[..., Any]] = {"asgi": ask_asgi, "wsgi": ask_wsgi}


@pytest.fixture(params=ASK)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Site:
    """A stack with a limit of 100 units that only handlers charge, around a handler that is a function of the stack."""

    def __init__(self, *limits: RateLimit, kind: type[MemoryStore] = MemoryStore, **options: Any) -> None:
        self.clock = ManualClock()
        self.store = kind(clock=self.clock)
        self.refusals: list[Refusal] = []
        self.limits = limits or (RateLimit("100/minute", by="ip", name="tokens", cost=0),)
        self.guard = Keyguard(
            *self.limits, store=self.store, clock=self.clock, on_refusal=self.refusals.append, **options
        )

    def ask(self, world: str, handler: Callable[[Keyguard], Any], status: int = 200) -> Any:
        """Send a request to a handler, a plain function, which may return a status."""

        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            answer = handler(self.guard)
            await send({"type": "http.response.start", "status": answer or status, "headers": []})
            await send({"type": "http.response.body", "body": b"served"})

        def wsgi(environ: Any, start_response: Any) -> Iterable[bytes]:
            answer = handler(self.guard)
            start_response(f"{answer or status} Any", [])
            return [b"served"]

        return ASK[world](getattr(self.guard, world)({"asgi": asgi, "wsgi": wsgi}[world]), Ask(), lint=False)

    def left(self, place: int = 0) -> int:
        return left(self.store, self.limits[place])


def left(store: Any, limit: RateLimit, bucket: str = "198.51.100.1") -> int:
    (rule,) = limit.rules
    take = Take([Demand("", rule.prefix + bucket, rule.limit, 0, holds=True)])
    return int(store.execute([take])[0].takings[0][2])


def charge(*costs: int) -> Callable[[Keyguard], None]:
    def handler(guard: Keyguard) -> None:
        for cost in costs:
            guard.charge(cost)

    return handler


# -- charge -----------------------------------------------------------------------------------------------------------


def test_charges_are_booked_by_one_operation_when_the_request_is_over(world: str) -> None:
    booked: list[Any] = []

    class Asked(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            booked.extend(ops)
            return super().execute(ops)

    site = Site(kind=Asked)

    def handler(guard: Keyguard) -> None:
        charge(3, 4, 0, 5)(guard)
        assert len(booked) == 1
        assert site.left() == 100

    assert site.ask(world, handler).status == 200
    assert [type(op).__name__ for op in booked] == ["Take", "Take", "Settle"]  # the second one is this test's
    assert site.left() == 88


def test_a_charge_never_refuses_and_the_limit_shows_it_afterwards(world: str) -> None:
    site = Site(RateLimit("100/minute", by="ip", name="tokens", cost=0), RateLimit("5/minute", name="requests"))
    assert site.ask(world, charge(1000)).status == 200
    assert site.left() == 0
    answer = site.ask(world, charge(1))
    assert answer.status == 200
    assert answer.get("ratelimit").startswith('"tokens:100/minute";r=0;')


def test_any_limit_can_be_charged_by_its_name_if_requests_are_noted(world: str) -> None:
    limits = RateLimit("100/minute", name="requests"), RateLimit(smooth("100/minute", burst=50), name="units", cost=2)
    site = Site(*limits, handlers=True)

    def handler(guard: Keyguard) -> None:
        guard.charge(10, "requests")
        guard.charge(20, "units")
        guard.charge(5, "requests")

    assert site.ask(world, handler).status == 200
    assert (site.left(0), site.left(1)) == (84, 28)


def test_all_rates_of_a_limit_are_charged(world: str) -> None:
    site = Site(RateLimit("100/minute; 1000/hour", by="ip", name="tokens", cost=0))
    site.ask(world, charge(7))
    told = site.ask(world, charge(0)).get("ratelimit")
    assert [one.split(";")[1] for one in told.split(", ")] == ["r=93", "r=993"]


def test_limits_that_functions_choose_are_charged_too(world: str) -> None:
    limit = RateLimit(lambda request: "100/minute", by=lambda request: "all", cost=0, name="tokens")
    site = Site(limit)
    site.ask(world, charge(30))
    assert site.ask(world, charge(0)).get("ratelimit").startswith('"tokens:100/minute";r=70;')


def test_a_function_that_must_be_awaited_is_called_once() -> None:
    calls = []

    async def tenant(request: Any) -> str:
        calls.append(request)
        return "all"

    site = Site(RateLimit("100/minute", by=tenant, cost=0, name="tokens"))
    site.ask("asgi", charge(30))
    assert len(calls) == 1
    assert site.ask("asgi", charge(0)).get("ratelimit").startswith('"tokens:100/minute";r=70;')


def test_what_a_limit_settles_and_what_handlers_charge_add_up(world: str) -> None:
    site = Site(RateLimit("100/minute", by="ip", name="tokens", settle=lambda outcome: 10), handlers=True)
    site.ask(world, charge(5))
    assert site.left() == 85


@pytest.mark.parametrize("cost", [-1, math.nan, math.inf, 1.5, 2**40, True, "3", None], ids=str)
def test_what_is_no_number_of_units_is_told_at_the_call_and_nothing_is_lost(world: str, cost: Any) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        guard.charge(2)
        for work in (guard.charge, guard.reserve):
            with pytest.raises(ValueError, match="units"):
                work(cost)
        with guard.reserve(5) as hold, pytest.raises(ValueError, match="units"):
            hold.settle(cost)

    site.ask(world, handler)
    assert site.left() == 93


WRONG: list[tuple[str, Callable[[Keyguard], Any], str]] = [
    (
        "unknown",
        lambda guard: guard.charge(1, "tokenz"),
        "no RateLimit .* called 'tokenz'; there is .*'tokens'.*'other'",
    ),
    ("elsewhere", lambda guard: guard.charge(1, "posts"), "'posts' does not apply to this request.*methods, paths"),
    ("several", lambda guard: guard.charge(1), "which limit is meant: name one of 'tokens', 'other'"),
    ("several too", lambda guard: guard.reserve(1), "which limit is meant"),
]


@pytest.mark.parametrize(("work", "told"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_limit_that_is_not_there_is_told_with_those_that_are(world: str, work: Any, told: str) -> None:
    site = Site(
        RateLimit("100/minute", cost=0, name="tokens"),
        RateLimit("100/minute", cost=0, name="other"),
        RateLimit("100/minute", cost=0, name="posts", methods=["POST"]),
        RateLimit("100/minute", name="requests"),
    )

    def handler(guard: Keyguard) -> None:
        with pytest.raises(ConfigurationError, match=told):
            work(guard)

    assert site.ask(world, handler).status == 200


def test_without_a_request_it_is_told_where_it_can_be_called(world: str) -> None:
    site = Site()
    with pytest.raises(OutsideRequest, match=r"charge\(\) was called outside of a request"):
        site.guard.charge(1)
    with pytest.raises(OutsideRequest, match=r"reserve\(\) was called outside"), site.guard.reserve(1):
        pass

    def handler(guard: Keyguard) -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                guard.charge(1)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert isinstance(errors[0], OutsideRequest)
        assert "copy_context" in str(errors[0])

    assert site.ask(world, handler).status == 200


def test_after_the_end_it_is_told_that_it_is_too_late(world: str) -> None:
    import contextvars

    site = Site()
    kept: list[contextvars.Context] = []
    site.ask(world, lambda guard: kept.append(contextvars.copy_context()))
    for work in (site.guard.charge, lambda cost: site.guard.reserve(cost).__enter__()):
        with pytest.raises(OutsideRequest, match="after the end of its request"):
            kept[0].run(work, 1)
    assert site.left() == 100


def test_after_the_end_it_is_too_late_too_in_a_stack_that_expects_no_handlers(world: str) -> None:
    import contextvars

    site = Site(RateLimit("100/minute", by="ip", name="units"))
    kept: list[contextvars.Context] = []
    site.ask(world, lambda guard: kept.append(contextvars.copy_context()))
    for work in (site.guard.charge, lambda cost: site.guard.reserve(cost).__enter__()):
        with pytest.raises(OutsideRequest, match="after the end of its request"):
            kept[0].run(work, 1)
    assert site.left() == 99


@pytest.mark.parametrize("outer", ["5/minute", "100/minute", "the same guard"])
def test_a_limit_of_another_stack_with_the_same_name_is_another_limit(world: str, outer: str) -> None:
    limit = RateLimit("100/minute", by="ip", name="units")
    site = Site(limit)
    around = Site(limit if outer == "the same guard" else RateLimit(outer, by="ip", name="units"))
    before = around.left()

    def handler(guard: Keyguard) -> None:
        guard.charge(10)
        with guard.reserve(30) as hold:
            hold.settle(20)

    inner = site.guard
    both = SimpleNamespace(charge=inner.charge, reserve=inner.reserve)
    setattr(both, world, lambda app: getattr(around.guard, world)(getattr(inner, world)(app)))
    site.guard = both  # type: ignore[assignment]
    assert site.ask(world, handler).status == 200
    assert (site.left(), around.left()) == (69, before - 1)


def test_a_store_that_settles_nothing_says_so_at_the_call(world: str) -> None:
    from limits.storage import MemoryStorage

    from keyguard.stores.limits import LimitsStore

    site = Site()
    site.guard = Keyguard(RateLimit("100/minute", by="ip", name="units"), store=LimitsStore(MemoryStorage()))

    def handler(guard: Keyguard) -> None:
        for work in (guard.charge, guard.reserve):
            with pytest.raises(ConfigurationError, match="settles nothing in the end"):
                work(5)

    assert site.ask(world, handler).status == 200


def test_a_stack_without_such_limits_says_so(world: str) -> None:
    site = Site()
    site.guard = Keyguard(store=site.store, handlers=True)

    def handler(guard: Keyguard) -> None:
        with pytest.raises(ConfigurationError, match="needs a RateLimit"):
            guard.charge(1)

    site.ask(world, handler)


# -- reserve ----------------------------------------------------------------------------------------------------------


def test_units_are_held_while_the_work_goes_on_and_cost_what_was_settled(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(30) as hold:
            assert site.left() == 70
            hold.settle(12)
        assert site.left() == 70  # until the request is over

    assert site.ask(world, handler).status == 200
    assert site.left() == 88


def test_without_a_word_it_costs_the_estimate_and_nothing_if_it_failed(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(30):
            pass
        with pytest.raises(ZeroDivisionError), guard.reserve(40):
            _ = 1 // 0
        with pytest.raises(ZeroDivisionError), guard.reserve(5) as hold:
            _ = 1 // [hold.settle(4)].count(0)  # type: ignore[func-returns-value]

    site.ask(world, handler)
    assert site.left() == 66


@pytest.mark.parametrize("limit", ["20/minute", smooth("1000/day", burst=20)], ids=str)
def test_a_limit_of_which_requests_take_units_can_be_reserved_too(world: str, limit: Any) -> None:
    site = Site(RateLimit(limit, name="units"))

    def handler(guard: Keyguard) -> None:
        with guard.reserve(6) as hold:
            assert site.left() == 13
            hold.settle(2)
        with pytest.raises(ZeroDivisionError), guard.reserve(4):
            _ = 1 // 0
        with guard.reserve(1) as hold:
            hold.settle(3)

    def greedy(guard: Keyguard) -> None:
        with guard.reserve(19):
            raise AssertionError("not reached")

    assert site.ask(world, handler).status == 200
    assert site.left() == 20 - 1 - 2 - 3
    assert site.ask(world, greedy).status == 429
    assert site.left() == 14
    assert "'units:" in site.refusals[0].detail


def test_more_than_was_estimated_is_charged_whatever_is_left(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(30) as hold:
            hold.settle(300)

    site.ask(world, handler)
    assert site.left() == 0


def test_reservations_one_after_the_other_and_of_two_limits_at_once(world: str) -> None:
    site = Site(RateLimit("100/minute", cost=0, name="tokens"), RateLimit("50/minute", cost=0, name="images"))

    def handler(guard: Keyguard) -> None:
        for actual in (1, 2, 3):
            with guard.reserve(10, "tokens") as hold, guard.reserve(1, "images"):
                hold.settle(actual)
        guard.charge(4, "images")

    site.ask(world, handler)
    assert (site.left(0), site.left(1)) == (94, 43)


def test_what_is_refused_says_why_and_holds_nothing(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(60):
            pass
        with pytest.raises(Refused) as caught, guard.reserve(60):
            raise AssertionError
        assert caught.value.refusal.policies == ("tokens:100/minute",)
        assert caught.value.refusal.retry_after == 1  # what is missing is held, and may come back
        assert site.left() == 40
        with guard.reserve(40):  # something cheaper
            pass

    answer = site.ask(world, handler)
    assert (answer.status, answer.body) == (200, b"served")
    assert site.left() == 0
    assert site.refusals == []


def test_an_estimate_above_the_limit_is_never_admitted_and_burns_nothing(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with pytest.raises(Refused) as caught, guard.reserve(101):
            pass
        assert caught.value.refusal.retry_after is None
        assert "more than 'tokens:100/minute' ever allows" in str(caught.value)

    site.ask(world, handler)
    assert site.left() == 100


MISUSED: list[tuple[str, Callable[[Keyguard], Any], str]] = [
    ("inside of itself", lambda guard: guard.reserve(1).__enter__(), "inside of reserve"),
    ("before it began", lambda guard: guard.reserve(1).settle(1), "has not begun"),
]


@pytest.mark.parametrize(("work", "told"), [row[1:] for row in MISUSED], ids=[row[0] for row in MISUSED])
def test_ways_that_cannot_work_are_told(world: str, work: Any, told: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(10), pytest.raises(RuntimeError, match=told):
            work(guard)

    site.ask(world, handler)
    assert site.left() == 90


def test_it_is_settled_once_and_in_time(world: str) -> None:
    site = Site()

    def handler(guard: Keyguard) -> None:
        with guard.reserve(10) as hold:
            hold.settle(3)
            with pytest.raises(RuntimeError, match="settled before, at 3 units"):
                hold.settle(4)
        with guard.reserve(10) as late:
            pass
        with pytest.raises(RuntimeError, match="is over"):
            late.settle(1)
        with pytest.raises(RuntimeError, match="entered once"), late:
            pass

    site.ask(world, handler)
    assert site.left() == 87


# -- refusals that nobody catches --------------------------------------------------------------------------------------


def greedy(guard: Keyguard) -> None:
    guard.charge(5)
    with guard.reserve(10):
        pass
    with guard.reserve(99):
        pass


def test_an_app_that_lets_it_pass_is_answered_for_and_nothing_is_charged(world: str) -> None:
    site = Site(RateLimit("100/minute", name="tokens", cost=0), RateLimit("9/minute", name="requests"))
    answer = site.ask(world, greedy)
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    problem = json.loads(answer.body)
    assert (problem["cause"], problem["violated-policies"]) == ("usage", ["tokens:100/minute"])
    assert (site.left(0), site.left(1)) == (100, 9)
    assert [refusal.reason for refusal in site.refusals] == ["limit-held"]


def test_an_app_that_answers_it_in_its_own_words_has_refused(world: str) -> None:
    site = Site(RateLimit("100/minute", name="tokens", cost=0), RateLimit("9/minute", name="requests"))

    def handler(guard: Keyguard) -> int:
        try:
            greedy(guard)
        except Refused:
            return 429
        return 200

    answer = site.ask(world, handler)
    assert (answer.status, answer.body, answer.get("retry-after")) == (429, b"served", "1")
    assert (site.left(0), site.left(1)) == (100, 9)
    assert len(site.refusals) == 1


def test_an_app_that_serves_something_else_has_served(world: str) -> None:
    site = Site(RateLimit("100/minute", name="tokens", cost=0), RateLimit("9/minute", name="requests"))

    def handler(guard: Keyguard) -> int:
        try:
            greedy(guard)
        except Refused:
            return 404
        return 200

    assert site.ask(world, handler).status == 404
    assert (site.left(0), site.left(1)) == (85, 8)
    assert site.refusals == []


# -- by await ---------------------------------------------------------------------------------------------------------


class Slow(MemoryStore):
    """A store that has to be awaited."""

    def aexecute(self, ops: Any) -> Any:
        async def later() -> list[Any]:
            await asyncio.sleep(0)
            return self.execute(ops)

        return later()


@pytest.mark.parametrize("kind", [MemoryStore, Slow])
def test_async_with(kind: type[MemoryStore]) -> None:
    store = kind()
    limit = RateLimit("100/minute", cost=0, name="tokens")
    guard = Keyguard(limit, store=store)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with guard.reserve(30) as hold:
            await asyncio.sleep(0)
            assert left(store, limit) == 70
            hold.settle(12)
        guard.charge(1)
        with pytest.raises(Refused):
            async with guard.reserve(90):
                pass
        if kind is Slow:
            with pytest.raises(RuntimeError, match="async with"), guard.reserve(1):
                pass
        await asyncio.to_thread(in_thread)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def in_thread() -> None:
        with guard.reserve(20) as hold:
            hold.settle(5)

    assert ask_asgi(guard.asgi(app), Ask(), lint=False).status == 200
    assert left(store, limit) == 82


@pytest.mark.parametrize("kind", [MemoryStore, Slow])
@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_cancelled_or_left_is_released(kind: type[MemoryStore], streaming: bool) -> None:
    store = kind()
    limit = RateLimit("100/minute", cost=0, name="tokens")
    guard = Keyguard(limit, store=store)
    generators = []

    async def story() -> None:
        begun = asyncio.Event()

        async def parts() -> AsyncIterator[bytes]:
            async with guard.reserve(30):
                yield b"one"
                begun.set()
                await asyncio.Event().wait()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if streaming:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            generator = parts()
            generators.append(generator)  # nobody closes it
            async for _ in generator:
                pass

        async def nothing(message: Any = None) -> None: ...

        task = asyncio.create_task(guard.asgi(app)(Ask().scope(), nothing, nothing))  # type: ignore[arg-type]
        await begun.wait()
        assert left(store, limit) == 70
        task.cancel()
        await asyncio.wait([task])
        for _ in range(5):
            await asyncio.sleep(0)
        assert left(store, limit) == 100

    asyncio.run(story())


def test_a_stream_that_is_left_open_is_released_when_the_app_returns() -> None:
    """An asynchronous generator that was not run to its end is closed by the garbage collector, or never."""
    store = MemoryStore()
    limit = RateLimit("100/minute", cost=0, name="tokens")
    guard = Keyguard(limit, store=store)
    kept = []

    async def parts() -> AsyncIterator[bytes]:
        with guard.reserve(30):
            yield b"one"
            yield b"two"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        generator = parts()
        kept.append(generator)
        await anext(generator)
        assert left(store, limit) == 70
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one"})

    async def story() -> None:
        await aask(guard.asgi(app), Ask(), lint=False)
        assert left(store, limit) == 100
        await kept[0].aclose()  # it tells nobody any more
        assert left(store, limit) == 100

    asyncio.run(story())


def test_a_wsgi_stream_charges_as_it_goes_and_is_released_if_it_is_cut() -> None:
    site = Site()
    seen = []

    def parts() -> Iterator[bytes]:
        site.guard.charge(1)
        with site.guard.reserve(30) as hold:
            seen.append(site.left())
            yield b"one"
            site.guard.charge(2)
            yield b"two"
            hold.settle(7)
        yield b"three"

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return parts()

    wrapped = site.guard.wsgi(app)
    assert ask_wsgi(wrapped, Ask(), lint=False).body == b"onetwothree"
    assert site.left() == 90
    body: Any = iter(wrapped(Ask().environ(), lambda *head: print))
    assert next(body) == b"one"
    assert site.left() == 59
    body.close()
    assert site.left() == 89
    assert seen == [69, 59]


@pytest.mark.parametrize("handlers", [None, True])
def test_a_wsgi_stream_that_is_refused_with_its_first_part_is_refused_as_a_whole(handlers: bool | None) -> None:
    site = Site(RateLimit("100/minute", by="ip", name="units"), handlers=handlers)
    closed = []

    def parts() -> Iterator[bytes]:
        try:
            with site.guard.reserve(200):
                yield b"one"
        finally:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        site.guard.charge(5)
        start_response("200 OK", [("X-Theirs", "1")])
        return parts()

    answer = ask_wsgi(site.guard.wsgi(app), Ask(), lint=False)
    assert (answer.status, closed) == (429, [True])
    names = [name.lower() for name, _ in answer.headers]
    assert sorted(names) == sorted(set(names))
    assert answer.get("ratelimit").startswith('"units:100/minute";r=99;')
    assert site.left() == 100
    assert [refusal.reason for refusal in site.refusals] == ["cost-above-limit"]


def test_a_refresh_in_the_background_is_charged_to_the_caller_for_whom_it_is_made() -> None:
    limit = RateLimit("100/minute", by="ip", name="tokens", cost=0)
    site = Site(limit)
    site.guard = Keyguard(limit, ResponseCache(), store=site.store, clock=site.clock)
    fields = [(b"cache-control", b"max-age=1, stale-while-revalidate=60")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        site.guard.charge(3)
        async with site.guard.reserve(10) as hold:
            hold.settle(2)
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"fresh"})

    async def story() -> None:
        wrapped = site.guard.asgi(app)
        await aask(wrapped, Ask(), lint=False)
        assert site.left() == 95
        site.clock.advance(5)
        await aask(wrapped, Ask(), lint=False)
        for _ in range(20):
            await asyncio.sleep(0)
        assert site.left() == 90

    asyncio.run(story())


def test_a_websocket_is_charged_message_by_message() -> None:
    site = Site()
    messages = [{"type": "websocket.connect"}, *[{"type": "websocket.receive", "text": "hi"}] * 3]
    messages.append({"type": "websocket.disconnect", "code": 1000})
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            site.guard.charge(2)
            seen.append(site.left())

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None: ...

    scope = {**Ask().scope(), "type": "websocket", "subprotocols": []}
    asyncio.run(site.guard.asgi(app)(scope, receive, send))
    assert seen == [98, 96, 94]


# -- what always holds ------------------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), st.integers(0, 15), st.just(0)),
        st.tuples(st.sampled_from(["settle", "estimate", "fail"]), st.integers(0, 60), st.integers(0, 60)),
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(requests=st.lists(st.tuples(ACTIONS, st.booleans()), max_size=6), world=st.sampled_from(["asgi", "wsgi"]))
def test_left_and_spent_and_held_are_the_limit_and_refused_requests_cost_nothing(
    requests: list[tuple[list[tuple[str, int, int]], bool]], world: str
) -> None:
    site = Site(RateLimit("100/hour", name="tokens", cost=0), RateLimit("99/hour", name="requests"))
    spent = served = 0
    for actions, catches in requests:
        owed = 0

        def handler(
            guard: Keyguard,
            actions: list[tuple[str, int, int]] = actions,
            spent: int = spent,
            catches: bool = catches,
        ) -> None:
            nonlocal owed
            held = 0
            for what, units, actual in actions:
                if what == "charge":
                    guard.charge(units, "tokens")
                    owed += units
                    continue
                try:
                    with guard.reserve(units, "tokens") as hold:
                        held += units
                        assert site.left() == max(0, 100 - spent - held)
                        if what == "settle":
                            hold.settle(actual)
                        if what == "fail":
                            raise ZeroDivisionError
                        owed += actual if what == "settle" else units
                except ZeroDivisionError:
                    pass
                except Refused:
                    if not catches:
                        raise
                    assert units > 100 - spent - held
                assert site.left() == max(0, 100 - spent - held)

        refused = site.ask(world, handler).status == 429
        spent += 0 if refused else owed
        served += not refused
        assert site.left() == max(0, 100 - spent)
        assert site.left(1) == 99 - served
