"""The values that may stand in a record, as they are given: texts, scopes, networks, metadata, ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keyguard.checks import is_name
from keyguard.errors import KeyNotFound
from keyguard.http.addresses import Networks
from keyguard.keys.format import holds_key, parse_key

_METADATA_MAX = 4096  # bytes of JSON
_TEXT_MAX = 256  # characters
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,128}")  # scope-token, RFC 6749, section 3.3


def checked_text(name: str, text: object) -> str:
    """Return a text for people to read. Raise `ValueError` that says what would be right."""
    if isinstance(text, str):
        _no_key(name, text)  # before anything repeats it
    if not is_name(text, _TEXT_MAX):
        raise ValueError(f"{name} is a printable text of 1 to {_TEXT_MAX} characters, not {text!r:.80}")
    return text


def _no_key(name: str, text: str) -> None:
    """Raise `ValueError`, which shows nothing, if a whole key stands in a text: no store holds one."""
    if holds_key(text):
        raise ValueError(f"{name} holds a whole key, which no store should: write its id")


def checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Return a set of scopes. Raise `ValueError` for other things than scope tokens."""
    if isinstance(scopes, str):
        raise ValueError(f"scopes are a list, such as [{scopes!r}], not one text")
    names = list(scopes)
    for name in names:
        if isinstance(name, str):
            _no_key("a scope", name)
        if not isinstance(name, str) or not _SCOPE.fullmatch(name):
            raise ValueError(f"a scope is printable ASCII without blanks, quotes and backslashes, not {name!r:.80}")
    return frozenset(names)


def checked_networks(networks: Iterable[str]) -> tuple[str, ...]:
    """Return networks as texts. Raise `ConfigurationError`, which is a `ValueError`, for other things."""
    return Networks(networks).texts


def checked_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as JSON has it. Raise `ValueError` if it cannot be written so, or is too long."""
    if metadata is None:
        return {}
    try:
        text = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata is a mapping of names to JSON values: {error}") from None
    _no_key("metadata", text)
    if len(text.encode()) > _METADATA_MAX:
        raise ValueError(f"metadata takes {len(text.encode())} bytes as JSON, more than the {_METADATA_MAX} there are")
    found: dict[str, Any] = json.loads(text)
    return found


def key_id(text: str) -> str:
    """Return the id that is named, by itself or by its whole key. Raises `KeyNotFound` for what is neither."""
    key = parse_key(text)
    if key is not None:
        return key.id
    if not text.isascii() or not text.isalnum() or len(text) > 64:
        # Not shown: it may be a key with a typo.
        raise KeyNotFound("this is neither a key nor the id of one; an id is the third part of a key, 12 characters")
    return text
