"""The requests that pools gave up, so that an exception is known by the exhaustion behind it, wherever it arrives.

A pool gives a request up by an answer with the field `x-keyguard-exhaustion`, and tells of it here under the same id.
Libraries put that answer into their exceptions. So whoever meets one finds what is behind it: in any thread or task,
also in one that was not given the context of its request, and whatever else that request calls at the same time.

The ids are random: an upstream that sends a field of this name by itself has none that is known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from keyguard.upstream.causes import UpstreamCause

EXHAUSTION_FIELD: Final = "x-keyguard-exhaustion"
"""The field of a pool's own answer, with the id of the exhaustion."""

_KEPT = 4096
_MOST = 256  # exceptions that are looked at behind one


class Exhaustion(NamedTuple):
    """The reason for which a pool gave a request up."""

    pool: str
    cause: UpstreamCause
    recovers_at: datetime | None = None
    """The moment from which on it is worth to try again; `None` if waiting does not help."""
    attempts: int = 0
    id: str = ""
    """The field `x-keyguard-exhaustion` of the answer with which it gave up: random, and never used again."""


# Appending and copying a deque are each one step: no lock that a forked child could inherit.
_told: deque[Exhaustion] = deque(maxlen=_KEPT)


def tell(exhaustion: Exhaustion) -> None:
    """Tell that a pool gave a request up. The last few thousand of a process are known."""
    _told.append(exhaustion)


def find(id: object) -> Exhaustion | None:
    """Return the exhaustion of that id, if a pool of this process has told of it."""
    if not isinstance(id, str) or not id:
        return None
    return next((one for one in reversed(_told.copy()) if one.id == id), None)


def behind(error: BaseException) -> Exhaustion | None:
    """Return the exhaustion that an exception stems from, if there is one.

    It does if it, or an exception behind it (`__cause__`, `__context__` unless suppressed), carries the answer by which
    a pool gave up: as `response` or `raw_response`, or by its fields as `headers`. A group does if each of its members
    does: else there is an error besides, which must not be hidden. Of several exhaustions it is the one that lasts.
    """
    return _behind(error, {})


def _behind(error: BaseException | None, known: dict[int, Exhaustion | None]) -> Exhaustion | None:
    if error is None or id(error) in known or len(known) >= _MOST:
        return known.get(id(error))
    known[id(error)] = None  # while it is looked at: they may stand in a circle
    found = _carried(error)
    if found is None and isinstance(error, BaseExceptionGroup):
        found = _behind_all([_behind(member, known) for member in error.exceptions])
    if found is None:
        cause = error.__cause__
        found = _behind(error.__context__ if cause is None and not error.__suppress_context__ else cause, known)
    known[id(error)] = found
    return found


def _behind_all(found: Sequence[Exhaustion | None]) -> Exhaustion | None:
    known = [one for one in found if one is not None]
    return max(known, key=_lasting) if len(known) == len(found) else None


def _lasting(exhaustion: Exhaustion) -> float:
    at = exhaustion.recovers_at
    return float("inf") if at is None else at.timestamp()


def _carried(error: BaseException) -> Exhaustion | None:
    """Return the exhaustion whose answer an exception carries."""
    for holder in (_attribute(error, "response"), _attribute(error, "raw_response"), error):
        headers = None if holder is None else _attribute(holder, "headers")
        if headers is not None:
            try:
                found = find(headers.get(EXHAUSTION_FIELD))
            except Exception:  # somebody else's, which are no fields
                continue
            if found is not None:
                return found
    return None


def _attribute(holder: object, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # a property that raises, as those of httpx do before there is a request
        return None
