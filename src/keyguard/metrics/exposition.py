"""Totals in the formats of Prometheus, by its own library: plain text, or OpenMetrics for who asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from keyguard.metrics.series import BOUNDS, DURATIONS, FAMILIES, WAITED, Numbers, Totals

_COUNTERS = [family for family in FAMILIES.values() if family not in (DURATIONS, WAITED)]


class Rendered(NamedTuple):
    """A page of metrics."""

    body: bytes
    content_type: str


class _Once(Collector):
    """A registry of families that are made already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = tuple(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def render(families: Iterable[Metric], accept: str) -> Rendered:
    """Return families as text, in the format that `accept` prefers."""
    try:
        encoder, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # by a version that is no number, which anybody can ask for
        encoder, content_type = choose_encoder("")
    return Rendered(encoder(_Once(families)), content_type)


def families_of(totals: Totals | None, up: Mapping[str, bool], numbers: Numbers) -> Iterator[Metric]:
    """Yield what there is to tell. `totals` is `None` if they cannot be read: then there are none, rather than others.

    `up` says of each store whether it answers.
    """
    gauge = GaugeMetricFamily(
        "keyguard_store_up", "Whether a store answers, as this process sees it.", labels=["store"]
    )
    for store, answers in up.items():
        gauge.add_metric([store], answers)
    yield gauge
    for one, now in numbers.items():
        gauge = GaugeMetricFamily(f"keyguard_{one.name}", one.help, labels=one.labels)
        for values, number in now:
            gauge.add_metric(values, number)
        yield gauge
    if totals is None:
        return
    found: dict[str, list[tuple[list[str], int]]] = {}
    for (name, *labels), total in totals.items():
        found.setdefault(name, []).append((labels, total))
    for family in _COUNTERS:
        counter = CounterMetricFamily(f"keyguard_{family.name}", family.help, labels=family.labels)
        members = found.get(family.name, [] if family.labels else [([], 0)])
        for labels, total in members:
            counter.add_metric(labels, total)
        yield counter
    yield _durations(dict(map(_keyed, found.get(DURATIONS.name, ()))), dict(map(_keyed, found.get(WAITED.name, ()))))


def _keyed(member: tuple[list[str], int]) -> tuple[tuple[str, ...], int]:
    return tuple(member[0]), member[1]


def _durations(numbers: Mapping[tuple[str, ...], int], waited: Mapping[tuple[str, ...], int]) -> Metric:
    histogram = HistogramMetricFamily(
        "keyguard_store_operation_duration_seconds", "How long operations of stores took.", labels=["store"]
    )
    for store in dict.fromkeys(store for store, _ in numbers):
        buckets, sofar = [], 0
        for place, bound in enumerate([*map(str, BOUNDS), "+Inf"]):
            sofar += numbers.get((store, str(place)), 0)
            buckets.append((bound, float(sofar)))
        histogram.add_metric([store], buckets, waited.get((store,), 0) / 1_000_000)
    return histogram
