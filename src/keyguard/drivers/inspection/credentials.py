"""Where the guards inside an app look for credentials, and whether an app of the other world stands there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from keyguard.drivers.inspection.code import held_by
from keyguard.drivers.inspection.objects import MOST, further_parts, is_app, is_framework, is_ours, parts, world_of
from keyguard.guard import declared, sources_of
from keyguard.keys.credentials import Sources


def seen_within(app: Any, mounted: Callable[[Any], Iterable[Any]]) -> tuple[bool, tuple[Sources, ...]]:
    """Look at all that can be reached; `mounted` lists the apps that stand in one of a framework."""
    worlds: set[str | None] = set()
    found: list[Sources] = []
    waiting, seen = [app], {id(app)}
    while waiting and len(seen) < MOST:
        at = waiting.pop()
        worlds.add(world_of(at))
        if is_ours(at):
            found += held_by(at)["engine"].sources
        if is_framework(at):
            held = held_by(at)
            for layer in held.get("user_middleware", ()):  # of Starlette
                found += _of_layer(layer)
            # The line of middleware, which is made with the first request.
            further = [*mounted(at), held.get("middleware_stack")]
        else:
            further = [part for part in (*parts(at), *further_parts(at)) if is_app(part)]
        for part in further:
            if part is not None and id(part) not in seen:
                seen.add(id(part))
                waiting.append(part)
    return worlds >= {"asgi", "wsgi"}, tuple(found)


def _of_layer(layer: Any) -> Iterator[Sources]:
    """List where a layer looks that stands in front of an app, but was not put together yet."""
    stack = getattr(layer.cls, "stack", None)
    for guard in getattr(stack, "guards", ()):
        if declared(guard).sources:
            yield sources_of(guard)
    names = getattr(layer, "kwargs", {}).get("sources")
    if names is not None and getattr(layer.cls, "__module__", "").startswith("keyguard."):
        yield Sources(names)
