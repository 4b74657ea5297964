"""Calls of scripts, and operations that are under way. No I/O: `Rounds` says what to send, and is told the replies."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, TypeAlias

from hiredis import pack_command

from keyguard.clock import SECOND, monotonic
from keyguard.errors import StoreBusy, StoreError
from keyguard.ops import REMEMBERED
from keyguard.stores.redis.demands import Packed, other_time
from keyguard.stores.redis.scripts import script_name, script_text

Reply: TypeAlias = Any
"""The server's answer, or the exception that an error reply means."""


class Call:
    """One call of a script."""

    __slots__ = ("_undo", "args", "keys", "repeatable", "script")

    def __init__(
        self,
        script: str,
        keys: list[bytes],
        args: list[bytes],
        *,
        repeatable: bool = False,
        undo: Call | None = None,
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.repeatable = repeatable
        """Whether it may be sent again when its reply was lost: it changes nothing, or carries a token."""
        self._undo = undo

    @property
    def sequel(self) -> Call | None:
        """The call to be made later if its reply was lost; `None` if there is none.

        For a decision it is the call that makes it as if it had never been made, nor ever would be.
        """
        return self._undo

    def packed(self, whole: bool = False) -> bytes:
        """Return the bytes of the command; `whole` with the script itself, for a server that does not know it."""
        text, digest = script_text(self.script)
        numkeys = b"%d" % len(self.keys)
        if whole:
            return _pack((b"EVAL", text, numkeys, *self.keys, *self.args))
        return _pack((b"EVALSHA", digest, numkeys, *self.keys, *self.args))


_pack: Callable[[Any], bytes] = pack_command


class TakeForm:
    """The common part of all calls that take the same from one caller: everything but a token."""

    __slots__ = ("_after", "_before", "demands", "keys", "owner", "script", "steady")

    def __init__(self, owner: object, demands: Packed, *, steady: bool) -> None:
        self.owner = owner
        """The store whose names these are: an operation may meet several."""
        self.steady = steady
        """Whether its numbers are the same at all times."""
        self.demands = demands
        self.keys = demands.keys
        self.script = script_name("take", demands.kinds)
        packed = Call(self.script, self.keys, self.args(b"", bytes(8))).packed()
        self._after = b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(field), field) for field in demands.fields])
        self._before = packed[: -len(self._after) - 8]

    def args(self, now: bytes, token: bytes) -> list[bytes]:
        return [now, self.demands.blob, token, *self.demands.fields]

    def packed(self, now: bytes, token: bytes) -> bytes:
        """Return the bytes of the command."""
        if now:  # else the server has a time of its own
            return Call(self.script, self.keys, self.args(now, token)).packed()
        return b"%b%b%b" % (self._before, token, self._after)


class TakeCall(Call):
    """A call that takes from the limits of one caller. Its words are put together only if it must be undone."""

    __slots__ = ("form", "now", "token")

    def __init__(self, form: TakeForm, now: bytes, token: bytes) -> None:
        self.script = form.script
        self.keys = form.keys
        self.repeatable = True
        self.form = form
        self.now = now
        self.token = token

    @property
    def sequel(self) -> Call:
        name = script_name("settle", self.form.demands.kinds)
        return Call(name, self.form.keys, self.form.args(self.now, self.token))

    def packed(self, whole: bool = False) -> bytes:
        if whole:
            return Call(self.script, self.form.keys, self.form.args(self.now, self.token)).packed(whole)
        return self.form.packed(self.now, self.token)


class SettleCall(Call):
    """A call that settles what was taken. It is made again until it is answered, for as long as its token is known."""

    __slots__ = ("_anew", "until")

    def __init__(self, script: str, keys: list[bytes], args: list[bytes], anew: Callable[..., SettleCall]) -> None:
        super().__init__(script, keys, args, repeatable=True)
        self._anew = anew
        """Makes the call for a time of the server's."""
        self.until = monotonic() + REMEMBERED / SECOND - 1  # rather too early: later it could happen twice

    @property
    def sequel(self) -> Call | None:
        return self if monotonic() < self.until else None

    @staticmethod
    def of_other_times(calls: Sequence[Call], replies: Sequence[Reply]) -> list[Call]:
        """Return what is to be asked for once more, since a period has begun or ended meanwhile."""
        again: list[Call] = []
        for call, reply in zip(calls, replies, strict=True):
            at = other_time(reply)
            if at is not None and isinstance(call, SettleCall):
                anew = call._anew(now=at)
                anew.until = call.until
                again.append(anew)
        return again


Plan: TypeAlias = Generator[list[Call], Any, Any]
"""The calls that an operation sends in one trip, and what it makes of the replies."""


class Rounds:
    """Some operations under way: `calls` are to be sent in one trip, `feed` takes their replies."""

    __slots__ = ("_plans", "_sizes", "_waiting", "calls", "results", "trips")

    def __init__(self, plans: Iterable[Plan]) -> None:
        self._plans = list(plans)
        self.results: list[Any] = [None] * len(self._plans)
        self._waiting = list(range(len(self._plans)))
        self.trips = 0
        self._advance([None] * len(self._plans))

    def _advance(self, replies: Sequence[list[Reply] | None]) -> None:
        """Send each plan its replies, and collect what it wants to send next."""
        calls: list[Call] = []
        waiting, sizes = [], []
        for place, answered in zip(self._waiting, replies, strict=True):
            try:
                wanted = self._plans[place].send(answered)
            except StopIteration as stop:
                self.results[place] = stop.value
                continue
            calls += wanted
            waiting.append(place)
            sizes.append(len(wanted))
        self.calls, self._waiting, self._sizes = calls, waiting, sizes

    def feed(self, replies: list[Reply]) -> bool:
        """Go on with the replies, one for each call. Returns whether all operations are done. Raises `StoreError`."""
        self.trips += 1
        for reply in replies:
            checked(reply)
        answered, at = [], 0
        for size in self._sizes:
            answered.append(replies[at : at + size])
            at += size
        self._advance(answered)
        return not self._waiting

    def check_time(self, deadline: float) -> None:
        """Raise `StoreBusy` if there is no time for what is still to be sent, though all was answered so far."""
        if self.trips > 1 and self.calls and monotonic() > deadline:
            raise StoreBusy("Redis: a key is being changed by others all the time")


def checked(reply: Reply) -> Reply:
    """Return the reply, or raise `StoreError` if it is an error."""
    if isinstance(reply, Exception):
        error = StoreError(f"Redis: {reply}")
        error.partial = _about_a_value(str(reply))
        raise error
    return reply


_OF_THE_SERVER = ("OOM", "READONLY", "MISCONF", "MASTERDOWN", "LOADING", "NOREPLICAS", "BUSY", "CLUSTERDOWN")
"""A script that may not write stumbles as well, and says why."""


def _about_a_value(words: str) -> bool:
    """Tell whether an error is about one key: a value of another type, or one that a script of ours cannot read."""
    if any(said in words for said in _OF_THE_SERVER):
        return False
    return words.startswith(("WRONGTYPE", "user_script:", "ERR Error running script"))


def unknown_script(reply: Reply) -> bool:
    """Tell whether a call did not run because the server does not know the script: it is sent again, with its text."""
    return isinstance(reply, Exception) and ("NOSCRIPT" in str(reply) or "No matching script" in str(reply))
