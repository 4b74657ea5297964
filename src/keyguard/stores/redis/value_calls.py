"""The calls about plain values, among them the states of upstream keys."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.clock import Clock
from keyguard.ops import Acquire, Change, Learn
from keyguard.stores.redis.calls import Call
from keyguard.stores.redis.choosing import Asked
from keyguard.stores.redis.demands import packed_change
from keyguard.stores.redis.names import Names
from keyguard.stores.redis.scripts import LESSONS, script_name


class ValueCalls(Names):
    """The names of one store, and its calls about plain values."""

    def __init__(self, namespace: str, clock: Clock | None) -> None:
        super().__init__(namespace)
        self._clock = clock

    def now(self) -> bytes:
        """Return the time that scripts are told; nothing if they ask the server."""
        return b"" if self._clock is None else b"%d" % self._clock()

    def _choosing(self, op: Acquire | Learn) -> Call:
        what = "acquire" if isinstance(op, Acquire) else "learn"
        script = script_name(what, [LESSONS] if op.reports else [])
        return Call(script, [self.value(key) for key in op.keys], [self.now(), *Asked(op).args])

    def _reading(self, keys: Sequence[str]) -> Call:
        places = [self.place(key) for key in keys]
        names, fields = [name for name, _ in places], [field for _, field in places]
        return Call("read", names, [self.now(), *fields], repeatable=True)

    def _swapping(self, keys: Sequence[str], expected: Sequence[bytes | None], changes: Sequence[Change]) -> Call:
        new = {key: packed_change(value, ttl) for key, value, ttl, _ in changes}
        names, args = [], [self.now()]
        for key, value in zip(keys, expected, strict=True):
            name, field = self.place(key)
            names.append(name)
            args += [field, b"" if value is None else b"=" + value, new.get(key, b"")]
        return Call("swap", names, args)
