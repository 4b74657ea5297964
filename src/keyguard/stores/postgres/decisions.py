"""Decisions in PostgreSQL: what waits, the transactions under way, and the connections, on one event loop.

Rules:
- Decisions of this process travel together: whoever comes while all turns are taken goes with the next transaction. A
  thousand callers at once need no more connections than ten. The database's clock decides.
- API keys, and the counters of an hour or more, survive a crash of the database; shorter counters are in an unlogged
  table: losing them costs a caller nothing but a fresh start.
- If the connection breaks before the commit was sent, nothing has happened, and the decision is made again. If its fate
  is unknown, a token tells later, and what was charged is given back; what was to be settled is asked for again.
- A server that does not answer is out of order. One that answers others, a key that somebody holds, and a connection
  that takes long to be opened are not: whoever got no turn for that is told so (`StoreBusy`), and was charged nothing.
- The first connection that falls silent condemns those that lie idle. If the server takes no further connection, those
  that are open go on to serve.
- Time is counted in ticks, one in a turn of the event loop at most: among threads that compute this one comes late, and
  that is not the store's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from keyguard.clock import Clock
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import Settle, Taken
from keyguard.stores.postgres.connections import Line, Opener
from keyguard.stores.postgres.failures import (
    NO_ANSWER,
    NO_CONNECTION,
    NO_TURN,
    Way,
    fail_each,
    lost,
    store_error,
    way_on,
)
from keyguard.stores.postgres.loop import Tasks
from keyguard.stores.postgres.queue import Queue
from keyguard.stores.postgres.schema import Statements
from keyguard.stores.postgres.transaction import Asked, Patience, Transaction, charges
from keyguard.stores.postgres.upkeep import Upkeep, Work, done

SLICES = 15
"""Ticks of a time-out."""
_TRIES = 3
_TURNS = 4
"""Transactions at a time that wait for nobody: the server's cores and its disk have something to do meanwhile."""
_HANGING = 10
"""Connections that are being opened for longer than a decision may take; libpq gives each up after two seconds."""
_SLOW = 1.0
"""Seconds for which a connection may be on its way without the server being taken for one that does not answer."""
_FIRST = 0.075
"""Seconds that the first requests of a process may wait longer: names, TLS and a password take trips before theirs."""
_LATER = 1.0
"""Seconds until a server that takes no further connection is asked again."""
_BACK = 1.0
"""Seconds in which what nobody was told of is given back."""


class Decisions:
    """Everything that one process asks of its database. All of it runs on one event loop."""

    def __init__(
        self,
        opener: Opener,
        statements: Statements,
        missing: str,
        *,
        timeout: float,
        max_connections: int,
        clock: Clock | None,
    ) -> None:
        self._opener = opener
        self._sql = statements
        self._missing = missing
        self._timeout = timeout
        self._max_connections = max_connections
        self._clock = clock
        self._max_slow = max_connections // 2
        self._turns = max(1, min(_TURNS, max_connections - self._max_slow))
        self._queue = Queue()
        self._expiring: dict[int, list[Asked]] = {}
        self._idle: list[Line] = []
        self._open = 0
        """Connections that are open: idle and in use."""
        self._opening: dict[asyncio.Task[Line], int] = {}
        """Connections on their way, with the tick at which they were begun."""
        self._asked_again = 0
        """The tick from which a server that takes no further connection is asked for one."""
        self._under_way: set[Transaction] = set()
        self._tasks = Tasks()
        self._upkeep = Upkeep(statements)
        self._keeping = False
        self._ticks = 0
        self._timer: asyncio.TimerHandle | None = None
        self._done = 0
        """Transactions that the server has answered."""
        self._trouble = False
        """Whether the server has not answered since it was last found not to."""
        self._closed = False

    # -- asking -------------------------------------------------------------------------------------------

    def ask(self, asked: Iterable[Asked]) -> None:
        """Make decisions; each is answered within the time-out."""
        ticks = SLICES if self._done or self._trouble else SLICES + self._in_ticks(_FIRST)
        for one in asked:
            self._expect(one, ticks)
        self._go_on()

    def _expect(self, asked: Asked, ticks: int) -> None:
        asked.due, asked.done = self._ticks + ticks, self._done
        self._expiring.setdefault(asked.due, []).append(asked)
        self._queue.put(asked)

    def _give_back(self, late: list[Taken]) -> None:
        for taken in late:  # if that fails, it expires with its window
            self._expect(Asked([Settle(taken)]), SLICES + self._in_ticks(_BACK))

    def _in_ticks(self, seconds: float) -> int:
        return round(seconds / self._timeout * SLICES)

    # -- time ---------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._timer = None
        self._ticks += 1
        for transaction in [*self._under_way]:
            if self._ticks - transaction.began >= SLICES + 2 * bool(transaction.held) and not transaction.cut:
                transaction.cut = True
                transaction.line.cut()
                self._condemn()
        for asked in self._expiring.pop(self._ticks, ()):
            if not asked.future.done():
                self._late(asked)
        if self._opening and self._ticks - min(self._opening.values()) > self._in_ticks(_SLOW):
            self._trouble = True
        if self._queue.holding and not self._may_wait():
            self._queue.retry_held()
        self._go_on()

    def _late(self, asked: Asked) -> None:
        """Answer that it is too late. The reason depends on what the server did meanwhile."""
        on = asked.transaction
        if on is None:
            others = self._done > asked.done or any(other.held for other in self._under_way)
            busy = others or (not self._trouble and bool(self._opening or asked.held or self._queue.holding))
            why = NO_CONNECTION if not self._open else NO_ANSWER
        else:
            busy = bool(on.held) or self._done > on.done or (self._ticks - on.began < SLICES // 2 and not self._trouble)
            why = NO_ANSWER
        if not busy:
            self._trouble = True
        asked.fail(StoreBusy(NO_TURN if self._open else why) if busy else StoreError(why))

    # -- turns --------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Begin what can be begun."""
        while self._idle:
            work = self._next()
            if work is None:
                break
            line = self._idle.pop()
            if isinstance(work, list):
                self._begin(work, line)
            else:
                self._keeping = True
                self._tasks.hold(self._keep(work, line))
        for line in self._idle:
            line.fresh = False
        if self._queue and (not self._idle or self._queue.holding):
            self._open_another()
        if self._queue or self._under_way or self._opening:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._timeout / SLICES, self._tick)
        elif self._timer is not None:
            # Nothing to look after: a thread that wakes while a server written in C forks is a danger to the child.
            self._timer.cancel()
            self._timer = None

    def _next(self) -> list[Asked] | Work | None:
        if self._upkeep.due and not self._keeping and self._open > self._slow:
            return self._upkeep.next()
        if self._may_wait() and (asked := self._queue.next_held()):
            return asked
        if len(self._under_way) - self._slow < self._turns:
            return self._queue.next() or None
        return None

    @property
    def _slow(self) -> int:
        return sum(bool(one.held) for one in self._under_way)

    def _may_wait(self) -> bool:
        """Tell whether a transaction may wait for a key: a connection must be left for those who wait for nobody."""
        slow = self._slow
        return slow < self._max_slow and self._open >= slow + 2

    def _begin(self, asked: list[Asked], line: Line) -> None:
        transaction = Transaction(asked, line, began=self._ticks, done=self._done)
        for one in asked:
            one.transaction = transaction
        self._under_way.add(transaction)
        if not transaction.reading:
            self._queue.busy |= transaction.keys
        self._tasks.hold(self._run(transaction))

    async def _run(self, transaction: Transaction) -> None:
        line = transaction.line
        lock = self._timeout
        if transaction.held:
            left = max(one.due for one in transaction.asked) - self._ticks
            lock = self._timeout / SLICES * max(1, left)
        try:
            await transaction.run(self._sql, Patience(self._timeout, lock), self._clock)
        except Exception as error:
            self._end(transaction)
            self._failed(transaction, error)
        else:
            self._end(transaction)
            line.fresh = False
            self._done += 1
            self._trouble = False
            self._give_back(transaction.tell())
            self._queue.put_back(transaction.left)
            self._upkeep.saw(transaction.now, transaction.written)
        # Meanwhile the store may have been closed: then nobody looks at what lies idle any more.
        if transaction.cut or not await line.free() or self._closed:
            await self._drop(line)
        else:
            self._idle.append(line)
        self._go_on()

    def _end(self, transaction: Transaction) -> None:
        self._under_way.discard(transaction)
        if not transaction.reading:
            self._queue.busy -= transaction.keys
        for one in transaction.asked:
            one.transaction = None

    # -- failures -----------------------------------------------------------------------------------------

    def _failed(self, transaction: Transaction, error: Exception) -> None:
        waiting = transaction.waiting()
        if transaction.unknown:
            charged = [taken for _, results in transaction.results for taken in charges(results)]
            self._upkeep.doubt(transaction.token, charged)
            # A settlement has a token of its own: it is asked for again, also if nobody waits for it any more.
            settling = [asked for asked in transaction.asked if asked.settling and asked.tries < _TRIES]
            waiting = [asked for asked in waiting if asked not in settling]
            for asked in settling:
                self._expect(asked.once_more(), SLICES + self._in_ticks(_BACK))
        if transaction.unknown or lost(transaction, error):
            self._condemn()
        way, told = way_on(transaction, error, self._missing, others=self._done > transaction.done)
        if way is Way.END:
            self._tell(waiting, told)
        elif way is Way.AGAIN:
            self._again(waiting, told)
        else:
            self._queue.put_apart(waiting, held=way is Way.WAITING)

    def _tell(self, waiting: Iterable[Asked], error: Exception) -> None:
        if isinstance(error, StoreError) and not isinstance(error, StoreBusy):
            self._trouble = True
        fail_each(waiting, error)

    def _again(self, waiting: Iterable[Asked], error: Exception) -> None:
        again = []
        for asked in waiting:
            asked.tries += 1
            if asked.tries > _TRIES:
                self._tell([asked], error)
            else:
                again.append(asked)
        self._queue.put_back(again)

    # -- connections --------------------------------------------------------------------------------------

    def _open_another(self) -> None:
        """Open a connection, if it is worth it; nobody waits for it alone."""
        fresh = sum(self._ticks - began < 2 * SLICES for began in self._opening.values())
        if self._closed or fresh or self._open >= self._max_connections or len(self._opening) >= _HANGING:
            return
        if self._open and (self._ticks < self._asked_again or self._open >= self._turns + self._max_slow):
            return
        opening = self._tasks.hold(self._opener.open())
        self._opening[opening] = self._ticks
        opening.add_done_callback(self._opened)

    def _opened(self, opening: asyncio.Task[Line]) -> None:
        del self._opening[opening]
        if opening.cancelled():
            return
        error = opening.exception()
        if error is None:
            if self._closed or self._open >= self._max_connections:
                self._tasks.hold(opening.result().close())
                return
            self._open += 1
            self._idle.append(opening.result())
        elif self._open:  # the server takes no more, say; those that there are go on
            self._asked_again = self._ticks + self._in_ticks(_LATER)
        else:
            self._tell(self._queue.empty(), error if isinstance(error, StoreError) else store_error(error))
        self._go_on()

    def leave(self) -> None:
        """Let go of what a forked child has inherited, but for what was under way: that is kept, and never used."""
        for line in self._idle:
            line.leave()

    async def _drop(self, line: Line) -> None:
        self._open -= 1
        await line.close()

    def _condemn(self) -> None:
        """Drop the connections that lie idle: they were opened to the server of one that broke, or fell silent."""
        idle, self._idle = self._idle, []
        for line in idle:
            self._tasks.hold(self._drop(line))

    # -- what else there is to do -------------------------------------------------------------------------

    async def _keep(self, work: Work, line: Line) -> None:
        """Do something that nobody waits for."""
        if await done(work, line, self._opener, max(1.0, 2 * self._timeout)):
            self._give_back(self._upkeep.take_back())
            self._idle.append(line)
        else:
            await self._drop(line)
        self._keeping = False
        self._go_on()

    async def finish(self) -> None:
        """Close the connections, once everybody has been answered. Work that is under way after that is cut off."""
        while self._queue or self._under_way or self._keeping:
            self._go_on()
            await asyncio.sleep(self._timeout / SLICES)
        self._closed = True
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self._condemn()
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.ended()
