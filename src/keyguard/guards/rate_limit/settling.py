"""Costs that are known when a request is over: what tells them, and the settlement of them.

Rules:
- A request is settled once, by one operation for all its limits.
- A cost that makes no sense, or a function that raises, changes nothing: what was taken stays charged, and the log
  tells of it once.
- A refusal further in is not a service: it is charged as any other is, whatever a function would say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from keyguard.checks import is_number, is_whole
from keyguard.clock import SECOND
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.guards.rate_limit.turns import Lines
from keyguard.logs import logger
from keyguard.response import Headers

log = logger("keyguard")

LARGEST_COST = 2**32 - 1
"""The most that a request can cost in the end: as much as the largest limit."""


class ResponseFields(Mapping[str, str]):
    """The header fields of a response by name, in any case; several lines of one name are joined by `, `."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Headers | None) -> None:
        self._headers = headers

    def __getitem__(self, name: str) -> str:
        lines = [] if self._headers is None else self._headers.get_all(name)
        if not lines:
            raise KeyError(name)
        return ", ".join(lines)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([name.lower() for name, _ in self._headers or ()]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<ResponseFields {', '.join(self)}>"  # without their values, which may be secret


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, for a function that says what it cost: `RateLimit(settle=...)`."""

    status: int
    """The status of the response. Without one, 500 if the app failed, 499 if the client left before there was any; 101
    for a websocket that was accepted."""
    exception: BaseException | None
    """The exception that the app raised; `None` if it raised nothing, or if a framework made an answer of that."""
    headers: Mapping[str, str]
    """The header fields of the response, as this limit saw them: read-only, by name in any case."""
    duration: float
    """Seconds from the decision to the end of the request."""
    left: bool
    """Whether the client left, as far as the server tells, before it had the whole response."""


Settler: TypeAlias = Callable[[Outcome], int]
Refunds: TypeAlias = "type[BaseException] | int | str | Iterable[type[BaseException] | int | str]"
"""Classes of exceptions, status numbers, and ranges of these, such as `"5xx"`."""

LEASE = 60 * SECOND
"""Microseconds for which a unit is held for a request that may fail, if its process dies. One that takes longer is
counted in the end all the same."""

FAILURES = (401, 403, 422)
"""The answers that `count="failures"` counts."""


def settler_of(
    settle: Settler | None,
    refund_on: Refunds | None,
    count: Literal["requests", "failures"],
    failures: Iterable[int | str] | None,
) -> Settling | None:
    """Return what settles the requests of a limit, from its settings; `None` if they cost what was taken."""
    if count not in ("requests", "failures"):
        raise ConfigurationError(f"count is 'requests' or 'failures', not {count!r}")
    if failures is not None and count != "failures":
        raise ConfigurationError("failures=... says what count='failures' counts, and that is not given")
    given = [settle is not None, refund_on is not None, count == "failures"]
    if sum(given) > 1:
        raise ConfigurationError("settle, refund_on and count='failures' each say the whole cost: give one of them")
    if settle is not None:
        if not callable(settle) or is_async(settle) or is_blocking(settle):
            raise ConfigurationError(f"settle is a plain function of the outcome, not {settle!r}")
        check_takes("settle", settle, "the outcome")
        return Settling(settle=settle)
    if refund_on is not None:
        return Settling(refund_on=Endings("refund_on", refund_on, exceptions=True))
    if count == "failures":
        counted = Endings("failures", FAILURES if failures is None else failures, exceptions=False)
        if any(status >= 500 for status in counted.statuses):
            raise ConfigurationError("failures are those of the caller: a status of 500 or more never counts")
        return Settling(failures=counted)
    return None


class Endings:
    """Outcomes by what was raised, or by their status. Raises `ConfigurationError` for what is neither."""

    def __init__(self, word: str, given: Any, *, exceptions: bool) -> None:
        listed = [given] if isinstance(given, (str, int, type)) or not isinstance(given, Iterable) else [*given]
        classes: list[type[BaseException]] = []
        statuses: set[int] = set()
        for one in listed:
            if exceptions and isinstance(one, type) and issubclass(one, BaseException):
                classes.append(one)
            elif is_whole(one) and 100 <= one <= 599:
                statuses.add(one)
            elif isinstance(one, str) and one in _RANGES:
                statuses.update(_RANGES[one])
            else:
                kinds = "exception classes and " if exceptions else ""
                raise ConfigurationError(f"{word} lists {kinds}status numbers, such as 502 or '5xx', not {one!r}")
        if not listed:
            raise ConfigurationError(f"{word} is empty: it would change nothing")
        self.exceptions = tuple(classes)
        self.statuses = frozenset(statuses)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endings) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def __repr__(self) -> str:
        return " ".join([*sorted([one.__name__ for one in self.exceptions]), *map(str, sorted(self.statuses))])

    def _parts(self) -> object:
        return frozenset(self.exceptions), self.statuses

    def has(self, outcome: Outcome) -> bool:
        """Tell whether the outcome is one of them."""
        return outcome.status in self.statuses or isinstance(outcome.exception, self.exceptions)


_RANGES = {f"{first}xx": range(first * 100, first * 100 + 100) for first in range(1, 6)}


class Settling:
    """Says what a request cost in the end: by one of the three."""

    def __init__(
        self, settle: Settler | None = None, refund_on: Endings | None = None, failures: Endings | None = None
    ) -> None:
        self.settle = settle
        self.refund_on = refund_on
        self.failures = failures
        self.lease = 0 if failures is None else LEASE
        """Microseconds for which units are held, and not taken, until it is known what a request cost; 0 for none."""
        self.lines = None if failures is None else Lines()
        """Those who wait for what others hold."""
        self._told = False
        """Whether the log has been told of a function that fails."""

    @property
    def parts(self) -> tuple[str, object]:
        """All that it depends on, after the word for it."""
        given = {"settle": self.settle, "refund on": self.refund_on, "failures": self.failures}
        return next((word, thing) for word, thing in given.items() if thing is not None)

    @property
    def named(self) -> dict[str, object]:
        """The same, for the name of counters."""
        word, thing = self.parts
        return {word: repr(thing) if isinstance(thing, Endings) else thing}

    def cost(self, guard: str, outcome: Outcome, taken: int) -> int:
        """Return what the request cost, of which so much was taken."""
        if self.refund_on is not None:
            return 0 if self.refund_on.has(outcome) else taken
        if self.failures is not None:
            return taken if self.failures.has(outcome) else 0
        assert self.settle is not None
        try:
            return checked_units(self.settle(outcome))
        except Exception as error:
            if not self._told:
                self._told = True
                log.error(
                    "settle of the limit %r failed, and what was taken stays charged; it is told once",
                    guard,
                    exc_info=error,
                )
            return taken


def checked_units(cost: Any, word: str = "a cost") -> int:
    """Return a number of units. Raises `ValueError` for one that cannot be charged."""
    if not is_whole(cost):
        what = repr(cost) if is_number(cost) else type(cost).__name__  # what is not a number may be a secret
        raise ValueError(f"{word} is a whole number of units, such as 3, not {what}")
    if not 0 <= cost <= LARGEST_COST:
        raise ValueError(f"{word} is 0 to {LARGEST_COST} units, not {cost}")
    return cost
