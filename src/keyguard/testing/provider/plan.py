"""The plan of one answer: a head, pieces of content, and what happens in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from typing import TypeAlias

from keyguard.testing.provider.scripted import Answer, Reset, Stall

Piece: TypeAlias = bytes | Stall | Reset


@dataclass(frozen=True)
class Plan:
    """One response, before it is sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    pieces: tuple[Piece, ...]
    before: Stall | Reset | None = None
    """The step before the head is sent."""
    preamble: int = 0
    """The number of pieces that come before the content."""

    @classmethod
    def of_answer(cls, answer: Answer, more: dict[str, str] | None = None) -> Plan:
        """Return that of a whole response, with more fields. Its body is sent in two pieces."""
        headers, body = answer.encoded()
        told = {**(more or {}), **dict(headers)}
        told.setdefault("content-length", str(len(body)))
        half = -(-len(body) // 2)
        return cls(answer.status, tuple(told.items()), (body[:half], body[half:]))

    @classmethod
    def of_stream(cls, events: list[bytes], preamble: int, more: dict[str, str]) -> Plan:
        """Return that of a stream of events."""
        told = {**more, "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"}
        return cls(200, tuple(told.items()), tuple(events), preamble=preamble)

    def dated(self, now: datetime) -> Plan:
        """Return it with the field `Date` of the provider's own clock, by which moments in other fields are read."""
        if any(name == "date" for name, _ in self.headers):
            return self
        return replace(self, headers=(*self.headers, ("date", format_datetime(now, usegmt=True))))

    def disturbed(self, by: Stall | Reset) -> Plan:
        """Return it with something that happens on the way."""
        if by.after is None:
            return replace(self, before=by)
        place = self.place_after(by.after)
        return replace(self, pieces=(*self.pieces[:place], by, *self.pieces[place:]))

    def broken_off(self, error: bytes, after: int) -> Plan:
        """Return a stream that ends with an error after so many pieces of content; with none, it is all there is."""
        return replace(self, pieces=(*self.pieces[: self.place_after(after)], error))

    def place_after(self, content: int) -> int:
        """Return how many pieces that are, with the preamble if there is content at all."""
        return self.preamble + content if content else 0
