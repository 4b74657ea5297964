"""The parts that the flow of a request works with: the groups of a pool, and what this process knows of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from random import Random, SystemRandom
from typing import NamedTuple, Protocol

from keyguard.clock import Clock
from keyguard.learnt import Candidate, Dimension, Grant, Report, Seen, group_key, id_of
from keyguard.units import as_datetime
from keyguard.upstream.affinity import drawn, preferred
from keyguard.upstream.answers import Fields
from keyguard.upstream.causes import UpstreamCause, Verdict
from keyguard.upstream.events import Telling
from keyguard.upstream.keys import Key
from keyguard.upstream.outbox import Outbox, blocks
from keyguard.upstream.pairs import Pairs
from keyguard.upstream.queue import Queue
from keyguard.upstream.without_store import WithoutStore

OTHERS = "*"
"""The model class of all models that no glob of the pool names."""

_MOST_ORDERS = 1000
_LATER = 1_000_000
"""The number that is added to the rank of groups that come last."""


class Judge(Protocol):
    """A reader of a provider's answers, which tells what they mean. It never raises, whatever comes."""

    def answer(self, status: int, headers: Fields, body: bytes, now: int, model: str) -> Verdict:
        """Judge an answer by its head, and if it is an error by its body."""
        ...

    def event(self, name: str, data: bytes, now: int) -> Verdict:
        """Judge an error that came as an event of a stream."""
        ...

    def fingerprint(self, status: int, body: bytes) -> str:
        """Return what kind of answer this is, in codes alone: each kind that is not known is told of once."""
        ...


class Group(NamedTuple):
    """The keys of one limit group."""

    name: str
    rank: int
    weight: float
    keys: tuple[Key, ...]
    limits: tuple[tuple[Dimension, int], ...]


def _name(group: Group) -> str:
    return group.name


def _id(key: Key) -> str:
    return key.id


def _weight(one: Group | Key) -> float:
    return one.weight


class Held(NamedTuple):
    """A grant, and whose it is."""

    grant: Grant
    candidate: Candidate
    group: str
    key: Key
    here: bool
    """Whether it was made without the store."""


class PoolParts:
    """A pool, as the flow of a request sees it."""

    def __init__(
        self,
        name: str,
        groups: Sequence[Group],
        judge: Judge,
        *,
        models: Sequence[str],
        clock: Clock,
        telling: Telling,
        outbox: Outbox,
        workers: int = 1,
        max_waiting: int = 1000,
        max_attempts: int = 8,
        replay: bool = False,
        hurry: Callable[[], None] = lambda: None,
        random: Random | None = None,
    ) -> None:
        self.name = name
        self.groups = tuple(groups)
        self.judge = judge
        self.models = tuple(models)
        self.clock = clock
        self.telling = telling
        self.outbox = outbox
        self.max_attempts = max_attempts
        self.replay = replay
        """Whether a request is sent once more after a 5xx."""
        self._hurry = hurry
        """Has the outbox sent at once, in the background."""
        self.random = random or SystemRandom()  # no state that two children of a process would share
        self.without_store = WithoutStore(workers, clock)
        self.pairs = Pairs(clock)
        self.queues = {one: Queue(max_waiting) for one in self.classes}
        self._digests = {key.id: key.digest(name) for group in groups for key in group.keys}
        self._candidates = {
            (one, group.name): Candidate(
                group_key(name, one, group.name), (), group.limits, group.rank, id_of(group.name)
            )
            for one in self.classes
            for group in groups
        }
        self._orders: dict[str, list[tuple[Group, list[Key]]]] = {}
        """The orders that `_order` found, by affinity."""
        self.answers: Counter[str] = Counter()
        """The number of answers in this process, by cause."""
        self._refused: dict[str, int] = {}
        """When an answer told last that something does not work: a state, a group in all its states, or a key."""
        self._keys = {self._digests[key.id]: key for group in groups for key in group.keys}

    @property
    def classes(self) -> tuple[str, ...]:
        """The model classes, which have states of their own."""
        return (*self.models, OTHERS)

    @property
    def waiting(self) -> int:
        """The requests of this process that wait for room."""
        return sum([len(queue) for queue in self.queues.values()])

    def class_of(self, model: str) -> str:
        """Return the class of a model. Names of models come from callers: one that nobody configured gets no state."""
        return next((glob for glob in self.models if fnmatchcase(model, glob)), OTHERS)

    def key_of(self, digest: str) -> Key | None:
        """Return the key with a digest; `None` if it is not of this pool."""
        return self._keys.get(digest)

    def digest_of(self, key: Key) -> str:
        """Return what stands for a key in the store."""
        return self._digests[key.id]

    def candidate(self, model_class: str, group: Group, keys: Sequence[Key]) -> Candidate:
        """Return a group as operations name it, with some of its keys."""
        digests = tuple([self._digests[key.id] for key in keys])
        return self._candidates[model_class, group.name]._replace(keys=digests)

    def preferred(
        self, model_class: str, affinity: str, usable: Callable[[Group, Key], bool], later: set[str]
    ) -> list[tuple[Candidate, Group]]:
        """Return the groups with usable keys in the order of preference; those that are `later` come last."""
        found = []
        for group, keys in self._order(affinity):
            fit = [key for key in keys if usable(group, key)]
            if fit:
                candidate = self.candidate(model_class, group, fit)
                if group.name in later:
                    candidate = candidate._replace(rank=group.rank + _LATER)
                found.append((candidate, group))
        if later:
            found.sort(key=lambda one: one[0].rank)
        return found

    def _order(self, affinity: str) -> list[tuple[Group, list[Key]]]:
        """Return the groups, and the keys of each, in the order of their ranks, and of preference within those."""
        order = self._orders.get(affinity)
        if order is not None:
            return order
        if affinity:
            groups = preferred(self.groups, affinity, _name, _weight)
            order = [(group, preferred(group.keys, affinity, _id, _weight)) for group in groups]
        else:
            groups = drawn(self.groups, self.random, _weight)
            order = [(group, drawn(group.keys, self.random, _weight)) for group in groups]
        order.sort(key=lambda one: one[0].rank)
        for _, keys in order:
            keys.sort(key=lambda key: key.rank)
        if affinity:
            if len(self._orders) >= _MOST_ORDERS:
                self._orders = {}
            self._orders[affinity] = order
        return order

    def moment(self, wait: int | None) -> datetime | None:
        """Return the time after so many microseconds."""
        return None if wait is None else as_datetime(self.clock() + wait)

    def backoff(self, first: int, longest: int, times: int) -> int:
        """Return a pause, drawn between nothing and `first`, doubled for each of so many times (full jitter)."""
        return round(self.random.random() * min(longest, first << min(times, 32)))

    # -- learning -------------------------------------------------------------------------------------------

    def learn(self, held: Held, verdict: Verdict, spent: Mapping[str, int] | None = None) -> None:
        """Keep what came of a grant, to be learnt from with the next trip; without the store, learn from it here."""
        self.without_store.note(held.candidate, verdict.seen)
        self.answers[str(verdict.cause)] += 1
        self._report(held, str(verdict.cause), str(verdict.scope), verdict, spent)

    def unsent(self, held: Held) -> None:
        """Give back what a grant booked: the request was not sent."""
        self._report(held, "unsent", "none", None, None)

    def settle(self, held: Held, spent: Mapping[str, int]) -> None:
        """Correct the units of a grant by those that the request did cost."""
        self._report(held, "settled", "none", None, spent)

    def refused_since(self, held: Held, moment: int) -> bool:
        """Tell whether an answer to this process has told since that a grant will be refused."""
        names = (held.candidate.state, held.candidate.group, held.grant.key)
        return any(self._refused.get(name, -1) > moment for name in names)

    def hurry(self) -> None:
        """Have others know soon, if there is something that they should: a request that ends brings no more trips."""
        if self.outbox.urgent():
            self._hurry()

    def _report(
        self,
        held: Held,
        cause: str,
        scope: str,
        verdict: Verdict | None,
        spent: Mapping[str, int] | None,
    ) -> None:
        wait, dimension = (verdict.wait, verdict.dimension) if verdict else (None, None)
        seen: tuple[Seen, ...] = verdict.seen if verdict else ()
        report = Report(
            held.candidate,
            held.grant,
            cause=cause,
            scope=scope,
            wait=wait,
            seen=seen,
            dimension=dimension,
            spent=spent,
        )
        if blocks(report):
            self._refused[_refused_by(report)] = self.clock()
        if held.here:
            self.without_store.learn(report)
            if blocks(report):
                self.outbox.add(of_no_grant(report, report.cause))
            elif report.cause == UpstreamCause.OK and held.grant.probe:
                self.outbox.add(of_no_grant(report, "enable"))
            return
        self.outbox.add(report)
        if blocks(report):
            self.without_store.block(of_no_grant(report, report.cause))
        elif report.cause == UpstreamCause.OK:
            self.without_store.works(of_no_grant(report, "enable"))


def _refused_by(report: Report) -> str:
    """Return what an answer told of that does not work."""
    by_scope = {"key": report.grant.key, "group": report.candidate.group}
    return by_scope.get(report.scope, report.candidate.state)


def no_grant(digest: str) -> Grant:
    """Return what stands for the grant in a report that is about none of the state's."""
    return Grant(0, 0, digest, 0, 0, ())


def of_no_grant(report: Report, cause: str) -> Report:
    """Return what a report tells to a state that knows nothing of its grant."""
    return Report(
        report.candidate,
        no_grant(report.grant.key),
        cause=cause,
        scope=report.scope,
        wait=report.wait,
        dimension=report.dimension,
    )
