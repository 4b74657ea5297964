"""The tokens that an answer says it has used, by parsed members alone: what a model has written is never read for it.

Known shapes, in an answer and in the events of a stream:

    {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}        OpenAI, and most others
    {"response": {"usage": {"input_tokens": 9, "output_tokens": 12}}}                   its Responses, at the end
    {"message": {"usage": {"input_tokens": 9, "cache_read_input_tokens": 100}}}         Anthropic, `message_start`
    {"usage": {"output_tokens": 12}}                                                    and `message_delta`, so far
    {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 12}}              Gemini

Of numbers that come several times the greatest counts: where they come more than once, they tell what was used so far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST = 2**32 - 1
"""The greatest number of tokens that is believed: as much as the largest limit."""

_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount")
_OUTPUT = ("completion_tokens", "output_tokens", "candidatesTokenCount")
_MORE = ("cache_creation_input_tokens", "cache_read_input_tokens", "thoughtsTokenCount")
"""The tokens that are in neither of the two before."""
_TOTAL = ("total_tokens", "totalTokenCount")


class Usage:
    """The tokens of one answer, as far as they are known."""

    __slots__ = ("_numbers", "final")

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.final = False
        """Whether they are those of the whole answer, or of all of it so far."""

    def note(self, answer: Mapping[str, Any]) -> None:
        """Take note of an answer, or of an event of one."""
        for told in _told(answer):
            found = {name: value for name in _NAMES if (value := tokens(told.get(name))) is not None}
            for name, value in found.items():
                self._numbers[name] = max(value, self._numbers.get(name, 0))
            if found and answer.get("type") != "message_start":
                self.final = True

    @property
    def known(self) -> bool:
        """Whether anything was told."""
        return bool(self._numbers)

    @property
    def input(self) -> int | None:
        """The tokens of the request, if they were told."""
        return self._sum(*_INPUT, *_MORE) if any(name in self._numbers for name in _INPUT) else None

    @property
    def output(self) -> int:
        """The tokens of the answer, as far as they were told."""
        return self._sum(*_OUTPUT)

    @property
    def total(self) -> int:
        """All tokens. A total that is less than its parts is not believed."""
        return min(MOST, max(self._sum(*_TOTAL), self._sum(*_INPUT, *_OUTPUT, *_MORE)))

    def _sum(self, *names: str) -> int:
        return sum([self._numbers.get(name, 0) for name in names])


_NAMES = (*_INPUT, *_OUTPUT, *_MORE, *_TOTAL)


def tokens(value: object) -> int | None:
    """Return a number of tokens; `None` for what is none: a negative one, one that is not whole or far too large."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    return None


def _told(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (answer, answer.get("response"), answer.get("message")):
        if isinstance(holder, Mapping):
            for name in ("usage", "usageMetadata"):
                told = holder.get(name)
                if isinstance(told, Mapping):
                    yield told
