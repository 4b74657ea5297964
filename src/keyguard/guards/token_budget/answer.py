"""Answers of a model on their way: what they say they have cost, and how much of them there was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from keyguard.guards.token_budget.events import Events, Lines
from keyguard.guards.token_budget.usage import Usage
from keyguard.response import Headers

CHARACTERS = 4
"""Characters of a token, where nobody has counted."""
_TAIL = 16 * 1024
"""Bytes at the end of a long answer in which its usage is looked for."""
_USAGE = re.compile(r'"usage"\s*:\s*(?=\{)')
_DEEPEST = 6
_NOT_TEXT = frozenset({"role", "id", "type", "name", "index", "object", "signature"})


class Answer:
    """The body of an answer. It goes on as it came, but for one event that is held back if it `hides` that."""

    def __init__(self, headers: Headers, *, hides: bool, most: int) -> None:
        media = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        plain = (headers.get("content-encoding") or "identity").strip().lower() == "identity"
        self.usage = Usage()
        self.characters = 0
        """Those that the model has written, as far as they were seen."""
        self.readable = plain and (media.startswith("text/") or _is_json(media) or _is_lines(media))
        """Whether that can be told at all."""
        self.failed = False
        """Whether a stream has told of an error."""
        self.raw = False
        """Whether some data of a stream are not JSON: the model has written them, and so it may have written others."""
        self._most = most
        self._parts: list[bytes] = []
        self._size = 0
        self._tail = b""
        self._json = plain and _is_json(media)
        self._events = None
        if plain and media == "text/event-stream":
            self._events = Events(self._read, self._unread, hides=hides)
        self._lines = Lines() if plain and _is_lines(media) else None

    @property
    def tokens(self) -> int:
        """The tokens that the answer has, reckoned by what was seen of it."""
        return -(-self.characters // CHARACTERS)

    def feed(self, part: bytes, *, last: bool) -> bytes:
        """Return what goes on of a part."""
        if self._events is not None:
            return self._events.feed(part, last=last)
        if self._lines is not None:
            for line, whole in self._lines.feed(part, last=last):
                if whole:
                    self._read(line)
                else:
                    self._unread(len(line))
        elif self._json:
            self._keep(part)
        else:
            self.characters += len(part)
        return part

    # -- streams ----------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> bool:
        """Read the data of an event. Return whether it only tells of usage."""
        if not data.lstrip().startswith(b"{"):
            if data.strip() != b"[DONE]":
                self._note_raw(data)
            return False
        event = _parsed(data)
        if event is None:
            self._note_raw(data)
            return False
        self.usage.note(event)
        self.characters += _written(event)
        self.failed = self.failed or isinstance(event.get("error"), (dict, str))
        return event.get("choices") == [] and isinstance(event.get("usage"), dict)

    def _note_raw(self, data: bytes) -> None:
        self.raw = True
        self._unread(len(data))

    def _unread(self, size: int) -> None:
        self.characters += size

    # -- one object -------------------------------------------------------------------------------------------

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._most:
            self._parts.append(part)
        else:
            self._tail = (b"".join([*self._parts, self._tail, part]) if self._parts else self._tail + part)[-_TAIL:]
            self._parts = []

    def end(self) -> None:
        """Read what can be read only as a whole. Called once, when no more comes."""
        if not self._json:
            return
        if self._size > self._most:
            self.readable = False
            told = _usage_in(self._tail.decode("utf-8", "replace"))
            self.usage.note({} if told is None else {"usage": told})
            return
        answer = _parsed(b"".join(self._parts))
        self._parts = []
        self.characters = self._size if answer is None else _letters(answer)
        if answer is not None:
            self.usage.note(answer)


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _usage_in(text: str) -> Mapping[str, Any] | None:
    """Return the last member `usage` of an answer that is not whole. In a text of the model its quotes are escaped."""
    found = None
    for place in _USAGE.finditer(text):
        if text[place.start() - 1 : place.start()] != "\\":
            try:
                found = json.JSONDecoder().raw_decode(text, place.end())[0]
            except (ValueError, RecursionError):
                continue
    return found


def _is_json(media: str) -> bool:
    return media == "application/json" or media.endswith("+json")


def _is_lines(media: str) -> bool:
    return media in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")


def _written(event: Mapping[str, Any]) -> int:
    """Return the number of characters that a model has written in an event."""
    written = _letters(event.get("delta"))
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            written += sum([_letters(choice.get(name)) for name in ("delta", "text", "message")])
    return written


def _letters(value: Any, depth: int = 0) -> int:
    if isinstance(value, str):
        return len(value)
    if depth > _DEEPEST:
        return 0
    if isinstance(value, dict):
        return sum([_letters(one, depth + 1) for name, one in value.items() if name not in _NOT_TEXT])
    return sum([_letters(one, depth + 1) for one in value]) if isinstance(value, list) else 0
