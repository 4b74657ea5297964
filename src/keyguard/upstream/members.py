"""The members of a body, found by parsing: text that merely quotes an error code decides nothing.

Bodies come from others, or were cut off: nothing here raises, and all work is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MOST = 64 * 1024
"""Bytes of an error's body that are read."""

_DEPTH = 32  # of brackets in a body that was cut off
_ITEMS = 32  # of a list that are looked at
_VALUES = 64  # of one member, in all
_LONGEST = 4096  # characters of a value


def parsed(body: bytes | str) -> Any:
    """Return what a JSON body holds, with all numbers as text; `None` if it is no JSON.

    Of an object that was cut off it returns the members that are whole.
    """
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    text = text.lstrip("\ufeff \t\r\n")
    if not text.startswith(("{", "[")):
        return None
    try:
        return _loaded(text)
    except RecursionError:
        return None
    except ValueError:
        whole = _closed(text[:MOST])
    try:
        return None if whole is None else _loaded(whole)
    except (ValueError, RecursionError):
        return None


def values(found: Any, path: str) -> Iterator[str]:
    """Yield the texts, numbers and truth values at a path such as `details.reason`, of each item of lists on it."""
    here = [found]
    for step in path.split(".") if path else []:
        here = [item.get(step) for item in _flat(here) if isinstance(item, dict)][:_VALUES]
    for value in _flat(here):
        if isinstance(value, str):
            yield value[:_LONGEST]
        elif isinstance(value, bool):
            yield "true" if value else "false"


def value(found: Any, path: str) -> str | None:
    """Return the first text or number at a path."""
    return next(values(found, path), None)


def child(found: Any, path: str) -> Any:
    """Return what stands at a path of objects, whatever it is; `None` if nothing does."""
    for step in path.split(".") if path else []:
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _flat(items: list[Any]) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list):
            yield from item[:_ITEMS]
        else:
            yield item


def _loaded(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=str)


def _closed(text: str) -> str | None:
    """Return the start of an object that was cut off, up to its last whole member, with its brackets closed."""
    brackets: list[str] = []
    end, closing = 0, ""
    quoted = escaped = False
    for place, sign in enumerate(text):
        if quoted:
            quoted = escaped or sign != '"'
            escaped = sign == "\\" and not escaped
        elif sign == '"':
            quoted = True
        elif sign in "{[":
            brackets.append("}" if sign == "{" else "]")
            if len(brackets) > _DEPTH:
                break
        elif sign in "}]":
            if not brackets or brackets.pop() != sign:
                break
            end, closing = place + 1, "".join(reversed(brackets))
        elif sign == ",":
            end, closing = place, "".join(reversed(brackets))
    return text[:end] + closing if end else None
