"""The store of many machines: Redis or Valkey, one server, behind sentinels, or a cluster.

Rules:
- One decision is one script, so it is exact whatever the number of processes; the server's time decides.
- A decision carries a token. If the connection breaks it is sent once more, and the token keeps it from being charged
  twice. If no answer comes in time it is called off: its charge is undone, or will never be made.
- A settlement (a refund, a cost known later) carries a token too, and is sent again until it is answered.
- A change of a key is not sent again: it could touch what others did meanwhile.
- No call takes longer than `timeout`. The guards say what to do without the store.
- Connections are a process's own, and under asyncio an event loop's own.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

from redis.exceptions import ClusterCrossSlotError, MovedError, ReadOnlyError

from keyguard.clock import monotonic
from keyguard.errors import ConfigurationError, StoreError
from keyguard.manual_clock import GivenClock, ManualClock, clock_from, given_by
from keyguard.ops import Op
from keyguard.process.fork import check_process, renew_after_fork
from keyguard.process.tokens import new_token
from keyguard.stores.redis.calls import Call, Reply, Rounds, SettleCall, TakeCall, TakeForm, checked, unknown_script
from keyguard.stores.redis.cluster import Cluster
from keyguard.stores.redis.credentials import Credentials
from keyguard.stores.redis.demands import OTHER_TIME, taken_of
from keyguard.stores.redis.encoding import Wire
from keyguard.stores.redis.eviction import Eviction
from keyguard.stores.redis.listing import cleared, listed, node_of_a_cluster, some_listed
from keyguard.stores.redis.node import Line
from keyguard.stores.redis.pulse import Lost, TimedOut
from keyguard.stores.redis.url import Servers
from keyguard.stores.timeouts import check_patience

_UNDONE_AT_ONCE = 100
_abandoned: list[Any] = []  # connections inherited by a fork


class RedisStore:
    """Keys and counters on a Redis or Valkey server.

    - `url`: `redis://`, `unix://`, `redis+sentinel://` or `redis+cluster://`; `rediss` is with TLS, `valkey` the same.
    - `namespace`: what the names of all keys begin with.
    - `timeout`: seconds that one operation may take, with everything; 0.01 to 1.
    - `max_connections`: of the threads of this process; an event loop uses two.
    - `credentials`: a plain function that returns a password, or a user name and a password; asked, in a thread, each
      time a connection is opened, for tokens that expire (IAM). A connection that was opened with one stays open.

    Counters and cached responses have a time to live; API keys have none. A server whose memory is full evicts what its
    `maxmemory-policy` says: only `noeviction` keeps counters and keys, and any other is warned of in the log when a
    stack that keeps some there first connects. Cached responses are kept on a server of their own,
    `ResponseCache(store=...)`, whose `maxmemory` bounds them, with `allkeys-lru`, say. If the note of a purge is
    evicted, all that is older counts as purged.

    Raises `ConfigurationError` for a setting that is wrong; whether the server is there shows at the first operation.
    """

    _max_timeout: float = 1
    """Seconds that `timeout` may be at most: a request waits for a decision."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "keyguard",
        timeout: float = 0.075,
        max_connections: int = 64,
        credentials: Credentials | None = None,
        clock: GivenClock | None = None,
    ) -> None:
        if not (isinstance(namespace, str) and namespace.isascii() and namespace.isprintable()) or not namespace:
            raise ConfigurationError(f"namespace is printable ASCII text, not {namespace!r}")
        if set(namespace) & set("{}*?[]\\"):
            raise ConfigurationError(f"namespace holds none of {{}}*?[]\\, unlike {namespace!r}")
        check_patience(timeout, max_connections, self._max_timeout)
        self.timeout = float(timeout)
        self.namespace = namespace
        self._url = url
        self.clock = clock_from(clock, None)
        self._max_connections = max_connections
        self._servers = Servers(url, self.timeout, credentials=credentials)
        self._credentials = credentials
        self._wire = Wire(namespace, self.clock, cluster=self._servers.cluster)
        self._doubts: deque[Call] = deque(maxlen=10_000)
        self._eviction = Eviction()
        self._held: set[asyncio.Task[None]] = set()
        self._open()
        renew_after_fork(self)

    @property
    def place(self) -> tuple[object, ...]:
        """Where it keeps what it is told: stores with equal places are one."""
        return *self._servers.place, self.namespace

    @property
    def spread(self) -> bool:
        """Whether several servers share the callers."""
        return self._servers.cluster

    def __repr__(self) -> str:
        return f"<RedisStore {self._servers.scheme}, {self.namespace}>"

    @property
    def keeps_decisions(self) -> bool:
        """Whether keys and counters are kept here, and not cached responses alone: set by the stack that uses it."""
        return self._eviction.matters

    @keeps_decisions.setter
    def keeps_decisions(self, matters: bool) -> None:
        self._eviction.matters = matters

    def _open(self) -> None:
        self._line: Line | Cluster
        if self._servers.cluster:
            self._line = Cluster(self._servers, lambda servers: Line(servers, self._max_connections, self._eviction))
        else:
            self._line = Line(self._servers, self._max_connections, self._eviction)

    def after_fork(self) -> None:
        # The parent's connections are left alone: closing one would say goodbye in the parent's name.
        _abandoned.append(self._line)
        self._doubts.clear()
        self._open()

    # -- operations ---------------------------------------------------------------------------------------

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        """Run the operations, in one trip if they go to one server."""
        check_process()
        if len(ops) == 1 and self._wire.simple(ops[0]) is not None:
            op: Any = ops[0]
            deadline = monotonic() + self.timeout
            taking = self._wire.taking(op)
            outcome = self._ask([taking], deadline)[0]
            if self._doubts:
                self._settle_doubts(deadline, taking)
            if len(checked(outcome)) == OTHER_TIME:
                outcome = checked(self._ask([self._wire.retaking(op, outcome, taking.token)], deadline)[0])
            return [taken_of(op.demands, outcome)]
        if self._servers.cluster and len(ops) > 1:
            return [self.execute([op])[0] for op in ops]
        deadline = monotonic() + self.timeout
        results: list[Any] = []
        for turn in self._wire.turns(ops):
            rounds = Rounds([self._wire.plan(op) for op in turn])
            while rounds.calls:
                rounds.feed(self._ask(rounds.calls, deadline))
                rounds.check_time(deadline)
            results += rounds.results
        if self._doubts:
            self._settle_doubts(deadline)
        return results

    def aexecute(self, ops: Sequence[Op[Any]]) -> Awaitable[list[Any]]:
        """Do the same for an event loop."""
        check_process()
        if len(ops) == 1:
            form = self._wire.simple(ops[0])
            if form is not None:
                return self._atake(ops[0], form)
        return self._aexecute(ops)

    async def _atake(self, op: Any, form: TakeForm) -> list[Any]:
        # Nearly every request asks this: one call, and nothing between it and the connection.
        line: Any = self._line  # on a cluster nothing is so simple
        now, token, began = self._wire.now(), new_token(), monotonic()
        try:
            replies = await line.send(form.script, form.packed(now, token))
        except (Lost, TimedOut, asyncio.CancelledError) as error:
            replies = await self._after(error, [TakeCall(form, now, token)], began)
        outcome = replies[0]
        if outcome.__class__ is not bytes:
            again = unknown_script(outcome)
            replies = await self._aask([TakeCall(form, now, token)]) if again else self._seen(replies)
            outcome = checked(replies[0])
        if len(outcome) == OTHER_TIME:
            outcome = checked((await self._aask([self._wire.retaking(op, outcome, token)]))[0])
        if self._doubts:
            self._asettle_doubts()
        return [taken_of(op.demands, outcome)]

    async def _aexecute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        if self._servers.cluster and len(ops) > 1:
            return [(await self._aexecute([op]))[0] for op in ops]
        deadline = monotonic() + self.timeout
        results: list[Any] = []
        for turn in self._wire.turns(ops):
            rounds = Rounds([self._wire.plan(op) for op in turn])
            while rounds.calls:
                rounds.feed(await self._aask(rounds.calls))
                rounds.check_time(deadline)
            results += rounds.results
        if self._doubts:
            self._asettle_doubts()
        return results

    def _ask(self, calls: list[Call], deadline: float) -> list[Reply]:
        sent = False
        try:
            try:
                replies = self._line.ask(calls, deadline)
            except Lost:
                sent = True
                self._line.drop_idle()  # they were opened to a server that has gone
                if not all(call.repeatable for call in calls) or monotonic() > deadline - self.timeout / 2:
                    raise  # or there is not enough time for it to be answered
                replies = self._line.ask(calls, deadline)
        except BaseException as error:
            # A greenlet that is killed may have sent it too.
            if sent or isinstance(error, (Lost, TimedOut)) or not isinstance(error, Exception):
                self._doubt(calls)
            raise
        return self._seen(replies)

    async def _aask(self, calls: list[Call]) -> list[Reply]:
        began = monotonic()
        try:
            replies = await self._line.aask(calls)
        except (Lost, TimedOut, asyncio.CancelledError) as error:
            replies = await self._after(error, calls, began)
        return self._seen(replies)

    async def _after(self, error: BaseException, calls: list[Call], began: float) -> list[Reply]:
        """Ask once more what was sent, if that may help."""
        try:
            if isinstance(error, Lost):
                self._line.drop_idle()
                if all(call.repeatable for call in calls) and monotonic() <= began + self.timeout / 2:
                    return await self._line.aask(calls)
            raise error
        except BaseException as failure:
            self._doubt(calls)
            if isinstance(failure, asyncio.CancelledError):
                self._asettle_doubts()
            raise

    def _seen(self, replies: list[Reply]) -> list[Reply]:
        for reply in replies:
            if reply.__class__ is bytes:
                continue
            if isinstance(reply, (MovedError, ClusterCrossSlotError)) and not self._servers.cluster:
                raise node_of_a_cluster(self._servers)
            if reply.__class__ is ReadOnlyError:
                self._line.drop_idle()  # a replica now: the next connection may find the new primary
        return replies

    # -- what may have happened, and must not have -----------------------------------------------------------

    def _doubt(self, calls: list[Call]) -> None:
        self._doubts += [sequel for call in calls if (sequel := call.sequel) is not None]

    def _take_doubts(self) -> list[Call]:
        calls: list[Call] = []
        while self._doubts and len(calls) < _UNDONE_AT_ONCE:
            call = self._doubts.popleft()
            if not isinstance(call, SettleCall) or call.sequel is not None:
                calls.append(call)
        return calls

    def _settle_doubts(self, deadline: float, answered: Call | None = None) -> None:
        """Undo what is in doubt. `answered`: the call of this request, whose answer is there."""
        calls = self._take_doubts()
        if not calls:
            return
        try:
            # This request has waited for its own answer already.
            self._doubts += SettleCall.of_other_times(calls, self._line.ask(calls, deadline))
        except StoreError:
            self._doubts += calls
        except BaseException:  # a greenlet is killed: nobody hears of its own answer either
            self._doubts += calls
            self._doubt([] if answered is None else [answered])
            raise

    def _asettle_doubts(self) -> None:
        calls = self._take_doubts()
        if not calls:
            return
        task = asyncio.get_running_loop().create_task(self._settling(calls))
        self._held.add(task)
        task.add_done_callback(self._held.discard)

    async def _settling(self, calls: list[Call]) -> None:
        try:
            self._doubts += SettleCall.of_other_times(calls, await self._line.aask(calls))
        except BaseException as error:
            self._doubts += calls
            if not isinstance(error, StoreError):
                raise

    # -- for operators ------------------------------------------------------------------------------------

    def dump(self, prefix: str) -> list[tuple[str, bytes, int | None]]:
        """Return every living key that starts with `prefix`, in order, with its value and its microseconds to live."""
        return listed(self._servers, self._wire, prefix, self.clock)

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return every living key that starts with `prefix`, in order."""
        return [(key, value) for key, value, _ in self.dump(prefix)]

    def some(self, prefix: str, most: int) -> tuple[list[tuple[str, bytes]], bool]:
        """Return so many at most of the values that `scan` would, and whether these are all."""
        return some_listed(self._servers, self._wire, prefix, self.clock, most)

    def scratch(self, clock: ManualClock) -> RedisStore:
        """Return an empty store on the same server, for checks. Closing it removes what it holds."""
        # Its names begin with this store's namespace, since the user may have no rights to any others.
        return _Scratch(
            self._url, namespace=f"{self.namespace}:check-{os.urandom(6).hex()}", timeout=10.0, clock=clock,
            credentials=self._credentials)  # fmt: skip

    def clear(self) -> None:
        """Delete everything in the namespace."""
        cleared(self._servers, self._wire)

    def beside(self, make: bool) -> RedisStore:
        """Return another object for the same names, with connections of its own, for what nobody waits for."""
        return RedisStore(
            self._url, namespace=self.namespace, timeout=1.0, max_connections=2, credentials=self._credentials,
            clock=None if self.clock is None else given_by(self.clock))  # fmt: skip

    def close(self) -> None:
        """Close the connections of threads. The next operation opens new ones."""
        check_process()
        self._line.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and those of threads."""
        check_process()
        loop = asyncio.get_running_loop()
        await asyncio.gather(*[task for task in self._held if task.get_loop() is loop])
        await self._line.aclose()
        self._line.close()


class _Scratch(RedisStore):
    """A store that is removed when it is closed. No request waits for it, so it may be patient."""

    _max_timeout = 10

    def close(self) -> None:
        super().close()
        self.clear()
