"""Metrics for OpenTelemetry: observable counters over the totals of this process.

They are read when they are exported, since adding to a counter of the SDK with each request costs more than deciding
about it. Each process exports its own: a collector adds them up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from keyguard.metrics.series import (
    ALERTS,
    ANSWERS,
    CACHE,
    DEGRADED,
    DURATIONS,
    EVENTS,
    GAUGES,
    OVERFLOW,
    REQUESTS,
    UNITS,
    WAITED,
    Gauge,
    Numbers,
    Totals,
)

_NAMES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    REQUESTS.name: (
        "keyguard.requests",
        "{request}",
        REQUESTS.help,
        ("keyguard.outcome", "error.type", "keyguard.rule", "http.route"),
    ),
    UNITS.name: ("keyguard.limit.units", "{unit}", UNITS.help, ("keyguard.rule",)),
    DEGRADED.name: ("keyguard.degraded", "{decision}", DEGRADED.help, ("keyguard.action",)),
    CACHE.name: ("keyguard.cache.requests", "{request}", CACHE.help, ("keyguard.cache.result",)),
    EVENTS.name: ("keyguard.cache.events", "{event}", EVENTS.help, ("keyguard.cache.event",)),
    ALERTS.name: ("keyguard.alerts", "{alert}", ALERTS.help, ("keyguard.alert.type",)),
    OVERFLOW.name: ("keyguard.usage.overflow", "{entry}", OVERFLOW.help, ()),
    ANSWERS.name: ("keyguard.upstream.answers", "{answer}", ANSWERS.help, ("keyguard.pool", "keyguard.upstream.cause")),
}
"""By family: the name of the instrument, its unit, what it tells, and the names of its attributes."""


def instrument(
    meter: Any,
    totals: Callable[[], Totals],
    up: Callable[[], dict[str, bool]],
    numbers: Callable[[], Numbers] | None = None,
) -> None:
    """Make the instruments. `totals` are asked whenever they are exported."""
    from opentelemetry.metrics import CallbackOptions, Observation

    def callback(name: str, labels: tuple[str, ...]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for (family, *values), total in totals().items():
                if family == name:
                    told = {word: value for word, value in zip(labels, values, strict=True) if value}
                    yield Observation(total, told)

        return observe

    for family, (name, unit, text, labels) in _NAMES.items():
        meter.create_observable_counter(name, callbacks=[callback(family, labels)], unit=unit, description=text)

    def operations(options: CallbackOptions) -> Iterable[Observation]:
        found: dict[str, int] = {}
        for (family, *values), total in totals().items():
            if family == DURATIONS.name:
                found[values[0]] = found.get(values[0], 0) + total
        return [Observation(total, {"keyguard.store": store}) for store, total in found.items()]

    def waited(options: CallbackOptions) -> Iterable[Observation]:
        for (family, *values), total in totals().items():
            if family == WAITED.name:
                yield Observation(total / 1_000_000, {"keyguard.store": values[0]})

    def answering(options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(int(answers), {"keyguard.store": store}) for store, answers in up().items()]

    meter.create_observable_counter(
        "keyguard.store.operations", callbacks=[operations], unit="{operation}", description="Operations of stores."
    )
    meter.create_observable_counter(
        "keyguard.store.operation.time", callbacks=[waited], unit="s", description="Seconds that they took."
    )
    meter.create_observable_gauge(
        "keyguard.store.up", callbacks=[answering], unit="1", description="Whether a store answers."
    )

    if numbers is None:
        return

    def of_gauge(gauge: Gauge) -> Callable[[CallbackOptions], Iterable[Observation]]:
        words = [f"keyguard.{label}" for label in gauge.labels]

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(number, dict(zip(words, of, strict=True))) for of, number in numbers()[gauge]]

        return observe

    for gauge in GAUGES:
        name = f"keyguard.{gauge.name.replace('_', '.', 1)}"
        meter.create_observable_gauge(name, callbacks=[of_gauge(gauge)], unit="1", description=gauge.help)
