"""Where things are on a server, with `ns` for the namespace:

    ns:c:{bucket}        a hash of one caller's counters, a field for each pool; the field `!` has the tokens of its
                         last decisions: what makes each happen exactly once
    ns:v:{pool}|bucket   a plain value, an API key's record above all; those of a pool share a slot, so that a change
                         of two records is one transaction on a cluster too

The braces are the hash tag of a cluster: counters of one caller live on one node. An entry is its expiry (eight bytes,
microseconds, 0 for never) and the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from keyguard.ops import is_counter

_GLOB = re.compile(r"[*?\[\]\\^]")
_ESCAPED = r"\\\g<0>"


class Names:
    """The names of one store's keys on the server."""

    def __init__(self, namespace: str) -> None:
        self._counters = f"{namespace}:c:"
        self._values = f"{namespace}:v:"
        self.pattern = f"{namespace}:[cv]:*"
        self.values = f"{namespace}:v:*"
        """Matches the names of plain values: counters are many more."""

    def counter(self, key: str) -> tuple[bytes, bytes]:
        """Return the hash of a counter, and its field."""
        pool, _, bucket = key.partition("|")
        return _bytes(f"{self._counters}{_tag(bucket)}"), _bytes(pool)

    def value(self, key: str) -> bytes:
        """Return the name of a plain value."""
        pool, bar, bucket = key.partition("|")
        return _bytes(f"{self._values}{_tag(pool)}{bar}{bucket}")

    def pattern_of(self, prefix: str) -> bytes:
        """Return a pattern for the names of all keys that begin so, and of few others."""
        if not prefix or is_counter(prefix):
            return _bytes(self.pattern)
        pool, bar, rest = prefix.partition("|")
        if not bar and pool[:1] in (".", "}"):
            return _bytes(self.values)
        begin = f"{_tag(pool)}|{rest}" if bar else f"{{{pool}"
        return _bytes(f"{_GLOB.sub(_ESCAPED, self._values + begin)}*")

    def place(self, key: str) -> tuple[bytes, bytes]:
        """Return the name of a key and its field; the field is empty if it is not a counter."""
        return self.counter(key) if is_counter(key) else (self.value(key), b"")

    def keys_of(self, name: bytes, fields: Iterable[bytes]) -> list[str]:
        """Return the keys that stand under a name that the server listed."""
        text = name.decode("utf-8", "surrogatepass")
        if text.startswith(self._counters):
            bucket = _untagged(text[len(self._counters) :])
            return [f"{field.decode('utf-8', 'surrogatepass')}|{bucket}" for field in fields if field != b"!"]
        pool, closed, rest = text[len(self._values) :].partition("}")
        while closed and rest[:1] not in ("|", ""):  # a brace in the pool's own name
            more, closed, rest = rest.partition("}")
            pool += "}" + more
        return [_untagged(pool + "}") + rest]

    def is_hash(self, name: bytes) -> bool:
        """Tell whether counters stand under this name."""
        return name.startswith(self._counters.encode())


def _tag(text: str) -> str:
    """Return a hash tag. The dot keeps it from being empty, which would mean that there is none."""
    return f"{{.{text}}}" if text[:1] in ("", ".", "}") else f"{{{text}}}"


def _untagged(tag: str) -> str:
    text = tag[1:-1]
    return text[1:] if text[:1] == "." else text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
