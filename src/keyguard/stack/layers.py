"""One guard as a stack of its own: what the single middleware classes of both worlds share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from keyguard.stack.keyguard import Keyguard

G = TypeVar("G", bound=Callable[..., Any])

_STACK_OPTIONS = frozenset(inspect.signature(Keyguard).parameters) - {"guards"}


class _Layer(Keyguard):
    """A stack of one, among others: what it needs may be found further out."""

    _is_layer = True


def stack_of(guard: Callable[..., G], args: tuple[Any, ...], options: dict[str, Any]) -> tuple[G, Keyguard]:
    """Build the guard and its stack, each from the options that are its own."""
    stack_options = {name: options.pop(name) for name in list(options) if name in _STACK_OPTIONS}
    made = guard(*args, **options)
    return made, _Layer(made, **stack_options)
