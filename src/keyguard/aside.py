"""Setting state aside for a test, and putting it back afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Plugged(NamedTuple):
    """A stack that goes on with other things than its own."""

    renew: Callable[[], None]
    """Begins anew with them."""
    unplug: Callable[[], None]


def putting_back(thing: object, *names: str) -> Callable[[], None]:
    """Return what gives some attributes of a thing the values back that they have now."""
    before = {name: getattr(thing, name) for name in names}

    def put_back() -> None:
        for name, value in before.items():
            setattr(thing, name, value)

    return put_back


def in_turn(*functions: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls these."""

    def call() -> None:
        for function in functions:
            function()

    return call
