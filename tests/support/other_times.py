"""Quotas on a Redis whose clock is far from ours: the same decisions as where all clocks agree."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keyguard.clock import SECOND, Clock, wall_clock
from keyguard.ops import Authenticate, Demand, Settle, Take, Taken
from keyguard.rates import Limit, Quota, credits, quota, window
from keyguard.stores.redis import RedisStore, encoding
from tests.support.servers import RedisServer

DAY = 86400 * SECOND
LIMITS: tuple[Limit, ...] = (
    quota("9/month", tz="Europe/Berlin"),
    quota("9/year", anchor="04-06"),
    credits(9, refill=quota("9/month")),
    credits(9),
)

PLAIN = window(50, 60 * SECOND, "50/minute")


@contextmanager
def ahead_of_the_server(micros: int) -> Iterator[None]:
    """Have this process's clock tell another time than the server's."""
    usual: Clock = encoding.wall_clock
    encoding.wall_clock = lambda: wall_clock() + micros  # type: ignore[attr-defined]
    try:
        yield
    finally:
        encoding.wall_clock = usual  # type: ignore[attr-defined]


def check_other_times(server: RedisServer) -> None:
    """Take, settle, give back and guess on a host whose clock is more than a year off; another host's is right."""
    namespace = f"other{os.urandom(4).hex()}"
    right, wrong = (RedisStore(server.url, namespace=namespace, timeout=1) for _ in range(2))

    def ask(store: RedisStore, op: Any, micros: int = 0) -> Any:
        with ahead_of_the_server(micros):
            return store.execute([op])[0]

    try:
        for place, micros in itertools.product(range(len(LIMITS)), (-400 * DAY, 400 * DAY)):
            limit, caller = LIMITS[place], f"{place}{micros}"
            key = f"rl:{limit.code}|{caller}"
            demands = [Demand("q", key, limit, 3), Demand("w", f"rl:win|{caller}", PLAIN, 3)]
            asking = Take([Demand(demand.name, demand.key, demand.limit, 0) for demand in demands])

            def left(asking: Take = asking) -> list[int]:
                taken: Taken = ask(right, asking)
                return [taking[2] for taking in taken.takings]

            taken: Taken = ask(wrong, Take(demands), micros)
            assert abs(taken.at - wall_clock()) < 3600 * SECOND, "the server's clock decides"
            assert (taken.refused, left()) == (False, [6, 47])
            if type(limit) is Quota:
                assert taken.at + taken.takings[0][1] == limit.present(taken.at)[1], "it counts until its period's end"
            settle = Settle(taken, [5, 3])
            for _ in range(2):  # once, however often it is asked for
                ask(wrong, settle, micros)
                assert left() == [4, 47]
            taken = ask(wrong, Take(demands), micros)
            assert left() == [1, 44]
            ask(wrong, Settle(taken), micros)
            assert left() == [4, 47]
            refused: Taken = ask(wrong, Take([Demand("q", key, limit, 5), demands[1]]), micros)
            assert [taking[2] for taking in refused.takings] == left() == [4, 47]
            alone = Take([Demand("q", f"{key}alone", limit, 2)])
            taken = ask(wrong, alone, micros)
            ask(wrong, Settle(taken, [1]), micros)
            assert ask(right, alone).takings[0][2] == 6
            guess = [Demand("g", f"guess:{limit.code}|{caller}", limit, 5)]
            wrongly = Authenticate("k|none", {0: b"d" * 32}, guess)
            first, second = (ask(wrong, wrongly, micros) for _ in range(2))
            assert (first.valid, first.guesses) == (False, None)
            assert second.guesses is not None, "the guesses are used up"
    finally:
        right.clear()
        right.close()
        wrong.close()
