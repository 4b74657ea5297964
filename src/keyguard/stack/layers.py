"""A stack of one guard, for the middleware classes of both worlds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from keyguard.stack.keyguard import Keyguard

G = TypeVar("G", bound=Callable[..., Any])

_STACK_OPTIONS = frozenset(inspect.signature(Keyguard).parameters) - {"guards", "name"}
"""Of these, `name` is that of the guard."""


class _Layer(Keyguard):
    """A stack of one, among others: what it needs may be found further out."""

    _is_layer = True

    def _default_name(self) -> str:
        # Frameworks make layers when the app begins: the app's module is not among the callers any more.
        name = str(getattr(self.guards[0], "name", type(self.guards[0]).__name__))
        return f"layer {name.replace('|', '-')[:100]}"


def stack_of(guard: Callable[..., G], args: Iterable[Any], options: Mapping[str, Any]) -> tuple[G, Keyguard]:
    """Build the guard and its stack, each from the options that are its own."""
    of_stack = {name: value for name, value in options.items() if name in _STACK_OPTIONS}
    made = guard(*args, **{name: value for name, value in options.items() if name not in _STACK_OPTIONS})
    return made, _Layer(made, **of_stack)
