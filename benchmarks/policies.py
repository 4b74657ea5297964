"""What policies cost: a stack of 10 rules and one of 1000, by paths, beside a single limit.

    python -m benchmarks.policies

Prints microseconds a request in this process (ASGI, store in memory, a bare app), each the best of several rounds, and
what 1000 rules cost in units of 10.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from keyguard import Keyguard, RateLimit
from keyguard.policies import Policy, first_match, method, path

ROUNDS, REQUESTS = 9, 2000


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def stack(rules: int) -> Keyguard:
    """Return a stack of so many policies, each for a path and a method of its own; of a plain limit for none."""
    if not rules:
        return Keyguard(RateLimit("1000000/minute", name="alone"), store="memory://")
    policies = [
        Policy(
            f"p{number}",
            when=path(f"/v1/things{number}/*") & method("GET"),
            then=[RateLimit("1000000/minute", name=f"limit{number}")],
        )
        for number in range(rules)
    ]
    return Keyguard(first_match(*policies), store="memory://")


async def measure(rules: int) -> float:
    """Return the microseconds that one request takes."""
    made: Any = stack(rules).asgi(app)
    last = max(0, rules - 1)
    scopes = [_scope(f"/v1/things{last - place % 7 if last > 7 else 0}/a") for place in range(REQUESTS)]

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        pass

    best = float("inf")
    for _ in range(ROUNDS):
        scopes = [dict(scope) for scope in scopes]
        for scope in scopes:
            scope.pop("keyguard", None)
        begun = time.perf_counter()
        for scope in scopes:
            await made(scope, receive, send)
        best = min(best, time.perf_counter() - begun)
    return best / REQUESTS * 1e6


def _scope(target: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": target,
        "raw_path": target.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"example.test")],
        "client": ("198.51.100.1", 4000),
        "scheme": "http",
    }


def main() -> None:
    alone, ten, thousand = (asyncio.run(measure(rules)) for rules in (0, 10, 1000))
    print(f"one limit, no policies  {alone:6.2f} µs a request")
    print(f"10 rules                {ten:6.2f} µs")
    print(f"1000 rules              {thousand:6.2f} µs")
    print(f"1000 rules / 10 rules   {thousand / ten:6.2f}")


if __name__ == "__main__":
    main()
