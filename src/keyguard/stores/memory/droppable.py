"""Values that may be dropped where memory ends, the oldest first: no decision hangs on them.

They stand in *ages* by how long they live, each in the order in which they were written. So the oldest of all is the
first of one of them; and what has lapsed stands before what has not, as far as their lives are of one length.
"""

from __future__ import annotations

from typing import NamedTuple

# Measured: a tuple of three, a bytes object, a str of the key, an int, and two slots of a dict that is on average
# half full, and what the allocator leaves between them. Text and value come on top.
VALUE_COST = 430
_SWEEP_MAX = 32  # values at a time


class _Value(NamedTuple):
    value: bytes
    expiry: int
    written: int
    age: int


class Droppables:
    """The values, by key. All of it runs under the store's lock."""

    def __init__(self) -> None:
        self.values: dict[str, _Value] = {}
        self._ages: dict[int, dict[str, None]] = {}
        self.bytes = 0
        self.dropped = 0
        """How many were dropped since the start before they had lapsed."""

    def items(self) -> list[tuple[str, bytes, int]]:
        """Return each key with its value and its expiry."""
        return [(key, one.value, one.expiry) for key, one in self.values.items()]

    def read(self, key: str, now: int) -> bytes | None:
        found = self.values.get(key)
        return found.value if found is not None and found.expiry > now else None

    def write(self, key: str, value: bytes, expiry: int, now: int) -> None:
        """Set a value, which is the youngest then."""
        self.remove(key)
        age = (expiry - now).bit_length()  # lives of up to twice the length are of one age
        self.values[key] = _Value(value, expiry, now, age)
        self._ages.setdefault(age, {})[key] = None
        self.bytes += _cost(key, value)

    def remove(self, key: str) -> None:
        found = self.values.pop(key, None)
        if found is None:
            return
        self.bytes -= _cost(key, found.value)
        keys = self._ages[found.age]
        del keys[key]
        if not keys:
            del self._ages[found.age]

    def drop(self, bytes: int, now: int) -> None:
        """Drop the oldest, so many bytes of them."""
        left = self.bytes - bytes
        while self.values and self.bytes > left:
            key = min([next(iter(keys)) for keys in self._ages.values()], key=self._written)
            self.dropped += self.values[key].expiry > now
            self.remove(key)

    def sweep(self, now: int) -> None:
        """Let some go that have lapsed."""
        for keys in [*self._ages.values()]:
            for _ in range(min(_SWEEP_MAX, len(keys))):
                key = next(iter(keys))
                if self.values[key].expiry > now:
                    break
                self.remove(key)

    def _written(self, key: str) -> int:
        return self.values[key].written


def _cost(key: str, value: bytes) -> int:
    return VALUE_COST + len(key) + len(value)
