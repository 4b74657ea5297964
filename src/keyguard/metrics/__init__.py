"""Metrics: totals of a process or a host, for Prometheus and OpenTelemetry."""

from keyguard.metrics.metrics import Metrics as Metrics
from keyguard.metrics.process import ProcessCounts as ProcessCounts

__all__ = ["Metrics", "ProcessCounts"]
