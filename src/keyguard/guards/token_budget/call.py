"""Requests to a model, as far as their cost depends on them: how much they may have answered, and how it is limited.

Rules:
- The body is read as JSON that names each member once: of two, one reader takes the first, another one the last.
- It is changed as little as can be: a member that is not there is added at the end, byte for byte; only one that is
  there already has the body written anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from keyguard.checks import is_whole
from keyguard.guards.token_budget.usage import MOST
from keyguard.http.strict_json import strict_json
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest
from keyguard.steps import ReadBody, Unread
from keyguard.uncounted import NotCounted

LIMITING = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""Members that say how many tokens an answer has at most."""
CHANGED_BODY = ("transfer-encoding", "content-digest", "digest", "content-md5")
"""Fields that tell of a body, and are not true of a changed one."""


class Call(NamedTuple):
    """A request to a model."""

    body: bytes
    members: Mapping[str, Any]
    """Those of its body; none if that cannot be read."""
    size: int
    """The bytes of the body, as far as they are known."""
    most: int | None
    """The tokens that each answer has at most; `None` if it does not say."""
    answers: int
    """The number of answers that it asks for."""
    limit: str
    """The member that would say how many tokens an answer has at most; empty if that is not known."""
    counts: bool
    """Whether a stream of its answer tells of usage only if it is asked to."""

    @property
    def streams(self) -> bool:
        """Whether the answer is to be a stream."""
        return self.members.get("stream") is True

    @property
    def asks_for_usage(self) -> bool:
        """Whether it asks a stream to tell of usage."""
        options = self.members.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    def with_members(self, changes: Mapping[str, Any]) -> bytes:
        """Return the body with other members. Raises `ValueError` if it cannot be written anew."""
        added = {name: value for name, value in changes.items() if name not in self.members}
        body = self.body
        if len(added) < len(changes):
            body = json.dumps({**self.members, **changes}, allow_nan=False, ensure_ascii=False).encode()
        elif added:
            begin = body.rstrip()[:-1].rstrip()
            more = json.dumps(added)[1:]
            body = begin + (more.encode() if begin.endswith(b"{") else b"," + more.encode())
        return body


async def read_call(request: CarriedRequest, most: int, *, strict: bool) -> Call:
    """Read what a request asks for, of a body of at most `most` bytes.

    Raises `NotCounted`, if it is `strict`, for one of which cannot be said what it may cost.
    """
    body, unread = await ReadBody(request, most)
    if unread is Unread.TOO_LONG:
        return _unreadable(request, most, strict, 413, unread.value, f"The body has more than {most} bytes.")
    if unread is not None:
        return _unreadable(request, most, strict, 400, unread.value, "The body did not come to its end.")
    if (request.header("content-encoding") or "identity").strip().lower() != "identity":
        return _unreadable(request, most, strict, 415, "body-encoding", "Send a body that is not compressed.")
    try:
        members = strict_json(body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        told = "The body is not an object of JSON in UTF-8 that names each member once."
        return _unreadable(request, most, strict, 400, "body-broken", told)._replace(size=len(body))
    limits = [_number(members, name, 0, strict=strict) for name in LIMITING]
    answers = [_number(members, name, 1, strict=strict) for name in ("n", "best_of")]
    said = [limit for limit in limits if limit is not None]
    limit, counts = _dialect(request, members)
    return Call(
        body,
        members,
        len(body),
        max(said) if said else None,
        max([1, *[number for number in answers if number is not None]]),
        next((name for name in LIMITING if members.get(name) is not None), limit),
        counts,
    )


def _unreadable(request: CarriedRequest, most: int, strict: bool, status: int, reason: str, detail: str) -> Call:
    if strict:
        raise NotCounted(Cause.REQUEST, detail, reason, status=status)
    told = request.header("content-length") or ""
    size = int(told) if told.isascii() and told.isdigit() and len(told) < 16 else most
    return Call(b"", {}, size, None, 1, "", counts=False)


def _number(members: Mapping[str, Any], name: str, least: int, *, strict: bool) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if is_whole(value) and value >= least:
        return min(value, MOST)
    if strict:
        raise NotCounted(Cause.REQUEST, f"{name} is a whole number, {least} or more.", "body-broken", status=400)
    return None


def _dialect(request: CarriedRequest, members: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the member that limits an answer, and whether a stream tells of usage only if it is asked to."""
    path = request.path.rstrip("/")
    if path.endswith("/messages") or request.header("anthropic-version") is not None:
        return "max_tokens", False
    if path.endswith("/responses"):
        return "max_output_tokens", False
    if isinstance(members.get("messages"), list):
        return "max_completion_tokens", True
    return ("max_tokens", True) if "prompt" in members else ("", False)
