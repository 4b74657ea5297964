"""Calls of scripts, and operations that are under way. No I/O: `Rounds` says what to send, and is told the replies."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, TypeAlias

from hiredis import pack_command

from keyguard.errors import StoreError

Reply: TypeAlias = Any
"""What the server answered, or the exception that an error reply means."""


class Call:
    """One call of a script."""

    __slots__ = ("_undo", "args", "keys", "ready", "repeatable", "script")

    def __init__(
        self,
        script: str,
        keys: list[bytes],
        args: list[bytes],
        *,
        repeatable: bool = False,
        undo: Call | None = None,
        ready: bytes | None = None,
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.repeatable = repeatable
        """Whether it may be sent again when its reply was lost: it changes nothing, or carries a token."""
        self.ready = ready
        """The bytes of the command, where they are known already."""
        self._undo = undo

    @property
    def undo(self) -> Call | None:
        """The call that makes it as if it had never been made, nor ever would be; `None` where there is none."""
        return Call("give_back", self.keys, self.args) if self.script == "take" else self._undo

    def packed(self, whole: bool = False) -> bytes:
        """The bytes of the command; `whole` with the script itself, for a server that does not know it."""
        ready = self.ready
        return _pack(self._command(whole)) if ready is None or whole else ready

    def _command(self, whole: bool) -> tuple[bytes, ...]:
        text, digest = script_text(self.script)
        numkeys = b"%d" % len(self.keys)
        if whole:
            return (b"EVAL", text, numkeys, *self.keys, *self.args)
        return (b"EVALSHA", digest, numkeys, *self.keys, *self.args)


_pack: Callable[[Any], bytes] = pack_command


def around(call: Call, place: int) -> tuple[bytes, bytes]:
    """The bytes of a command before and after one of its arguments."""
    after = b"\r\n" + b"".join([b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in call.args[place + 1 :]])
    return call.packed()[: -len(after) - len(call.args[place])], after


Plan: TypeAlias = Generator[list[Call], Any, Any]
"""What an operation sends in one trip, and what it makes of the replies."""


@cache
def script_text(name: str) -> tuple[bytes, bytes]:
    """A script and its digest."""
    folder = files("keyguard.stores.redis") / "lua"
    text = (folder / "limits.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
    return text, sha1(text, usedforsecurity=False).hexdigest().encode()


class Rounds:
    """Some operations under way: `calls` are to be sent in one trip, `feed` takes their replies."""

    __slots__ = ("_plans", "_sizes", "_waiting", "calls", "results")

    def __init__(self, plans: Iterable[Plan]) -> None:
        self._plans = list(plans)
        self.results: list[Any] = [None] * len(self._plans)
        self._waiting = list(range(len(self._plans)))
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
        """Go on with the replies, one for each call. Whether all operations are done. Raises `StoreError`."""
        for reply in replies:
            checked(reply)
        answered, at = [], 0
        for size in self._sizes:
            answered.append(replies[at : at + size])
            at += size
        self._advance(answered)
        return not self._waiting


def checked(reply: Reply) -> Reply:
    """The reply, or `StoreError` where it is an error."""
    if isinstance(reply, Exception):
        raise StoreError(f"Redis: {reply}")
    return reply


def unknown_script(reply: Reply) -> bool:
    """Whether a call did not run because the server does not know the script: it is sent again, with its text."""
    return isinstance(reply, Exception) and ("NOSCRIPT" in str(reply) or "No matching script" in str(reply))
