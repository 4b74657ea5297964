"""The memory of a fake provider: the requests that it has received. It is bounded."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

_MOST_KEYS = 1000
_MOST_BODY = 4096


class Received(NamedTuple):
    """One request, as it arrived."""

    at: int
    """The provider's time, in microseconds."""
    key: str
    """The credential; empty if there is none."""
    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    """At most the first 4096 bytes."""

    def header(self, name: str) -> str | None:
        """Return the first line of a header field, or `None`."""
        return next((value for key, value in self.headers if key == name.lower()), None)


class Record:
    """A request as it was received, and the status of its answer."""

    def __init__(self, remembers: int) -> None:
        self.hits: Counter[str] = Counter()
        self.requests: deque[Received] = deque(maxlen=remembers)
        self.statuses: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.under_way = 0
        self.most_at_once = 0
        self.left = 0

    def note(self, received: Received) -> None:
        """Remember a request. Keys beyond the first thousand are counted together, as `"..."`."""
        key = received.key if received.key in self.hits or len(self.hits) < _MOST_KEYS else "..."
        self.hits[key] += 1
        self.requests.append(received._replace(body=received.body[:_MOST_BODY]))

    def saw(self, text: str) -> list[str]:
        """Return where a text stood in the remembered requests, such as `"GET /v1/models: authorization"`."""
        return [f"{each.method} {each.path}: {place}" for each in self.requests for place in _places(each, text)]

    def begin(self) -> Callable[[], None]:
        """Count a request as under way; call what is returned at its end."""
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)

        def end() -> None:
            self.under_way -= 1

        return end


def _places(received: Received, text: str) -> list[str]:
    found = [name for name, value in received.headers if text in value or text in name]
    parts = [("path", received.path), ("query", received.query), ("body", received.body.decode("utf-8", "replace"))]
    return found + [name for name, value in parts if text in value]
