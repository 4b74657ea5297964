"""The order of guards: which may not stand outside of which, and which join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from keyguard.drivers.inspection.layers import layers_within
from keyguard.errors import ConfigurationError
from keyguard.gate import Gate
from keyguard.guard import declared
from keyguard.http.forwarding import ClientAddress
from keyguard.logs import logger

log = logger("keyguard")


def check_guards(guards: Sequence[Any]) -> None:
    """Raise `ConfigurationError` if a guard would answer before a filter further in has looked at the address.

    If it answers before one that looks for credentials, a line in the log says so; and if one that judges what comes of
    credentials stands inside of that, where it hears nothing.
    """
    early: Any = None
    warned = False
    looking = next((guard for guard in guards if declared(guard).sources), None)
    for guard in guards:
        told = declared(guard)
        if early is not None and told.filters_addresses:
            raise ConfigurationError(
                f"{early!r} would answer addresses that {guard!r} refuses: put the filter before the cache"
            )
        if early is not None and told.sources and not warned:
            log.warning(
                "%r stands outside %r: what the app calls public is served to callers whom %r would refuse",
                early,
                guard,
                guard,
            )
            warned = True
        if early is None and told.answers_early:
            early = guard
        if told.judges_credentials and looking is not None and guards.index(guard) > guards.index(looking):
            log.warning("%r stands inside of %r and hears nothing of its refusals: put it before", guard, looking)


def check_innermost(guards: Sequence[Any]) -> None:
    """Raise `ConfigurationError` if a guard that stands inside of all others does not."""
    places = [place for place, guard in enumerate(guards) if declared(guard).innermost]
    for guard in guards:
        for member in guard.members if isinstance(guard, Gate) else ():
            if declared(member).innermost:
                raise ConfigurationError(f"{member!r} stands in a policy: put it last into the stack, for all requests")
    if len(places) > 1:
        raise ConfigurationError(f"{guards[places[0]]!r} stands in the stack twice: once is enough, as the last guard")
    for guard in guards[places[0] + 1 :] if places else ():
        if declared(guard).counters:
            raise ConfigurationError(
                f"{guard!r} stands inside of {guards[places[0]]!r}, and would not give back what it took: put "
                f"{guards[places[0]]!r} last"
            )


def check_layers(guards: Iterable[Any], needs: frozenset[str], app: Any) -> None:
    """Raise `ConfigurationError` if the app inside already holds a layer that should stand outside of these guards."""
    for layer in layers_within(app):
        if needs & layer.provides:
            raise ConfigurationError(
                f"a guard needs the {', '.join(needs & layer.provides)} that a layer further in finds. Add APIKeys "
                "after it (add_middleware puts the last one outermost), or wrap it later"
            )
        for guard in guards:
            if declared(guard).innermost and any(declared(inner).counters for inner in layer.stack.guards):
                raise ConfigurationError(
                    f"{guard!r} stands outside of limits of a layer further in, which would not give back what they "
                    "took. Add it before them (add_middleware puts the last one outermost), or wrap it first"
                )
            if layer.filters_addresses and declared(guard).answers_early:
                raise ConfigurationError(
                    f"{guard!r} would answer addresses that an IPFilter further in refuses. Add the filter after "
                    "it (add_middleware puts the last one outermost), or wrap it later"
                )


def check_alike(layer: Any, source: ClientAddress, underscores: frozenset[bytes]) -> None:
    """Raise `ConfigurationError` if a layer further in reads the head of a request in another way."""
    if layer.source != source:
        raise ConfigurationError(
            "two layers of keyguard around one app differ in trusted_proxies, forwarded_header, trusted_hops or "
            "ipv6_prefix, and a request has one client: give both the same"
        )
    if layer.underscores != underscores:
        raise ConfigurationError(
            "two layers of keyguard around one app differ in underscores, and what the one keeps the other takes off: "
            "give both the same"
        )
