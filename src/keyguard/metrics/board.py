"""A board for Grafana: the questions that an operator has, as expressions of PromQL.

The JSON that is imported is made of the tables below, since all else in it is the same for each panel.
"""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

_OF = '{job=~"$job",instance=~"$instance"'
_SOURCE = {"type": "prometheus", "uid": "${source}"}
_WIDTH = 24  # columns of Grafana's grid


class Panel(NamedTuple):
    """A diagram: one expression for each kind of line."""

    title: str
    text: str
    """A sentence on what it shows, and what to do about it."""
    unit: str
    lines: tuple[tuple[str, str], ...]
    """Expressions, and what their lines are called. `OF` stands for the selection of jobs and instances."""
    width: int = 12
    stacked: bool = False
    single: bool = False
    """Whether it is the present number alone."""


_REFUSED, _FAILED = ',outcome="refused"', ',outcome="failed"'
_BY_LIMIT = f'{_REFUSED},rule!=""'
_REQUESTS, _DURATION = "keyguard_requests_total", "keyguard_store_operation_duration_seconds_bucket"


def _rate(name: str, matchers: str = "") -> str:
    return f"rate({name}{_OF}{matchers}}}[$__rate_interval])"


def _of_all(share: str) -> str:
    """Return the share of some requests among all: 0 if there are none of them, and not nothing."""
    return f"sum({_rate(_REQUESTS, share)}) / sum({_rate(_REQUESTS)}) or vector(0)"


def _share_under(quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by (le, store) ({_rate(_DURATION)}))"


PANELS = (
    Panel("Requests", "A second.", "reqps", ((f"sum({_rate(_REQUESTS)})", "requests"),), 6, single=True),
    Panel(
        *("Refused", "The share of requests that keyguard has refused.", "percentunit"),
        ((_of_all(_REFUSED), "refused"),),
        6,
        single=True,
    ),
    Panel(
        *("Failed", "The share of requests at which the app has failed.", "percentunit"),
        ((_of_all(_FAILED), "failed"),),
        6,
        single=True,
    ),
    Panel(
        *(
            "Store",
            "1 if it answers, for every process that was asked; 0 if one of them says that it does not.",
            "none",
        ),
        ((f"min by (store) (keyguard_store_up{_OF}}})", "{{store}}"),),
        6,
        single=True,
    ),
    Panel(
        *("Requests by outcome", "Served by the app, answered by a cache, refused, or failed.", "reqps"),
        ((f"sum by (outcome) ({_rate(_REQUESTS)})", "{{outcome}}"),),
        stacked=True,
    ),
    Panel(
        *(
            "Refused by cause",
            "`usage` is the caller's doing; `fault`, `overload` and `upstream` are the service's.",
            "reqps",
        ),
        ((f"sum by (cause) ({_rate(_REQUESTS, _REFUSED)})", "{{cause}}"),),
        stacked=True,
    ),
    Panel(
        *("Refused by limit", "The limits that refuse most. `keyguard why KEY` tells of one caller.", "reqps"),
        ((f"topk(10, sum by (rule) ({_rate(_REQUESTS, _BY_LIMIT)}))", "{{rule}}"),),
    ),
    Panel(
        *("Busiest routes", "All requests to them, however they ended.", "reqps"),
        ((f"topk(10, sum by (route) ({_rate(_REQUESTS)}))", "{{route}}"),),
    ),
    Panel(
        *("Units charged", "What requests were charged when they were let in, by limit.", "short"),
        ((f"topk(10, sum by (rule) ({_rate('keyguard_limit_units_total')}))", "{{rule}}"),),
    ),
    Panel(
        *("Time of store operations", "Half of them, 95 and 99 of a hundred are quicker than this.", "s"),
        tuple((_share_under(share), f"{{{{store}}}} p{share * 100:.0f}") for share in (0.5, 0.95, 0.99)),
    ),
    Panel(
        *("Store operations", "A second.", "ops"),
        (
            (
                f"sum by (store) ({_rate('keyguard_store_operation_duration_seconds_count')})",
                "{{store}}",
            ),
        ),
    ),
    Panel(
        *("Without the store", "Decisions while it was out of order, by guard and what it did.", "ops"),
        ((f"sum by (action) ({_rate('keyguard_degraded_total')})", "{{action}}"),),
        stacked=True,
    ),
    Panel(
        *("Caches", "Requests to caches by their result.", "reqps"),
        ((f"sum by (result) ({_rate('keyguard_cache_requests_total')})", "{{result}}"),),
        stacked=True,
    ),
    Panel(
        *("Alerts", "Raised in an hour, by type.", "short"),
        ((f"sum by (type) (increase(keyguard_alerts_total{_OF}}}[1h]))", "{{type}}"),),
    ),
    Panel(
        *(
            "No room in the ledger",
            "Entries in an hour that were counted as `other`: raise Usage(max_subjects=...).",
            "short",
        ),
        ((f"sum(increase(keyguard_usage_overflow_total{_OF}}}[1h]))", "entries"),),
    ),
)


def board() -> dict[str, Any]:
    """Return the board, as Grafana imports it."""
    return {
        "title": "keyguard",
        "uid": "keyguard",
        "description": "Requests, refusals, limits, stores and caches of apps with keyguard.",
        "tags": ["keyguard"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), _choice("job", ""), _choice("instance", 'job=~"$job"')]},
        "annotations": {"list": []},
        "panels": _placed(),
    }


def _placed() -> list[dict[str, Any]]:
    """Return the panels in rows from the left to the right."""
    found, numbers = [], count(1)
    x = y = 0
    for panel in PANELS:
        height = 4 if panel.single else 8
        found.append(
            {
                "id": next(numbers),
                "type": "stat" if panel.single else "timeseries",
                "title": panel.title,
                "description": panel.text,
                "datasource": _SOURCE,
                "gridPos": {"x": x, "y": y, "w": panel.width, "h": height},
                "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
                "options": _options(panel),
                "targets": [
                    {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
                    for place, (expression, legend) in enumerate(panel.lines)
                ],
            }
        )
        x += panel.width
        if x >= _WIDTH:
            x, y = 0, y + height
    return found


def _defaults(panel: Panel) -> dict[str, Any]:
    if panel.single:
        return {"unit": panel.unit, "min": 0}
    stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
    return {
        "unit": panel.unit,
        "min": 0,
        "custom": {"fillOpacity": 30 if panel.stacked else 0, "stacking": stacking, "showPoints": "never"},
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.single:
        return {"reduceOptions": {"calcs": ["lastNotNull"], "values": False}, "colorMode": "none", "graphMode": "area"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _choice(label: str, matchers: str) -> dict[str, Any]:
    """Return a choice among the values of a label."""
    query = f"label_values(keyguard_store_up{{{matchers}}}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
