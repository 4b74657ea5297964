"""Metrics for OpenTelemetry: what an SDK exports of them."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from keyguard import Keyguard, RateLimit
from keyguard.testing import play


def exported(reader: InMemoryMetricReader) -> dict[str, dict[tuple[tuple[str, Any], ...], float]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: {tuple(sorted((point.attributes or {}).items())): point.value for point in metric.data.data_points}  # type: ignore[union-attr]
        for of_resource in data.resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    }


def test_counters_are_read_when_they_are_exported(tmp_path: Any) -> None:
    reader = InMemoryMetricReader()
    guard = Keyguard(RateLimit("2/hour", by="ip", paths=["/a/*"]), store=f"sqlite:///{tmp_path}/k.db?timeout=1")
    provider = MeterProvider([reader])
    for _ in range(2):  # the second time it is nothing new
        guard.metrics().instrument(provider)
    assert [play(guard, "/a/1").status for _ in range(3)] == [200, 200, 429]
    rule = ("keyguard.rule", "ip /a/*:2/hour")
    told = exported(reader)
    assert told["keyguard.requests"] == {
        (("http.route", "/a/*"), ("keyguard.outcome", "served")): 2,
        (("error.type", "usage"), ("http.route", "/a/*"), ("keyguard.outcome", "refused"), rule): 1,
    }
    assert told["keyguard.limit.units"] == {(rule,): 2}
    assert told["keyguard.store.operations"] == {(("keyguard.store", "decisions"),): 3}
    assert 0 < told["keyguard.store.operation.time"][(("keyguard.store", "decisions"),)] < 60
    assert told["keyguard.store.up"] == {(("keyguard.store", "decisions"),): 1}
    play(guard, "/a/1")
    assert sum(exported(reader)["keyguard.requests"].values()) == 4


def test_they_only_rise(tmp_path: Any) -> None:
    reader = InMemoryMetricReader()
    guard = Keyguard(RateLimit("2/hour", by="ip"), store=f"sqlite:///{tmp_path}/k.db?timeout=1")
    guard.metrics().instrument(MeterProvider([reader]))
    play(guard)
    data = reader.get_metrics_data()
    assert data is not None
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        assert metric.name == "keyguard.store.up" or (isinstance(metric.data, Sum) and metric.data.is_monotonic), metric
