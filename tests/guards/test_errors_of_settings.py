"""A setting that is wrong is told of by the name of its guard, whichever check finds it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from os import getpid
from typing import Any

import pytest

from keyguard import (
    APIKeys,
    Ban,
    ConfigurationError,
    Guard,
    IPFilter,
    Keyguard,
    Overload,
    RateLimit,
    Request,
    ResponseCache,
)
from keyguard import asgi as layers
from tests.support.harness import asgi_app

WRONG: dict[Callable[..., Any], list[dict[str, Any]]] = {
    IPFilter: [
        {},
        {"allow": ["10.0.0.300"]},
        {"deny": ["localhost"]},
        {"deny": ["10.0.0.0/8"], "paths": ["admin"]},
        {"deny": ["10.0.0.0/8"], "ignore_case": True},
    ],
    APIKeys: [
        {"lookup": 1},
        {"issued": False},
        {"imported": 1},
        {"strip": 1},
        {"hmac_secret": "an HMAC of no imported keys"},
        {"sources": ["a header"]},
        {"public": ["health"]},
        {"paths": ["admin"]},
        {"ignore_case": True},
        {"optional": 1},
        {"scopes": ["a scope"]},
        {"scopes": [["admin"]]},
        {"guesses": "20"},
        {"guess_exempt": ["localhost"]},
        {"pepper": 5},
        {"prefix": "a prefix"},
        {"env": "an env"},
        {"if_store_fails": "open"},
        {"stale_if_error": "2 days"},
        {"realm": '"'},
        {"preflights": 1},
        {"name": "a|b"},
    ],
    RateLimit: [
        {},
        {"rates": "ten a second"},
        {"rates": "1/minute; 2/minute"},
        {"rates": "1/minute", "by": "address"},
        {"rates": "1/minute", "cost": -1},
        {"rates": "1/minute", "cost": 2},
        {"rates": "1/minute", "when": "always"},
        {"rates": "1/minute", "exempt": "never"},
        {"rates": "1/minute", "methods": ["post"]},
        {"rates": "1/minute", "methods": [["POST"]]},
        {"rates": "1/minute", "paths": ["admin"]},
        {"rates": "1/minute", "ignore_case": True},
        {"rates": "1/minute", "plans": {"free": "2/second"}},
        {"rates": "1/minute", "default": "2/second"},
        {"plans": {"free": "2/second"}},
        {"plans": {"free": "2/second"}, "default": "dear"},
        {"rates": "1/minute", "name": "a|b"},
        {"rates": "1/minute", "headers": "draft-1"},
        {"rates": "1/minute", "tell": "some"},
        {"rates": "1/minute", "if_store_fails": "never"},
        {"rates": "1/minute", "settle": 5},
        {"rates": "1/minute", "settle": getpid},
        {"rates": "1/minute", "refund_on": "6xx"},
        {"rates": "1/minute", "refund_on": [TimeoutError, 99]},
        {"rates": "1/minute", "refund_on": []},
        {"rates": "1/minute", "refund_on": int},
        {"rates": "1/minute", "count": "successes"},
        {"rates": "1/minute", "count": "failures", "failures": [401, 500]},
        {"rates": "1/minute", "count": "failures", "failures": [TimeoutError]},
        {"rates": "1/minute", "failures": [401]},
        {"rates": "1/minute", "count": "failures", "refund_on": 502},
    ],
    Ban: [
        {"after": 20},
        {"of": ()},
        {"for_": 0},
        {"growing": 2},
        {"for_": "2 hours", "growing": True, "max_for": "1 hour"},
        {"by": "address"},
        {"exempt": ["localhost"]},
        {"name": "a|b"},
        {"if_store_fails": "local"},
    ],
    Overload: [
        {"latency": 0},
        {"min_in_flight": 0},
        {"max_in_flight": 0},
        {"criticality": "high"},
        {"health": ["health"]},
        {"max_lag": 0},
        {"start_header": "a field"},
        {"max_wait": 0},
        {"retry_after": 0},
        {"random": 1},
    ],
    ResponseCache: [
        {"ttl": 0},
        {"when": "always"},
        {"by": "ip"},
        {"credentials": 5},
        {"public": 1},
        {"heuristic": 1},
        {"set_cookie": 1},
        {"ignore_client_directives": 1},
        {"ignore_query": 5},
        {"sort_query": 1},
        {"vary": ["a field"]},
        {"targeted": ["a field"]},
        {"stale_on_error": -1},
        {"serve_exhausted": 1},
        {"coalesce": "an hour"},
        {"max_bytes": 1.5},
        {"max_entries": 0},
        {"max_variants": 0},
        {"max_entry_bytes": -1},
        {"local_bytes": -1},
        {"local_ttl": -1},
        {"store": 5},
        {"name": "a name"},
    ],
}
ROWS = [(guard, settings) for guard, rows in WRONG.items() for settings in rows]


def made(maker: Callable[..., Any], settings: dict[str, Any], *args: Any) -> Any:
    rest = dict(settings)
    rates = [rest.pop("rates")] if "rates" in rest else []
    return maker(*args, *rates, **rest)


@pytest.mark.parametrize(("guard", "settings"), ROWS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_the_guard_is_named(guard: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(guard, settings)
    name, _, told = str(caught.value).partition(": ")
    assert name == guard.__name__
    assert told
    assert name not in told  # once is enough


@pytest.mark.parametrize("guard", WRONG)
def test_the_table_has_every_setting(guard: Any) -> None:
    free = {"name"} if guard in (IPFilter, Overload) else set()  # which is only shown
    assert {name for row in WRONG[guard] for name in row} | free == set(inspect.signature(guard).parameters)


def test_a_layer_names_its_guard() -> None:
    with pytest.raises(ConfigurationError, match=r"^RateLimit: "):
        layers.RateLimit(asgi_app, "ten a second")


def test_a_guard_of_ones_own_is_named_by_its_own_class() -> None:
    class Slow(RateLimit):
        def __init__(self) -> None:
            super().__init__("ten a second")

    class Slower(Slow):
        """Has no `__init__` of its own."""

    class Hosts(Guard):
        def __init__(self, *hosts: str) -> None:
            if not hosts:
                raise ConfigurationError("no hosts are given")

        def __call__(self, request: Request) -> None:
            return None

    for guard in (Slow, Slower, Hosts):
        with pytest.raises(ConfigurationError, match=rf"^{guard.__name__}: (?!.*: RateLimit)"):
            guard()
    assert str(inspect.signature(Hosts)) == "(*hosts: 'str') -> 'None'"
    Keyguard(Hosts("a.example"))


def test_other_errors_are_left_as_they_are() -> None:
    class Broken(Guard):
        def __init__(self) -> None:
            raise RuntimeError("no disk")

        def __call__(self, request: Request) -> None:
            return None

    with pytest.raises(RuntimeError, match=r"^no disk$"):
        Broken()
