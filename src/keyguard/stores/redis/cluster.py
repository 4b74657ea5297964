"""A cluster: each call goes to the node that holds its slot.

Rules:
- A node that sends a call elsewhere (MOVED, ASK) has not run it, so it is sent on.
- A node that fails is left alone for a moment; callers whose counters live on other nodes do not notice.
- Where the slots are is learned from any node that answers, and again after a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from redis.crc import key_slot

from keyguard.clock import monotonic, pause
from keyguard.errors import StoreBusy, StoreError
from keyguard.stores.redis.calls import Call
from keyguard.stores.redis.node import Line
from keyguard.stores.redis.pulse import Lost, TimedOut
from keyguard.stores.redis.sync_connection import Reply
from keyguard.stores.redis.url import Servers

Address: TypeAlias = tuple[str, int]

_REST = 0.5  # seconds for which a node that failed is left alone
_HOPS = 4
_PAUSE = 0.01  # seconds, while a slot is on its way and its keys are in two places


class NodeError(StoreError):
    """One node of a cluster could not answer; the others can."""

    partial = True


class Cluster:
    """The nodes of a cluster, each a `Line`."""

    def __init__(self, servers: Servers, line: Callable[[Servers], Line]) -> None:
        self._servers = servers
        self._line = line
        self._lines: dict[Address, Line] = {}
        self._slots: dict[int, Address] = {}
        self._nodes: frozenset[Address] = frozenset()
        """Those that hold slots."""
        self._resting: dict[Address, float] = {}
        self._learned = -_REST
        self._stale = True
        self._why = ""
        """The last node's answer, if it did not say where the slots are."""

    # -- where the slots are ------------------------------------------------------------------------------

    def _at(self, address: Address) -> Line:
        line = self._lines.get(address)
        if line is None:  # of several threads that come at once, one makes it
            line = self._lines.setdefault(address, self._line(self._servers.node(*address)))
        return line

    def _to_ask(self) -> list[Address]:
        """Return nodes that may know the slots, those that rest last; none if they are known, or it is too early."""
        now = monotonic()
        if not self._stale or (self._slots and now < self._learned + _REST / 2):
            return []
        self._learned = now
        nodes = [*dict.fromkeys([*self._slots.values(), *self._servers.seeds])]
        return sorted(nodes, key=lambda address: self._resting.get(address, 0.0))[:3]

    def _learn(self, deadline: float) -> None:
        for address in self._to_ask():
            try:
                if self._understand(self._at(address).command(deadline, b"CLUSTER", b"SLOTS"), address):
                    return
            except StoreBusy:
                self._learned = -_REST  # it may be asked again at once
                raise
            except StoreError as error:
                self._resting[address] = monotonic() + _REST
                self._why = str(error).removeprefix("Redis: ")

    async def _alearn(self, deadline: float) -> None:
        for address in self._to_ask():
            try:
                if self._understand(await self._at(address).acommand(b"CLUSTER", b"SLOTS"), address):
                    return
            except StoreBusy:
                self._learned = -_REST
                raise
            except StoreError as error:
                self._resting[address] = monotonic() + _REST
                self._why = str(error).removeprefix("Redis: ")
            if monotonic() >= deadline:
                return

    def _understand(self, reply: Reply, asked: Address) -> bool:
        if not isinstance(reply, list) or not reply:
            self._why = str(reply or "it has no slots")
            return False
        slots: dict[int, Address] = {}
        for first, last, primary, *_ in reply:
            address = ((primary[0] or b"").decode() or asked[0], int(primary[1]))
            slots.update(dict.fromkeys(range(first, last + 1), address))
        self._slots, self._stale = slots, False
        self._nodes = frozenset(slots.values())
        return True

    def _all_rest(self) -> bool:
        """Tell whether no node is left: then it concerns all keys, and not some."""
        now = monotonic()
        return all(now < self._resting.get(address, 0.0) for address in self._nodes)

    def _route(self, calls: Sequence[Call]) -> dict[Address, list[int]]:
        """Return the places of the calls, by the node that they go to. Raise `NodeError` if there is none."""
        routes: dict[Address, list[int]] = {}
        now = monotonic()
        for place, call in enumerate(calls):
            slot = key_slot(call.keys[0]) if call.keys else next(iter(self._slots), -1)
            address = self._slots.get(slot)
            if not self._slots:
                raise StoreError(f"Redis: no node of the cluster answers ({self._why})")
            if address is None:
                self._stale = True
                raise NodeError("Redis: no node of the cluster is known to hold the slot")
            if now < self._resting.get(address, 0.0):
                self._stale = True
                if self._all_rest():
                    raise StoreError("Redis: no node of the cluster answers")
                raise NodeError(f"Redis: node {address[0]}:{address[1]} failed a moment ago")
            routes.setdefault(address, []).append(place)
        return routes

    def _failed(self, address: Address, error: StoreError) -> StoreError:
        if isinstance(error, StoreBusy):
            return error  # it says nothing about the node
        if not isinstance(error, Lost):  # a connection that breaks may be an old one: the next one tells
            self._resting[address] = monotonic() + _REST
        self._stale = True
        self._at(address).drop_idle()
        partial = not self._all_rest()
        if isinstance(error, (Lost, TimedOut)):
            error.partial = partial
            return error
        words = f"Redis: node {address[0]}:{address[1]}: {str(error).removeprefix('Redis: ')}"
        return NodeError(words) if partial else StoreError(words)

    def _redirected(self, calls: Sequence[Call], replies: list[Reply]) -> list[tuple[int, Address | None, bool]]:
        """Return calls that did not run: `(place, where they should go, on the way)`; without an address: later."""
        found: list[tuple[int, Address | None, bool]] = []
        for place, reply in enumerate(replies):
            if not isinstance(reply, Exception):
                continue
            words = str(reply).split()
            # redis-py takes the first word of an error that it knows away.
            kind = type(reply).__name__.removesuffix("Error").upper()
            if kind in ("MOVED", "ASK"):
                host, _, port = words[-1].rpartition(":")
                address = (host or self._servers.seeds[0][0], int(port))
                found.append((place, address, kind == "ASK"))
                if kind == "MOVED":
                    self._slots[int(words[-2])] = address
                    self._stale = True
            elif kind == "TRYAGAIN":
                found.append((place, None, False))
        return found

    # -- asking -------------------------------------------------------------------------------------------

    def ask(self, calls: Sequence[Call], deadline: float) -> list[Reply]:
        """Return the replies to the calls, from the nodes that hold their slots."""
        self._learn(deadline)
        replies: list[Reply] = [None] * len(calls)
        for address, places in self._route(calls).items():
            try:
                answers = self._at(address).ask([calls[place] for place in places], deadline)
            except StoreError as error:
                raise self._failed(address, error) from error
            for place, answer in zip(places, answers, strict=True):
                replies[place] = answer
        for _ in range(_HOPS):
            redirected = self._redirected(calls, replies)
            if not redirected or monotonic() + _PAUSE >= deadline:
                break
            for place, new, on_the_way in redirected:
                if new is None:
                    pause(_PAUSE)
                    new = self._slots[key_slot(calls[place].keys[0])]
                try:
                    (replies[place],) = self._at(new).ask([calls[place]], deadline, asking=on_the_way)
                except StoreError as error:
                    raise self._failed(new, error) from error
        return _unhurt(replies)

    async def aask(self, calls: Sequence[Call]) -> list[Reply]:
        """Do the same for an event loop; the nodes are asked side by side."""
        # No time-out around it all: a loop that is busy would cut off replies that are there. Each connection has one.
        deadline = monotonic() + self._servers.timeout
        await self._alearn(deadline)
        routes = self._route(calls)
        replies: list[Reply] = [None] * len(calls)

        async def one(address: Address, places: list[int], asking: bool = False) -> None:
            try:
                answers = await self._at(address).aask([calls[place] for place in places], asking=asking)
            except StoreError as error:
                raise self._failed(address, error) from error
            for place, answer in zip(places, answers, strict=True):
                replies[place] = answer

        if len(routes) == 1:
            ((address, places),) = routes.items()
            await one(address, places)
        else:
            _raise_first(await asyncio.gather(*[one(*route) for route in routes.items()], return_exceptions=True))
        for _ in range(_HOPS):
            redirected = self._redirected(calls, replies)
            if not redirected or monotonic() >= deadline:
                break
            for place, new, on_the_way in redirected:
                if new is None:
                    await asyncio.sleep(_PAUSE)
                    new = self._slots[key_slot(calls[place].keys[0])]
                await one(new, [place], on_the_way)
        return _unhurt(replies)

    # -- the connections ----------------------------------------------------------------------------------

    def drop_idle(self) -> None:
        """Nothing: a node's connections are closed when it fails."""

    def close(self) -> None:
        """Close the idle connections of threads."""
        for line in list(self._lines.values()):
            line.close()

    async def aclose(self) -> None:
        """Close the connections of the event loop that runs here."""
        for line in list(self._lines.values()):
            await line.aclose()


def _raise_first(results: Sequence[Any]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _unhurt(replies: list[Reply]) -> list[Reply]:
    """Return replies as they are; a node that cannot serve a slot at the moment makes an error of some keys only."""
    for reply in replies:
        if isinstance(reply, Exception) and type(reply).__name__ in ("TryAgainError", "ClusterDownError", "AskError"):
            if str(reply).endswith("cluster is down"):  # it serves no slot at all
                raise StoreError(f"Redis: {reply}")
            raise NodeError(f"Redis: {reply}")
    return replies
