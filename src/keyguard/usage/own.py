"""What a caller is told of its own usage, as JSON: `Usage(path="/usage")`.

It stands right behind the guard that finds the caller, so outside of the limits further in: a caller that has used up
all of them can still ask. Limits further out, by address say, count it. An answer is kept for as long as nothing new
can have been written, so that asking all the time costs the ledger nothing; and who asks for ever other spans, which no
limit further in counts, has to wait for that long after the first few.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from keyguard.clock import monotonic
from keyguard.counter_names import LimitFacts
from keyguard.errors import ConfigurationError, KeyguardError
from keyguard.flow import Blocking
from keyguard.guard import LONG, Answer, Decide, Guard, Long
from keyguard.problem import refuse
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response
from keyguard.units import microseconds, rfc3339
from keyguard.usage.report import UsageReport

_KEPT = 1000  # answers
_SPANS = 8  # that a subject may look up while answers are kept
_LONGEST = 20  # characters of `since`


class OwnUsage(Guard):
    """Answers callers with a key at one path."""

    needs = frozenset({"identity"})
    keeps: frozenset[str] = frozenset()

    def __init__(
        self,
        path: str,
        of: Callable[..., UsageReport],
        facts: Callable[[], Sequence[LimitFacts]],
        every: float,
    ) -> None:
        self._path = path
        self._of = of
        self._facts = facts
        self._every = every
        self.after_fork()

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()
        self._asked: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """By subject: until when look-ups are counted, and how many there were."""

    def __repr__(self) -> str:
        return f"Usage(path={self._path!r})"

    def decider(self, store: Any) -> Decide:
        """Return what asks whether a request is meant for it."""

        def decide(request: CarriedRequest) -> Answer | Long:
            return LONG if self._is_mine(request) else None

        return decide

    def _is_mine(self, request: CarriedRequest) -> bool:
        return request.plain_path == self._path and request.method in ("GET", "HEAD") and bool(request.caller.subject)

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if not self._is_mine(request):
            return await forward(request)
        request.state.route = self._path
        since = request.query.get("since") or "24h"
        try:
            if len(since) > _LONGEST:
                raise ConfigurationError("too long")
            microseconds("since", since, min=1, max="31 days")
        except ConfigurationError:
            return refuse(
                request,
                Cause.REQUEST,
                "The parameter since is a duration of up to 31 days, such as 6h or 7d.",
                reason="wrong-parameter",
            )
        asked = request.caller.subject, since
        body = self._kept(asked)
        if body is None:
            if not self._may_look_up(asked[0]):
                return refuse(
                    request,
                    Cause.USAGE,
                    "Too many spans of time were asked for at once. Ask again for one in a moment.",
                    reason="too-many-spans",
                    retry_after=self._every,
                )
            try:
                found = await Blocking(self._of, asked, {})
            except KeyguardError:
                return refuse(
                    request,
                    Cause.FAULT,
                    "What has been used cannot be looked up at the moment. Neither your key nor your limits are the "
                    "reason.",
                    reason="ledger-failed",
                )
            body = self._keep(asked, json.dumps(as_data(found, self._facts())).encode())
        fields = [("content-type", "application/json"), ("cache-control", "no-store")]
        return Response(200, fields, body)

    def _kept(self, asked: tuple[str, str]) -> bytes | None:
        with self._lock:
            until, body = self._answers.get(asked, (0.0, b""))
        return body if monotonic() < until else None

    def _may_look_up(self, subject: str) -> bool:
        """Count a look-up of a subject, and tell whether there is room for it."""
        now = monotonic()
        with self._lock:
            until, count = self._asked.pop(subject, (0.0, 0))
            if now >= until:
                until, count = now + self._every, 0
            self._asked[subject] = until, min(count + 1, _SPANS + 1)
            while len(self._asked) > _KEPT:
                self._asked.popitem(last=False)
        return count < _SPANS

    def _keep(self, asked: tuple[str, str], body: bytes) -> bytes:
        with self._lock:
            self._answers[asked] = monotonic() + self._every, body
            self._answers.move_to_end(asked)
            while len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return body


def as_data(found: UsageReport, facts: Sequence[LimitFacts]) -> dict[str, Any]:
    """Return what a caller is told of a report. Units are told by the names of limits."""
    names = {fact.prefix: fact.name for fact in facts}
    return {
        "subject": found.subject,
        "since": _moment(found.since),
        "until": _moment(found.until),
        "requests": found.requests,
        "served": found.served,
        "cached": found.cached,
        "refused": found.refused,
        "failed": found.failed,
        "by_cause": dict(found.by_cause),
        "by_limit": {use.name: use.count for use in found.by_rule if use.cause == Cause.USAGE.value},
        "by_route": [
            {"method": use.method, "route": use.route, "requests": use.requests, "units": _by_limit(use.units, names)}
            for use in found.by_route
        ],
        "by_key": [{"key_id": use.key_id, "requests": use.requests, "last": _moment(use.last)} for use in found.by_key],
        "units": _by_limit(found.units, names),
        "last": _moment(found.last),
        "complete": found.complete,
    }


def _by_limit(units: Mapping[str, int], names: Mapping[str, str]) -> dict[str, int]:
    return {names[prefix]: count for prefix, count in units.items() if prefix in names}


def _moment(when: datetime | None) -> str | None:
    return None if when is None else rfc3339(int(when.timestamp()))
