"""The words of an operator about a key, checked: the record of a new one, and the changes of one that exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from keyguard.keys.format import PlainKey, new_key
from keyguard.keys.record import KeyRecord
from keyguard.keys.values import checked_metadata, checked_networks, checked_scopes, checked_text
from keyguard.units import as_datetime, moment_from

Moment: TypeAlias = "datetime | timedelta | str"
"""A `datetime` with a time zone, or a duration from now."""

UNCHANGED: Any = object()
"""Stands for a value that an operator did not give."""


def draft(
    now: int,
    prefix: str,
    env: str,
    *,
    owner: str,
    subject: str | None,
    plan: str | None,
    scopes: Iterable[str],
    networks: Iterable[str],
    metadata: Mapping[str, Any] | None,
    not_before: Moment | None,
    expires: Moment | None,
    name: str | None = None,
) -> tuple[KeyRecord, PlainKey]:
    """Return the record of a new key, and the key. Raise `ValueError` for a value that cannot be."""
    key = new_key(prefix, env)
    begins, ends = _moment("not_before", not_before, now), _moment("expires", expires, now)
    if ends is not None and ends <= max(as_datetime(now), begins or as_datetime(now)):
        raise ValueError("expires lies before the key would begin to work")
    record = KeyRecord(
        id=key.id,
        prefix=key.prefix,
        env=key.env,
        owner=checked_text("owner", owner),
        subject=checked_text("subject", owner if subject is None else subject),
        created=as_datetime(now),
        plan=None if plan is None else checked_text("plan", plan),
        scopes=checked_scopes(scopes),
        networks=checked_networks(networks),
        metadata=checked_metadata(metadata),
        not_before=begins,
        expires=ends,
        name=None if name is None else checked_text("name", name),
    )
    return record, key


def changes_of(
    now: int, *, plan: Any, scopes: Any, networks: Any, metadata: Any, expires: Any, owner: Any
) -> dict[str, Any]:
    """Return what is changed of a record. Raise `ValueError` for a value that cannot be."""
    changes: dict[str, Any] = {}
    if owner is not UNCHANGED:
        changes["owner"] = checked_text("owner", owner)
    if plan is not UNCHANGED:
        changes["plan"] = None if plan is None else checked_text("plan", plan)
    if scopes is not UNCHANGED:
        changes["scopes"] = checked_scopes(scopes)
    if networks is not UNCHANGED:
        changes["networks"] = checked_networks(networks)
    if metadata is not UNCHANGED:
        changes["metadata"] = checked_metadata(metadata)
    if expires is not UNCHANGED:
        changes["expires"] = _moment("expires", expires, now)
    return changes


def _moment(name: str, when: Moment | None, now: int) -> datetime | None:
    return None if when is None else as_datetime(moment_from(name, when, now))
