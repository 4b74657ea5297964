"""Who sends the requests: the pool's operations, and two models that people use today."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from keyguard import ops
from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, NoGrant, Report, group_key, id_of
from keyguard.ops import Acquire, Learn, Op
from keyguard.upstream.affinity import preferred
from tests.upstream.simulation.provider import Reply
from tests.upstream.simulation.world import SPAN, Request, World

_MOST_TRIES = 8
_TRIP = 1_000  # microseconds to the store and back


class Store:
    """A store that workers share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.table: dict[str, tuple[bytes, int | None]] = {}

    def run(self, op: Op[object]) -> object:
        self.world.operations += 1
        return ops.run(op, self.table, self.world.now)


class PoolWorker:
    """A process with the pool: first come first served, and what came of a request is told with the next trip."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.store = world, store
        self.line: list[tuple[int, Request]] = []
        self.outbox: list[Report] = []
        self.asking = False
        self._asks_at = 0
        """When there is room, as whoever asked last was told."""
        self._groups = {group.name: group for group in world.groups}
        self._candidates = {
            group.name: Candidate(group_key("p", "*", group.name), (id_of(group.name),), group=id_of(group.name))
            for group in world.groups
        }
        self._names = {candidate.state: name for name, candidate in self._candidates.items()}
        self._flush()

    def _flush(self) -> None:
        if self.outbox:
            told, self.outbox = self.outbox, []
            self.store.run(Learn(told))
        if self.world.now < SPAN:
            self.world.later(SECOND, self._flush)

    def take(self, request: Request) -> None:
        insort(self.line, (request.number, request))
        if not self.asking:
            self._ask()

    def _ask(self) -> None:
        """Ask for the first in line."""
        while self.line and self.line[0][1].deadline < max(self.world.now, self._asks_at):
            self.line.pop(0)
        self.asking = bool(self.line)
        if self.line:
            self.world.later(_TRIP + max(0, self._asks_at - self.world.now), self._asked)

    def _asked(self) -> None:
        now = self.world.now
        number, request = self.line[0]
        names = preferred([*self._groups], request.affinity, lambda name: name, lambda name: self._groups[name].rpm)
        ahead = max(0, min(SECOND, request.deadline - now))
        told, self.outbox = self.outbox, []
        op = Acquire([self._candidates[name] for name in names], request.cost, ahead=ahead, reports=told)
        found = self.store.run(op)
        if isinstance(found, NoGrant):
            if found.wait is None:
                self.line.pop(0)
            else:
                self._asks_at = now + found.wait
            self._ask()
            return
        assert isinstance(found, Grant)
        self.line.remove((number, request))
        candidate = op.candidates[found.candidate]
        self.world.later(found.start, lambda: self._send(request, candidate, found))
        self._ask()

    def _send(self, request: Request, candidate: Candidate, grant: Grant) -> None:
        def answered(reply: Reply) -> None:
            cause = "ok" if reply.admitted else "exhausted"
            scope = "none" if reply.admitted else "model"
            self.outbox.append(Report(candidate, grant, cause=cause, scope=scope, wait=reply.wait, seen=reply.seen))
            if not reply.admitted and request.tries < _MOST_TRIES:
                self.take(request)

        self.world.send(request, self._groups[self._names[candidate.state]], answered)


class RetryModel:
    """A model of plain retries: a key for each request by chance, and a pause that doubles after each refusal."""

    def __init__(self, world: World) -> None:
        self.world = world

    def take(self, request: Request) -> None:
        world = self.world
        group = world.chance.choices(world.groups, [group.rpm for group in world.groups])[0]

        def answered(reply: Reply) -> None:
            pause = reply.wait or round(SECOND / 2 * 2**request.tries * (0.75 + world.chance.random() / 4))
            if not reply.admitted and world.now + pause <= request.deadline:
                world.later(pause, lambda: self.take(request))

        world.send(request, group, answered)


class CooldownModel:
    """A model of a router that leaves a key alone for a while once it was refused, and goes on with the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._cool: dict[str, int] = {}

    def take(self, request: Request) -> None:
        world = self.world
        warm = [group for group in world.groups if self._cool.get(group.name, 0) <= world.now]
        if not warm:
            pause = min(self._cool.values()) - world.now
            if world.now + pause <= request.deadline:
                world.later(pause, lambda: self.take(request))
            return
        group = world.chance.choices(warm, [group.rpm for group in warm])[0]

        def answered(reply: Reply) -> None:
            if not reply.admitted:
                self._cool[group.name] = world.now + (reply.wait or 5 * SECOND)
                self.take(request)

        world.send(request, group, answered)


Worker = PoolWorker | RetryModel | CooldownModel


def run(world: World, requests: Sequence[Request], workers: Sequence[Worker]) -> None:
    """Have the requests come to workers by chance."""
    for request in requests:
        world.later(request.at, lambda request=request: workers[world.chance.randrange(len(workers))].take(request))
    world.run()
