"""One server: calls in, replies out, over the connections of threads and of each event loop.

Calls are done in the order in which they are sent. So if several scripts are called in one trip, those that the
server may not know are sent with their text: else the first might have to be sent again, after the second has run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from hiredis import pack_command

from keyguard.process.event_loops import keep
from keyguard.stores.redis.async_connection import LoopLink
from keyguard.stores.redis.calls import Call, unknown_script
from keyguard.stores.redis.eviction import Eviction
from keyguard.stores.redis.pulse import Pulse
from keyguard.stores.redis.sync_connection import Packed, Reply, ThreadLink
from keyguard.stores.redis.url import Servers

_VALUES = frozenset({"read", "put", "swap"})
"""Scripts that move values. They have a connection of their own, or a large value would hold up decisions."""


class Line:
    """The connections to one server. A script that the server does not know is sent along, in a second trip."""

    def __init__(self, servers: Servers, max_connections: int, eviction: Eviction) -> None:
        self._servers = servers
        self._pulse = Pulse(servers.timeout)
        self._eviction = eviction
        self._known: set[str] = set()
        """Scripts that the server knew when it was last asked."""
        connect, self._forget_sentinels = servers.connector()
        self._threads = ThreadLink(connect, max_connections, self._pulse, eviction)
        self._latest: tuple[LoopLink, LoopLink] | None = None
        self._lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[LoopLink, LoopLink]] = WeakKeyDictionary()
        self._keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = WeakKeyDictionary()
        """Close the connections of a loop that ends."""

    def ask(self, calls: Sequence[Call], deadline: float, *, asking: bool = False) -> list[Reply]:
        """Return the replies to the calls, error replies among them. `asking`: the slot is on its way to this node."""
        alone = calls[0].script in _VALUES
        sent = self._packed(calls, asking)
        replies = self._threads.ask(sent, len(calls), deadline, skip=asking, alone=alone)
        self._learn(calls, replies)
        unknown = [place for place, reply in enumerate(replies) if unknown_script(reply)]
        if unknown:
            again = packed([calls[place] for place in unknown], asking, whole=True)
            answers = self._threads.ask(again, len(unknown), deadline, skip=asking)
            for place, answer in zip(unknown, answers, strict=True):
                replies[place] = answer
        return replies

    def send(self, script: str, packed: bytes) -> asyncio.Future[list[Reply]]:
        """Return the one reply to a call, under an event loop, whatever it is."""
        return self._link(script).ask(packed, 1)

    async def aask(self, calls: Sequence[Call], *, asking: bool = False) -> list[Reply]:
        """Do the same as `ask` for an event loop."""
        replies = await self._asked(calls, asking)
        self._learn(calls, replies)
        unknown = [place for place, reply in enumerate(replies) if unknown_script(reply)]
        if unknown:
            answers = await self._asked([calls[place] for place in unknown], asking, whole=True)
            for place, answer in zip(unknown, answers, strict=True):
                replies[place] = answer
        return replies

    async def _asked(self, calls: Sequence[Call], asking: bool, *, whole: bool = False) -> list[Reply]:
        link = self._link(calls[0].script)
        sent = packed(calls, asking, whole=True) if whole else self._packed(calls, asking)
        replies = await link.ask(b"".join(sent), len(calls) * (1 + asking))
        return replies[1::2] if asking else replies

    def _packed(self, calls: Sequence[Call], asking: bool) -> Packed:
        if len(calls) == 1 or len({call.script for call in calls}) == 1:
            return packed(calls, asking)
        return [part for call in calls for part in packed([call], asking, whole=call.script not in self._known)]

    def _learn(self, calls: Sequence[Call], replies: Sequence[Reply]) -> None:
        if any(unknown_script(reply) for reply in replies):
            self._known.clear()  # it has forgotten all of them
        else:
            self._known.update([call.script for call in calls])

    def command(self, deadline: float, *words: bytes) -> Reply:
        """Return the reply to one plain command."""
        return self._threads.ask([_pack(words)], 1, deadline)[0]

    async def acommand(self, *words: bytes) -> Reply:
        """Do the same for an event loop."""
        return (await self._link("").ask(_pack(words), 1))[0]

    def _link(self, script: str) -> LoopLink:
        loop = asyncio.get_running_loop()
        links = self._latest
        if links is None or links[0].loop is not loop:  # hardly ever: a process has one
            links = self._latest = self._links_of(loop)
        return links[script in _VALUES]

    def _links_of(self, loop: asyncio.AbstractEventLoop) -> tuple[LoopLink, LoopLink]:
        with self._lock:  # loops of other threads come and go too
            links = self._loops.get(loop)
            if links is None:
                # Links hold their loop, so it would never leave the dictionary by itself.
                for ended in [other for other in self._loops if other.is_closed()]:
                    self._loops.pop(ended, None)
                    self._keepers.pop(ended, None)
                links = self._loops[loop] = self._new_links()
                self._keepers[loop] = keep(self._end)
            return links

    def _new_links(self) -> tuple[LoopLink, LoopLink]:
        links = [LoopLink(*self._servers.aconnector(), self._pulse, self._eviction) for _ in range(2)]
        links[0].beside, links[1].beside = links[1], links[0]
        return links[0], links[1]

    def drop_idle(self) -> None:
        """Close the connections that nobody uses: of threads, and of the event loop that runs here."""
        self._threads.drop_idle()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        with self._lock:
            links = self._loops.get(loop, ())
        for link in links:
            link.drop_idle()

    def close(self) -> None:
        """Close the connections of threads; those in use, when they are not any more."""
        self._threads.close()
        self._forget_sentinels()

    async def aclose(self) -> None:
        """Close the connections of the event loop that runs here."""
        keeper = self._keepers.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.aclose()

    async def _end(self) -> None:
        self._latest = None
        loop = asyncio.get_running_loop()
        self._keepers.pop(loop, None)
        with self._lock:
            links = self._loops.pop(loop, ())
        for link in links:
            await link.aclose()


_pack: Callable[[Any], bytes] = pack_command


def packed(calls: Sequence[Call], asking: bool, *, whole: bool = False) -> Packed:
    """Return the bytes of some calls."""
    if not asking:
        return [call.packed(whole) for call in calls]
    return [_pack((b"ASKING",)) + call.packed(whole) for call in calls]
