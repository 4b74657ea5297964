"""Random choices of upstream keys, and what came of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, Report, Seen, dimension_of, id_of, marks_key
from keyguard.ops import Acquire, Learn, Op, Put
from keyguard.testing.conformance.reference import Reference

_KEYS = tuple(id_of(secret) for secret in ("one", "two", "three", "four", "five"))
_LIMITS = (
    (),
    (),
    ((dimension_of("rpm"), 2), (dimension_of("tpm"), 900)),
    ((dimension_of("rph"), 5), (dimension_of("tpd"), 180_000_000)),
)
_DIMENSIONS = tuple(dimension_of(word) for word in ("rpm", "rpm", "tpm", "itpm", "otpm", "rps", "rpd", "tpd"))
_CAUSES = (
    *("ok", "ok", "ok", "ok", "exhausted", "exhausted", "exhausted", "quota", "ramp", "billing", "invalid", "invalid"),
    *("unsupported", "too_large", "overload", "unreachable", "system", "request", "unsent", "settled", "enable", "odd"),
)
_SCOPES = ("model", "model", "group", "key", "none", "pair", "endpoint")
_COSTS = (1, 5, 30, 400, 400, 2000, 70_000_001)


class UpstreamSteps:
    """Draws choices among four groups of one pool, some with limits, and reports of the latest of them."""

    random: random.Random
    reference: Reference | None = None
    granted: Sequence[tuple[Candidate, Grant]] = ()

    def choose(self) -> Op[Any]:
        several = self.random.sample(range(4), self.random.randint(1, 4))
        ranks = sorted(self.random.choices([0, 0, 1], k=len(several)))
        candidates = [self._candidate(number, rank) for number, rank in zip(several, ranks, strict=True)]
        cost = self.random.choice([{}, {"tokens": self.random.choice(_COSTS)}, {"requests": self.random.randint(0, 3)}])
        if self.random.random() < 0.2:
            cost = {"input_tokens": self.random.choice(_COSTS), "output_tokens": self.random.choice(_COSTS)}
        ahead = self.random.choice([0, SECOND, SECOND, 20 * SECOND])
        return Acquire(candidates, cost, ahead=ahead, reports=self._reports(self.random.choice([0, 0, 1, 2])))

    def report(self) -> Op[Any]:
        if self.random.random() < 0.04:
            return self._damage()
        return Learn(self._reports(self.random.choice([1, 1, 1, 2, 3])))

    def chosen(self, op: Op[Any], result: Any) -> None:
        """Note what was granted, so that it is reported."""
        if isinstance(op, Acquire) and isinstance(result, Grant):
            self.granted = [*self.granted[-12:], (op.candidates[result.candidate], result)]

    def _candidate(self, number: int, rank: int = 0) -> Candidate:
        keys = self.random.sample(_KEYS, self.random.randint(1, 3))
        limits = _LIMITS[number] if self.random.random() < 0.9 else self.random.choice(_LIMITS)
        return Candidate(f"up:p|*/{number}", tuple(keys), limits, rank, self.random.choice(["", *_KEYS[:2]]))

    def _reports(self, many: int) -> Sequence[Report]:
        return [self._report() for _ in range(many)]

    def _report(self) -> Report:
        if not self.granted or self.random.random() < 0.1:
            bare = Grant(0, 0, self.random.choice(_KEYS), 0, 0, ())
            return self._told(self._candidate(self.random.randrange(4)), bare)
        return self._told(*self.random.choice(self.granted[-6:]))

    def _told(self, candidate: Candidate, grant: Grant) -> Report:
        return Report(
            candidate,
            grant,
            cause=self.random.choice(_CAUSES),
            scope=self.random.choice(_SCOPES),
            wait=self.random.choice([None, None, 0, 1, 40, self.random.randrange(9 * SECOND), 7999 * SECOND, 10**14]),
            seen=[self._seen() for _ in range(self.random.choice([0, 0, 1, 1, 2]))],
            dimension=self.random.choice([None, None, *_DIMENSIONS]),
            spent=self.random.choice([None, None, {}, {"tokens": self.random.choice(_COSTS)}, {"input_tokens": 7}]),
        )

    def _seen(self) -> Seen:
        dimension = self.random.choice(_DIMENSIONS)
        limit = self.random.choice([None, -1, 0, 1, 6, 6, 6, 900, 900, 180_000_000, 10**15])
        remaining = self.random.choice([None, -1, 0, 0, 1, 3, limit or 2])
        reset = self.random.choice([None, 0, 1, self.random.randrange(60 * SECOND), 50 * SECOND, 10**14])
        return Seen(dimension, limit, remaining, reset)

    def _damage(self) -> Op[Any]:
        """Write a state that is damaged, or of a later version, or another one's."""
        key = self.random.choice(["up:p|*/0", "up:p|*/1", "up:p|*/2", marks_key("up:p|*/0")])
        value = (self.reference.value(key) if self.reference is not None else None) or b""
        place = self.random.randrange(len(value) + 1)
        damaged = [
            *(b"", b"\0", b"\1", b"\2later", value[:place], value + b"\0", b"\0" + value[1:], b"\2" + value[1:]),
            value[:place] + b"\xff" * 8 + value[place + 8 :],
            value[:8] + b"\xff" * 7 + b"\0" + value[16:],
            value[:1] + self.random.randbytes(3) + value[4:],
        ]
        return Put(key, self.random.choice(damaged), 50 * SECOND)
