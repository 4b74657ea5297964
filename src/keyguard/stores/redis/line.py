"""One server: calls in, replies out, over the connections of threads and of each event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from hiredis import pack_command

from keyguard.stores.redis.calls import Call, unknown_script
from keyguard.stores.redis.links import LoopLink, Packed, Reply, ThreadLink
from keyguard.stores.redis.servers import Servers


class Line:
    """The connections to one server. A script that the server does not know is sent along, in a second trip."""

    def __init__(self, servers: Servers, most: int) -> None:
        self._timeout = servers.timeout
        self._servers = servers
        self._threads = ThreadLink(servers.connector(), most, servers.patience)
        self._latest: LoopLink | None = None
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLink] = WeakKeyDictionary()

    def ask(self, calls: Sequence[Call], deadline: float, *, asking: bool = False) -> list[Reply]:
        """The replies to the calls, error replies among them. `asking`: the slot is on its way to this node."""
        replies = self._threads.ask(packed(calls, asking), len(calls), deadline, skip=asking)
        unknown = [place for place, reply in enumerate(replies) if unknown_script(reply)]
        if unknown:
            again = packed([calls[place] for place in unknown], asking, whole=True)
            answers = self._threads.ask(again, len(unknown), deadline, skip=asking)
            for place, answer in zip(unknown, answers, strict=True):
                replies[place] = answer
        return replies

    async def aask(self, calls: Sequence[Call], *, asking: bool = False) -> list[Reply]:
        """The same for an event loop."""
        link = self._link()
        replies = await link.ask(packed(calls, asking), len(calls), skip=asking)
        unknown = [place for place, reply in enumerate(replies) if unknown_script(reply)]
        if unknown:
            again = packed([calls[place] for place in unknown], asking, whole=True)
            for place, answer in zip(unknown, await link.ask(again, len(unknown), skip=asking), strict=True):
                replies[place] = answer
        return replies

    def command(self, deadline: float, *words: bytes) -> Reply:
        """The reply to one plain command."""
        return self._threads.ask([_pack(words)], 1, deadline)[0]

    async def acommand(self, *words: bytes) -> Reply:
        """The same for an event loop."""
        return (await self._link().ask([_pack(words)], 1))[0]

    def _link(self) -> LoopLink:
        loop = asyncio.get_running_loop()
        link = self._latest
        if link is not None and link.loop is loop:  # nearly always: a process has one
            return link
        link = self._latest = self._loops.get(loop)
        if link is None:
            link = self._latest = self._loops[loop] = LoopLink(*self._servers.aconnector(), self._timeout)
        return link

    def drop_idle(self) -> None:
        """Close the connections that nobody uses: of threads, and of the event loop that runs here."""
        self._threads.drop_idle()
        try:
            link = self._loops.get(asyncio.get_running_loop())
        except RuntimeError:
            return
        if link is not None:
            link.drop_idle()

    def close(self) -> None:
        """Close the idle connections of threads."""
        self._threads.drop_idle()

    async def aclose(self) -> None:
        """Close the connections of the event loop that runs here."""
        self._latest = None
        link = self._loops.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.aclose()


_pack: Callable[[Any], bytes] = pack_command


def packed(calls: Sequence[Call], asking: bool, *, whole: bool = False) -> Packed:
    """The bytes of some calls."""
    if not asking:
        return [_pack(call.command(whole)) for call in calls]
    return [_pack((b"ASKING",)) + _pack(call.command(whole)) for call in calls]
