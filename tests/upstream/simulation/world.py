"""A world with a clock of its own: requests that arrive, workers that send them, and what becomes of them."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from keyguard.clock import SECOND
from tests.upstream.simulation.provider import Cost, Group, Reply

SPAN = 1200 * SECOND
PATIENCE = 20 * SECOND


@dataclass(slots=True)
class Request:
    """A request, from its arrival to its end."""

    at: int
    cost: Cost
    affinity: str
    number: int
    tries: int = 0
    told: list[str] = field(default_factory=list)
    """The groups it was sent to."""

    @property
    def deadline(self) -> int:
        return self.at + PATIENCE


class World:
    """Events in the order of their time, and chances from a seed."""

    def __init__(self, groups: Sequence[Group], seed: int = 1, *, work: tuple[int, int] = (200_000, 1_500_000)) -> None:
        """`work`: how long the provider takes for an answer, in microseconds: at least, and less than."""
        self.groups = groups
        self.work = work
        self.now = 0
        self.chance = random.Random(seed)
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.served: list[Request] = []
        self.sent = self.refused = self.operations = 0

    def later(self, span: int, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + span, self._count, do))

    def arrive(self, requests: Sequence[Request], take: Callable[[Request], None]) -> None:
        """Have requests come, in the order of their time: each before whatever else happens at its moment."""
        coming = zip(range(-len(requests), 0), requests, strict=True)

        def next_one() -> None:
            found = next(coming, None)
            if found is not None:
                place, request = found
                heapq.heappush(self._events, (request.at, place, partial(came, request)))

        def came(request: Request) -> None:
            next_one()
            take(request)

        next_one()

    def run(self) -> None:
        events, end = self._events, SPAN + 2 * PATIENCE
        while events and events[0][0] <= end:
            self.now, _, do = heapq.heappop(events)
            do()

    def way(self) -> int:
        """Return how long a message travels."""
        return self.chance.randrange(5_000, 25_000)

    def send(self, request: Request, group: Group, answered: Callable[[Reply], None]) -> None:
        """Send a request to a group, and have the answer handed in when it is there."""
        self.sent += 1
        request.tries += 1
        request.told.append(group.name)

        def arrive() -> None:
            reply = group.ask(request.cost, self.now)
            work = self.chance.randrange(*self.work) if reply.admitted else 10_000

            def back() -> None:
                if reply.admitted:
                    self.served.append(request)
                else:
                    self.refused += 1
                answered(reply)

            self.later(work + self.way(), back)

        self.later(self.way(), arrive)

    def others(self, share: float) -> None:
        """Have others use a share of each group's requests."""
        for group in self.groups:
            gap = round(60 * SECOND / (group.rpm * share))

            def use(group: Group = group, gap: int = gap) -> None:
                cost = {"requests": 1, "tokens": 1000}
                if not group.wait(cost, self.now):
                    group.take(cost)
                if self.now < SPAN:
                    self.later(round(self.chance.expovariate(1 / gap)), lambda: use(group, gap))

            self.later(self.chance.randrange(gap), lambda group=group, gap=gap: use(group, gap))


def arrivals(groups: Sequence[Group], load: float, seed: int = 7, conversations: int = 0) -> list[Request]:
    """Return requests that come by chance, at a share of what the groups' limits allow."""
    chance = random.Random(seed)
    each = 60 * SECOND / (sum(group.rpm for group in groups) * load)
    found, at = [], 0
    while (at := at + round(chance.expovariate(1 / each))) < SPAN:
        name = f"{chance.randrange(conversations)}" if conversations else f"{chance.getrandbits(64):x}"
        tokens = chance.randrange(200, 1800)
        found.append(Request(at, {"requests": 1, "tokens": tokens}, name, len(found)))
    return found
