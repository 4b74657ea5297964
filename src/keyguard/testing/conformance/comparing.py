"""How a store is asked, and how its answers are held to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from keyguard.manual_clock import ManualClock
from keyguard.ops import (
    Authenticated,
    Op,
    Store,
    Taken,
    traits_of,
)
from keyguard.testing.conformance.reference import Reference as Reference


def one(store: Store, op: Op[Any]) -> Any:
    return executed(store, [op], "a directed check")[0]


def executed(store: Store, batch: Sequence[Op[Any]], what: str) -> list[Any]:
    try:
        return answers(store.execute(batch))
    except Exception as error:
        ops = "; ".join(map(described, batch))
        raise AssertionError(f"{what}, {ops}: expected results, got {error!r}") from error


def answers(results: Any) -> list[Any]:
    if not isinstance(results, list):
        raise AssertionError(f"execute returns a list of results, not {type(results).__name__}")
    return results


def plain(result: Any) -> Any:
    """Return a result as values that compare."""
    if isinstance(result, Taken):
        # The state itself is how a store may represent it; what it means shows in the next answers.
        return result.at, result.refused, [taking[1:] for taking in result.takings], [*result.held]
    if isinstance(result, Authenticated):
        return result.valid, result.record, plain(result.guesses), result.at
    return result


def described(op: Op[Any]) -> str:
    return f"{type(op).__name__} of {', '.join(op.keys)}"


def asked_both(store: Store, reference: Reference, asked: Sequence[Op[Any]], what: str) -> list[Any]:
    """Ask a store and the reference for the same in one batch, and compare. Returns the reference's answers."""
    answers = reference.execute(asked)
    for op, expected, got in zip(asked, answers, executed(store, asked, what), strict=True):
        same(f"{what}, {described(op)}", plain(expected), plain(got))
    return answers


def same(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise AssertionError(f"{what}: expected {_short(expected)}, got {_short(got)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 1000 else f"{text[:1000]}..."


@contextmanager
def opened(make_store: Callable[[ManualClock], Store], clock: ManualClock) -> Iterator[Store]:
    """Open a store that is closed whatever is found: one that is made for a check is removed by it."""
    store = make_store(clock)
    try:
        yield store
    except BaseException:
        with suppress(Exception):  # what was found comes first
            close(store)
        raise
    close(store)


class Twins(NamedTuple):
    """A store, the reference that it is compared with, and the clock of both."""

    store: Store
    reference: Reference
    clock: ManualClock


@contextmanager
def twins(make_store: Callable[[ManualClock], Store]) -> Iterator[Twins]:
    """Open a store beside a reference."""
    clock = ManualClock()
    with opened(make_store, clock) as store:
        yield Twins(store, Reference(clock), clock)


def close(store: Store) -> None:
    close = traits_of(store).close
    if close is not None:
        close()
