"""How large a request is, and what an answer cost: the units that a pool books before it sends, and settles afterwards.

Bodies may have megabytes: what is longer than `MOST` is not parsed. Nothing here raises, whatever a body holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from keyguard.upstream import members
from keyguard.upstream.profiles.profile import Profile, Sizes

MOST = 1024 * 1024
"""Bytes of a body that are parsed."""

_HEAD = 64 * 1024  # bytes of a longer body in which its model is looked for
_TOKEN = 4  # characters of a token: the rule of thumb that providers give for English
_MEDIA = 1000  # tokens of a picture or a file, whatever its length: base64 is no text
_MOST_UNREAD = 100_000  # tokens of a body that is not parsed; what is that long is mostly pictures
_LONGEST_MODEL = 256
_MOST_TOKENS = 2**31
_MOST_VALUES = 100_000  # values of a body that are looked at


class Size(NamedTuple):
    """The wishes of a request."""

    model: str
    """The model; empty if the request names none."""
    cost: dict[str, int]
    """The units that it takes of limits, by unit; an estimate, but for `requests`."""


def size_of(profile: Profile, path: str, body: bytes | None) -> Size:
    """Estimate a request by its path, without the query, and its body, decoded; `None` if the body is not at hand."""
    sizes = profile.sizes
    model = _model_in_path(sizes, path)
    cost = {"requests": 1}
    if not body:
        return Size(model, cost)
    if len(body) > MOST:
        named = members.value(members.parsed(body[:_HEAD]), sizes.model_member)
        return Size(
            (model or named or "")[:_LONGEST_MODEL], cost | _cost(sizes, min(_MOST_UNREAD, len(body) // _TOKEN), 0)
        )
    found = members.parsed(body)
    if not isinstance(found, dict):
        return Size(model, cost)
    read = sum(_tokens(found.get(name)) for name in sizes.inputs)
    written = max((_number(members.value(found, name)) or 0 for name in sizes.outputs), default=0)
    model = model or members.value(found, sizes.model_member) or ""
    return Size(model[:_LONGEST_MODEL], cost | (_cost(sizes, read, written) if read or written else {}))


def used(profile: Profile, body: bytes | str) -> dict[str, int]:
    """Return what an answer's body, or the data of one event of its stream, tells of the tokens that were used.

    Empty if it tells nothing. Of a stream, each event's units replace those of the ones before: `sum |= used(...)`.
    """
    sizes = profile.sizes
    if sizes.counts == "requests" or len(body) > MOST:
        return {}
    found = members.parsed(body)
    found = found[-1] if isinstance(found, list) and found else found  # a stream as one list: its last part has the sum
    for path in sizes.usage:
        usage = members.child(found, path)
        if isinstance(usage, dict):
            return _used(sizes, usage)
    return {}


def _used(sizes: Sizes, usage: dict[str, Any]) -> dict[str, int]:
    told: dict[str, int] = {}
    for unit, names in (("input_tokens", sizes.used_input), ("output_tokens", sizes.used_output)):
        numbers = [number for name in names if (number := _believed(members.value(usage, name))) is not None]
        if numbers:
            told[unit] = min(_MOST_TOKENS, sum(numbers))
    total = _believed(members.value(usage, sizes.used_total)) if sizes.used_total else None
    if sizes.counts != "apart" and (told or total is not None):
        return {"tokens": total if total is not None else sum(told.values())}
    return told


def _cost(sizes: Sizes, read: int, written: int) -> dict[str, int]:
    read, written = min(_MOST_TOKENS, read), min(_MOST_TOKENS, written)
    if sizes.counts == "apart":
        return {"input_tokens": read, "output_tokens": written}
    if sizes.counts == "requests":
        return {}
    return {"tokens": max(read, written) if sizes.counts == "most" else min(_MOST_TOKENS, read + written)}


def _model_in_path(sizes: Sizes, path: str) -> str:
    for pattern in sizes.model_paths:
        found = pattern.search(path[:2048])
        if found is not None:
            return unquote(found[1])[:_LONGEST_MODEL]
    return ""


def _tokens(value: Any) -> int:
    """Estimate what a member's texts come to."""
    return sum(_MEDIA if text.startswith("data:") else 1 + len(text) // _TOKEN for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts of a value; of a picture or a file that lies in it only a mark."""
    waiting, seen = [value], 0
    while waiting and seen < _MOST_VALUES:
        here = waiting.pop()
        seen += 1
        if isinstance(here, str):
            yield here
        elif isinstance(here, list):
            waiting += here
        elif isinstance(here, dict):
            waiting += ["data:" if _is_media(here, name) else each for name, each in here.items()]


def _is_media(holder: dict[str, Any], name: str) -> bool:
    """Return whether a member is the base64 of a file, as the member beside it tells."""
    types = ("media_type", "mimeType", "mime_type", "format", "filename")
    return name in ("data", "file_data") and any(each in holder for each in types)


def _number(text: str | None) -> int | None:
    """Read a whole number of tokens; `None` if it is none. One that is too large counts as the largest."""
    if not text or not text.isascii() or not text.isdigit():
        return None
    return min(_MOST_TOKENS, int(text)) if len(text) < 16 else _MOST_TOKENS


def _believed(text: str | None) -> int | None:
    """Read what an answer tells that was used; `None` if no answer has so many tokens."""
    number = _number(text)
    return None if number == _MOST_TOKENS else number
