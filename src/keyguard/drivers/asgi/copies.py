"""Copies of a body while it is sent under ASGI, and whether it is known to be whole at its end.

An app that fails after its head, or whose client has left, should not end its body. But what stands around it may: the
middleware that Starlette makes of a function sends a last message when the stream of the app inside has broken off,
and raises its error after that, or not at all if the client has left. So a last message is believed if

- nobody was told before it that the client has gone, by `receive` or by an error of `send`,
- it is not sent while an error is being handled that came after the head, nor by what has been cancelled,
- the app then returns without an error,
- and no error was kept back on the way: every call that the body came through has returned, as its frame shows; and
  no layer of our own further in has seen the app fail.

A body that is as long as its `Content-Length` says is whole without the last two.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from opcode import opmap
from types import FrameType
from typing import Any

from keyguard.drivers.bodies import feed
from keyguard.drivers.interpreter import Engine
from keyguard.flow import Flow
from keyguard.logs import logger
from keyguard.process.event_loops import is_stopped
from keyguard.request import CarriedRequest
from keyguard.response import Tee

log = logger("keyguard")

_OURS = "keyguard."
_RETURNS = frozenset(opmap[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in opmap)

Finish = Callable[[Engine, Flow[Any], Any], Awaitable[None]]
"""Drives a flow to its end, given its first stop."""


def _calls(frame: FrameType | None) -> set[FrameType]:
    """The calls that are going on, from a frame outwards. Our own are left out: they fail as others have failed."""
    found = set()
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith(_OURS):
            found.add(frame)
        frame = frame.f_back
    return found


def _failed(calls: Iterable[FrameType]) -> bool:
    """Whether some of these calls are over and have not returned: the last that a frame did tells."""
    open_ = [call for call in calls if call.f_code.co_code[call.f_lasti] not in _RETURNS]
    if not open_:
        return False
    going_on = set().union(*[_calls(frame) for frame in sys._current_frames().values()])
    return not going_on.issuperset(open_)


class Copies:
    """The copies of one body."""

    __slots__ = ("calls", "engine", "handled", "messages", "request", "tees")

    def __init__(self, engine: Engine, request: CarriedRequest, tees: list[Tee]) -> None:
        self.engine = engine
        self.request = request
        self.tees = tees
        self.messages = 0
        self.calls: set[FrameType] | None = None
        """The calls that the body came through; `None` if its length tells all."""
        self.handled = sys.exc_info()[1]
        """The error that was being handled when the body began: an error page is sent in the midst of that."""
        if any(tee.length is None for tee in tees):
            self.calls = _calls(sys._getframe(1))

    def note(self, *, last: bool) -> None:
        """Find out who sends a part of the body. Called in the midst of that call."""
        self.messages += 1
        if self.calls is None or not (last or self.messages == 1):
            return  # whoever sends the first part sends the others as well
        self.calls |= _calls(sys._getframe(1))
        handled = sys.exc_info()[1]
        if (handled is not None and handled is not self.handled) or is_stopped():
            self.request.state.broken = True
        if self.request.state.broken:
            self.left()

    async def feed(self, part: bytes, finish: Finish, *, last: bool) -> None:
        """Give a part of the body to the copies, before it leaves."""
        for flow in feed(self.tees, part, last=last, sure=False):
            await self._run(flow, finish)

    async def returned(self, finish: Finish) -> None:
        """Note that the app has returned, and not failed."""
        if self.request.state.broken or (self.calls and _failed(self.calls)):
            self.left()
        self.calls = None  # frames keep all that they hold
        for tee in self.tees:
            flow = tee.returned()
            if flow is not None:
                await self._run(flow, finish)

    async def _run(self, flow: Flow[None], finish: Finish) -> None:
        try:
            await finish(self.engine, flow, self.engine.advance(flow, request=self.request))
        except Exception:
            log.exception("what a copy of the body was for failed")

    def left(self) -> None:
        """Note that the client has gone, or that the app has failed."""
        self.close("its client left or the app failed before it was whole")

    def close(self, why: str) -> None:
        """Note that nothing more comes, or nothing that is of use."""
        self.calls = None
        for tee in self.tees:
            tee.close(why)
